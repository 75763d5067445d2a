"""Demand that may be believed, and what capacity is planned for: up at once, down only after a while.

The window is that of Kubernetes' HPA (`behavior.scaleDown.stabilizationWindowSeconds`): of all needed within it
the highest counts, so a short lull gives nothing back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from scheduler.engine.serving.memory import MOST_NEEDS, Demand, Memory, Need
from scheduler.model.division import IMPLAUSIBLE_METRICS, NO_METRICS
from scheduler.model.ids import Instant
from scheduler.model.serving import ClientDemand, ExpectedRate
from scheduler.model.serving_policy import ServingSLO

STALE_SECONDS: Final = 300.0
"""Demand measured longer ago is not known."""
ABSURD: Final = 50.0
"""Times the highest ever believed, and times what everything together could carry."""
FROZEN_SECONDS: Final = 900.0
FROZEN_SAMPLES: Final = 15
"""So many new measurements of exactly one value, not 0, over so long: the exporter repeats itself."""
UNFORECAST: Final = 1.3
"""Of the demand now, where nobody forecasts."""
_LEAST_HIGHEST: Final = 1.0
"""Requests per second that are never absurd."""


def believe(now: Instant, told: Sequence[ClientDemand], memory: Memory, most_carried: float) -> Demand:
    """The demand of all regions together, or why it cannot be believed. `most_carried`: of all that could ever be
    there, requests per second."""
    fresh = [one for one in told if now - STALE_SECONDS <= one.at <= now + STALE_SECONDS]
    known = [(one.requests_per_second, one.at) for one in fresh if one.requests_per_second is not None]
    if not known:
        last = max((one.at for one in told if math.isfinite(one.at)), default=None)
        age = "never measured" if last is None else f"last measured {max(0.0, now - last):.0f} s ago"
        return Demand(None, NO_METRICS, f"demand is not known ({age}); what runs is kept", memory)
    bad = next((rate for rate, _ in sorted(known) if not (math.isfinite(rate) and rate >= 0)), None)
    if bad is not None:
        return Demand(None, IMPLAUSIBLE_METRICS, f"demand of {bad:g} requests/s cannot be; what runs is kept", memory)
    total, at = math.fsum(sorted(rate for rate, _ in known)), max(at for _, at in known)
    most = ABSURD * max(memory.highest, most_carried, _LEAST_HIGHEST)
    if total > most:
        text = f"demand of {total:g} requests/s is over {ABSURD:g} times all that was seen or could be served"
        return Demand(None, IMPLAUSIBLE_METRICS, f"{text}; what runs is kept", memory)
    value, since, count = memory.told or (math.nan, at, 0)
    if total != value:
        value, since, count = total, at, 1
    elif memory.told_at is None or at > memory.told_at:
        count += 1
    after = replace(memory, told=(value, since, min(count, 1_000_000)), told_at=at)
    if total > 0 and count >= FROZEN_SAMPLES and at - since >= FROZEN_SECONDS:
        text = f"demand has been exactly {total:g} requests/s for {at - since:.0f} s, {count} measurements"
        return Demand(None, IMPLAUSIBLE_METRICS, f"{text}; what runs is kept", after)
    return Demand(total, memory=replace(after, highest=max(memory.highest, total)))


def plan(
    now: Instant, demand: float, forecast: Sequence[ExpectedRate], slo: ServingSLO, memory: Memory
) -> tuple[Need, Memory]:
    """What capacity is needed for soon and later, the highest of the last `down_after` included."""
    rates = [one for one in forecast if math.isfinite(one.per_second) and one.per_second >= 0]
    rates.sort(key=lambda one: (one.ahead_seconds, one.per_second))
    near = max(demand, rates[0].per_second) if rates else UNFORECAST * demand
    far = max([near, *(one.per_second for one in rates)])
    window = slo.scaling.down_after_seconds
    recent = [need for need in memory.needs if now - window <= need.at < now]
    needs = _thinned([*recent, Need(now, near, far)], window / (MOST_NEEDS / 2))
    highest = Need(now, max(need.near for need in needs), max(need.far for need in needs))
    return highest, replace(memory, needs=tuple(needs))


def _thinned(needs: list[Need], seconds: float) -> list[Need]:
    """Neighbours closer than that are taken together, the newer time and the higher needs of both."""
    if len(needs) <= MOST_NEEDS:
        return needs
    found: list[Need] = []
    for need in needs:
        if found and need.at - found[-1].at < seconds:
            last = found[-1]
            # The time of the first: else a chain of close neighbours would be pushed on for ever.
            found[-1] = Need(last.at, max(last.near, need.near), max(last.far, need.far))
        else:
            found.append(need)
    return found[-MOST_NEEDS:]
