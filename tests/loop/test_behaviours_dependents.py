"""ConfigMaps, Secrets, ServiceAccounts and volume claims follow a copy to its member, are kept up to date, and go with
the last copy that needs them; what is not ours is left alone."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scheduler.cli import crds
from scheduler.daemon.parts import Daemon
from scheduler.daemon.placing.dependents import MISSING, NOT_OURS
from scheduler.model.contract import (
    ANNOTATION_KEEP,
    CONFIG_MAPS,
    FEDERATED_WORKLOADS,
    LABEL_DEPENDENT,
    LABEL_QUEUE,
    SECRETS,
    SERVICE_ACCOUNTS,
    VOLUME_CLAIMS,
)
from scheduler.model.errors import NotFoundError
from scheduler.model.ports import KubeApi, RawObject, Resource
from tests.loop.harness import World, a_world, until
from tests.loop.test_behaviours_serving import copies, deployment, placed, status, submit
from tests.loop.test_crash_safety import Fuse

ALL = frozenset({"ConfigMap", "Secret", "ServiceAccount", "PersistentVolumeClaim"})
PASSWORD = "correct horse battery staple"
HIDDEN = base64.b64encode(PASSWORD.encode()).decode()


def needing(**pod: Any) -> dict[str, Any]:
    made = deployment(replicas=1)
    made["spec"]["template"]["spec"].update(pod)
    return made


def whole() -> dict[str, Any]:
    """It refers to one of each kind."""
    made = needing(
        serviceAccountName="runner",
        volumes=[{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
    )
    container = made["spec"]["template"]["spec"]["containers"][0]
    container["envFrom"] = [{"configMapRef": {"name": "settings"}}]
    container["env"] = [{"name": "P", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}]
    return made


async def make(api: KubeApi, resource: Resource, name: str, **fields: Any) -> None:
    annotations = fields.pop("annotations", {})
    meta = {"name": name, "namespace": "default", "annotations": annotations}
    await api.create(resource, "default", {"apiVersion": "v1", "kind": resource.kind, "metadata": meta, **fields})


async def make_all(hub: KubeApi) -> None:
    await make(hub, CONFIG_MAPS, "settings", data={"size": "8"})
    await make(hub, SECRETS, "login", data={"password": HIDDEN})
    await make(hub, SECRETS, "registry", data={"token": HIDDEN})
    await make(hub, SERVICE_ACCOUNTS, "runner", imagePullSecrets=[{"name": "registry"}])
    size = {"requests": {"storage": "100Gi"}}
    claim = {"accessModes": ["ReadWriteMany"], "resources": size}
    await make(hub, VOLUME_CLAIMS, "models", spec=claim, annotations={ANNOTATION_KEEP: "true"})


async def found(api: KubeApi, resource: Resource, name: str) -> RawObject | None:
    try:
        return await api.get(resource, "default", name)
    except NotFoundError:
        return None


async def ours(api: KubeApi) -> set[str]:
    listed = [await api.list(each, label_selector=LABEL_DEPENDENT) for each in
              (CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS, VOLUME_CLAIMS)]  # fmt: skip
    return {f"{one['kind']}/{one['metadata']['name']}" for each in listed for one in each.items}


async def told(world: World, name: str, reason: str, text: str) -> bool:
    condition = await placed(world, name)
    return condition.get("reason") == reason and text in condition["message"]


async def ready(world: World, name: str) -> bool:
    return (await status(world, name)).get("readyReplicas") == 1


@asynccontextmanager
async def following(folder: Path, kinds: frozenset[str] = ALL) -> AsyncIterator[tuple[World, Daemon]]:
    async with a_world(folder) as world:
        world.dependents = kinds
        await crds.install(world.hub)
        async with world.daemon() as (daemon, _):
            daemon.reconciler.dependents.look_seconds = 0.2
            yield world, daemon


async def test_they_follow_are_kept_up_to_date_and_go_with_the_last_copy(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with following(tmp_path) as (world, _):
        hub, onprem = world.hub, world.member("onprem")
        await make_all(hub)
        await make(onprem, CONFIG_MAPS, "bystander", data={"a": "b"})
        await submit(world, whole(), "one")
        await submit(world, whole(), "two")
        await until(lambda: ready(world, "one"), "it serves")
        await until(lambda: ready(world, "two"), "so does the other")
        names = {"ConfigMap/settings", "Secret/login", "Secret/registry", "ServiceAccount/runner"}
        assert await ours(onprem) == {*names, "PersistentVolumeClaim/models"}
        assert (await found(onprem, SECRETS, "login") or {})["data"] == {"password": HIDDEN}
        await hub.patch(CONFIG_MAPS, "default", "settings", {"data": {"size": "16"}})
        await onprem.patch(SECRETS, "default", "login", {"data": {"password": "bm90aGluZw=="}})

        async def up_to_date() -> bool:
            config, secret = await found(onprem, CONFIG_MAPS, "settings"), await found(onprem, SECRETS, "login")
            followed = (config or {})["data"] == {"size": "16"}
            return followed and bool((secret or {})["data"] == {"password": HIDDEN})

        await until(up_to_date, "a change on the hub is carried over, one on the member taken back")
        await world.hub.delete(FEDERATED_WORKLOADS, "default", "one")
        await until(lambda: _gone(world, "one"), "the first is gone")
        assert await ours(onprem) == {*names, "PersistentVolumeClaim/models"}, "the second needs them"
        await world.hub.delete(FEDERATED_WORKLOADS, "default", "two")

        async def collected() -> bool:
            return await ours(onprem) == {"PersistentVolumeClaim/models"}

        await until(collected, "all but what is to be kept went with the last copy")
        assert await found(onprem, CONFIG_MAPS, "bystander")
    printed = "".join(capfd.readouterr())
    assert PASSWORD not in printed
    assert HIDDEN not in printed


async def _gone(world: World, name: str) -> bool:
    try:
        await world.hub.get(FEDERATED_WORKLOADS, "default", name)
    except NotFoundError:
        return True
    return False


async def test_what_is_missing_or_not_ours_is_said_and_nothing_is_made(tmp_path: Path) -> None:
    async with following(tmp_path, frozenset({"ConfigMap"})) as (world, _):
        onprem = world.member("onprem")
        uid = await submit(world, needing(volumes=[{"name": "v", "configMap": {"name": "settings"}}]), "early")
        await until(lambda: told(world, "early", MISSING, "ConfigMap settings is not in namespace default"), "missing")
        assert not await copies(world, uid)
        await make(world.hub, CONFIG_MAPS, "settings", data={"size": "8"})
        await until(lambda: ready(world, "early"), "once it is there, the copy is made")
        await make(onprem, CONFIG_MAPS, "theirs", data={"of": "another"})
        await make(world.hub, CONFIG_MAPS, "theirs", data={"of": "the hub"})
        clash = await submit(world, needing(volumes=[{"name": "v", "configMap": {"name": "theirs"}}]), "clash")
        await until(lambda: told(world, "clash", NOT_OURS, "is not ours: delete it there, or rename it"), "not ours")
        assert not await copies(world, clash)
        assert (await found(onprem, CONFIG_MAPS, "theirs") or {})["data"] == {"of": "another"}
        optional = {"name": "v", "configMap": {"name": "none", "optional": True}}
        await submit(world, needing(volumes=[optional], imagePullSecrets=[{"name": "elsewhere"}]), "content")
        await until(lambda: ready(world, "content"), "what is optional, or does not follow here, is no hindrance")
        body = {
            "apiVersion": FEDERATED_WORKLOADS.api_version,
            "kind": FEDERATED_WORKLOADS.kind,
            "metadata": {"name": "named", "namespace": "default", "labels": {LABEL_QUEUE: "research"}},
            "spec": {"template": needing(), "dependents": [{"kind": "Secret", "name": "login"}]},
        }
        await world.hub.create(FEDERATED_WORKLOADS, "default", body)
        refused = "Secret login does not follow here; name Secret in `dependents`"
        await until(lambda: told(world, "named", "CopyRefused", refused), "one that is named must be able to follow")
        assert not (await onprem.list(SECRETS, label_selector=LABEL_DEPENDENT)).items


async def test_killed_again_and_again_nothing_is_left_behind(tmp_path: Path) -> None:
    """Each daemon dies a write later than the one before, before it and after it by turns; the next goes on where that
    stopped, with a new workload beside."""
    async with a_world(tmp_path, speed=900.0) as world:
        world.dependents = frozenset({"ConfigMap"})
        await crds.install(world.hub)
        lives: dict[str, str] = {}
        for at in range(1, 7):
            name, fuse = f"chat-{at}", Fuse(at, after=bool(at % 2))
            await make(world.hub, CONFIG_MAPS, name, data={"size": "8"})
            lives[name] = await submit(world, needing(volumes=[{"name": "v", "configMap": {"name": name}}]), name)
            async with world.daemon(fuse.wrap) as (daemon, _):
                daemon.reconciler.dependents.look_seconds = 0.1
                await until(partial(_blown_or_over, world, fuse, lives), f"write {at}")
        async with world.daemon() as (daemon, _):
            daemon.reconciler.dependents.look_seconds = 0.1
            await until(partial(_over, world, lives), "the last one brings all to its end")


async def _blown_or_over(world: World, fuse: Fuse, lives: dict[str, str]) -> bool:
    return fuse.blown.is_set() or await _over(world, lives)


async def _over(world: World, lives: dict[str, str]) -> bool:
    """Its user deletes a workload as soon as its copy is there. Whether all are gone, and what they needed, too."""
    onprem, left = world.member("onprem"), False
    for name, uid in lives.items():
        there = await copies(world, uid)
        assert len(there) <= 1, "one copy in all"
        on_hub = not await _gone(world, name)
        if there and on_hub:
            assert await found(onprem, CONFIG_MAPS, name), "what it needs is there for as long as it is"
            await world.hub.delete(FEDERATED_WORKLOADS, "default", name)
        left = left or on_hub or bool(there)
    return not left and not await ours(onprem)
