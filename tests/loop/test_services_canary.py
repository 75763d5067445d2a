"""A new revision, judged by what is really scraped of its replicas beside the old one's: one that is 30 % slower is
taken back, a healthy one takes over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters.kinds.federatedworkload import KIND
from clusters.sandbox.emulation.clients import SLOWER
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import HTTP_ROUTES
from scheduler.model.ports import DivisibleKind
from tests.loop.harness import World, until
from tests.loop.services import (
    a_serving_world,
    condition,
    hub_object,
    patch,
    revisions,
    serving,
    submit,
    until_ready,
)
from tests.loop.test_behaviours_serving import deployment
from tests.loop.test_services_under_load import DAY, SAID, TRAFFIC, WHOLE, Pace, define, route

LEVEL = {**DAY, "basePerSecond": 9.0, "peakPerSecond": 9.5, "spikes": []}
"""Always about as many, so that nothing but the revision is new."""
CAREFUL = WHOLE.replace(
    "    steps: [0.5, 1]\n    step: 1m\n    leastRequests: 10\n    keepOld: 1m\n",
    "    steps: [0.25, 1]\n    step: 5m\n    leastRequests: 100\n    keepOld: 1m\n",
)


@dataclass
class Rollout:
    world: World
    daemon: Daemon
    uid: str
    old: str

    def __post_init__(self) -> None:
        self.pace = Pace(self.world, self.daemon)

    def now(self) -> float:
        """Time waits for the daemon."""
        self.pace.passed(0.0)
        return self.world.sandbox.clock.now()

    async def ask(self, image: str, **annotations: str) -> str:
        """Have another revision; its name."""
        template = deployment(replicas=2, image=image)
        template["spec"]["template"]["metadata"]["annotations"] = annotations
        await patch(self.world, {"spec": {"template": template}})
        assert isinstance(KIND, DivisibleKind)
        return KIND.revision(await hub_object(self.world))[0]

    async def ready(self, revision: str) -> int:
        self.now()
        return (await revisions(self.world, self.uid)).get(revision, 0)

    async def is_alone(self, revision: str) -> bool:
        self.now()
        found = await revisions(self.world, self.uid)
        return list(found) == [revision] and found[revision] >= 6

    async def says(self, reason: str) -> bool:
        self.now()
        return await serving(self.world, reason)

    def measured(self, revision: str) -> Any:
        """What is scraped of it, as metrics tell."""
        labels = {"service": "federatedworkload/default/chat", "cluster": "onprem", "revision": revision}
        value = self.daemon.outside.telemetry.registry.get_sample_value
        return value("overspill_service_revision_latency_seconds", labels)


@asynccontextmanager
async def rolling(folder: Path) -> AsyncIterator[Rollout]:
    async with a_serving_world(folder, policies=CAREFUL, speed=200.0) as world:
        await define(world)
        async with world.daemon() as (daemon, _):
            uid = await submit(world, deployment(replicas=2), speed=SAID, spec={"traffic": TRAFFIC})
            await until_ready(world, uid, {"onprem": 2}, "it serves")
            (old,) = await revisions(world, uid)
            await world.hub.create(HTTP_ROUTES, "default", route(LEVEL))
            one = Rollout(world, daemon, uid, old)
            await until(lambda: one.is_alone(old), "it has grown with its clients", 120)
            yield one


@pytest.mark.timeout(400)
async def test_a_revision_that_is_30_percent_slower_is_taken_back_within_five_minutes(tmp_path: Path) -> None:
    async with rolling(tmp_path) as one:
        new = await one.ask("serve:slow", **{SLOWER: "1.3"})
        await until(lambda: one.ready(new), "it answers beside the old one", 120)
        began = one.now()
        await until(lambda: one.says("RolledBack"), "it is taken back", 120)
        assert one.now() - began < 300.0, "within five minutes of its first replica"
        said = (await condition(one.world))["message"]
        assert "latency" in said
        await until(lambda: one.is_alone(one.old), "the old one serves alone", 120)


@pytest.mark.timeout(400)
async def test_a_healthy_revision_takes_over(tmp_path: Path) -> None:
    async with rolling(tmp_path) as one:
        new = await one.ask("serve:new")
        back = one.daemon.outside.telemetry.service_rollbacks
        await until(lambda: one.ready(new), "it answers beside the old one", 120)

        async def done() -> bool:
            assert back._value.get() == 0, "nothing is wrong with it"
            return await one.is_alone(new)

        await until(done, "it serves alone", 240)
        assert one.measured(new) is not None, "it is judged by what is measured"
        await until(lambda: one.says("Serving"), "all is well")
