"""CPU time of one look at many services over four clusters, and of what follows each round of metrics.

    python -m tests.bench.many_services [--services 50,100,200] [--profile FILE]

Everything runs in one process over the sandbox, whose time stands still while it is measured; each service has one
replica and a demand that changes a little from look to look. Printed: seconds of CPU of the whole look (medians of
three), of its deciding alone (the engine), of a round of measurements, and how they grow with the number of services
(1: linearly). Exits 1 where that is over the budget: 50 ms a service, and 1.3 of the look.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import logging
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest
import structlog

from clusters.sandbox.scenario import ClusterPlan, PoolPlan, Scenario, default_scenario
from scheduler.daemon.parts import Daemon
from scheduler.daemon.services import keeper as keeping
from scheduler.engine.serving.offers import Offers
from scheduler.model.contract import ANNOTATION_REPLICA_SPEED, FEDERATED_WORKLOADS, LABEL_QUEUE
from tests.loop.harness import POLICIES, World, until
from tests.loop.services import SLO, SPEED, Played, a_serving_world, divided
from tests.loop.test_behaviours_serving import deployment

_OFTEN: Final = 3
_MOST_SECONDS: Final = 0.05
"""Of CPU for one service in a look: 300 of them are looked at every 15 s by one core."""
_MOST_GROWTH: Final = 1.3
"""Exponent; what was measured scatters by about 0.15 on a busy machine."""
_SETTLED_SECONDS: Final = 400.0
_POLICIES: Final = POLICIES + SLO.replace("minReplicas: 2", "minReplicas: 1")


@dataclass
class Figures:
    services: int
    look_seconds: float
    deciding_seconds: float
    round_seconds: float


class _Deaf(asyncio.Event):
    """What happens while it is measured asks for no look: only those that are measured take time."""

    def set(self) -> None:
        return


def _scenario() -> Scenario:
    """Four clusters; on-prem has a GPU for each replica."""

    def larger(pool: PoolPlan) -> PoolPlan:
        if pool.spec.name != "a100":
            return pool
        return replace(pool, initial_nodes=40, spec=replace(pool.spec, min_nodes=40, max_nodes=40))

    def member(one: ClusterPlan) -> ClusterPlan:
        return replace(one, pools=tuple(map(larger, one.pools)))

    whole = default_scenario()
    return replace(whole, members=tuple(map(member, whole.members)), login_by_provider=False)


async def _submit(world: World, number: int) -> None:
    body: dict[str, Any] = {
        "apiVersion": FEDERATED_WORKLOADS.api_version,
        "kind": FEDERATED_WORKLOADS.kind,
        "metadata": {
            "name": f"chat-{number}",
            "namespace": "default",
            "labels": {LABEL_QUEUE: "research", "app": "chat"},
            "annotations": {ANNOTATION_REPLICA_SPEED: SPEED},
        },
        "spec": {"template": deployment(replicas=1)},
    }
    await world.hub.create(FEDERATED_WORKLOADS, "default", body)


class _Watch:
    """Adds up the CPU time of calls, each in its own thread: what else the process does meanwhile (the sandbox) does
    not count."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def over(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*given, **named)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - began

        return timed


async def _measure(daemon: Daemon, played: Played, services: int) -> Figures:
    keeper, measures = daemon.services.keeper, daemon.measuring.measures
    found = []
    for number in range(_OFTEN):
        played.per_second = 1.0 + 0.01 * number
        watch = _Watch()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("_case", "_forget", "_without_refusing", "_forecast", "_take"):
                patch.setattr(keeper, name, watch.over("look", getattr(keeper, name)))
            patch.setattr(keeper._mirror, "snapshot", watch.over("look", keeper._mirror.snapshot))
            patch.setattr(Offers, "of", watch.over("look", Offers.of))
            patch.setattr(keeping, "_decide", watch.over("deciding", keeping._decide))
            patch.setattr(measures, "_look", watch.over("round", measures._look))
            patch.setattr(measures, "_gateways", watch.over("round", measures._gateways))
            await keeper.look()
            await measures.on_round()
        found.append(watch.seconds)
    looks, deciding, rounds = (statistics.median(one[name] for one in found) for name in ("look", "deciding", "round"))
    return Figures(services, looks + deciding, deciding, rounds)


async def _run(count: int, profile: Path | None) -> Figures:
    played = Played(1.0)
    with tempfile.TemporaryDirectory() as folder:
        async with (
            a_serving_world(Path(folder), _POLICIES, scenario=_scenario(), speed=60.0) as world,
            divided(world, played) as daemon,
        ):
            for number in range(count):
                await _submit(world, number)

            def settled() -> bool:
                looked = daemon.services.keeper.looked.values()
                return len(looked) == count and all(
                    one.view is not None and sum(each.ready for each in one.view.service.groups) for one in looked
                )

            await until(settled, f"{count} services run", _SETTLED_SECONDS)
            world.sandbox.hold(world.sandbox.clock.now())
            daemon.services.keeper._changed = _Deaf()
            await until(lambda: daemon.services.idle, "nothing is looked at", _SETTLED_SECONDS)
            found = await _measure(daemon, played, count)
            if profile is not None:
                with cProfile.Profile() as profiled:
                    await daemon.services.keeper.look()
                    await daemon.measuring.measures.on_round()
                profiled.dump_stats(profile)
            return found


def _growth(few: float, many: float, times: float) -> float:
    """The exponent: 1 is linear."""
    return math.log(max(many, 1e-9) / max(few, 1e-9)) / math.log(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", default="50,100,200")
    parser.add_argument("--profile", type=Path, help="pstats of the last look and round, of the event loop's thread")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    counts = sorted(int(one) for one in options.services.split(","))
    found = []
    for count in counts:
        found.append(asyncio.run(_run(count, options.profile if count == counts[-1] else None)))
        sys.stderr.write(f"{found[-1]}\n")
    print(f"{'services':>9} {'look s':>8} {'deciding s':>11} {'round s':>8}")
    for one in found:
        print(f"{one.services:>9} {one.look_seconds:>8.3f} {one.deciding_seconds:>11.3f} {one.round_seconds:>8.3f}")
    last = found[-1]
    within = last.look_seconds + last.round_seconds <= _MOST_SECONDS * last.services
    if len(found) > 1:
        first = found[0]
        times = last.services / first.services
        grown = {
            "look": _growth(first.look_seconds, last.look_seconds, times),
            "apart_from_deciding": _growth(
                first.look_seconds - first.deciding_seconds, last.look_seconds - last.deciding_seconds, times
            ),
            "round": _growth(first.round_seconds, last.round_seconds, times),
        }
        print(json.dumps({"exponents": {name: round(value, 2) for name, value in grown.items()}}))
        within = within and max(grown["look"], grown["apart_from_deciding"]) <= _MOST_GROWTH
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
