"""What a FederatedWorkload may wrap, over the sandbox: placed, changed, suspended, resumed, moved, deleted; on members
that have its definition, and on such that have not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from clusters.kinds.federatedworkload import TEMPLATES
from scheduler.cli import crds
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import (
    ANNOTATION_AVOIDED_POOLS,
    CRDS,
    FEDERATED_WORKLOADS,
    INFERENCE_SERVICES,
    KNATIVE_SERVICES,
    LABEL_ORIGIN_UID,
    PODS,
    STATEFULSETS,
    VOLUME_CLAIMS,
)
from scheduler.model.errors import AlreadyExistsError, NotFoundError, NotServedError
from scheduler.model.ids import DecisionId, Uid
from scheduler.model.plan import SetPlacement
from scheduler.model.ports import KubeApi, RawObject, Resource
from scheduler.model.workload import PlacementState
from tests.loop.harness import Clusters, World, a_world, until
from tests.loop.test_behaviours_serving import deployment, placed, status, submit

DEFINITIONS = Path(__file__).parents[1] / "crds"
LIMITS = {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
ASKED = {"limits": LIMITS, "requests": LIMITS}


def statefulset(image: str = "vllm:1", replicas: int = 2) -> dict[str, Any]:
    made = deployment(replicas=replicas, image=image)
    claim = {
        "metadata": {"name": "cache"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "50Gi"}}},
    }
    return {
        **made,
        "kind": "StatefulSet",
        "spec": {**made["spec"], "serviceName": "chat", "volumeClaimTemplates": [claim]},
    }


def inference(image: str = "vllm:1", replicas: int = 2) -> dict[str, Any]:
    model = {"modelFormat": {"name": "huggingface"}, "image": image, "resources": ASKED}
    return {
        "apiVersion": INFERENCE_SERVICES.api_version,
        "kind": "InferenceService",
        "spec": {"predictor": {"minReplicas": replicas, "maxReplicas": 4, "model": model}},
    }


def knative(image: str = "vllm:1", replicas: int = 2) -> dict[str, Any]:
    bounds = {"autoscaling.knative.dev/min-scale": str(replicas), "autoscaling.knative.dev/max-scale": "4"}
    spec = {"containers": [{"image": image, "name": "main", "resources": ASKED}]}
    return {
        "apiVersion": KNATIVE_SERVICES.api_version,
        "kind": "Service",
        "spec": {"template": {"metadata": {"annotations": bounds}, "spec": spec}},
    }


MAKERS = {"statefulset": statefulset, "inferenceservice": inference, "knativeservice": knative}
RESOURCES = {"statefulset": STATEFULSETS, "inferenceservice": INFERENCE_SERVICES, "knativeservice": KNATIVE_SERVICES}


async def define(api: KubeApi) -> None:
    """KServe's and Knative's definitions, where they are not there yet."""
    for file in sorted(DEFINITIONS.glob("*.yaml")):
        try:
            await api.create(CRDS, "", yaml.safe_load(file.read_text()))
        except AlreadyExistsError:
            continue


@asynccontextmanager
async def defined(folder: Path, *members: str) -> AsyncIterator[tuple[World, Daemon]]:
    """A world in which these members have KServe and Knative."""
    async with a_world(folder) as world:
        for member in members:
            await define(world.member(member))
        await crds.install(world.hub)
        async with world.daemon() as (daemon, _):
            yield world, daemon


async def copies(world: Clusters, resource: Resource, uid: str) -> list[tuple[str, RawObject]]:
    found = []
    for member in world.members:
        try:
            listed = await world.member(member).list(resource, label_selector=f"{LABEL_ORIGIN_UID}={uid}")
        except NotServedError:
            continue
        found += [(member, raw) for raw in listed.items]
    return found


async def pods(world: World, member: str, uid: str) -> list[RawObject]:
    return list((await world.member(member).list(PODS, label_selector=f"{LABEL_ORIGIN_UID}={uid}")).items)


async def serves(world: World, count: int, name: str = "chat") -> bool:
    told = await status(world, name)
    return told.get("readyReplicas") == count and bool(told.get("clusters"))


async def gone(world: World, resource: Resource, uid: str, name: str) -> bool:
    try:
        await world.hub.get(FEDERATED_WORKLOADS, "default", name)
    except NotFoundError:
        return not await copies(world, resource, uid)
    return False


async def told(world: World, text: str) -> bool:
    condition = await placed(world)
    return condition.get("status") == "False" and text in condition["message"]


async def move(world: World, daemon: Daemon, name: str, uid: str) -> None:
    """As a remedy moves it off the pool that it is on."""
    entry = daemon.mirror.hub[Uid(uid)]
    before = entry.workload.placement
    assert before is not None
    note = {ANNOTATION_AVOIDED_POOLS: f"{before.cluster}/{before.pool}"}
    await world.hub.patch(FEDERATED_WORKLOADS, "default", name, {"metadata": {"annotations": note}})

    def noted() -> bool:
        return bool(daemon.mirror.hub[Uid(uid)].workload.hints.avoided_pools)

    await until(noted, "the note is seen")
    after = replace(before, state=PlacementState.RELEASING, reason="Remediation")
    daemon.reconciler.want(SetPlacement(entry.workload.ref, after, before, DecisionId("test")))


class Service:
    """One of each kind, taken through its life."""

    def __init__(self, world: World, daemon: Daemon, name: str) -> None:
        self.world, self.daemon, self.name = world, daemon, name
        self.make, self.resource, self.uid = MAKERS[name], RESOURCES[name], ""

    async def change(self, spec: dict[str, Any]) -> None:
        await self.world.hub.patch(FEDERATED_WORKLOADS, "default", self.name, {"spec": spec})

    async def serves(self) -> bool:
        return await serves(self.world, 2, self.name)

    async def pods(self) -> list[RawObject]:
        return await pods(self.world, "onprem", self.uid)

    async def live(self) -> None:
        self.uid = await submit(self.world, self.make(), self.name)
        await until(self.serves, f"two replicas of {self.name} serve")
        if self.resource.custom:
            await until(self.has_url, "it says where it is reached")
        ((member, copy),) = await copies(self.world, self.resource, self.uid)
        assert member == "onprem"
        assert len(copy["metadata"]["name"]) <= TEMPLATES[self.name].longest_name
        await self.change({"template": self.make(image="vllm:2")})
        await until(self.rolled_out, f"{self.name}: the new image is rolled out")
        await self.change({"suspend": True})
        await until(self.asleep, f"{self.name}: suspended, no pods are left")
        await self.change({"suspend": False})
        await until(self.serves, f"{self.name}: resumed, it serves again")
        if self.resource.custom:
            await move(self.world, self.daemon, self.name, self.uid)
            await until(self.moved, f"{self.name}: moved, it serves elsewhere")
        await self.world.hub.delete(FEDERATED_WORKLOADS, "default", self.name)
        await until(lambda: gone(self.world, self.resource, self.uid, self.name), f"{self.name}: deleted with its copy")

    async def has_url(self) -> bool:
        told_of = await status(self.world, self.name)
        return bool(told_of.get("url")) and bool(told_of["clusters"][0].get("url"))

    async def rolled_out(self) -> bool:
        images = {pod["spec"]["containers"][0]["image"] for pod in await self.pods()}
        return images == {"vllm:2"} and await self.serves()

    async def asleep(self) -> bool:
        told_of = await status(self.world, self.name)
        return not await self.pods() and told_of.get("readyReplicas") == 0

    async def moved(self) -> bool:
        return [member for member, _ in await copies(self.world, self.resource, self.uid)] == ["eks"] and (
            await self.serves()
        )


async def test_each_is_placed_changed_suspended_resumed_moved_and_deleted(tmp_path: Path) -> None:
    assert sorted(TEMPLATES) == sorted([*MAKERS, "deployment"]), "give this test a maker of the new template"
    async with defined(tmp_path, "onprem", "eks") as (world, daemon):
        async with asyncio.TaskGroup() as group:
            for name in MAKERS:
                group.create_task(Service(world, daemon, name).live())
        await until(daemon.is_idle, "at rest")
        claims = (await world.member("onprem").list(VOLUME_CLAIMS)).items
        assert len(claims) == 2, "volumes are kept, as a StatefulSet's are"


async def test_a_member_without_the_definition_takes_none_until_it_is_installed(tmp_path: Path) -> None:
    async with defined(tmp_path) as (world, daemon):
        uid = await submit(world, inference(replicas=1))
        missing = "no inferenceservices.serving.kserve.io in eks, onprem: not installed there"
        await until(lambda: told(world, missing), "it says where the definition lacks")
        await submit(world, deployment(), "other")

        async def other_serves() -> bool:
            return bool((await status(world, "other")).get("readyReplicas") == 2)

        await until(other_serves, "others are served meanwhile")
        assert not await copies(world, INFERENCE_SERVICES, uid)
        await define(world.member("onprem"))
        await until(lambda: serves(world, 1), "once it is installed, it is placed there", 90)
        assert [member for member, _ in await copies(world, INFERENCE_SERVICES, uid)] == ["onprem"]
        await until(daemon.is_idle, "at rest")
        assert (await placed(world))["status"] == "True"


async def test_where_only_one_member_has_the_definition_it_goes_there(tmp_path: Path) -> None:
    async with defined(tmp_path, "eks") as (world, _):
        service = knative(replicas=1)
        service["spec"]["template"]["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": "A10G"}
        uid = await submit(world, service)
        await until(lambda: serves(world, 1), "it serves on a bought node of the cloud")
        assert [member for member, _ in await copies(world, KNATIVE_SERVICES, uid)] == ["eks"]
