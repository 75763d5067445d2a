"""A Kubernetes API in memory and a clock turned by hand, for tests of the emulation's controllers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from clusters.sandbox.emulation.cluster import ClusterEmulation
from clusters.sandbox.emulation.kubelet import Pace
from clusters.sandbox.emulation.objects import format_time, is_terminal
from clusters.sandbox.emulation.timers import Timers
from clusters.sandbox.emulation.work import Supervisor
from clusters.sandbox.ports import PoolSpec
from clusters.sandbox.scenario import ClusterPlan, PoolPlan
from scheduler.model.contract import JOBS, PODS
from scheduler.model.errors import AlreadyExistsError, ConflictError, NotFoundError
from scheduler.model.ports import ObjectList, RawObject, Resource, WatchEvent

START = 1_700_000_000.0
Objects = list[dict[str, Any]]
Writes = list[tuple[str, str, str]]
Errors = list[Exception]
Queues = list[asyncio.Queue[WatchEvent]]


class HandClock:
    """Time that passes only by `advance`."""

    def __init__(self, start: float = START) -> None:
        self._now = start
        self._moved = asyncio.Event()

    def now(self) -> float:
        return self._now

    def advance(self, to: float) -> None:
        self._now = max(self._now, to)
        self._moved.set()
        self._moved = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        until = self._now + seconds
        while self._now < until:
            await self._moved.wait()


def merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


class FakeKube:
    """Implements KubeApi: versions, preconditions, finalizers, graceful deletion of bound pods, binding, watches."""

    def __init__(self, clock: HandClock) -> None:
        self._clock = clock
        self._version = itertools.count(1)
        self._uids = itertools.count(1)
        self._last = 0
        self.objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self._watchers: dict[str, Queues] = {}
        self.writes: Writes = []
        self.fail_next: Errors = []

    def _stamp(self, obj: dict[str, Any]) -> dict[str, Any]:
        self._last = next(self._version)
        return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(self._last)}}

    def _emit(self, kind: str, resource: Resource, obj: RawObject) -> None:
        for queue in self._watchers.get(resource.plural, ()):
            queue.put_nowait(WatchEvent(kind, obj))

    def _note(self, verb: str, resource: Resource, name: str) -> None:
        self.writes.append((verb, resource.plural, name))
        if self.fail_next:
            raise self.fail_next.pop(0)

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> ObjectList:
        return ObjectList(tuple(self.objects.get(resource.plural, {}).values()), str(self._last))

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        queue: asyncio.Queue[WatchEvent] = asyncio.Queue()
        self._watchers.setdefault(resource.plural, []).append(queue)
        for obj in self.objects.get(resource.plural, {}).values():
            if int(obj["metadata"]["resourceVersion"]) > int(resource_version):
                queue.put_nowait(WatchEvent("ADDED", obj))
        while True:
            yield await queue.get()

    async def get(self, resource: Resource, namespace: str, name: str) -> RawObject:
        try:
            return self.objects.get(resource.plural, {})[namespace, name]
        except KeyError as error:
            raise NotFoundError(f"{resource.plural} {name}") from error

    async def create(self, resource: Resource, namespace: str, body: RawObject) -> RawObject:
        name = str(body["metadata"]["name"])
        self._note("create", resource, name)
        store = self.objects.setdefault(resource.plural, {})
        if (namespace, name) in store:
            raise AlreadyExistsError(name)
        metadata = {
            **body["metadata"],
            "uid": f"uid-{next(self._uids):08d}",
            "creationTimestamp": format_time(self._clock.now()),
            "generation": 1,
            **({"namespace": namespace} if namespace else {}),
        }
        obj = self._stamp({**body, "metadata": metadata})
        if resource == PODS:
            obj["status"] = {"phase": "Pending"}
        store[namespace, name] = obj
        self._emit("ADDED", resource, obj)
        return obj

    async def update(
        self, resource: Resource, namespace: str, name: str, body: RawObject, *, subresource: str = ""
    ) -> RawObject:
        return await self.patch(resource, namespace, name, body, subresource=subresource)

    async def patch(
        self, resource: Resource, namespace: str, name: str, body: RawObject, *, subresource: str = ""
    ) -> RawObject:
        self._note(f"patch{'/' + subresource if subresource else ''}", resource, name)
        old = dict(await self.get(resource, namespace, name))
        for field in ("uid", "resourceVersion"):
            wanted = body.get("metadata", {}).get(field)
            if wanted is not None and wanted != old["metadata"][field]:
                raise ConflictError(f"{name}: {field}")
        new = merge(old, {"status": body.get("status")} if subresource == "status" else body)
        if new.get("spec") != old.get("spec"):
            new["metadata"] = {**new["metadata"], "generation": old["metadata"]["generation"] + 1}
        return self._replace(resource, namespace, name, new)

    async def create_subresource(
        self, resource: Resource, namespace: str, name: str, subresource: str, body: RawObject
    ) -> RawObject:
        self._note(subresource, resource, name)
        pod = dict(await self.get(resource, namespace, name))
        if pod["spec"].get("nodeName"):
            raise ConflictError(f"{name} is bound")
        bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": format_time(self._clock.now())}
        spec = {**pod["spec"], "nodeName": body["target"]["name"]}
        new = {**pod, "spec": spec, "status": {**pod["status"], "conditions": [bound]}}
        return self._replace(resource, namespace, name, new)

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        propagation: str = "Background",
        grace_period_seconds: int | None = None,
    ) -> None:
        self._note("delete", resource, name)
        obj = dict(await self.get(resource, namespace, name))
        if uid and obj["metadata"]["uid"] != uid:
            raise ConflictError(f"{name}: uid")
        bound = resource == PODS and obj["spec"].get("nodeName") and not is_terminal(obj)
        grace = 30 if bound and grace_period_seconds is None else grace_period_seconds or 0
        if obj["metadata"].get("finalizers") or (bound and grace):
            if not obj["metadata"].get("deletionTimestamp"):
                times = {"deletionTimestamp": format_time(self._clock.now()), "deletionGracePeriodSeconds": grace}
                self._replace(resource, namespace, name, {**obj, "metadata": {**obj["metadata"], **times}})
            return
        self._remove(resource, namespace, name)

    def _replace(self, resource: Resource, namespace: str, name: str, new: dict[str, Any]) -> RawObject:
        obj = self._stamp(new)
        self.objects[resource.plural][namespace, name] = obj
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers") and resource != PODS:
            self._remove(resource, namespace, name)
        else:
            self._emit("MODIFIED", resource, obj)
        return obj

    def _remove(self, resource: Resource, namespace: str, name: str) -> None:
        self._emit("DELETED", resource, self._stamp(self.objects[resource.plural].pop((namespace, name))))

    async def close(self) -> None:
        return None

    def all(self, resource: Resource) -> Objects:
        return [obj for _, obj in sorted(self.objects.get(resource.plural, {}).items())]

    def one(self, resource: Resource, name: str, namespace: str = "default") -> dict[str, Any]:
        return self.objects[resource.plural][namespace, name]


class Bench:
    """A fake API with one cluster's emulation on it."""

    def __init__(self, clock: HandClock, api: FakeKube, timers: Timers, cluster: ClusterEmulation) -> None:
        self.clock = clock
        self.api = api
        self.timers = timers
        self.cluster = cluster

    async def settle(self, seconds: float = 0.06) -> None:
        """Wait until no write has come for a moment (longer than status writes are gathered)."""
        async with asyncio.timeout(10):
            while True:
                before = len(self.api.writes)
                await asyncio.sleep(seconds)
                if len(self.api.writes) == before and not self.cluster.busy:
                    return

    async def pass_time(self, seconds: float) -> None:
        """Let so much virtual time pass, from event to event."""
        end = self.clock.now() + seconds
        await self.settle()
        while (due := self.timers.next_due()) is not None and due <= end:
            self.clock.advance(due)
            await self.settle()
        self.clock.advance(end)
        await self.settle()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.002)

    async def create_job(self, name: str, **spec: Any) -> RawObject:
        return await self.api.create(JOBS, "default", job(name, **spec))


def job(
    name: str, *, run: float = 60, exit_code: int = 0, gpus: int = 1, pod: Mapping[str, Any] | None = None, **spec: Any
) -> dict[str, Any]:
    annotations = {
        "sandbox.overspill.dev/run-seconds": str(run),
        "sandbox.overspill.dev/exit-code": str(exit_code),
    }
    container = {"name": "main", "image": "train:1", "resources": {"limits": {"nvidia.com/gpu": gpus}}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 6,
            **spec,
            "template": {
                "metadata": {"annotations": annotations, "labels": {"app": name}},
                "spec": {"restartPolicy": "Never", "containers": [container], **(pod or {})},
            },
        },
    }


def pool(
    name: str = "a100", *, minimum: int = 0, maximum: int = 4, fixed: bool = False, capacity: str = "on-demand",
    initial: int | None = None, **plan: Any,
) -> PoolPlan:  # fmt: skip
    spec = PoolSpec(
        name=name,
        instance_type="p4d.24xlarge",
        capacity_type=capacity,
        min_nodes=minimum,
        max_nodes=maximum,
        cpu="96",
        memory="960Gi",
        gpus=8,
        gpu_model="A100-80GB",
        gpu_memory="80Gi",
        usd_per_hour="10.00",
        zone="us-east-1a",
        provisioning_seconds=200,
        labels=(("eks.amazonaws.com/nodegroup", name),),
        taints=plan.pop("taints", ()),
    )
    return PoolPlan(spec, fixed, maximum if fixed else minimum if initial is None else initial, **plan)


@asynccontextmanager
async def bench(*pools: PoolPlan, provider: str = "eks") -> AsyncIterator[Bench]:
    """An emulated cluster with these pools (default: one fixed node of 8 GPUs)."""
    clock = HandClock()
    api = FakeKube(clock)
    timers = Timers(clock)
    plan = ClusterPlan("east", provider, "us-east-1", (), pools or (pool(maximum=1, fixed=True),))
    cluster = ClusterEmulation(plan, api, clock, timers, pace=Pace(image_pull_seconds=0, startup_seconds=1))
    supervisor = Supervisor("time")
    supervisor.run("timers", timers.run)
    try:
        await cluster.start()
        yield Bench(clock, api, timers, cluster)
    finally:
        await cluster.stop()
        await supervisor.stop()
