"""A service under load, whole: the sandbox's clients ask along a day's curve with a spike, replicas slow down by their
load, metrics are scraped, demand is foretold, the service is divided and its route's weights follow."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from clusters.sandbox.emulation.requests import LOAD
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import CONDITION_TRAFFIC, CRDS, HTTP_ROUTES, NODES
from tests.loop.harness import POLICIES, World, tiny_scenario, until
from tests.loop.services import SLO, a_serving_world, condition, ready_on, submit
from tests.loop.test_behaviours_serving import deployment

STEP_SECONDS = 15.0
MEASURED_SECONDS = 45.0
"""Beyond the last measurement: one is due every thirty."""
HTTPROUTES = Path(__file__).parents[2] / "scheduler" / "cli" / "demo" / "httproutes.yaml"
MEMBERS = ("onprem", "eks")
SPEEDS = {"A100-80GB": 2.0, "A100-40GB": 1.6, "A10G": 1.0}
SAID = "A100-80GB=2@400ms, A100-40GB=1.6@400ms, A10G=1@400ms"
DAY = {
    "app": "chat",
    "backends": {f"chat-{name}": name for name in MEMBERS},
    "basePerSecond": 2.0,
    "peakPerSecond": 4.5,
    "daySeconds": 10800.0,
    "spikes": [{"atSeconds": 2400.0, "seconds": 6000.0, "perSecond": 8.0}],
    "regions": {"eu": 0.7, "us": 0.3},
    "speeds": SPEEDS,
    "idleP95Seconds": 0.4,
    "sloSeconds": 2.0,
}
WHOLE = POLICIES.replace("maxNodes: 8", "maxNodes: 40").replace(
    "objective: onprem-first\n", "objective: onprem-first\n  constraints:\n    gpuModels: [A100-80GB, A10G]\n"
) + SLO.replace("downAfter: 1m", "downAfter: 5m")


def route(load: dict[str, Any]) -> dict[str, Any]:
    refs = [{"name": f"chat-{name}", "port": 80, "weight": int(name == "onprem")} for name in MEMBERS]
    return {
        "apiVersion": HTTP_ROUTES.api_version,
        "kind": HTTP_ROUTES.kind,
        "metadata": {"name": "chat", "namespace": "default", "annotations": {LOAD: json.dumps(load)}},
        "spec": {"rules": [{"backendRefs": refs}]},
    }


TRAFFIC = {"routes": [{"name": "chat", "backends": [{"name": f"chat-{name}", "cluster": name} for name in MEMBERS]}]}


@dataclass
class Day:
    """What the clients saw."""

    minutes: list[dict[str, Any]]

    @property
    def gap_seconds(self) -> float:
        return sum(float(one["gap_seconds"]) for one in self.minutes)

    def first(self, told: Callable[[dict[str, Any]], bool]) -> float | None:
        return next((float(one["at"]) for one in self.minutes if told(one)), None)

    def most(self, cluster: str) -> float:
        return max(float(one["replicas"].get(cluster, 0.0)) for one in self.minutes)


def is_out(one: dict[str, Any]) -> bool:
    """More than 5 % were late or failed: its p95 was out."""
    return bool(one["late"] + one["failed"] > 0.05 * (one["answered"] + one["failed"]))


def day(world: World) -> Day:
    return Day(world.sandbox.services()["default/chat"]["minutes"])


@dataclass
class Pace:
    """Lets time run on in short steps, the next one when the daemon has measured of late and done what the last step
    brought (or a second has passed: some things it does only later). On a busy machine it would else see of a spike
    only what was long ago."""

    world: World
    daemon: Daemon
    stepped_at: float = 0.0

    def passed(self, end: float) -> bool:
        """Whether it is so late."""
        clock, now = self.world.sandbox.clock, asyncio.get_running_loop().time()
        measured_at = self.daemon.readings.collected_at
        if measured_at is not None and (self.daemon.is_idle() or now - self.stepped_at > 1.0):
            self.stepped_at = now
            self.world.sandbox.hold(min(clock.now() + STEP_SECONDS, measured_at + MEASURED_SECONDS))
        return clock.now() > end


async def define(world: World) -> None:
    await world.hub.create(CRDS, "", yaml.safe_load(HTTPROUTES.read_text()))


@pytest.mark.timeout(500)
async def test_a_day_with_a_spike_bursts_before_its_slo_breaks_and_comes_back(tmp_path: Path) -> None:
    async with a_serving_world(tmp_path, policies=WHOLE, scenario=tiny_scenario(1), speed=600.0) as world:
        await define(world)
        async with world.daemon() as (daemon, _):
            await world.submit("beside", gpus=4, seconds=86400.0)
            await until(lambda: daemon.decisions.counters["placed"], "a job takes half of the node")
            uid = await submit(world, deployment(replicas=2), speed=SAID, spec={"traffic": TRAFFIC})

            async def starts() -> bool:
                return (await ready_on(world, uid)).get("onprem", 0) >= 2

            await until(starts, "it serves")
            await world.hub.create(HTTP_ROUTES, "default", route(DAY))
            began = world.sandbox.clock.now()
            pace = Pace(world, daemon)
            await until(lambda: pace.passed(began + 10800.0), "a day has passed", 360)
            world.sandbox.hold(None)
            seen = day(world)
            assert seen.gap_seconds == 0.0, "at no time was more asked than all ready replicas could serve"
            assert seen.most("eks") >= 4
            in_cloud = seen.first(lambda one: one["replicas"]["eks"] > 0)
            assert in_cloud is not None
            assert in_cloud < (seen.first(is_out) or math.inf), "it bursts before its SLO breaks"
            assert sum(map(is_out, seen.minutes)) <= 2
            assert seen.minutes[-1]["replicas"] == {"eks": 0.0, "onprem": 2.0}, "and comes back"
            assert seen.minutes[-1]["weights"] == {"eks": 0.0, "onprem": 1.0}
            assert (await condition(world, CONDITION_TRAFFIC))["status"] == "True"

            async def none_left() -> bool:
                return not (await world.member("eks").list(NODES)).items

            await until(none_left, "what was bought is given back")
