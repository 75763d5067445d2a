"""The breaker: a policy stops acting on a family of signals when too many things show it at once (then the monitor or
the network is more likely to be at fault than each of them), or when what it does does not help.

It opens at once and closes slowly: some time after its cause is gone one incident is acted on, and only when that has
helped, twice, is the rest. So what has gathered meanwhile does not go all at once, and budget and rate hold besides.
The windows slide: nothing happens at the full hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from scheduler.aiops.remediation.facts import RESOLVED, SUPPRESSED, IncidentLike, family, subject_key
from scheduler.aiops.remediation.state import Breaker, Outcome
from scheduler.model.ids import Instant
from scheduler.model.remediation import RemediationPolicy

ALIKE: Final = "alike"
FAILURES: Final = "failures"
GOOD_TRIALS: Final = 2
_LONGEST_PAUSE: Final = 86400.0

Key = tuple[str, str]
"""Policy, family of signals."""


def look(
    breakers: Mapping[Key, Breaker],
    incidents: Iterable[tuple[IncidentLike, RemediationPolicy]],
    outcomes: Iterable[Outcome],
    now: Instant,
) -> dict[Key, Breaker]:
    """The breakers as they stand now: opened, kept open, or gone. O(incidents + outcomes)."""
    spoken: dict[Key, tuple[RemediationPolicy, list[IncidentLike]]] = {}
    for incident, policy in incidents:
        spoken.setdefault((policy.name, family(incident.kind)), (policy, []))[1].append(incident)
    useless = [outcome for outcome in outcomes if not outcome.helped]
    after: dict[Key, Breaker] = {}
    for key in sorted(breakers.keys() - spoken.keys()):
        # Nothing speaks of it any more: it waits out its pause.
        if not half_open(breakers[key], now):
            after[key] = breakers[key]
    for key, (policy, of_key) in sorted(spoken.items()):
        old = breakers.get(key)
        cause = _cause(policy, key, old, of_key, useless, now)
        new = _after(old, policy, key, cause, now)
        if new is not None:
            after[key] = new
    return after


def half_open(breaker: Breaker, now: Instant) -> bool:
    """Whether one may try."""
    return now >= breaker.over_at + breaker.pause_seconds


def judged(breaker: Breaker, *, helped: bool, now: Instant) -> Breaker | None:
    """After its trial; None: it is closed."""
    if not helped:
        pause = min(2 * breaker.pause_seconds, _LONGEST_PAUSE)
        return replace(breaker, trial="", good=0, over_at=now, pause_seconds=pause)
    if breaker.good + 1 >= GOOD_TRIALS:
        return None
    return replace(breaker, trial="", good=breaker.good + 1)


def _cause(
    policy: RemediationPolicy,
    key: Key,
    old: Breaker | None,
    incidents: list[IncidentLike],
    useless: list[Outcome],
    now: Instant,
) -> str:
    guards = policy.guards
    window = guards.alike_seconds

    def counts(incident: IncidentLike) -> bool:
        if incident.opened_at > now - window:
            return True
        # Of what opened it, whatever still lasts. What has gathered since waits, and is no reason to wait longer.
        return old is not None and incident.state != RESOLVED and abs(incident.opened_at - old.since) < window

    alike = {subject_key(each.subject) for each in incidents if each.state != SUPPRESSED and counts(each)}
    limit = guards.alike if old is None else max(2, (guards.alike + 1) // 2)
    if len(alike) >= limit:
        return ALIKE
    since = now - guards.failure_seconds
    if old is not None:
        since = max(since, old.over_at)
    failed = sum(
        outcome.policy == policy.name and family(outcome.signal) == key[1] and outcome.at > since for outcome in useless
    )
    return FAILURES if failed >= guards.failures else ""


def _after(old: Breaker | None, policy: RemediationPolicy, key: Key, cause: str, now: Instant) -> Breaker | None:
    if old is None:
        return Breaker(*key, cause, now, now, policy.guards.pause_seconds) if cause else None
    if cause:
        return replace(old, cause=cause, over_at=now, trial="", good=0)
    return old
