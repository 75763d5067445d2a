"""What an emulated federation is made of: as data, by default, or from a scenario file.

Prices of the default are public list prices (see the note at `default_scenario`), each in USD for one node hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from clusters.sandbox.emulation.dcgm import Spelling
from clusters.sandbox.ports import PoolSpec
from scheduler.model.contract import LABEL_POOL, LABEL_RESIDENCY
from scheduler.model.errors import InvalidObjectError
from scheduler.model.resources import parse_quantity

_LARGEST_FILE_BYTES: Final = 1 << 20

POOL_LABELS: Final = {
    "onprem": LABEL_POOL,
    "eks": "eks.amazonaws.com/nodegroup",
    "gke": "cloud.google.com/gke-nodepool",
    "aks": "kubernetes.azure.com/agentpool",
}
"""The label by which each provider's nodes name their pool."""
RECLAIM_NOTICE_SECONDS: Final = {"eks": 120.0, "gke": 30.0, "aks": 30.0}
"""How long before the end each cloud tells that it takes a spot machine back."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """A pool and how its cloud treats it. Windows are in virtual seconds after the start."""

    spec: PoolSpec
    fixed: bool = False
    initial_nodes: int = 0
    region: str = ""
    quota_nodes: int | None = None
    """The account's limit; None: none."""
    reclaims_per_hour: float = 0.0
    """Spot: how often a machine is taken back."""
    reclaim_notice_seconds: float = 120.0
    shortages: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """A fault that strikes `at_seconds` after the start; see clusters.sandbox.emulation.faults."""

    at_seconds: float
    cluster: str
    kind: str
    node: str = ""
    pool: str = ""
    seconds: float | None = None
    factor: float = 1.0
    code: int = 79
    """Of gpu-xid: what the driver reports."""


@dataclass(frozen=True, slots=True)
class ClusterPlan:
    """One emulated cluster. `provider` "": no cloud behind it (the hub)."""

    name: str
    provider: str
    region: str
    labels: tuple[tuple[str, str], ...] = ()
    pools: tuple[PoolPlan, ...] = ()
    dcgm_exporter: Spelling = "4.8"
    """The version whose names and units its GPU metrics have."""


@dataclass(frozen=True, slots=True)
class Scenario:
    hub: ClusterPlan
    members: tuple[ClusterPlan, ...]
    faults: tuple[FaultPlan, ...] = ()
    login_by_provider: bool = False
    """Whether the federation file has the daemon log in to the clouds' clusters by their tokens, not by kubeconfigs."""

    @property
    def clusters(self) -> tuple[ClusterPlan, ...]:
        return (self.hub, *self.members)


def _pool(
    provider: str,
    name: str,
    instance_type: str,
    capacity_type: str,
    nodes: tuple[int, int],
    shape: tuple[str, str, int, str, str],
    usd_per_hour: str,
    zone: str,
    seconds: float,
    reclaims_per_hour: float = 0.0,
) -> PoolPlan:
    cpu, memory, gpus, model, gpu_memory = shape
    spec = PoolSpec(
        name=name,
        instance_type=instance_type,
        capacity_type=capacity_type,
        min_nodes=nodes[0],
        max_nodes=nodes[1],
        cpu=cpu,
        memory=memory,
        gpus=gpus,
        gpu_model=model,
        gpu_memory=gpu_memory,
        usd_per_hour=usd_per_hour,
        zone=zone,
        provisioning_seconds=seconds,
        labels=pool_labels(provider, name, capacity_type),
    )
    notice = RECLAIM_NOTICE_SECONDS.get(provider, 30.0)
    fixed = provider == "onprem"
    return PoolPlan(
        spec=spec,
        fixed=fixed,
        initial_nodes=nodes[1] if fixed else nodes[0],
        reclaims_per_hour=reclaims_per_hour,
        reclaim_notice_seconds=notice,
    )


def pool_labels(provider: str, name: str, capacity_type: str) -> tuple[tuple[str, str], ...]:
    """Labels that the provider puts on a pool's nodes to tell the pool and how its machines are paid."""
    labels = [(POOL_LABELS.get(provider, LABEL_POOL), name)]
    if provider == "eks":
        labels.append(("eks.amazonaws.com/capacityType", "SPOT" if capacity_type == "spot" else "ON_DEMAND"))
    elif provider == "gke" and capacity_type == "spot":
        labels.append(("cloud.google.com/gke-spot", "true"))
    elif provider == "aks":
        priority = "spot" if capacity_type == "spot" else "regular"
        labels.append(("kubernetes.azure.com/scalesetpriority", priority))
    return tuple(sorted(labels))


# cpu, memory (allocatable), GPUs, model, memory of one GPU
_A100_X8: Final = ("96", "960Gi", 8, "A100-80GB", "80Gi")
_CPU: Final = ("64", "256Gi", 0, "", "")
_P4D: Final = ("95", "1100Gi", 8, "A100-40GB", "40Gi")
_G5: Final = ("4", "15Gi", 1, "A10G", "24Gi")
_A2: Final = ("11", "78Gi", 1, "A100-40GB", "40Gi")
_A3: Final = ("206", "1800Gi", 8, "H100-80GB", "80Gi")
_NC24: Final = ("23", "208Gi", 1, "A100-80GB", "80Gi")


def default_scenario() -> Scenario:
    """A hub, an on-prem cluster and one cluster at each of three clouds.

    Prices: cloud list prices of about 2025-2026 (day not known); spot is the region's lowest zone. a3-highgpu-8g is
    listed very differently between regions (43 to 112 USD): us-central1's own is used. On-prem: 1.225 USD a GPU hour,
    a three-year write-off of an 8-GPU server with power and space.
    """
    onprem = (
        _pool("onprem", "a100", "hgx-a100", "owned", (8, 8), _A100_X8, "9.80", "eu-dc1-a", 0),
        _pool("onprem", "cpu", "cpu-server", "owned", (2, 2), _CPU, "0.90", "eu-dc1-a", 0),
    )
    eks = (
        _pool("eks", "p4d", "p4d.24xlarge", "on-demand", (0, 8), _P4D, "21.957642", "us-east-1a", 240),
        _pool("eks", "p4d-spot", "p4d.24xlarge", "spot", (0, 8), _P4D, "6.289", "us-east-1a", 240, 0.05),
        _pool("eks", "g5", "g5.xlarge", "on-demand", (0, 16), _G5, "1.006", "us-east-1a", 150),
    )
    gke = (
        _pool("gke", "a2", "a2-highgpu-1g", "on-demand", (0, 16), _A2, "3.67339", "us-central1-a", 180),
        _pool("gke", "a2-spot", "a2-highgpu-1g", "spot", (0, 16), _A2, "1.80385", "us-central1-a", 180, 0.05),
        _pool("gke", "a3", "a3-highgpu-8g", "on-demand", (0, 4), _A3, "43.06615", "us-central1-a", 300),
    )
    aks = (_pool("aks", "nc24", "Standard_NC24ads_A100_v4", "on-demand", (0, 16), _NC24, "3.673", "eastus-1", 210),)
    us, eu = ((LABEL_RESIDENCY, "us"),), ((LABEL_RESIDENCY, "eu"),)
    return Scenario(
        hub=ClusterPlan("hub", "", "eu-dc1"),
        members=(
            ClusterPlan("onprem", "onprem", "eu-dc1", eu, onprem),
            ClusterPlan("eks", "eks", "us-east-1", us, eks),
            ClusterPlan("gke", "gke", "us-central1", us, gke),
            ClusterPlan("aks", "aks", "eastus", us, aks),
        ),
        login_by_provider=True,
    )


# The file


def _is_quantity(text: str) -> str:
    try:
        positive = parse_quantity(text) > 0
    except InvalidObjectError as error:
        raise ValueError(str(error)) from error
    if not positive:
        raise ValueError("must be above 0")
    return text


def _is_price(text: str) -> str:
    try:
        price = Decimal(text)
    except InvalidOperation as error:
        raise ValueError('is not a price; write for example "3.67"') from error
    if not price.is_finite() or price < 0:
        raise ValueError('is not a price; write for example "3.67"')
    return text


_Quantity = Annotated[str, AfterValidator(_is_quantity)]
_Usd = Annotated[str, AfterValidator(_is_price)]
_Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True)


class _Window(_File):
    from_seconds: float = Field(ge=0)
    to_seconds: float = Field(ge=0)


class _Taint(_File):
    key: str = Field(min_length=1)
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class _Pool(_File):
    name: _Name
    instance_type: str = Field(min_length=1)
    capacity_type: Literal["owned", "on-demand", "spot"]
    min_nodes: int = Field(default=0, ge=0, le=1000)
    max_nodes: int = Field(ge=0, le=1000)
    initial_nodes: int | None = Field(default=None, ge=0, le=1000)
    cpu: _Quantity
    memory: _Quantity
    gpus: int = Field(default=0, ge=0, le=64)
    gpu_model: str = ""
    gpu_memory: str = ""
    usd_per_hour: _Usd
    zone: str = Field(min_length=1)
    provisioning_seconds: float = Field(default=180, ge=0)
    taints: tuple[_Taint, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    quota_nodes: int | None = Field(default=None, ge=0)
    reclaims_per_hour: float = Field(default=0, ge=0, le=3600)
    reclaim_notice_seconds: float | None = Field(default=None, ge=0)
    """Default: the provider's own."""
    shortages: tuple[_Window, ...] = ()


class _Cluster(_File):
    name: _Name
    provider: str = ""
    region: str = Field(min_length=1)
    labels: dict[str, str] = Field(default_factory=dict)
    pools: tuple[_Pool, ...] = ()
    dcgm_exporter: Spelling = "4.8"


class _Fault(_File):
    at_seconds: float = Field(ge=0)
    cluster: str
    kind: str
    node: str = ""
    pool: str = ""
    seconds: float | None = Field(default=None, ge=0)
    factor: float = Field(default=1.0, gt=0, le=1000)
    code: int = Field(default=79, ge=1, le=999)


class _ScenarioFile(_File):
    api_version: Literal["overspill.dev/v1alpha1"]
    kind: Literal["SandboxScenario"]
    hub: _Cluster
    members: tuple[_Cluster, ...] = Field(min_length=1, max_length=32)
    faults: tuple[_Fault, ...] = ()
    login_by_provider: bool = False


def load_scenario(path: Path) -> Scenario:
    """The scenario that a YAML file describes (`kind: SandboxScenario`).

    Raises: InvalidObjectError, naming the file and the place in it.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise InvalidObjectError(f"{path}: larger than 1 MiB; a scenario is a short file")
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        parsed = _ScenarioFile.model_validate(document)
    except OSError as error:
        raise InvalidObjectError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidObjectError(f"{path}: not YAML: {' '.join(str(error).split())[:200]}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise InvalidObjectError(f"{path}: {place}: {first['msg']}") from error
    return _scenario(path, parsed)


def _scenario(path: Path, parsed: _ScenarioFile) -> Scenario:
    names = [parsed.hub.name, *(member.name for member in parsed.members)]
    if len(set(names)) < len(names):
        raise InvalidObjectError(f"{path}: members: two clusters have the same name; give each its own")
    hub, *members = (_cluster(path, cluster) for cluster in (parsed.hub, *parsed.members))
    faults = []
    for fault in parsed.faults:
        if fault.cluster not in names:
            raise InvalidObjectError(f"{path}: faults: no cluster {fault.cluster!r}; there are {', '.join(names)}")
        faults.append(FaultPlan(**fault.model_dump()))
    return Scenario(hub, tuple(members), tuple(faults), parsed.login_by_provider)


def _cluster(path: Path, cluster: _Cluster) -> ClusterPlan:
    if cluster.pools and not cluster.provider:
        raise InvalidObjectError(f"{path}: {cluster.name}: pools need a provider, such as onprem, eks, gke or aks")
    if len({pool.name for pool in cluster.pools}) < len(cluster.pools):
        raise InvalidObjectError(f"{path}: {cluster.name}: two pools have the same name; give each its own")
    pools = tuple(_plan(path, cluster, pool) for pool in cluster.pools)
    labels = tuple(sorted(cluster.labels.items()))
    return ClusterPlan(cluster.name, cluster.provider, cluster.region, labels, pools, cluster.dcgm_exporter)


def _plan(path: Path, cluster: _Cluster, pool: _Pool) -> PoolPlan:
    where = f"{path}: {cluster.name}.{pool.name}"
    fixed = cluster.provider == "onprem"
    initial = pool.initial_nodes if pool.initial_nodes is not None else pool.max_nodes if fixed else pool.min_nodes
    if not pool.min_nodes <= initial <= pool.max_nodes:
        raise InvalidObjectError(f"{where}: initialNodes must lie between minNodes and maxNodes")
    if pool.gpus and not (pool.gpu_model and pool.gpu_memory):
        raise InvalidObjectError(f"{where}: a pool with GPUs needs gpuModel and gpuMemory")
    if pool.gpu_memory:
        try:
            parse_quantity(pool.gpu_memory)
        except InvalidObjectError as error:
            raise InvalidObjectError(f"{where}: gpuMemory: {error}") from error
    own = dict(pool_labels(cluster.provider, pool.name, pool.capacity_type))
    spec = PoolSpec(
        **pool.model_dump(
            exclude={
                "labels",
                "taints",
                "initial_nodes",
                "quota_nodes",
                "reclaims_per_hour",
                "reclaim_notice_seconds",
                "shortages",
            }
        ),
        labels=tuple(sorted({**pool.labels, **own}.items())),
        taints=tuple((taint.key, taint.value, taint.effect) for taint in pool.taints),
    )
    return PoolPlan(
        spec=spec,
        fixed=fixed,
        initial_nodes=initial,
        quota_nodes=pool.quota_nodes,
        reclaims_per_hour=pool.reclaims_per_hour,
        reclaim_notice_seconds=(
            RECLAIM_NOTICE_SECONDS.get(cluster.provider, 30.0)
            if pool.reclaim_notice_seconds is None
            else pool.reclaim_notice_seconds
        ),
        shortages=tuple((window.from_seconds, window.to_seconds) for window in pool.shortages),
    )
