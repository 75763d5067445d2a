"""Shadow mode: everything is observed and decided, nothing at all is written."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from scheduler.model.contract import ANNOTATION_EXPECTED, CONDITION_PLACED, EVENTS, JOBS, LEASES
from scheduler.model.ports import KubeApi, NodePoolProvider
from tests.loop.harness import a_job, a_world, until

_WRITES = ("create", "update", "patch", "delete", "create_subresource", "set_size", "remove_node")


class _Counting:
    """An API or a provider whose writes are counted."""

    def __init__(self, name: str, there: KubeApi | NodePoolProvider, counts: Counter[str]) -> None:
        self._name = name
        self._there = there
        self._counts = counts

    def __getattr__(self, verb: str) -> Any:
        if verb in _WRITES:
            self._counts[f"{verb} {self._name}"] += 1
        return getattr(self._there, verb)


async def test_shadow_mode_writes_nothing_and_tells_what_it_would_have_done(tmp_path: Path) -> None:
    writes: Counter[str] = Counter()

    def counted(name: str, there: Any) -> Any:
        return _Counting(name, there, writes)

    async with a_world(tmp_path) as world:
        await world.submit("small")
        await world.submit("too-large", gpus=9)
        cloud = a_job("cloud-only")
        cloud["metadata"]["annotations"] = {ANNOTATION_EXPECTED: "2h"}
        cloud["spec"]["template"]["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": "A100-40GB"}
        await world.hub.create(JOBS, "default", cloud)
        mine = a_job("my-own")
        del mine["spec"]["managedBy"]
        await world.hub.create(JOBS, "default", mine)
        settled: dict[str, Any] = {}

        async def quiet() -> bool:
            own = (await world.job("my-own") or {}).get("status") or {}
            now = {name: server.store.writes for name, server in world.sandbox.servers.items()}
            same = now == settled.get("writes")
            settled["writes"] = now
            return bool(same and own.get("active") and not world.sandbox.state()["busy"])

        await until(quiet, "the sandbox is quiet")
        async with world.daemon(counted, wrap_provider=counted, shadow=True) as (daemon, _):

            def decided() -> bool:
                counters = daemon.decisions.counters
                return counters["placed"] == 3 and counters["bursts"] == 1 and counters["held"] >= 1

            await until(decided, "all is decided")
            await until(lambda: daemon.planner.cycles > 3 and daemon.is_idle(), "it goes on")
            status = daemon.report.status()
            assert status["mode"] == "shadow"
            shadow = status["shadow"]
            assert (shadow["would_place"], shadow["would_burst"]) == (3, 1)
            assert float(shadow["saved_usd"]) > 0, "spot is cheaper than on-demand"
            [saved] = daemon.outside.telemetry.expected_saved.collect()
            assert [sample.labels for sample in saved.samples] == [{"mode": "shadow"}]
            assert saved.samples[0].value == pytest.approx(float(daemon.decisions.saved_usd))
            assert not daemon.leader.is_leader
            assert daemon.report.not_ready() is None
            assert not writes, "no call that writes was made, Leases and Events included"
            assert {name: server.store.writes for name, server in world.sandbox.servers.items()} == settled["writes"]
            assert all(not pool.desired for pool in world.sandbox.emulations["eks"].pools.pools())
            assert not (await world.hub.list(LEASES, namespace="kube-system")).items
            assert not (await world.hub.list(EVENTS)).items


async def test_in_active_mode_a_job_that_was_not_handed_over_is_left_alone(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, world.daemon() as (daemon, _):
        mine = a_job("my-own")
        del mine["spec"]["managedBy"]
        await world.hub.create(JOBS, "default", mine)

        async def told() -> Any:
            status = (await world.job("my-own") or {}).get("status") or {}
            found = [one for one in status.get("conditions") or [] if one["type"] == CONDITION_PLACED]
            return found and status.get("active") and found[0]

        condition = await until(told, "it is told how to hand the Job over, and the hub's own controller runs it")
        assert (condition["status"], condition["reason"]) == ("False", "NotManaged")
        assert "spec.managedBy" in condition["message"]
        await until(daemon.is_idle, "nothing is left to do")
        job = await world.job("my-own")
        assert job is not None
        assert job["status"]["active"] == 1, "its own controller's word stands"
        assert not job["metadata"].get("finalizers")
        assert daemon.report.status()["workloads"]["invalid"] == 1
