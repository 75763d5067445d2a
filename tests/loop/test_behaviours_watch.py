"""From a GPU's error in the exporter's metrics to the replaced node: nobody tells the daemon, it looks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from clusters.sandbox.scenario import FaultPlan
from scheduler.cli.main import invoke
from scheduler.daemon.http.server import HttpServer
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import NODES
from tests.loop.harness import POLICIES, a_job, a_world, counting, tiny_scenario, until
from tests.loop.test_behaviours_remedies import REMEDY, is_held, node, node_of

NOTIFY = """---
apiVersion: overspill.dev/v1alpha1
kind: RemediationPolicy
metadata: {name: tell}
spec:
  actions: [{action: notify}]
  guards: {dryRun: false}
"""


RUN_SECONDS, CHECKPOINT_SECONDS = 3600.0, 300.0


@pytest.mark.timeout(240)
async def test_an_xid_that_an_exporter_tells_empties_and_replaces_the_node(tmp_path: Path) -> None:
    """Found, cordoned, drained, resumed elsewhere from the checkpoint, replaced, resolved; and what that was worth."""
    template: dict[str, Any] = a_job("any", gpus=8, seconds=RUN_SECONDS)["spec"]["template"]
    template["metadata"]["annotations"]["sandbox.overspill.dev/checkpoint-seconds"] = str(CHECKPOINT_SECONDS)
    template["spec"]["nodeSelector"] = {"eks.amazonaws.com/capacityType": "ON_DEMAND"}
    policies = POLICIES.replace("idle: 2m", "idle: 10h") + REMEDY
    async with (
        a_world(tmp_path, policies=policies, speed=600.0) as world,
        counting(world) as counter,
        world.daemon() as (daemon, _),
    ):
        said = {"overspill.dev/checkpoint-every": f"{CHECKPOINT_SECONDS:g}s"}
        made = await world.submit("train", annotations=said, template=template, backoffLimit=6)
        uid = made["metadata"]["uid"]
        first = await until(lambda: node_of(world, "eks", uid), "it runs", 60)
        began = daemon.outside.clock.now()

        def is_seen() -> bool:
            """A gauge that was not seen before the error says nothing of when it came."""
            read = daemon.readings.readings("eks", "gpu_xid_code")
            return any(dict(sample.labels).get("node") == first for one in read for sample in one.samples)

        await until(is_seen, "its GPUs are read", 60)
        await until(lambda: daemon.outside.clock.now() > began + 4 * CHECKPOINT_SECONDS, "it has saved some work", 60)
        world.sandbox.strike(FaultPlan(0.0, "eks", "gpu-xid", node=first, code=79))
        found = await until(
            lambda: next((each for each in daemon.watch.incidents() if each.kind == "gpu.xid.79"), None),
            "the incident", 60,
        )  # fmt: skip
        assert (found.subject.node, found.subject.gpu, found.severity) == (first, "0", "critical")
        assert found.impact.workloads == (uid,)
        assert dict(found.signals[0].evidence)["gpu_xid_code"] == 79.0
        assert found.impact.gpu_hours_at_risk is not None
        assert found.impact.gpu_hours_at_risk <= 8 * CHECKPOINT_SECONDS / 3600.0, "no more than since its checkpoint"

        async def is_closed() -> bool:
            return is_held(await node(world, "eks", first))

        await until(is_closed, "the node is cordoned and tainted", 60)

        async def elsewhere() -> bool:
            return await node_of(world, "eks", uid) not in (None, first)

        await until(elsewhere, "it runs on another node", 90)
        resumed = daemon.outside.clock.now()

        async def gone() -> bool:
            return await node(world, "eks", first) is None

        await until(gone, "the node is given back", 90)
        told = daemon.outside.telemetry.remedies
        await until(lambda: told.labels("gpu", "replace-node", "done")._value.get() == 1, "by the remedy", 60)
        assert len(counter.ran[uid]) == 2

        def resolved() -> bool:
            return any(each.id == found.id and each.state == "resolved" for each in daemon.watch.incidents())

        await until(resolved, "the incident is over", 90)
        row = await until(lambda: written(daemon, found.id), "the history says so", 30)
        assert (row["outcome"], row["kind"]) == ("remedied", "gpu.xid.79")
        assert 0.0 < row["gpu_hours_saved"] <= 8.0, "eight GPUs, and an hour at most until somebody would have noticed"
        await until(lambda: world.is_done("train"), "the job is done", 90)
        rest = RUN_SECONDS - 4 * CHECKPOINT_SECONDS
        assert daemon.outside.clock.now() - resumed <= rest + 600.0, "it went on from its checkpoint"


def an_alert(name: str, node_name: str, fingerprint: str, status: str = "firing", **labels: str) -> dict[str, Any]:
    told = {"alertname": name, "node": node_name, "severity": "critical", **labels}
    return {"status": status, "labels": told, "startsAt": "2026-03-01T00:00:00Z", "fingerprint": fingerprint}


def notification(*alerts: dict[str, Any]) -> bytes:
    return orjson.dumps({"version": "4", "alerts": list(alerts)})


@pytest.mark.timeout(180)
async def test_a_restart_neither_forgets_an_incident_nor_raises_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policies = POLICIES.replace("idle: 2m", "idle: 10h") + NOTIFY
    async with a_world(tmp_path, policies=policies, scenario=tiny_scenario(2), speed=60.0) as world:
        async with world.daemon() as (daemon, _):
            node_name = (await world.member("onprem").list(NODES)).items[0]["metadata"]["name"]

            def is_seen() -> bool:
                read = daemon.readings.readings("onprem", "gpu_xid_code")
                return any(dict(sample.labels).get("node") == node_name for one in read for sample in one.samples)

            await until(is_seen, "its GPUs are read", 60)
            world.sandbox.strike(FaultPlan(0.0, "onprem", "gpu-xid", node=node_name, code=79))
            daemon.alerts.receive(notification(an_alert("Rack on fire", node_name, "a1")))
            found = await until(lambda: daemon.watch.incidents() or None, "an incident", 60)
            await until(lambda: {"gpu.xid.79", "alert.Rack on fire"} == kinds(daemon), "both are of it", 60)
            before = daemon.watch._monitor
            assert before is not None
            assert before.bank.series > 20
        async with world.daemon() as (daemon, _):
            await until(lambda: daemon.leader.is_leader, "it leads")
            again = daemon.watch.incidents()
            assert [each.id for each in again] == [each.id for each in found]
            monitor = daemon.watch._monitor
            assert monitor is not None
            assert monitor.bank.series == before.bank.series
            assert monitor.memories["gpu"].parts["xid"]["code"].tolist().count(79.0) == 1
            rounds = daemon.outside.telemetry.registry.get_sample_value

            def looked() -> bool:
                return (rounds("overspill_fleet_watch_rounds_total", {"result": "ok"}) or 0) >= 4

            await until(looked, "it looks", 60)
            assert [each.id for each in daemon.watch.incidents()] == [each.id for each in found]
            assert [each.state for each in daemon.alerts.incidents()] == ["open"], "Alertmanager need not tell again"
            server = HttpServer("127.0.0.1", 0, daemon.served)
            url = await server.start()
            try:
                await until(lambda: daemon.past._open, "it is in the history", 30)
                told = await asyncio.to_thread(invoke, ["incidents", "list", "--history", "--json", "--url", url])
                out = capsys.readouterr().out
                (past,) = json.loads(out[out.index("{") :])["past"]
                assert (told, past["id"], past["outcome"]) == (0, found[0].id, None)
                assert (await asyncio.to_thread(invoke, ["incidents", "show", found[0].id, "--url", url])) == 0
                assert (await asyncio.to_thread(invoke, ["incidents", "list", "--history", "--url", url])) == 0
                assert "goes on" in capsys.readouterr().out.replace("\n", "")
            finally:
                await server.stop()


def kinds(daemon: Daemon) -> set[str]:
    """Of all signals of the only incident that is open."""
    opened = [each for each in daemon.watch.incidents() if not each.closed]
    return {signal.kind for signal in opened[0].signals} if len(opened) == 1 else set()


@pytest.mark.timeout(120)
async def test_alerts_about_one_node_are_one_incident_that_ends_with_them(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, policies=POLICIES + NOTIFY, scenario=tiny_scenario(2), speed=60.0) as world,
        world.daemon() as (daemon, _),
    ):
        await until(lambda: daemon.watch._subjects.get("node"), "it looks", 60)
        node_name = (await world.member("onprem").list(NODES)).items[0]["metadata"]["name"]
        firing = [
            an_alert("GpuLost", node_name, "a1", overspill_signal="gpu.xid.79", cluster="onprem"),
            an_alert("NodeDown", node_name, "a2"),
        ]
        daemon.alerts.receive(notification(*firing))
        await until(lambda: kinds(daemon) == {"gpu.xid.79", "alert.NodeDown"}, "one incident of both", 20)
        (found,) = daemon.watch.incidents()
        assert found.kind == "gpu.xid.79"
        assert daemon.watch.is_told(found), "what came from Alertmanager is not posted back"
        daemon.alerts.receive(notification(firing[0] | {"status": "resolved"}))
        await asyncio.sleep(0)
        assert [each.state for each in daemon.watch.incidents()] != ["resolved"]
        daemon.alerts.receive(notification(firing[1] | {"status": "resolved"}))
        await until(lambda: [each.state for each in daemon.watch.incidents()] == ["resolved"], "it ends with them", 20)
        row = await until(lambda: written(daemon, found.id), "the history says so", 20)
        assert (row["outcome"], row["kind"]) == ("passed", "gpu.xid.79")


async def written(daemon: Daemon, name: str) -> dict[str, Any] | None:
    row = await daemon.outside.history.past_incident(name)
    return row if row is not None and row["outcome"] is not None else None
