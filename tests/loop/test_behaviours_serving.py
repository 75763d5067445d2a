"""FederatedWorkload: a Deployment placed, followed, changed, suspended and deleted; on bought capacity too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from scheduler.cli import crds
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import (
    CONDITION_PLACED,
    DEPLOYMENTS,
    FEDERATED_WORKLOADS,
    LABEL_ORIGIN_UID,
    LABEL_QUEUE,
    NODES,
    PODS,
)
from scheduler.model.errors import NotFoundError
from scheduler.model.ports import RawObject
from tests.loop.harness import POLICIES, World, a_world, until


def deployment(*, replicas: int = 2, image: str = "serve:1", gpu_model: str = "") -> dict[str, Any]:
    limits = {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    pod: dict[str, Any] = {
        "containers": [{"name": "main", "image": image, "resources": {"limits": limits, "requests": limits}}]
    }
    if gpu_model:
        pod["nodeSelector"] = {"nvidia.com/gpu.product": gpu_model}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "chat"}},
            "template": {"metadata": {"labels": {"app": "chat"}}, "spec": pod},
        },
    }


@asynccontextmanager
async def serving(folder: Path, policies: str = POLICIES) -> AsyncIterator[tuple[World, Daemon]]:
    async with a_world(folder, policies=policies) as world:
        await crds.install(world.hub)
        async with world.daemon() as (daemon, _):
            yield world, daemon


async def submit(world: World, template: dict[str, Any], name: str = "chat") -> str:
    body = {
        "apiVersion": FEDERATED_WORKLOADS.api_version,
        "kind": FEDERATED_WORKLOADS.kind,
        "metadata": {"name": name, "namespace": "default", "labels": {LABEL_QUEUE: "research"}},
        "spec": {"template": template},
    }
    return str((await world.hub.create(FEDERATED_WORKLOADS, "default", body))["metadata"]["uid"])


async def change(world: World, spec: dict[str, Any]) -> None:
    await world.hub.patch(FEDERATED_WORKLOADS, "default", "chat", {"spec": spec})


async def status(world: World, name: str = "chat") -> dict[str, Any]:
    return dict((await world.hub.get(FEDERATED_WORKLOADS, "default", name)).get("status") or {})


async def placed(world: World, name: str = "chat") -> dict[str, str]:
    """The Overspill condition; empty before it has one."""
    conditions = (await status(world, name)).get("conditions") or []
    return next((one for one in conditions if one["type"] == CONDITION_PLACED), {})


async def copies(world: World, uid: str) -> list[tuple[str, RawObject]]:
    found = []
    for member in world.sandbox.scenario.members:
        listed = await world.member(member.name).list(DEPLOYMENTS, label_selector=f"{LABEL_ORIGIN_UID}={uid}")
        found += [(member.name, raw) for raw in listed.items]
    return found


async def ready(world: World, count: int) -> bool:
    told = await status(world)
    return told.get("readyReplicas") == count and told.get("replicas") == count


async def gone(world: World, uid: str) -> bool:
    try:
        await world.hub.get(FEDERATED_WORKLOADS, "default", "chat")
    except NotFoundError:
        return not await copies(world, uid)
    return False


async def test_a_deployment_is_placed_followed_changed_suspended_and_deleted(tmp_path: Path) -> None:
    async with serving(tmp_path) as (world, daemon):
        uid = await submit(world, deployment())
        await until(lambda: ready(world, 2), "two replicas serve")
        told = await status(world)
        assert [one["name"] for one in told["clusters"]] == ["onprem"]
        assert any(one["type"] == "Available" and one["status"] == "True" for one in told["conditions"])
        await change(world, {"template": deployment(replicas=3)})
        await until(lambda: ready(world, 3), "scaled up")
        await change(world, {"template": deployment(replicas=3, image="serve:2")})

        async def rolled_out() -> bool:
            pods = (await world.member("onprem").list(PODS, label_selector=f"{LABEL_ORIGIN_UID}={uid}")).items
            images = {pod["spec"]["containers"][0]["image"] for pod in pods}
            return images == {"serve:2"} and await ready(world, 3)

        await until(rolled_out, "the new image is rolled out")
        await change(world, {"suspend": True})
        await until(lambda: ready(world, 0), "suspended, nothing serves")
        await change(world, {"suspend": False})
        await until(lambda: ready(world, 3), "resumed, it serves again")
        await world.hub.delete(FEDERATED_WORKLOADS, "default", "chat")
        await until(lambda: gone(world, uid), "deleted with its copy")
        await until(daemon.is_idle, "at rest")
        assert daemon.decisions.counters["placed"] == 1


async def test_serving_on_bought_capacity_grows_with_its_replicas_and_gives_all_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as (world, daemon):
        uid = await submit(world, deployment(replicas=1, gpu_model="A10G"))
        await until(lambda: ready(world, 1), "it serves on a bought node")
        assert [member for member, _ in await copies(world, uid)] == ["eks"]
        await change(world, {"template": deployment(replicas=2, gpu_model="A10G")})
        await until(lambda: ready(world, 2), "a node is bought for the second replica")
        await world.hub.delete(FEDERATED_WORKLOADS, "default", "chat")
        await until(lambda: gone(world, uid), "deleted")

        async def none_left() -> bool:
            return not (await world.member("eks").list(NODES)).items

        await until(none_left, "all is given back")
        await until(lambda: daemon.ledger.nodes_ended == len(world.sandbox.charges()) == 2, "all is metered")


async def test_a_template_that_cannot_be_federated_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as (world, daemon):
        await submit(world, {"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {}}, "wrong")

        async def told(name: str, text: str) -> bool:
            condition = await placed(world, name)
            return condition.get("status") == "False" and text in condition["message"]

        await until(lambda: told("wrong", "DaemonSet; what can be federated is apps/v1 Deployment"), "it says so")
        uid = await submit(world, deployment())
        await until(lambda: ready(world, 2), "others are served")
        broken = deployment()
        broken["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
        await change(world, {"template": broken})
        await until(lambda: told("chat", "selector is missing or does not match"), "a running one says so, too")
        assert len(await copies(world, uid)) == 1, "and goes on serving as it was"
        await change(world, {"template": deployment(replicas=1)})
        await until(lambda: ready(world, 1), "put right, it is followed again")
        await until(daemon.is_idle, "at rest")
        assert (await placed(world))["status"] == "True"
        await change(world, {"template": broken})
        await until(lambda: told("chat", "selector is missing or does not match"), "broken again")
        await world.hub.delete(FEDERATED_WORKLOADS, "default", "chat")
        await until(lambda: gone(world, uid), "a broken one can be deleted, too")
