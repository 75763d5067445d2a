"""A sandbox and daemons over it, in one process: for tests that crash, cut off and restart them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from clusters.kubernetes.connection import Limits
from clusters.sandbox.federation import Sandbox
from clusters.sandbox.scenario import ClusterPlan, PoolPlan, Scenario, default_scenario
from scheduler.daemon.config.federation import load_federation, validate_settings
from scheduler.daemon.gathering.prices import OpenBook
from scheduler.daemon.leading.leader import LeaseSettings
from scheduler.daemon.main import connect
from scheduler.daemon.parts import Daemon, Outside
from scheduler.model.contract import CONDITION_PLACED, JOBS, LABEL_ORIGIN_UID, LABEL_QUEUE, PODS
from scheduler.model.errors import NotFoundError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import KubeApi, NodePoolProvider, RawObject

POLICIES = """
apiVersion: overspill.dev/v1alpha1
kind: Queue
metadata:
  name: research
spec:
  quotas:
    - resource: gpu
      nominal: 1000
---
apiVersion: overspill.dev/v1alpha1
kind: PlacementPolicy
metadata:
  name: onprem-first
spec:
  match:
    queues: [research]
  objective: onprem-first
  burst:
    afterWait: 1m
    maxNodes: 8
  return:
    idle: 2m
  disruption:
    memberLost: 15m
"""


def small_scenario() -> Scenario:
    """A hub, one on-prem cluster and one cloud, each reached by its kubeconfig."""
    whole = default_scenario()
    members: tuple[ClusterPlan, ...] = tuple(member for member in whole.members if member.name in ("onprem", "eks"))
    return replace(whole, members=members, login_by_provider=False)


def tiny_scenario(nodes: int) -> Scenario:
    """The small one with so many GPU nodes on-prem."""
    small = small_scenario()

    def resized(pool: PoolPlan) -> PoolPlan:
        if pool.spec.name != "a100":
            return pool
        return replace(pool, initial_nodes=nodes, spec=replace(pool.spec, min_nodes=nodes, max_nodes=nodes))

    members = tuple(replace(member, pools=tuple(map(resized, member.pools))) for member in small.members)
    return replace(small, members=members)


class Clusters(Protocol):
    """A hub and its members, as tests ask them: the sandbox's, or real ones (tests/e2e)."""

    @property
    def hub(self) -> KubeApi: ...

    @property
    def members(self) -> Sequence[str]: ...

    def member(self, name: str) -> KubeApi: ...


@dataclass
class World:
    """A running sandbox, and what tests ask of it."""

    sandbox: Sandbox
    policies: Path
    folder: Path
    dependents: frozenset[str] = frozenset()
    """Kinds of objects that follow workloads to their members."""

    @property
    def hub(self) -> KubeApi:
        return self.sandbox.servers["hub"].local

    @property
    def members(self) -> list[str]:
        return [one.name for one in self.sandbox.scenario.members]

    def member(self, name: str) -> KubeApi:
        return self.sandbox.servers[name].local

    @asynccontextmanager
    async def outside(self, limits: Limits | None = None, identity: str = "test") -> AsyncIterator[Outside]:
        """What a daemon of this federation reaches: over HTTP and the clouds' own wires, with its own history."""
        federation = load_federation(self.sandbox.federation_file, validate_provider=validate_settings)
        federation = replace(federation, history_url=f"sqlite+aiosqlite:///{self.folder / 'history.db'}")
        federation = replace(federation, dependents=self.dependents)
        async with AsyncExitStack() as stack:
            outside = await connect(federation, (self.policies,), stack, limits)
            yield replace(outside, identity=identity)

    @asynccontextmanager
    async def daemon(
        self,
        wrap: Callable[[str, KubeApi], KubeApi] = lambda _, api: api,
        *,
        wrap_provider: Callable[[str, NodePoolProvider], NodePoolProvider] = lambda _, provider: provider,
        shadow: bool = False,
        limits: Limits | None = None,
        identity: str = "test",
        lease: LeaseSettings | None = None,
        ping_seconds: float = 15.0,
        prices: OpenBook | None = None,
    ) -> AsyncIterator[tuple[Daemon, asyncio.Task[None]]]:
        """A daemon that runs for the block; `wrap(name, api)` may stand between it and its clusters, `wrap_provider`
        between it and its clouds; `prices` instead of those of the federation file."""
        async with self.outside(limits, identity) as outside:
            providers = {name: wrap_provider(name, provider) for name, provider in outside.providers.items()}
            outside = replace(outside, lease=lease or outside.lease, providers=providers, ping_seconds=ping_seconds)
            outside = replace(outside, prices=prices or outside.prices)
            members: Mapping[ClusterId, KubeApi] = {name: wrap(name, api) for name, api in outside.member_apis.items()}
            daemon = Daemon(replace(outside, hub_api=wrap("hub", outside.hub_api), member_apis=members), shadow=shadow)
            task = asyncio.get_running_loop().create_task(daemon.run())
            try:
                yield daemon, task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def submit(
        self,
        name: str,
        *,
        gpus: int = 1,
        pods: int = 1,
        seconds: float = 60.0,
        queue: str = "research",
        annotations: Mapping[str, str] | None = None,
        **spec: Any,
    ) -> RawObject:
        """A Job on the hub."""
        job = a_job(name, gpus=gpus, pods=pods, seconds=seconds, **spec)
        job["metadata"]["labels"][LABEL_QUEUE] = queue
        job["metadata"]["annotations"] = dict(annotations or {})
        return await self.hub.create(JOBS, "default", job)

    async def is_done(self, name: str) -> bool:
        return is_complete(await self.job(name))

    async def all_done(self, *names: str) -> bool:
        return all([await self.is_done(name) for name in names])

    async def said(self, name: str) -> tuple[str, str, str]:
        """(status, reason, message) of a Job's Overspill condition; empty before it has one."""
        conditions = ((await self.job(name) or {}).get("status") or {}).get("conditions") or []
        found: dict[str, str] = next((one for one in conditions if one["type"] == CONDITION_PLACED), {})
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    async def job(self, name: str) -> RawObject | None:
        try:
            return await self.hub.get(JOBS, "default", name)
        except NotFoundError:
            return None

    async def copies(self, uid: str) -> list[tuple[str, RawObject]]:
        """(member, object) of each copy there is."""
        found = []
        for member in self.sandbox.scenario.members:
            listed = await self.member(member.name).list(JOBS, label_selector=f"{LABEL_ORIGIN_UID}={uid}")
            found += [(member.name, raw) for raw in listed.items]
        return found


def a_job(name: str, *, gpus: int = 1, pods: int = 1, seconds: float = 60.0, **spec: Any) -> dict[str, Any]:
    """A Job of `pods` pods with `gpus` GPUs each that runs for `seconds` of virtual time."""
    limits = {"cpu": "2", "memory": "4Gi", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "default", "labels": {"overspill.dev/queue": "research"}},
        "spec": {
            "managedBy": "overspill.dev/federation",
            "parallelism": pods,
            "completions": pods,
            "template": {
                "metadata": {"annotations": {"sandbox.overspill.dev/run-seconds": str(seconds)}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [
                        {"name": "main", "image": "train:1", "resources": {"limits": limits, "requests": limits}}
                    ],
                },
            },
            **spec,
        },
    }


@asynccontextmanager
async def a_world(
    folder: Path,
    *,
    speed: float = 600.0,
    policies: str = POLICIES,
    scenario: Scenario | None = None,
    start_at: float | None = None,
) -> AsyncIterator[World]:
    """A small emulated federation with its policies; its time begins at `start_at` (None: now)."""
    policy_folder = folder / "policies"
    policy_folder.mkdir(parents=True)
    (policy_folder / "policies.yaml").write_text(policies)
    sandbox = await Sandbox.start(
        folder / "sandbox",
        speed=speed,
        seed=1,
        scenario=scenario or small_scenario(),
        start_at=start_at,
        in_step=True,
    )
    try:
        yield World(sandbox, policy_folder, folder)
    finally:
        await sandbox.stop()


def is_complete(job: RawObject | None) -> bool:
    """Whether a Job has the condition Complete."""
    conditions = ((job or {}).get("status") or {}).get("conditions") or []
    return any(one["type"] == "Complete" and one["status"] == "True" for one in conditions)


async def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """Poll an (async) condition until it is truthy; fail naming `what` after `seconds` of wall time."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                value = condition()
                value = await value if asyncio.iscoroutine(value) else value
                if value:
                    return value
                await asyncio.sleep(0.01)
    except TimeoutError as error:
        raise AssertionError(f"{what}: not within {seconds:g} s") from error


@asynccontextmanager
async def counting(world: World) -> AsyncIterator[PodCounter]:
    """A PodCounter that watches for the block."""
    counter = PodCounter(world)
    task = asyncio.get_running_loop().create_task(counter.run())
    try:
        yield counter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class PodCounter:
    """Watches all members for pods of copies: which pods ever ran for each origin, and how many ended well."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.ran: dict[str, set[str]] = {}
        self.succeeded: dict[str, set[str]] = {}
        self.copies: dict[str, set[str]] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for member in self._world.sandbox.scenario.members:
                group.create_task(self._watch(member.name, self._world.member(member.name)))

    async def _watch(self, cluster: str, api: KubeApi) -> None:
        listed = await api.list(PODS, label_selector=LABEL_ORIGIN_UID)
        async for event in api.watch(PODS, resource_version=listed.resource_version, label_selector=LABEL_ORIGIN_UID):
            if event.type == "BOOKMARK":
                continue
            meta = event.object["metadata"]
            origin, uid = meta["labels"][LABEL_ORIGIN_UID], meta["uid"]
            phase = (event.object.get("status") or {}).get("phase")
            self.copies.setdefault(origin, set()).add(f"{cluster}/{meta['ownerReferences'][0]['uid']}")
            if phase in ("Running", "Succeeded"):
                self.ran.setdefault(origin, set()).add(uid)
            if phase == "Succeeded":
                self.succeeded.setdefault(origin, set()).add(uid)
