"""Measurements that lie and SLOs that nothing can keep: it is said, and what runs is kept until all is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from scheduler.daemon.parts import Daemon
from scheduler.daemon.services.ports import ServiceObservation
from scheduler.model.ids import Instant, WorkloadRef
from scheduler.model.serving import ClientDemand
from tests.loop.harness import POLICIES, World, until
from tests.loop.services import (
    SLO,
    Played,
    a_serving_world,
    condition,
    copies,
    divided,
    ready_on,
    serving,
    submit,
    until_ready,
)

KEPT_SECONDS = 600.0
"""Ten times what a service that needs less waits until it gives something up."""


@dataclass
class Lying(Played):
    """Tells what it is told to, as it is."""

    lie: Callable[[Instant], float] | None = None

    def of(self, ref: WorkloadRef) -> ServiceObservation:
        if self.lie is None:
            return super().of(ref)
        now: Instant = self.clock.now()
        return ServiceObservation(demand=(ClientDemand("eu", self.lie(now), now),))


async def kept(world: World, uid: str, daemon: Daemon, reason: str) -> None:
    """Nothing is added, given up or made anew for long, and all the while the reason is said."""
    before = {raw["metadata"]["uid"] for _, raw in await copies(world, uid)}
    began, looks = world.sandbox.clock.now(), daemon.services.keeper.looks

    async def passed() -> bool:
        assert await ready_on(world, uid) == {"onprem": 5}
        return world.sandbox.clock.now() > began + KEPT_SECONDS

    await until(passed, "time passes")
    assert daemon.services.keeper.looks > looks + 10
    assert {raw["metadata"]["uid"] for _, raw in await copies(world, uid)} == before
    assert await serving(world, reason)


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        (lambda now: -6.0 - now % 1.0, "cannot be"),
        (lambda now: math.nan, "cannot be"),
        (lambda now: math.inf, "cannot be"),
        (lambda now: 1e9 + now % 1.0, "times"),
        (lambda now: 6.0, "exactly 6 requests/s"),
    ],
    ids=["negative", "no number", "infinite", "huge", "frozen"],
)
async def test_a_lying_measurement_is_said_and_what_runs_is_kept(
    tmp_path: Path, lie: Callable[[Instant], float], words: str
) -> None:
    played = Lying(6.0)
    async with a_serving_world(tmp_path) as world, divided(world, played) as daemon:
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 5}, "five carry it")
        await until(lambda: serving(world, "Serving"), "all is well")
        played.lie = lie
        await until(lambda: serving(world, "ImplausibleMetrics"), "it is not believed")
        said = await condition(world)
        assert said["status"] == "Unknown"
        assert words in said["message"]
        await kept(world, uid, daemon, "ImplausibleMetrics")
        played.lie, played.per_second = None, 2.0
        await until_ready(world, uid, {"onprem": 2}, "what is true again is followed")
        await until(lambda: serving(world, "Serving"), "all is well again")


@pytest.mark.parametrize(
    ("wrong", "reason", "words"),
    [
        (
            SLO.replace("maxReclaimableShare: 0", "maxReclaimableShare: 0\n    maxProviderShare: 0.4"),
            "ContradictorySLO",
            "no division keeps maxProviderShare",
        ),
        (SLO.replace("p95Latency: 2s", "p95Latency: 20ms"), "NoOffers", "nothing is known that could run it"),
    ],
    ids=["shares that do not add up", "faster than anything is"],
)
async def test_an_slo_that_nothing_can_keep_is_said_and_what_runs_is_kept(
    tmp_path: Path, wrong: str, reason: str, words: str
) -> None:
    played = Played(6.0)
    async with a_serving_world(tmp_path) as world, divided(world, played) as daemon:
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 5}, "five carry it")
        file = world.policies / "policies.yaml"
        file.write_text(POLICIES + wrong)
        await until(lambda: serving(world, reason), "it is said")
        said = await condition(world)
        assert said["status"] == "False"
        assert words in said["message"]
        played.per_second = 2.0
        await kept(world, uid, daemon, reason)
        file.write_text(POLICIES + SLO)
        await until_ready(world, uid, {"onprem": 2}, "what can be kept again is followed")
