"""The same small federation three times over: its Kubernetes APIs emulated, real, or a mixture.

What runs behind the APIs (controllers, kubelets, machines) is the sandbox's emulation in all of them, over HTTP, and
the cloud API is the sandbox's. A real API server stamps its objects with the machine's own time, so that the shared
clock runs at its pace when one takes part; otherwise it runs faster.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from clusters.clock import SharedClock, SystemClock
from clusters.kubernetes.client import HttpKubeApi
from clusters.kubernetes.connection import Limits
from clusters.sandbox.apiserver.server import kubeconfig
from clusters.sandbox.clouds import start_cloud
from clusters.sandbox.emulation.billing import total
from clusters.sandbox.emulation.cluster import ClusterEmulation, run_emulation
from clusters.sandbox.emulation.kubelet import Pace
from clusters.sandbox.federation_file import dump, federation_document, write_private
from clusters.sandbox.ports import PoolSpec
from clusters.sandbox.scenario import ClusterPlan, PoolPlan, Scenario, pool_labels
from clusters.sandbox.silence import FallibleApiServer
from scheduler.cli import crds
from scheduler.daemon.config.federation import load_federation, validate_settings
from scheduler.daemon.main import connect
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import FEDERATED_WORKLOADS, LABEL_ORIGIN_UID, NODES
from scheduler.model.errors import ExternalError, NotFoundError
from scheduler.model.ports import RawObject, Resource
from tests.builders import rbac
from tests.e2e.newer_definitions import newer_definitions
from tests.e2e.real_cluster import ASSETS, Assets, RealCluster, find_assets, real_clusters
from tests.loop.harness import until

NEWER: Final = "newer"
"""All real, with definitions and what they define by a newer Kubernetes."""
VARIANTS: Final = {
    "emulated": (),
    "mixed": ("onprem", "eks"),
    "real": ("hub", "onprem", "eks"),
    NEWER: ("hub", "onprem", "eks"),
}
"""Which of the clusters are real."""
_EMULATED_VERSION: Final = (1, 34)
_FAST: Final = 10.0
MANAGED_JOBS: Final = (1, 32)
"""From here on `spec.managedBy` of a Job is on by default (before, the API server drops it)."""
_RULES_IN_DEFINITIONS: Final = (1, 29)
"""From here on an API server holds an object to the CEL rules of its definition, whatever its feature gates."""
_SUSPENDED_JOBS: Final = (1, 22)
_OWNERS_BY_SUBRESOURCE: Final = (1, 22)
"""From here on managed fields tell who wrote through the scale subresource, as an HPA does."""
_PACE: Final = Pace(image_pull_seconds=0.3, startup_seconds=0.2)

POLICIES: Final = """
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
    afterWait: 1s
    maxNodes: 8
  return:
    idle: 2s
  disruption:
    memberLost: 15m
"""


def _pool(provider: str, name: str, kind: str, nodes: tuple[int, int], gpus: int, model: str) -> PoolPlan:
    spec = PoolSpec(
        name=name,
        instance_type=f"{model.lower()}-x{gpus}",
        capacity_type=kind,
        min_nodes=nodes[0],
        max_nodes=nodes[1],
        cpu="32",
        memory="256Gi",
        gpus=gpus,
        gpu_model=model,
        gpu_memory="40Gi",
        usd_per_hour="36.51",
        zone="zone-a",
        provisioning_seconds=1.5,
        labels=pool_labels(provider, name, kind),
    )
    return PoolPlan(spec, fixed=provider == "onprem", initial_nodes=nodes[0])


def scenario() -> Scenario:
    """A hub, two machines on-prem with eight A100 each, and a cloud that sells machines with one A10G."""
    onprem = _pool("onprem", "a100", "owned", (2, 2), 8, "A100")
    cloud = _pool("eks", "g5", "on-demand", (0, 4), 1, "A10G")
    return Scenario(
        hub=ClusterPlan("hub", "", "eu-dc1"),
        members=(
            ClusterPlan("onprem", "onprem", "eu-dc1", (), (onprem,)),
            ClusterPlan("eks", "eks", "us-east-1", (), (cloud,)),
        ),
    )


def a_service(name: str, replicas: int = 1, *, gpus: int = 1) -> dict[str, Any]:
    """A FederatedWorkload of a Deployment whose pods have so many GPUs each."""
    limits = {"cpu": "1", "memory": "2Gi", **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    container = {"name": "main", "image": "serve:1", "resources": {"limits": limits, "requests": limits}}
    return {
        "apiVersion": "overspill.dev/v1alpha1",
        "kind": "FederatedWorkload",
        "metadata": {"name": name, "namespace": "default", "labels": {"overspill.dev/queue": "research"}},
        "spec": {
            "template": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": {"app": name}},
                    "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
                },
            }
        },
    }


@dataclass
class Federation:
    """What tests ask of it; `apis` by the name of the cluster."""

    variant: str
    versions: dict[str, tuple[int, int]]
    folder: Path
    speed: float
    apis: dict[str, HttpKubeApi] = field(default_factory=dict)
    emulations: dict[str, ClusterEmulation] = field(default_factory=dict)
    kubeconfigs: dict[str, Path] = field(default_factory=dict)
    servers: dict[str, RealCluster | FallibleApiServer] = field(default_factory=dict)
    """What can be cut off."""
    started: dict[str, set[str]] = field(default_factory=dict)
    """UIDs of the pods that ever ran, by the UID of the hub object that they are for."""

    @property
    def hub(self) -> HttpKubeApi:
        return self.apis["hub"]

    @property
    def members(self) -> list[str]:
        return [name for name in self.apis if name != "hub"]

    @property
    def holds_to_rules(self) -> bool:
        """Whether the hub holds objects to the CEL rules of their definitions."""
        return self.variant == NEWER or self.versions["hub"] >= _RULES_IN_DEFINITIONS

    def member(self, name: str) -> HttpKubeApi:
        return self.apis[name]

    @property
    def federation_file(self) -> Path:
        return self.folder / "federation.yaml"

    @property
    def policies(self) -> Path:
        return self.folder / "policies"

    def lasting(self, wall_seconds: float) -> float:
        """For how long a pod must run so that tests, which look by the machine's time, see it run."""
        return wall_seconds * self.speed

    def needs_managed_jobs(self) -> None:
        """Skip the test when the hub is too old to leave a Job to us."""
        self._needs(("hub",), MANAGED_JOBS, "spec.managedBy of Jobs")

    def needs_suspended_jobs(self) -> None:
        self._needs(self.members, _SUSPENDED_JOBS, "spec.suspend of Jobs")

    def _needs(self, clusters: tuple[str, ...] | list[str], version: tuple[int, int], what: str) -> None:
        for name in clusters:
            if self.versions[name] < version:
                has, wanted = (".".join(map(str, one)) for one in (self.versions[name], version))
                pytest.skip(f"{what} needs Kubernetes {wanted}; the API server of {name} is {has}")

    def needs_owners_of_fields(self) -> None:
        self._needs(self.members, _OWNERS_BY_SUBRESOURCE, "managed fields that name subresources")

    @asynccontextmanager
    async def daemon(
        self,
        *,
        limits: Limits | None = None,
        ping_seconds: float = 15.0,
        dependents: frozenset[str] = frozenset(),
        restricted: bool = False,
    ) -> AsyncIterator[Daemon]:
        """A daemon that runs for the block, composed as the process composes it. Fails when it ends by itself.
        `dependents`: kinds of objects that follow workloads to their members. `restricted`: as its own account, which
        may do what roles grant it."""
        file = self._restricted_file() if restricted else self.federation_file
        federation = load_federation(file, validate_provider=validate_settings)
        federation = replace(federation, dependents=dependents)
        async with AsyncExitStack() as stack:
            outside = await connect(federation, (self.policies,), stack, limits)
            daemon = Daemon(replace(outside, identity="test", ping_seconds=ping_seconds), shadow=False)
            task = asyncio.get_running_loop().create_task(daemon.run())
            try:
                yield daemon
                assert not task.done(), f"the daemon ended by itself: {task}"
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _restricted_file(self) -> Path:
        text = self.federation_file.read_text()
        for name, server in self.servers.items():
            if isinstance(server, RealCluster):
                account = server.account
            else:
                account, token = self.folder / f"{name}-account.yaml", secrets.token_urlsafe(24)
                server.enroll(token, rbac.ACCOUNT)
                document = kubeconfig(server)
                document["users"][0]["user"]["token"] = token
                write_private(account, dump(document))
            text = text.replace(str(self.kubeconfigs[name]), str(account))
        file = self.folder / "restricted.yaml"
        write_private(file, text)
        return file

    async def find(self, resource: Resource, name: str) -> RawObject | None:
        """The hub object of that name."""
        try:
            return await self.hub.get(resource, "default", name)
        except NotFoundError:
            return None

    async def copies(self, resource: Resource, uid: str) -> list[tuple[str, RawObject]]:
        """(member, object) of each copy there is."""
        found = []
        for member in self.members:
            listed = await self.apis[member].list(resource, label_selector=f"{LABEL_ORIGIN_UID}={uid}")
            found += [(member, raw) for raw in listed.items]
        return found

    async def bought_nodes(self) -> list[str]:
        listed = await self.apis["eks"].list(NODES)
        return [node["metadata"]["name"] for node in listed.items if not node["metadata"].get("deletionTimestamp")]

    def bill_usd(self) -> Decimal:
        """What the emulated clouds charge for all machines so far."""
        return sum((total(emulation.billing.charges()) for emulation in self.emulations.values()), Decimal(0))

    def note_pod(self, kind: str, old: RawObject | None, pod: RawObject) -> None:
        """Called by each member's informer."""
        meta, phase = pod["metadata"], (pod.get("status") or {}).get("phase")
        origin = (meta.get("labels") or {}).get(LABEL_ORIGIN_UID)
        if origin and phase in ("Running", "Succeeded"):
            self.started.setdefault(origin, set()).add(meta["uid"])


@asynccontextmanager
async def a_federation(
    variant: str, folder: Path, plan: Scenario | None = None, policies: str = POLICIES
) -> AsyncIterator[Federation]:
    """The federation of that variant; skips the test that asks for it when there are no binaries for real APIs."""
    real = VARIANTS[variant]
    assets = find_assets() if real else None
    if isinstance(assets, str):
        pytest.skip(assets)
    speed = 1.0 if real else _FAST
    clock = SharedClock.create(folder / "clock", start=SystemClock().now(), speed=speed)
    plan = plan or scenario()
    versions = {cluster.name: _EMULATED_VERSION for cluster in plan.clusters}
    federation = Federation(variant, versions, folder, speed)
    async with AsyncExitStack() as stack:
        if assets is not None:
            federation.versions |= dict.fromkeys(real, assets.version)
            made = await stack.enter_async_context(real_clusters(assets, folder / "real", real))
            if variant == NEWER:
                made = await with_newer_definitions(assets, folder, made, stack)
            federation.servers |= made
            federation.kubeconfigs |= {name: one.kubeconfig for name, one in made.items()}
        for cluster in plan.clusters:
            if cluster.name not in federation.kubeconfigs:
                path, server = await emulated(cluster.name, clock, folder, stack)
                federation.kubeconfigs[cluster.name], federation.servers[cluster.name] = path, server
        await _populate(federation, plan, clock, stack)
        federation.policies.mkdir()
        (federation.policies / "policies.yaml").write_text(policies)
        yield federation


async def with_newer_definitions(
    assets: Assets, folder: Path, made: dict[str, RealCluster], stack: AsyncExitStack
) -> dict[str, RealCluster]:
    """The same clusters, until `stack` is closed; skips the test where there is nothing for it."""
    if assets.definitions is None:
        pytest.skip(f"put an apiextensions-apiserver into {ASSETS}, too, for newer definitions on real API servers")
    each = {name: newer_definitions(assets.definitions, folder, name, one) for name, one in made.items()}
    return {name: await stack.enter_async_context(one) for name, one in each.items()}


async def emulated(
    name: str, clock: SharedClock, folder: Path, stack: AsyncExitStack
) -> tuple[Path, FallibleApiServer]:
    """The kubeconfig of an API server of the sandbox that runs until `stack` is closed, and the server."""
    server = FallibleApiServer(name, clock, token=secrets.token_urlsafe(24))
    await server.start()
    stack.push_async_callback(server.stop)
    path = folder / f"{name}.yaml"
    write_private(path, dump(kubeconfig(server)))
    return path, server


async def _populate(federation: Federation, plan: Scenario, clock: SharedClock, stack: AsyncExitStack) -> None:
    """Everything behind the APIs, the cloud, and the files that a daemon reads."""
    settings: dict[str, dict[str, object]] = {}
    for cluster in plan.clusters:
        name = cluster.name
        api = await HttpKubeApi.connect(name=name, kubeconfig=federation.kubeconfigs[name], context=None)
        stack.push_async_callback(api.close)
        federation.apis[name] = api
        emulation = await stack.enter_async_context(run_emulation(api, clock, cluster, seed=1, pace=_PACE))
        federation.emulations[name] = emulation
        if cluster.provider:
            emulation.pods.handle(federation.note_pod)
            cloud = await start_cloud(cluster.provider, emulation.pools, clock, federation.folder)
            stack.push_async_callback(cloud.stop)
            settings[name] = cloud.settings
    await crds.install(federation.hub)
    await until(lambda: _serves(federation.hub, FEDERATED_WORKLOADS), "FederatedWorkloads are served")
    document = federation_document(
        plan,
        kubeconfigs={name: str(path) for name, path in federation.kubeconfigs.items()},
        metrics_urls=dict.fromkeys(settings, "http://127.0.0.1:9/metrics"),
        provider_settings=settings,
    )
    document["spec"]["listen"]["port"] = 0
    write_private(federation.federation_file, dump(document))


async def _serves(api: HttpKubeApi, resource: Resource) -> bool:
    try:
        await api.list(resource)
    except ExternalError:  # a real server takes a moment to serve what has just been defined
        return False
    return True
