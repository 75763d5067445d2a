"""From a GPU's error in the exporter's metrics to the replaced node: nobody tells the daemon, it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clusters.sandbox.scenario import FaultPlan
from tests.loop.harness import POLICIES, a_job, a_world, counting, until
from tests.loop.test_behaviours_remedies import REMEDY, node, node_of


@pytest.mark.timeout(240)
async def test_an_xid_that_an_exporter_tells_empties_and_replaces_the_node(tmp_path: Path) -> None:
    template: dict[str, Any] = a_job("any", gpus=8, seconds=4 * 3600)["spec"]["template"]
    template["spec"]["nodeSelector"] = {"eks.amazonaws.com/capacityType": "ON_DEMAND"}
    policies = POLICIES.replace("idle: 2m", "idle: 10h") + REMEDY
    async with (
        a_world(tmp_path, policies=policies, speed=600.0) as world,
        counting(world) as counter,
        world.daemon() as (daemon, _),
    ):
        uid = (await world.submit("train", template=template, backoffLimit=6))["metadata"]["uid"]
        first = await until(lambda: node_of(world, "eks", uid), "it runs", 60)

        def is_seen() -> bool:
            """A gauge that was not seen before the error says nothing of when it came."""
            read = daemon.readings.readings("eks", "gpu_xid_code")
            return any(dict(sample.labels).get("node") == first for one in read for sample in one.samples)

        await until(is_seen, "its GPUs are read", 60)
        world.sandbox.strike(FaultPlan(0.0, "eks", "gpu-xid", node=first, code=79))
        found = await until(
            lambda: next((each for each in daemon.watch.incidents() if each.kind == "gpu.xid.79"), None),
            "the incident", 60,
        )  # fmt: skip
        assert (found.subject.node, found.subject.gpu, found.severity) == (first, "0", "critical")
        assert found.impact.workloads == (uid,)

        async def elsewhere() -> bool:
            return await node_of(world, "eks", uid) not in (None, first)

        await until(elsewhere, "it runs on another node", 90)

        async def gone() -> bool:
            return await node(world, "eks", first) is None

        await until(gone, "the node is given back", 90)
        assert len(counter.ran[uid]) == 2

        def resolved() -> bool:
            return any(each.id == found.id and each.state == "resolved" for each in daemon.watch.incidents())

        await until(resolved, "the incident is over", 90)
