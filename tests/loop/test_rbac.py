"""The roles in `deploy/rbac` are enough for everything that Overspill does, and grant nothing that it does not do."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clusters.kinds.federatedworkload import TEMPLATES
from scheduler.cli import crds
from scheduler.daemon.deployed import documents
from scheduler.daemon.parts import Daemon
from scheduler.daemon.permissions import Permission, dependents_file, granted, granted_dependents, permissions_of
from scheduler.model.contract import (
    ANNOTATION_KEEP,
    CONFIG_MAPS,
    FEDERATED_WORKLOADS,
    JOBS,
    LABEL_DEPENDENT,
    LABEL_QUEUE,
    NAMESPACES,
    NODES,
    SECRETS,
    SERVICE_ACCOUNTS,
    VOLUME_CLAIMS,
)
from scheduler.model.errors import AlreadyExistsError
from scheduler.model.ports import KubeApi
from tests.builders import rbac
from tests.loop import test_behaviours_dependents as dependents
from tests.loop import test_behaviours_remedies as remedies
from tests.loop import test_behaviours_serving as serving
from tests.loop import test_behaviours_templates as templates
from tests.loop.harness import POLICIES, World, a_job, a_world, is_complete, until

CLOUD_ONLY = {"nvidia.com/gpu.product": "A10G"}


class Twice:
    """A member to which each copy's creation seems to fail, though it took place: it is adopted then."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    async def create(self, resource: Any, namespace: str, body: Any) -> Any:
        await self._api.create(resource, namespace, body)
        return await self._api.create(resource, namespace, body)


def beyond(asked: rbac.Asked, cluster: str, grants: tuple[Permission, ...]) -> list[Any]:
    """What was asked and is not granted."""
    return sorted(one for one in asked.of[cluster] if not any(rbac.permits(grant, one) for grant in grants))


def unused(asked: rbac.Asked, clusters: list[str], grants: tuple[Permission, ...]) -> list[str]:
    """What is granted and was never asked."""
    seen = set().union(*(asked.of[cluster] for cluster in clusters))
    return [str(grant) for grant in grants if not any(rbac.permits(grant, one) for one in seen)]


async def suspended_and_resumed(world: World) -> None:
    async def active() -> bool:
        return bool(((await world.job("stopped") or {}).get("status") or {}).get("active"))

    async def paused() -> bool:
        return not await active()

    await until(active, "it runs", 60)
    await world.hub.patch(JOBS, "default", "stopped", {"spec": {"suspend": True}})
    await until(paused, "it is suspended", 60)
    await world.hub.patch(JOBS, "default", "stopped", {"spec": {"suspend": False}})


async def in_a_namespace_of_its_own(world: World) -> None:
    """Which the member does not have yet."""
    await world.hub.create(NAMESPACES, "", {"metadata": {"name": "team"}})
    job = a_job("guest")
    job["metadata"] |= {"namespace": "team", "labels": {LABEL_QUEUE: "research"}}
    await world.hub.create(JOBS, "team", job)

    async def done() -> bool:
        return is_complete(await world.hub.get(JOBS, "team", "guest"))

    await until(done, "the guest is done", 60)


async def burst_and_back(world: World) -> None:
    template = a_job("any", seconds=30)["spec"]["template"]
    template["spec"]["nodeSelector"] = CLOUD_ONLY
    await world.submit("bursting", template=template)
    await until(lambda: world.is_done("bursting"), "the burst is done", 60)

    async def given_back() -> bool:
        return not (await world.member("eks").list(NODES)).items

    await until(given_back, "the node is given back", 60)


async def a_service_comes_and_goes(world: World) -> None:
    uid = await serving.submit(world, serving.deployment(replicas=1))

    async def ready() -> bool:
        return bool((await serving.status(world)).get("conditions")) and bool(await serving.copies(world, uid))

    await until(ready, "it serves", 60)
    await serving.change(world, {"template": serving.deployment(replicas=2)})

    async def grown() -> bool:
        return [copy["spec"]["replicas"] for _, copy in await serving.copies(world, uid)] == [2]

    await until(grown, "its copy follows", 60)
    await world.hub.delete(FEDERATED_WORKLOADS, "default", "chat")

    async def gone() -> bool:
        return not await serving.copies(world, uid)

    await until(gone, "its copy is gone", 60)


async def each_template_comes_and_goes(world: World) -> None:
    """One of each kind that can be wrapped: made (and taken up), changed, deleted."""
    uids = {name: await serving.submit(world, make(replicas=1), name) for name, make in templates.MAKERS.items()}
    for name, uid in uids.items():
        resource = templates.RESOURCES[name]
        await until(partial(templates.copies, world, resource, uid), f"a copy of {name}", 60)
        await world.hub.patch(FEDERATED_WORKLOADS, "default", name, {"spec": {"suspend": True}})

        async def asleep(name: str, resource: Any, uid: str) -> bool:
            found = await templates.copies(world, resource, uid)
            return all(TEMPLATES[name].is_suspended(copy) for _, copy in found)

        await until(partial(asleep, name, resource, uid), f"{name} is suspended", 60)
        await world.hub.delete(FEDERATED_WORKLOADS, "default", name)
        await until(partial(templates.gone, world, resource, uid, name), f"{name} is gone", 60)


async def deleted_under_way(world: World) -> None:
    uid = (await world.submit("dropped", seconds=36000))["metadata"]["uid"]
    await until(lambda: world.copies(uid), "its copy is there", 60)
    await world.hub.delete(JOBS, "default", "dropped")

    async def gone() -> bool:
        return not await world.copies(uid)

    await until(gone, "its copy is gone", 60)


async def remedied(world: World, daemon: Daemon, uid: str) -> None:
    """Its node is closed and emptied."""
    told = remedies.Told(daemon)
    where = await until(lambda: remedies.node_of(world, "onprem", uid), "it runs", 60)
    told.open("i1", "gpu.xid.79", "onprem", where)

    async def moved() -> bool:
        return await remedies.node_of(world, "onprem", uid) not in (None, where)

    await until(moved, "it runs elsewhere", 60)


@pytest.mark.timeout(240)
async def test_a_whole_life_under_the_roles_of_deploy_rbac(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=600.0, policies=POLICIES + remedies.REMEDY) as world:
        asked = await rbac.restrict(world.sandbox)
        await crds.install(world.hub)
        await templates.define(world.member("onprem"))
        first = (await world.submit("orphaned", seconds=36000))["metadata"]["uid"]
        wrapped = {"onprem"}

        def twice(name: str, api: KubeApi) -> Any:
            return Twice(api) if name in wrapped else api

        async with world.daemon(twice) as (daemon, _):
            await world.submit("stopped", seconds=3600)
            await until(lambda: world.copies(first), "a copy is adopted", 60)
            await suspended_and_resumed(world)
            await in_a_namespace_of_its_own(world)
            await burst_and_back(world)
            await a_service_comes_and_goes(world)
            await each_template_comes_and_goes(world)
            await deleted_under_way(world)
            await remedied(world, daemon, first)
            service = await serving.submit(world, serving.deployment(replicas=1), "left")
            await until(lambda: serving.copies(world, service), "the service's copy is there", 60)
            await until(lambda: world.is_done("stopped"), "the suspended one is done", 60)
            refused = [
                sample
                for metric in daemon.outside.telemetry.registry.collect()
                for sample in metric.samples
                if "AuthError" in sample.labels.values() and sample.value
            ]
            assert not refused
        # Orphans: their hub objects go while nobody looks; the next daemon asks the hub before it deletes the copies.
        for resource, name in ((JOBS, "orphaned"), (FEDERATED_WORKLOADS, "left")):
            await world.hub.patch(resource, "default", name, {"metadata": {"finalizers": None}})
            await world.hub.delete(resource, "default", name)
        async with world.daemon():

            async def gone() -> bool:
                return not await world.copies(first) and not await serving.copies(world, service)

            await until(gone, "the orphans are gone", 60)
    hub = granted("hub", shadow=False, lease=rbac.LEASE)
    member = granted("member", shadow=False, lease=rbac.LEASE)
    assert beyond(asked, "hub", hub) == []
    assert beyond(asked, "onprem", member) == []
    assert beyond(asked, "eks", member) == []
    assert unused(asked, ["hub"], hub) == []
    assert unused(asked, ["onprem", "eks"], member) == []


async def test_what_follows_workloads_needs_no_more_than_its_own_roles(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        world.dependents = dependents.ALL
        asked = await rbac.restrict(world.sandbox)
        for name, server in world.sandbox.servers.items():
            place = "hub" if name == "hub" else "member"
            await rbac.apply(server.local, documents("rbac", dependents_file(place)))
        await crds.install(world.hub)
        await dependents.make_all(world.hub)
        async with world.daemon() as (daemon, _):
            daemon.reconciler.dependents.look_seconds = 0.2
            await serving.submit(world, dependents.whole(), "one")
            await until(lambda: dependents.ready(world, "one"), "it serves")
            for resource in (CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS, VOLUME_CLAIMS):
                names = [one["metadata"]["name"] for one in (await world.hub.list(resource, namespace="default")).items]
                for name in names:
                    await change(world, resource, name)
            await until(lambda: all_changed(world), "all changes are carried over")
            await world.hub.delete(FEDERATED_WORKLOADS, "default", "one")

            async def collected() -> bool:
                return not await dependents.ours(world.member("onprem"))

            await until(collected, "all is collected")
    for place, cluster in (("hub", "hub"), ("member", "onprem")):
        own = granted_dependents(place, dependents.ALL)
        assert beyond(asked, cluster, (*granted(place, shadow=False, lease=rbac.LEASE), *own)) == []
        assert unused(asked, [cluster], own) == []


async def change(world: World, resource: Any, name: str) -> None:
    """Something of it that follows; and nothing is kept that would otherwise be."""
    meta: dict[str, Any] = {"annotations": {ANNOTATION_KEEP: None, "changed": "true"}}
    size = {"spec": {"resources": {"requests": {"storage": "200Gi"}}}} if resource is VOLUME_CLAIMS else {}
    await world.hub.patch(resource, "default", name, {"metadata": meta, **size})


async def all_changed(world: World) -> bool:
    api = world.member("onprem")
    for resource in (CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS):
        for one in (await api.list(resource, label_selector=LABEL_DEPENDENT)).items:
            if "changed" not in one["metadata"]["annotations"]:
                return False
    claims = (await api.list(VOLUME_CLAIMS, label_selector=LABEL_DEPENDENT)).items
    return [one["spec"]["resources"]["requests"]["storage"] for one in claims] == ["200Gi"]


async def test_shadow_mode_needs_no_more_than_to_read(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        asked = await rbac.restrict(world.sandbox, shadow=True)
        await crds.install(world.hub)
        await templates.define(world.member("eks"))
        world.dependents = dependents.ALL
        await world.submit("wanting", gpus=8)
        async with world.daemon(shadow=True, ping_seconds=0.1) as (daemon, _):
            await until(lambda: daemon.decisions.counters["placed"], "it would be placed")
            await until(lambda: all(m.round_trip_seconds for m in daemon.mirror.members.values()), "pinged")
            wanted = {"jobs", "services", "inferenceservices"}
            await until(lambda: wanted <= {one.resource for one in asked.of["eks"] if one.verb == "watch"}, "watched")
            await until(lambda: any(one.verb == "get" for one in asked.of["eks"]), "pinged there, too")
    for place, clusters in (("hub", ["hub"]), ("member", ["onprem", "eks"])):
        grants = granted(place, shadow=True, lease=rbac.LEASE)
        assert {grant.verb for grant in grants} <= {"get", "list", "watch"}
        assert [one for cluster in clusters for one in beyond(asked, cluster, grants)] == []
        assert unused(asked, clusters, grants) == []
        full = granted(place, shadow=False, lease=rbac.LEASE)
        assert set(grants) <= set(full), "who may go live may also look on"


def test_no_role_has_a_wildcard() -> None:
    for place in ("hub", "member"):
        for shadow in (False, True):
            for one in permissions_of(rbac.manifests(place, shadow=shadow)):
                assert "*" not in (one.verb, one.group, one.resource), one


async def test_what_a_role_does_not_grant_is_refused_and_said_on_the_workload(tmp_path: Path) -> None:
    member = rbac.manifests("member")
    (role,) = [one for one in member if one["kind"] == "ClusterRole"]
    (jobs,) = [rule for rule in role["rules"] if rule["resources"] == ["jobs"]]
    jobs["verbs"].remove("create")
    async with a_world(tmp_path) as world:
        await rbac.restrict(world.sandbox, roles={"onprem": member})
        async with world.daemon():
            await world.submit("refused")

            async def said() -> bool:
                return (await world.said("refused"))[1] == "CopyRefused"

            await until(said, "the refusal is told")
            message = (await world.said("refused"))[2]
            assert 'cannot create resource "jobs" in API group "batch" in the namespace "default"' in message
            with pytest.raises(AlreadyExistsError):
                await world.hub.create(JOBS, "default", a_job("refused"))
