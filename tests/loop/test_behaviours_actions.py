"""Each action that a remedy may take, as the daemon carries it out and takes it back over the emulated federation."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from scheduler.aiops.remediation.facts import Incident, Subject
from scheduler.cli import crds
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import (
    ANNOTATION_AVOIDED_POOLS,
    ANNOTATION_REQUEST,
    ANNOTATION_REQUEST_DONE,
    FEDERATED_WORKLOADS,
    NODES,
    PODS,
)
from scheduler.model.ids import ClusterId
from tests.loop.harness import POLICIES, World, a_world, tiny_scenario, until
from tests.loop.test_behaviours_remedies import Told, is_held, node, node_of
from tests.loop.test_behaviours_serving import deployment, submit

EKS, ONPREM = ClusterId("eks"), ClusterId("onprem")
ACTIONS = {
    "job.stuck": "restart-workload",
    "serving.slow": "move-serving",
    "queue.forecast": "scale-up",
    "cluster.bad": "quarantine-cluster",
    "policy.worse": "roll-back-policy",
    "node.odd": "cordon",
    "gpu.odd": "request-reset",
    "node.stale": "request-reboot",
}
FREE = """guards:
    dryRun: false
    maxUnavailable: 100%
    rate: {disruptions: 50, within: 1m}
    coolDown: 100h
    healthyFor: 1m
    maxQuarantined: 50%
"""
REMEDIES = "".join(
    f"""---
apiVersion: overspill.dev/v1alpha1
kind: RemediationPolicy
metadata: {{name: {signal.replace(".", "-")}}}
spec:
  match: {{signals: [{signal}]}}
  actions: [{{action: {action}, verifyAfter: 100h}}]
  {FREE}
"""
    for signal, action in ACTIONS.items()
)


def tell(told: Told, signal: str, subject: Subject) -> None:
    told.incidents[signal] = Incident(signal, signal, "high", subject, told.now())


async def outcome(daemon: Daemon, signal: str) -> bool:
    return await recorded(daemon, signal, ACTIONS[signal])


async def recorded(daemon: Daemon, incident: str, action: str) -> bool:
    """Whether the history says that the action was carried out."""
    done = await daemon.outside.history.remedies_of(incident)
    return any(row["action"] == action and row["outcome"] == "done" for row in done)


@pytest.mark.timeout(240)
async def test_workloads_are_restarted_and_moved_pools_grow_clusters_close_and_policies_go_back(tmp_path: Path) -> None:
    async with a_world(tmp_path, policies=POLICIES + REMEDIES, scenario=tiny_scenario(2)) as world:
        await crds.install(world.hub)
        async with world.daemon() as (daemon, _):
            told = Told(daemon)
            job = (await world.submit("stuck", seconds=1e6, backoffLimit=6))["metadata"]["uid"]
            chat = await submit(world, deployment(replicas=1))
            await until(lambda: node_of(world, "onprem", job), "the job runs", 60)
            await until(lambda: node_of(world, "onprem", chat), "it serves", 60)
            before = await pods_of(world, job)

            tell(told, "job.stuck", Subject("onprem", "a100", None, None, job))

            async def again() -> bool:
                pods = await pods_of(world, job)
                return bool(pods) and not pods & before and await node_of(world, "onprem", job) is not None

            await until(again, "the job runs anew", 60)

            tell(told, "serving.slow", Subject("onprem", "a100", None, None, chat))
            await until(lambda: node_of(world, "eks", chat), "it serves on another pool", 60)
            assert await avoided(world) == "onprem/a100"
            assert await node_of(world, "onprem", chat) is None
            told.resolve("serving.slow")

            async def no_more_avoided() -> bool:
                return await avoided(world) is None

            await until(no_more_avoided, "the pool may be used again", 60)

            sizes = {pool.ref.pool: pool.desired_nodes or 0 for pool in daemon.mirror.members[EKS].pools()}
            grown = min(name for name in sizes if "p4d" in name)
            tell(told, "queue.forecast", Subject("eks", grown))
            await until(lambda: outcome(daemon, "queue.forecast"), "it is asked for", 60)

            def larger() -> bool:
                pools = daemon.mirror.members[EKS].pools()
                return any(pool.ref.pool == grown and (pool.desired_nodes or 0) > sizes[grown] for pool in pools)

            await until(larger, "the pool has grown", 60)

            def has_come() -> bool:
                return any(node.pool == grown and node.ready for node in daemon.mirror.members[EKS].cluster().nodes)

            await until(has_come, "its node has come, and was not taken for idle before", 60)

            tell(told, "cluster.bad", Subject("onprem"))
            onprem = {pool.ref for pool in daemon.mirror.members[ONPREM].pools()}
            await until(lambda: daemon.remedies.state.quarantined_clusters == {"onprem"}, "the cluster is closed", 60)
            quarantined = {pool.ref for pool in daemon.mirror.members[ONPREM].pools() if pool.quarantined}
            assert quarantined == onprem
            told.resolve("cluster.bad")
            await until(lambda: not daemon.remedies.state.quarantined_clusters, "it is open again", 60)

            first = daemon.outside.policies.current.digest
            (world.policies / "policies.yaml").write_text(
                POLICIES.replace("maxNodes: 8", "maxNodes: 1") + REMEDIES, encoding="utf-8"
            )
            await until(lambda: daemon.outside.policies.current.digest != first, "other policies are in force", 60)
            tell(told, "policy.worse", Subject())
            await until(lambda: daemon.outside.policies.current.digest == first, "the former ones are again", 60)
            assert "rolled back by a remedy" in str(daemon.outside.policies.error)
            for signal in ("job.stuck", "serving.slow", "queue.forecast", "cluster.bad", "policy.worse"):
                await until(partial(outcome, daemon, signal), f"{signal} is recorded", 30)
            registry = daemon.outside.telemetry.registry
            malformed = [each.samples for each in registry.collect() if each.name == "overspill_malformed_objects"]
            assert malformed == [[]], "what was moved is an object like others"


PROMISED = POLICIES.replace("  quotas:\n", "  waitObjective: 10m\n  quotas:\n").replace(
    "afterWait: 1m", "afterWait: 12h"
)
AHEAD = """---
apiVersion: overspill.dev/v1alpha1
kind: RemediationPolicy
metadata: {name: ahead}
spec:
  match: {signals: [workload.queue-wait], expression: "incident.capacity_type != 'owned'"}
  actions: [{action: scale-up, nodes: 1, verifyAfter: 1h}]
  guards: {dryRun: false}
"""


@pytest.mark.timeout(120)
async def test_a_wait_that_is_forecast_too_long_has_a_pool_enlarged_before_it_has_been_waited(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, policies=PROMISED + AHEAD, scenario=tiny_scenario(1)) as world,
        world.daemon() as (daemon, _),
    ):
        said = {"overspill.dev/expected-duration": "10h"}
        await world.submit("first", gpus=8, seconds=36_000.0, annotations=said)
        await until(lambda: daemon.mirror.snapshot(()).copies, "the first one has all that there is", 60)
        uid = (await world.submit("second", gpus=8, seconds=36_000.0, annotations=said))["metadata"]["uid"]
        began = daemon.outside.clock.now()
        await until(lambda: node_of(world, "eks", uid), "it runs on the node that was bought for it", 90)
        assert daemon.outside.clock.now() - began < 12 * 3600.0, "long before its policy would have bought one"
        (found,) = [each for each in daemon.watch.incidents() if each.kind == "workload.queue-wait"]
        assert (found.subject.cluster, found.subject.workload) == ("eks", uid)
        assert dict(found.signals[0].evidence)["queue_wait_forecast_seconds"] > 600.0
        await until(lambda: recorded(daemon, found.id, "scale-up"), "it is in the history", 30)


async def pods_of(world: World, uid: str) -> set[str]:
    pods = (await world.member("onprem").list(PODS)).items
    return {pod["metadata"]["uid"] for pod in pods if pod["metadata"]["labels"].get("overspill.dev/origin-uid") == uid}


async def avoided(world: World) -> str | None:
    raw = await world.hub.get(FEDERATED_WORKLOADS, "default", "chat")
    found = (raw["metadata"].get("annotations") or {}).get(ANNOTATION_AVOIDED_POOLS)
    return None if found is None else str(found)


@pytest.mark.timeout(120)
async def test_a_node_is_cordoned_and_the_site_s_agent_asked_for_a_reset_and_a_reboot(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, policies=POLICIES + REMEDIES, scenario=tiny_scenario(3)) as world,
        world.daemon() as (daemon, _),
    ):
        told = Told(daemon)
        await until(lambda: daemon.remedies.rounds, "it looks", 60)
        listed = (await world.member("onprem").list(NODES)).items
        first, second, third = sorted(raw["metadata"]["name"] for raw in listed if "a100" in raw["metadata"]["name"])[
            :3
        ]
        tell(told, "node.odd", Subject("onprem", None, first))
        tell(told, "gpu.odd", Subject("onprem", None, second, "3"))
        tell(told, "node.stale", Subject("onprem", None, third))
        for name, what, gpu in ((second, "reset", "3"), (third, "reboot", None)):

            async def asked(name: str = name) -> dict[str, str] | None:
                return await request_on(world, name)

            found = await until(asked, f"a {what} is asked for", 60)
            assert (found["request"], found.get("gpu")) == (what, gpu)
            done = {"metadata": {"annotations": {ANNOTATION_REQUEST_DONE: found["id"]}}}
            await world.member("onprem").patch(NODES, "", name, done)
        for signal in ("node.odd", "gpu.odd", "node.stale"):
            await until(partial(outcome, daemon, signal), f"{signal}: done", 60)
            told.resolve(signal)
        for name in (first, second, third):

            async def opened(name: str = name) -> bool:
                raw = await node(world, "onprem", name)
                return raw is not None and not is_held(raw) and await request_on(world, name) is None

            assert is_held(await node(world, "onprem", name)) or await opened()
            await until(opened, f"{name} is opened again", 60)


async def request_on(world: World, name: str) -> dict[str, str] | None:
    raw = await node(world, "onprem", name)
    said = ((raw or {"metadata": {}})["metadata"].get("annotations") or {}).get(ANNOTATION_REQUEST)
    return None if said is None else dict(json.loads(said))
