"""The client, the reflector and the kinds against the emulated Kubernetes API, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from clusters.clock import SystemClock
from clusters.kinds import load_kinds
from clusters.kubernetes.client import HttpKubeApi
from clusters.kubernetes.reflector import Reflector
from clusters.sandbox.apiserver.server import ApiServer, kubeconfig
from scheduler.model.contract import CRDS, FEDERATED_WORKLOADS, JOBS, PODS
from scheduler.model.errors import (
    AlreadyExistsError,
    ConflictError,
    GoneError,
    NotFoundError,
    RefusedError,
    TransientError,
)
from scheduler.model.ports import RawObject, WatchEvent
from tests.unit.test_kinds_federatedworkload import template
from tests.unit.test_kinds_job import MEMBER, PLACEMENT

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[HttpKubeApi]:
    server = ApiServer("hub", SystemClock(), token="token")
    await server.start()
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(kubeconfig(server)))
    made = await HttpKubeApi.connect(name="hub", kubeconfig=path, context=None)
    yield made
    await made.close()
    await server.stop()


def example_job() -> Any:
    return YAML(typ="safe").load(ROOT / "examples" / "job.yaml")


async def test_a_job_goes_round(api: HttpKubeApi) -> None:
    kind = load_kinds()["job"]
    hub = await api.create(JOBS, "default", example_job())
    workload = kind.parse(hub)
    assert workload.invalid is None
    with pytest.raises(AlreadyExistsError):
        await api.create(JOBS, "default", example_job())
    with pytest.raises(RefusedError, match="managedBy"):
        await api.patch(JOBS, "default", workload.ref.name, {"spec": {"managedBy": None}})
    copy = await api.create(JOBS, "default", kind.make_copy(hub, workload, PLACEMENT, MEMBER))
    assert kind.refresh_copy(hub, workload, PLACEMENT, MEMBER, copy) is None
    name = copy["metadata"]["name"]
    status = {"active": 1, "ready": 1, "startTime": "2026-01-01T00:00:00Z"}
    copy = await api.patch(JOBS, "default", name, {"status": status}, subresource="status")
    told = kind.condition_patch(hub, reason="Placed", message="on eks", placed=True, now=0.0)
    assert told is not None
    hub = await api.patch(JOBS, "default", workload.ref.name, told, subresource="status")
    mirrored = kind.mirror_status(hub, copy)
    assert mirrored is not None
    hub = await api.patch(JOBS, "default", workload.ref.name, mirrored, subresource="status")
    assert kind.mirror_status(hub, copy) is None
    assert kind.parse(hub).condition == ("Placed", "on eks")
    with pytest.raises(ConflictError):
        await api.update(JOBS, "default", name, {**copy, "metadata": {**copy["metadata"], "resourceVersion": "1"}})
    with pytest.raises(ConflictError):
        await api.delete(JOBS, "default", name, uid="another")
    await api.delete(JOBS, "default", name, uid=copy["metadata"]["uid"])
    with pytest.raises(NotFoundError):
        await api.get(JOBS, "default", "none")


async def test_a_federated_workload_goes_round(api: HttpKubeApi) -> None:
    await api.create(CRDS, "", YAML(typ="safe").load(ROOT / "deploy" / "crds" / "federatedworkloads.yaml"))
    kind = load_kinds()["federatedworkload"]
    body = {
        "apiVersion": FEDERATED_WORKLOADS.api_version,
        "kind": "FederatedWorkload",
        "metadata": {"name": "llm", "labels": {"overspill.dev/queue": "serving"}},
        "spec": {"template": template()},
    }
    async with asyncio.timeout(5):
        while True:
            try:
                hub = await api.create(FEDERATED_WORKLOADS, "default", body)
                break
            except NotFoundError:  # a CRD is served a moment after it is accepted
                await asyncio.sleep(0)
    workload = kind.parse(hub)
    assert workload.invalid is None
    (resource,) = (each for each in kind.member_resources if each.key == workload.runs_as)
    copy = await api.create(resource, "default", kind.make_copy(hub, workload, PLACEMENT, MEMBER))
    assert kind.refresh_copy(hub, workload, PLACEMENT, MEMBER, copy) is None
    changed = template("vllm:2")
    hub = await api.patch(FEDERATED_WORKLOADS, "default", "llm", {"spec": {"template": changed}})
    patch = kind.refresh_copy(hub, workload, PLACEMENT, MEMBER, copy)
    assert patch is not None
    copy = await api.patch(resource, "default", copy["metadata"]["name"], patch)
    assert copy["spec"]["template"]["spec"]["containers"][0]["image"] == "vllm:2"
    assert kind.refresh_copy(hub, workload, PLACEMENT, MEMBER, copy) is None
    mirrored = kind.mirror_status(hub, copy)
    assert mirrored is not None
    hub = await api.patch(FEDERATED_WORKLOADS, "default", "llm", mirrored, subresource="status")
    assert kind.mirror_status(hub, copy) is None
    with pytest.raises(RefusedError):
        await api.patch(FEDERATED_WORKLOADS, "default", "llm", {"spec": {"template": {"kind": 5}}})


class Heard:
    def __init__(self) -> None:
        self.names: set[str] = set()
        self.changed = asyncio.Event()

    def on_replace(self, objects: tuple[RawObject, ...]) -> None:
        self.names = {obj["metadata"]["name"] for obj in objects}
        self.changed.set()

    def on_rewind(self) -> None:
        raise AssertionError("no history goes back here")

    def on_event(self, event: WatchEvent) -> None:
        name = event.object["metadata"]["name"]
        (self.names.discard if event.type == "DELETED" else self.names.add)(name)
        self.changed.set()

    def on_absent(self, error: str) -> None:
        raise AssertionError(error)

    def on_state(self, reachable: bool, error: str | None) -> None:
        assert reachable, error


async def test_a_reflector_hears_of_everything(api: HttpKubeApi) -> None:
    def pod(name: str) -> dict[str, Any]:
        return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}}

    await api.create(PODS, "default", pod("before"))
    heard = Heard()
    task = asyncio.create_task(Reflector(api, PODS, heard, wall=SystemClock(), jitter=random.random).run())

    async def hears(want: set[str]) -> None:
        async with asyncio.timeout(10):
            while heard.names != want:
                heard.changed.clear()
                await heard.changed.wait()

    await hears({"before"})
    await api.create(PODS, "default", pod("after"))
    await hears({"before", "after"})
    await api.delete(PODS, "default", "before", grace_period_seconds=0)
    await hears({"after"})
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_many_pages_make_one_list(api: HttpKubeApi) -> None:
    body = {"spec": {"containers": [{"name": "c", "image": "i"}]}}
    async with asyncio.TaskGroup() as group:
        for number in range(60):
            group.create_task(api.create(PODS, "default", {**body, "metadata": {"name": f"p{number:02}"}}))
    paged = await api._list_pages(PODS, "/api/v1/pods", {}, 7)
    whole = await api.list(PODS)
    assert [item["metadata"]["name"] for item in paged.items] == [f"p{number:02}" for number in range(60)]
    assert paged.items == whole.items
    assert {item["kind"] for item in whole.items} == {"Pod"}


async def test_a_certificate_that_is_not_trusted_is_no_connection(tmp_path: Path) -> None:
    server = ApiServer("hub", SystemClock(), token="token")
    await server.start()
    config: Any = kubeconfig(server)
    for cluster in config["clusters"]:
        cluster["cluster"].pop("certificate-authority-data", None)
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    stranger = await HttpKubeApi.connect(name="hub", kubeconfig=path, context="hub")
    with pytest.raises(TransientError, match=r"cluster hub: GET .*: cannot connect .*certificate"):
        await stranger.list(PODS)
    await stranger.close()
    await server.stop()


async def test_an_unknown_past_cannot_be_watched(api: HttpKubeApi) -> None:
    stream = api.watch(PODS, resource_version="not-a-version")
    with pytest.raises((RefusedError, GoneError)):
        await anext(stream)
