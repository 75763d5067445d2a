"""The whole emulated federation in this process: files, HTTP, clouds, control API, jobs, bills, faults."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from clusters.sandbox.emulation.objects import condition_true
from clusters.sandbox.federation import Sandbox
from scheduler.daemon.config.federation import load_federation, validate_settings
from scheduler.model.contract import DEPLOYMENTS, JOBS, NODES, PODS
from scheduler.model.errors import InvalidObjectError
from scheduler.model.money import cost_usd
from tests.unit.emulation_fakes import job
from tests.unit.test_emulation_scheduling import _deployment

BEGIN = 1_700_000_000.0


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    running = await Sandbox.start(tmp_path / "state", speed=600, start_at=BEGIN)
    try:
        yield running
    finally:
        await running.stop()


async def _until(holds: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.005)


async def _control(sandbox: Sandbox, method: str, path: str, body: Any = None, token: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {sandbox.control_token if token is None else token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, sandbox.control_url + path, headers=headers, json=body) as answer,
    ):
        return answer.status, await answer.json()


async def _leap_until(sandbox: Sandbox, holds: Callable[[], bool], seconds: float = 30) -> None:
    """Leap from event to event, as the demo does, until it holds."""
    async with asyncio.timeout(seconds):
        while not holds():
            state = sandbox.state()
            if state["next_event_at"] is not None and state["quiet_wall_seconds"] > 0.03:
                sandbox.leap(state["next_event_at"])
            await asyncio.sleep(0.005)


async def test_the_state_folder_is_private_and_the_daemon_understands_it(sandbox: Sandbox) -> None:
    assert stat.S_IMODE(sandbox.state_dir.stat().st_mode) == 0o700
    for path in (sandbox.federation_file, sandbox.state_dir / "clock", *sandbox.kubeconfigs.values()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(sandbox.kubeconfigs) == ["aks", "eks", "gke", "hub", "onprem"]
    federation = load_federation(sandbox.federation_file, validate_provider=validate_settings)
    assert [str(member.id) for member in federation.members] == ["onprem", "eks", "gke", "aks"]


async def test_fixed_nodes_are_there_and_every_member_serves_metrics(sandbox: Sandbox) -> None:
    nodes = (await sandbox.servers["onprem"].local.list(NODES)).items
    assert len(nodes) == 10
    async with aiohttp.ClientSession() as session:
        for url in sandbox.metrics_urls.values():
            async with session.get(url) as answer:
                assert answer.status == 200
                families = {f.name for f in text_string_to_metric_families(await answer.text())}
                if url == sandbox.metrics_urls["onprem"]:
                    assert {"DCGM_FI_DEV_GPU_UTIL", "node_load1"} <= families


async def test_jobs_run_under_the_validation_of_the_api_server(sandbox: Sandbox) -> None:
    api, emulation = sandbox.servers["onprem"].local, sandbox.emulations["onprem"]
    await api.create(JOBS, "default", job("good", run=120))
    await api.create(JOBS, "default", job("bad", run=10, exit_code=1, backoffLimit=1))
    await api.create(JOBS, "default", job("idx", run=30, completions=3, parallelism=2, completionMode="Indexed"))
    await api.create(JOBS, "default", job("late", run=500, activeDeadlineSeconds=60))
    await api.create(JOBS, "default", job("asleep", run=10, suspend=True))
    await api.create(DEPLOYMENTS, "default", _deployment(2))
    await _leap_until(sandbox, lambda: emulation.summary()["jobs"] == {"complete": 2, "failed": 2, "suspended": 1})
    await api.patch(JOBS, "default", "asleep", {"spec": {"suspend": False}})
    await _leap_until(sandbox, lambda: emulation.summary()["jobs"] == {"complete": 3, "failed": 2})
    deployment = await api.get(DEPLOYMENTS, "default", "chat")
    assert condition_true(deployment, "Available")
    assert (await api.get(JOBS, "default", "bad"))["status"]["failed"] == 2
    assert (await api.get(JOBS, "default", "idx"))["status"]["completedIndexes"] == "0-2"


async def test_suspending_and_resuming_a_running_job(sandbox: Sandbox) -> None:
    api, emulation = sandbox.servers["onprem"].local, sandbox.emulations["onprem"]
    await api.create(JOBS, "default", job("one", run=100_000))
    await _until(lambda: emulation.summary()["pods"].get("running", 0) == 1)
    await api.patch(JOBS, "default", "one", {"spec": {"suspend": True}})
    await _until(lambda: not emulation.pods.objects)
    await _until(lambda: "startTime" not in (emulation.jobs.objects["default/one"].get("status") or {}))
    await api.patch(JOBS, "default", "one", {"spec": {"suspend": False}})
    await _until(lambda: emulation.summary()["pods"].get("running", 0) == 1)
    await api.delete(JOBS, "default", "one")
    await _leap_until(sandbox, lambda: not emulation.pods.objects)


async def test_bought_machines_come_go_and_are_billed(sandbox: Sandbox) -> None:
    emulation = sandbox.emulations["eks"]
    emulation.pools.resize("p4d", 2)
    await _leap_until(sandbox, lambda: len(emulation.nodes.objects) == 2)
    node = next(iter(emulation.nodes.objects.values()))
    started = sandbox.clock.now()
    await _until(lambda: sandbox.clock.now() > started + 600)
    emulation.pools.resize("p4d", 0)
    await _leap_until(sandbox, lambda: not emulation.nodes.objects)
    status, bill = await _control(sandbox, "GET", "/bill")
    assert status == 200
    assert len(bill["machines"]) == 2
    by_uid = {machine["uid"]: machine for machine in bill["machines"]}
    machine = by_uid[node["metadata"]["uid"]]
    seconds = machine["deleted_at"] - machine["created_at"]
    assert 600 <= seconds < 3000
    assert Decimal(machine["usd"]) == cost_usd(Decimal("21.957642"), float(seconds))
    assert Decimal(bill["total_usd"]) == sum(Decimal(one["usd"]) for one in bill["machines"])


async def test_leaps_stop_at_the_next_event_and_never_go_back(sandbox: Sandbox) -> None:
    emulation = sandbox.emulations["gke"]
    emulation.pools.resize("a3", 1)
    status, state = await _control(sandbox, "GET", "/state")
    assert status == 200
    assert state["clusters"]["gke"]["pools"]["a3"] == {"desired": 1, "machines": 1, "shortage": None}
    due = state["next_event_at"]
    assert due is not None
    await _until(lambda: not sandbox.state()["busy"])
    _, answer = await _control(sandbox, "POST", "/leap", {"to": due + 1e6})
    assert due <= answer["now"] < due + 600
    _, back = await _control(sandbox, "POST", "/leap", {"to": BEGIN})
    assert back["now"] >= answer["now"]
    await _until(lambda: len(emulation.nodes.objects) == 1)


async def test_an_api_that_is_silent_answers_nothing_and_then_again(sandbox: Sandbox) -> None:
    server = sandbox.servers["aks"]
    status, _ = await _control(sandbox, "POST", "/faults", {"cluster": "aks", "kind": "api-silent", "seconds": 600})
    assert status == 202
    headers = {"Authorization": f"Bearer {server.token}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        with pytest.raises(TimeoutError):
            await session.get(f"{server.url}/api/v1/nodes", timeout=aiohttp.ClientTimeout(total=0.2))
        async with asyncio.timeout(10):
            while server.silent:
                await asyncio.sleep(0.01)
        async with session.get(f"{server.url}/api/v1/nodes") as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "want", "says"),
    [
        ("POST", "/leap", {"to": "soon"}, 400, "to"),
        ("POST", "/leap", {"to": 1.0, "by": 2}, 400, "by"),
        ("POST", "/faults", {"cluster": "mars", "kind": "node-lost", "node": "n"}, 400, "mars"),
        ("POST", "/faults", {"cluster": "eks", "kind": "gremlins"}, 400, "gremlins"),
        ("POST", "/faults", [], 400, "body"),
    ],
)
async def test_the_control_api_refuses_in_one_line(
    sandbox: Sandbox, method: str, path: str, body: Any, want: int, says: str
) -> None:
    status, answer = await _control(sandbox, method, path, body)
    assert status == want
    assert says in answer["error"]
    assert "\n" not in answer["error"]


async def test_the_control_api_needs_its_token(sandbox: Sandbox) -> None:
    status, _ = await _control(sandbox, "GET", "/state", token="guess")
    assert status == 401
    assert not sandbox.stopping.is_set()
    status, _ = await _control(sandbox, "POST", "/stop")
    assert status == 202
    assert sandbox.stopping.is_set()


async def test_a_wrong_speed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidObjectError, match="speed"):
        await Sandbox.start(tmp_path, speed=0)


async def test_a_crowd_of_jobs_ends_exactly_once_each(sandbox: Sandbox) -> None:
    api, emulation = sandbox.servers["onprem"].local, sandbox.emulations["onprem"]
    for number in range(300):
        await api.create(JOBS, "default", job(f"j{number}", run=60 + number % 7, gpus=1 + number % 4))
    await _leap_until(sandbox, lambda: emulation.summary()["jobs"] == {"complete": 300})
    pods = (await api.list(PODS)).items
    assert len(pods) == 300
    assert {pod["status"]["phase"] for pod in pods} == {"Succeeded"}


SCENARIO = """
apiVersion: overspill.dev/v1alpha1
kind: SandboxScenario
hub: {name: hub, region: eu}
members:
  - name: lab
    provider: onprem
    region: eu
    pools:
      - {name: gpu, instanceType: box, capacityType: owned, maxNodes: 2, cpu: "8", memory: 64Gi, gpus: 1,
         gpuModel: L4, gpuMemory: 24Gi, usdPerHour: "0.40", zone: eu-a}
faults:
  - {atSeconds: 60, cluster: lab, kind: node-not-ready, node: lab-gpu-0, seconds: 300}
"""


async def test_a_scenario_file_with_a_planned_fault(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(SCENARIO)
    sandbox = await Sandbox.start(tmp_path / "state", speed=600, scenario=path, start_at=BEGIN)
    try:
        emulation = sandbox.emulations["lab"]
        assert emulation.summary()["nodes_ready"] == 2
        await _leap_until(sandbox, lambda: emulation.summary()["nodes_ready"] == 1)
        await _leap_until(sandbox, lambda: emulation.summary()["nodes_ready"] == 2)
        assert sandbox.clock.now() >= BEGIN + 360
    finally:
        await sandbox.stop()
    path.write_text(SCENARIO.replace("node-not-ready", "gremlins"))
    with pytest.raises(InvalidObjectError, match="gremlins"):
        await Sandbox.start(tmp_path / "other", scenario=path)
