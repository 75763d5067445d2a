"""The gathering, shared: who holds which shard, what replicas tell one another, how the leader goes on without one."""

from __future__ import annotations

import asyncio
import math
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clusters.kubernetes.codec import parse_node, parse_pod
from clusters.kubernetes.reclaim import node_notices
from clusters.kubernetes.slim import slim_node, slim_pod
from clusters.metrics.collector import Collector
from scheduler.daemon.gathering.metrics import OpenCollector
from scheduler.daemon.gathering.shards import Gathering, Shards, shard_of
from scheduler.daemon.gathering.shared import Published, SharedApi, SharedRoutes
from scheduler.daemon.http.server import HttpServer
from scheduler.daemon.leading.leader import LeaseSettings
from scheduler.daemon.parts import Daemon
from scheduler.daemon.state.member_mirror import NODES, PODS
from scheduler.model import contract
from scheduler.model.errors import GoneError, TransientError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import KubeApi, RawObject, WatchEvent
from tests.builders.rbac import apply, restrict, shard_manifests
from tests.loop.failover import LeaseTime
from tests.loop.harness import World, a_world, counting, until

LEASE = LeaseSettings()
HERE = ClusterId("onprem")


def test_members_keep_their_shards() -> None:
    assert [shard_of(ClusterId(name), 4) for name in ("onprem", "eks", "gke", "aks")] == [0, 0, 2, 0]
    counts = Counter(shard_of(ClusterId(f"member-{number}"), 8) for number in range(800))
    assert set(counts) == set(range(8))
    assert max(counts.values()) < 140


# -- what is told ------------------------------------------------------------------------------------------------------


def a_node(**status: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "reason": "Kubelet"}
    return {
        "metadata": {
            "name": "n", "uid": "u", "resourceVersion": "5", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"pool": "a", "cloud.google.com/gke-spot": "true"},
            "annotations": {"csi": "x" * 500, "karpenter.sh/do-not-disrupt": "true"},
            "managedFields": [{}],
        },
        "spec": {"providerID": "p", "taints": [{"key": "k", "effect": "NoSchedule"}], "podCIDR": "10.0.0.0/24"},
        "status": {
            "allocatable": {"cpu": "8", "memory": "1Gi", "nvidia.com/gpu": "8", "pods": "110"},
            "images": [{"names": ["x" * 200]} for _ in range(50)],
            "conditions": [ready],
            **status,
        },
    }  # fmt: skip


def a_pod(phase: str = "Running") -> dict[str, Any]:
    resources = {"requests": {"cpu": "1"}, "limits": {"nvidia.com/gpu": "2"}}
    return {
        "metadata": {
            "name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"overspill.dev/origin-uid": "o", "app": "x"},
            "ownerReferences": [{"kind": "DaemonSet", "name": "d", "uid": "d"}],
        },
        "spec": {
            "nodeName": "n", "priority": 3, "overhead": {"cpu": "100m"},
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "4"}}, "restartPolicy": "Always"}],
            "containers": [{"name": "c", "image": "i", "env": [{"name": "KEY", "value": "s"}], "resources": resources}],
        },
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": "True"}], "podIP": "10.0.0.1"},
    }  # fmt: skip


async def test_what_is_cut_down_says_what_the_whole_says(tmp_path: Path) -> None:
    nodes: list[RawObject] = [a_node()]
    pods: list[RawObject] = [a_pod(), a_pod("Failed")]
    async with a_world(tmp_path) as world:
        for member in ("onprem", "eks"):
            nodes += (await world.member(member).list(contract.NODES)).items
            pods += (await world.member(member).list(contract.PODS)).items
    assert len(nodes) > 3
    for node in nodes:
        assert parse_node(slim_node(node)) == parse_node(node)
        assert node_notices(slim_node(node)) == node_notices(node)
    for pod in pods:
        assert parse_pod(slim_pod(pod)) == parse_pod(pod)
    assert parse_pod(a_pod()).ready
    assert "env" not in str(slim_pod(a_pod())), "what people wrote in it is not told"


def test_a_change_that_nobody_reads_is_not_told() -> None:
    published = Published(NODES)
    published.on_replace((a_node(),))
    before = published.listing()
    beat = a_node()
    beat["metadata"]["resourceVersion"] = "6"
    beat["status"]["conditions"][0]["lastHeartbeatTime"] = "2026-01-01T00:05:00Z"
    published.on_event(WatchEvent("MODIFIED", beat))
    published.on_replace((beat,))
    assert published.listing() == before
    published.on_event(WatchEvent("MODIFIED", a_node(allocatable={"cpu": "4"})))
    assert published.listing() != before


@asynccontextmanager
async def served(folder: Path, published: Published) -> AsyncIterator[tuple[SharedApi, SharedApi]]:
    """Two that read it: one with the right token, one with a wrong one."""
    tokens = [folder / "right", folder / "wrong"]
    for token in tokens:
        token.write_text(token.name)
    app = web.Application()
    app.add_routes(SharedRoutes({("onprem", PODS): published}, lambda cluster: True, tokens[0]).routes())
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession() as http:
        one, other = (SharedApi(http, f"http://{host}:{port}", HERE, PODS, token) for token in tokens)
        yield one, other
    await runner.cleanup()


async def test_lists_and_watches_go_from_one_replica_to_another(tmp_path: Path) -> None:
    published = Published(PODS)
    async with served(tmp_path, published) as (api, stranger):
        with pytest.raises(TransientError, match="HTTP 503"):
            await api.list(contract.PODS)
        published.on_replace((a_pod(),))
        with pytest.raises(TransientError, match="HTTP 401"):
            await stranger.list(contract.PODS)
        listed = await api.list(contract.PODS)
        assert [parse_pod(raw) for raw in listed.items] == [parse_pod(a_pod())]
        events = api.watch(contract.PODS, resource_version=listed.resource_version)
        following = asyncio.ensure_future(anext(events))
        published.on_event(WatchEvent("MODIFIED", a_pod("Succeeded")))
        event = await following
        assert (event.type, parse_pod(event.object).terminal) == ("MODIFIED", True)
        published.on_event(WatchEvent("DELETED", a_pod("Succeeded")))
        assert (await anext(events)).type == "DELETED"
        published.on_state(False, "the member does not answer")
        with pytest.raises(StopAsyncIteration):
            await anext(events)
        with pytest.raises(TransientError, match="HTTP 503"):
            await api.list(contract.PODS)
        published.close()
        published.on_replace((a_pod(),))
        with pytest.raises(GoneError):
            await anext(api.watch(contract.PODS, resource_version=listed.resource_version))


# -- who holds what ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def no_longer_than(time: LeaseTime, seconds: float) -> AsyncIterator[None]:
    """The Leases' time stands still after so long: what needs longer never comes."""
    time.until = time.at + seconds
    yield
    time.until = math.inf


class Replica:
    def __init__(self, world: World, time: LeaseTime, name: str, shards: int) -> None:
        self.name = name
        clock = time.clock()
        gathering = Gathering(shards, f"http://{name}", Path("none"))
        self.shards = Shards(world.hub, name, gathering, world.sandbox.clock, LEASE, clock)
        self.task = asyncio.ensure_future(self.shards.run())
        clock.is_stopped = self.task.done

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def test_shares_differ_by_one_at_most_whoever_comes_or_dies(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        time = LeaseTime()
        moving = asyncio.ensure_future(time.run())
        replicas = [Replica(world, time, "a", 7)]

        def counts() -> list[int]:
            return sorted(replica.shards.mine for replica in replicas)

        async def all_taken_from(name: str) -> bool:
            """Not that all are held: one may be on its way from one to the other just now."""
            leases = (await world.hub.list(contract.LEASES)).items
            assert len(leases) >= 7
            return all(raw["spec"].get("holderIdentity") != name for raw in leases)

        await until(lambda: counts() == [7], "one holds all")
        replicas += [Replica(world, time, name, 7) for name in ("b", "c")]
        await until(lambda: counts() == [2, 2, 3], "three share")
        dead = replicas.pop(0)
        await dead.end()
        async with no_longer_than(time, LEASE.duration_seconds + 3 * LEASE.retry_seconds):
            await until(lambda: all_taken_from(dead.name), "the dead one's are taken over")
        await until(lambda: counts() == [3, 4], "two share")
        leaving = replicas.pop(0)
        await leaving.end()
        await leaving.shards.release()
        async with no_longer_than(time, 4 * LEASE.retry_seconds):
            await until(lambda: counts() == [7], "those that are released are taken")
        await asyncio.gather(*(replica.end() for replica in replicas))
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)


async def test_the_roles_are_enough_and_name_no_lease_too_many(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        asked = await restrict(world.sandbox)
        await apply(world.hub, shard_manifests())
        async with world.outside() as outside, world.outside() as other:
            time = LeaseTime()
            lease, gathering = outside.lease, Gathering(8, "http://one", Path("none"))
            both = [
                Shards(each.hub_api, name, gathering, each.clock, lease, time.clock())
                for each, name in ((outside, "one"), (other, "two"))
            ]
            for _ in range(12):
                time.at += 1.0
                for shards in both:
                    await shards.look()
            assert [shards.mine for shards in both] == [4, 4]
            await both[0].release()
    granted = next(one for one in shard_manifests() if one["kind"] == "Role")["rules"][0]
    leases = [one for one in asked.of["hub"] if one.resource == "leases" and one.verb != "create"]
    assert {one.name for one in leases} == set(granted["resourceNames"])
    assert {one.verb for one in leases} == set(granted["verbs"])


# -- daemons -----------------------------------------------------------------------------------------------------------


class Listed:
    """Counts who lists pods where."""

    def __init__(self) -> None:
        self.pods: Counter[tuple[str, str]] = Counter()

    def wrap(self, replica: str, cluster: str, api: KubeApi) -> KubeApi:
        class Counting:
            def __getattr__(_self, name: str) -> Any:  # noqa: N805
                if name != "list":
                    return getattr(api, name)

                async def listed(resource: Any, **named: Any) -> Any:
                    if resource == contract.PODS and "field_selector" not in {
                        key for key, value in named.items() if value
                    }:
                        self.pods[replica, cluster] += 1
                    return await api.list(resource, **named)

                return listed

        return Counting()


@asynccontextmanager
async def a_replica(
    world: World, time: LeaseTime, name: str, listed: Listed, token: Path
) -> AsyncIterator[tuple[Daemon, asyncio.Task[None]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with AsyncExitStack() as stack:
        outside = await stack.enter_async_context(world.outside(identity=name))
        clock = time.clock()
        clock.loops = 2
        outside = replace(
            outside,
            lease=LEASE,
            lease_clock=clock,
            gathering=Gathering(5, f"http://127.0.0.1:{port}", token),
            hub_api=world.hub,
            member_apis={one: listed.wrap(name, one, world.member(one)) for one in outside.member_apis},
            metrics=OpenCollector(Collector({}, (), clock=outside.clock), ()),
        )
        daemon = Daemon(outside, shadow=False)
        server = HttpServer("127.0.0.1", port, daemon.served)
        await server.start()
        stack.push_async_callback(server.stop)
        task = asyncio.get_running_loop().create_task(daemon.run())
        clock.is_stopped = task.done
        try:
            yield daemon, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_the_leader_plans_over_what_others_gather_and_goes_on_when_one_dies(tmp_path: Path) -> None:
    """onprem and eks are in shards of their own."""
    token = tmp_path / "token"
    token.write_text("of-the-replicas")
    listed, time = Listed(), LeaseTime()
    async with a_world(tmp_path, speed=3000.0) as world, counting(world) as counter:
        moving = asyncio.ensure_future(time.run())
        async with a_replica(world, time, "leader", listed, token) as (leader, _):
            assert leader.gatherers is not None
            shards = leader.gatherers.shards
            await until(lambda: leader.leader.is_leader and shards.mine == 5, "it leads, and gathers all")
            async with a_replica(world, time, "other", listed, token) as (other, task):
                await until(lambda: _is_elsewhere(shards, "eks"), "the other gathers of eks")
                assert not _is_elsewhere(shards, "onprem")
                await until(lambda: leader.mirror.ever_synced and len(leader.mirror.available()) == 2, "all is known")
                uids = [(await world.submit(f"job-{number}"))["metadata"]["uid"] for number in range(3)]
                await until(lambda: world.all_done("job-0", "job-1", "job-2"), "complete")
                listed.pods.clear()
                # A crash: it releases nothing.
                assert other.gatherers is not None
                for lease in (*other.gatherers.shards._leases, other.leader):
                    lease._renewed_at = None
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                async with no_longer_than(time, LEASE.duration_seconds + 3 * LEASE.retry_seconds):
                    await until(lambda: shards.mine == 5, "they are taken over")
                await until(lambda: len(leader.mirror.available()) == 2, "all is known again")

                def gathers() -> set[str]:
                    return {cluster for replica, cluster in listed.pods if replica == "leader"}

                await until(gathers, "it gathers for itself what the other did")
                assert gathers() == {"eks"}
            uids.append((await world.submit("afterwards"))["metadata"]["uid"])
            await until(lambda: world.is_done("afterwards"), "complete")
        moving.cancel()
        await asyncio.gather(moving, return_exceptions=True)
        assert all(len(counter.ran[uid]) == len(counter.copies[uid]) == 1 for uid in uids)


def _is_elsewhere(shards: Shards, cluster: str) -> bool:
    holder = shards.holder(ClusterId(cluster))
    return holder is not None and holder.url is not None
