"""The federation file as it is written in YAML. `federation` turns it into what the daemon uses."""

from __future__ import annotations

import ipaddress
from decimal import Decimal
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from policies.documents import Problem, Strict, duplicates, refuse, refuse_value
from policies.errors import shown
from policies.schema import ApiVersion, CapacityType, Metadata
from policies.values import (
    Bytes,
    ClusterName,
    Duration,
    LongText,
    MilliCpu,
    Money,
    Name,
    PluginName,
    PositiveDuration,
    Quantity,
    ResourceName,
    Seconds,
    Text,
)
from scheduler.model.cluster import ON_DEMAND, SPOT

DEFAULT_HISTORY: Final = "sqlite+aiosqlite:///overspill.db"


_Count = Annotated[int, Field(ge=0, le=100_000)]


class HubSpec(Strict):
    """The cluster whose objects people write."""

    name: ClusterName = "hub"
    """Told in the origin annotations of copies, so never change it while copies exist."""
    kubeconfig: LongText | None = None
    """Path, relative to this file. Default: the service account of the pod that the daemon runs in."""
    context: Text | None = None
    """Context of the kubeconfig. Default: its current one."""


class ListenSpec(Strict):
    """Where the daemon serves health, metrics and its read API."""

    address: Text = "127.0.0.1"
    """Address or host name. Anything but loopback needs allowRemote."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0: any free port."""
    allow_remote: bool = False
    """true: others may connect. Health and metrics are open to them; for the rest they need a bearer token."""
    token_file: LongText | None = None
    """Path, relative to this file, of a bearer token whose bearer may look and throw switches. Default: only users of
    the hub cluster who may do the like there."""
    workload_metrics: Annotated[int, Field(ge=0, le=5000)] = 200
    """Of so many workloads /metrics tells by name, those that are not finished first; 0: of none. It is open to whoever
    may connect."""

    @model_validator(mode="after")
    def _loopback(self) -> ListenSpec:
        if not self.allow_remote and not _is_loopback(self.address):
            message = (
                f"{shown(self.address)} can be reached from other machines; write 127.0.0.1 or set allowRemote: true"
            )
            raise refuse(Problem(("address",), message))
        return self


class HistorySpec(Strict):
    """Where observations and decisions are kept."""

    url: LongText = DEFAULT_HISTORY
    """SQLAlchemy URL, sqlite+aiosqlite or postgresql+asyncpg; a relative SQLite path is relative to this file."""
    password_file: LongText | None = None
    """Path of a file, relative to this one, with the database's password; the URL then has a user name and none."""
    url_file: LongText | None = None
    """Path of a file, relative to this one, with the whole URL, password and all, in place of `url`."""

    @model_validator(mode="after")
    def _is_url(self) -> HistorySpec:
        if self.url_file is not None and self.model_fields_set & {"url", "password_file"}:
            raise refuse(Problem(("urlFile",), "holds the whole URL; write neither url nor passwordFile beside it"))
        wrong = wrong_history(self.url)
        if wrong:
            raise refuse(Problem(("url",), wrong))
        return self


def wrong_history(url: str) -> str:
    """What is wrong with a history's URL, which is not shown: it may hold a password. Empty: nothing."""
    try:
        driver = make_url(url).drivername
    except (ArgumentError, ValueError):
        return "not a database URL; write one such as sqlite+aiosqlite:///overspill.db"
    if driver not in ("sqlite+aiosqlite", "postgresql+asyncpg"):
        return f"{shown(driver)} is not supported; write sqlite+aiosqlite or postgresql+asyncpg"
    return ""


class ProviderSpec(BaseModel):
    """Which cloud's node pools these are; the other keys are the provider's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, use_attribute_docstrings=True)

    type: PluginName
    """Name of a provider, such as onprem or eks."""


def _rate(usd: Decimal) -> Decimal:
    if usd <= 0:
        raise refuse_value("must be more than 0; write how many USD one unit is")
    return usd


class CurrencySpec(Strict):
    """What one unit of a currency is worth."""

    usd_per_unit: Annotated[Money, AfterValidator(_rate)]
    """USD for one unit."""
    as_of: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")] | None = None
    """Day of the rate, such as 2026-03-31; told wherever it is used."""


def _bare_rate(value: object) -> object:
    return value if isinstance(value, dict | CurrencySpec) else {"usdPerUnit": value}


CurrencyRate = Annotated[CurrencySpec, BeforeValidator(_bare_rate, json_schema_input_type=CurrencySpec | Money)]
CurrencyCode = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


class PriceSourceSpec(BaseModel):
    """Where prices are found; the other keys are the source's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, use_attribute_docstrings=True)

    type: PluginName
    """Name of a price source, such as static or aws."""


class MetricsSpec(BaseModel):
    """Where the member's metrics are read; the other keys (credentials, queries) are the source's own settings."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, use_attribute_docstrings=True)

    type: PluginName
    """scrape: an exporter's own endpoint; prometheus: a Prometheus server's query API."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$", max_length=2000)]
    """http or https."""


class PriceSpec(Strict):
    """What one node costs."""

    usd_per_hour: Money
    """USD for one node for one hour, whole or not."""


class TaintSpec(Strict):
    """A taint that the pool's nodes carry."""

    key: Text
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class NodeSpec(Strict):
    """What one node of the pool can give to pods."""

    instance_type: str = ""
    """The provider's name for the machine."""
    cpu: MilliCpu
    """Allocatable cores, such as 95 or 7500m."""
    memory: Bytes
    """Allocatable memory, such as 960Gi."""
    gpus: Annotated[int, Field(ge=0, le=1024)] = 0
    gpu_model: Text | None = None
    """As policies name it, such as A100-80GB."""
    gpu_memory: Bytes | None = None
    """Of one GPU, such as 80Gi."""
    pods: Annotated[int, Field(ge=1, le=10_000)] = 110
    """Most pods on one node."""
    extended: dict[ResourceName, Quantity] = Field(default_factory=dict)
    """Other resources by their Kubernetes names, such as rdma/hca."""


class PoolSpec(Strict):
    """A group of identical nodes."""

    name: Name
    """The provider's own name for it."""
    selector: Annotated[dict[str, str], Field(min_length=1)]
    """Labels that tell its nodes from those of the other pools."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Further labels that its nodes carry."""
    capacity_type: CapacityType
    scaling: Literal["fixed", "managed", "external"] | None = None
    """fixed: never resized; managed: by Overspill; external: by another autoscaler. Default: managed for on-demand and
    spot, fixed for owned and reserved."""
    min_nodes: _Count = 0
    max_nodes: _Count | None = None
    """Needed when managed."""
    provisioning_seconds: Seconds | None = None
    """How long a new node takes to be ready. Default: unknown."""
    price: PriceSpec | None = None
    """Default: unknown."""
    taints: list[TaintSpec] = Field(default_factory=list)
    node: NodeSpec

    @property
    def effective_scaling(self) -> str:
        return self.scaling or ("managed" if self.capacity_type in (ON_DEMAND, SPOT) else "fixed")

    @model_validator(mode="after")
    def _sizes(self) -> PoolSpec:
        if self.effective_scaling == "managed" and self.max_nodes is None:
            raise refuse(Problem((), 'missing key "maxNodes"; a managed pool needs one'))
        if self.max_nodes is not None and self.max_nodes < self.min_nodes:
            raise refuse(Problem(("maxNodes",), f"less than minNodes ({self.min_nodes}); write at least that"))
        return self


class NetworkSpec(Strict):
    """What bringing data to and from the member takes."""

    bytes_per_second: Bytes | None = None
    """How fast, such as 1Gi. Default: unknown, and 1 Gbit/s is taken."""
    egress_usd_per_gib: Money | None = None
    """What letting data out costs. Default: the cloud's list price; on-prem: nothing."""
    client_latency: Annotated[dict[Text, Duration], Field(max_length=100)] = Field(default_factory=dict)
    """Round trip from regions of a service's clients, as its metrics name them: {eu: 20ms, us: 95ms}. What is measured
    goes before it. Default: unknown, and taken for none."""


class MemberSpec(Strict):
    """A member cluster."""

    name: ClusterName
    """As policies name it."""
    region: Text
    """As policies name it."""
    labels: dict[str, str] = Field(default_factory=dict)
    """overspill.dev/residency is the one that policies' residency compares with."""
    kubeconfig: LongText | None = None
    """Path, relative to this file."""
    context: Text | None = None
    """Context of the kubeconfig. Default: its current one."""
    login: Literal["kubeconfig", "provider", "in-cluster"] | None = None
    """kubeconfig: as it says; provider: by the cloud's short-lived tokens; in-cluster: as the service account of the
    pod that the daemon runs in. Default: kubeconfig when one is named, else in-cluster."""
    provider: ProviderSpec
    metrics: MetricsSpec | None = None
    network: NetworkSpec = Field(default_factory=NetworkSpec)
    pools: list[PoolSpec] = Field(default_factory=list)

    @property
    def effective_login(self) -> str:
        return self.login or ("in-cluster" if self.kubeconfig is None else "kubeconfig")

    @model_validator(mode="after")
    def _login(self) -> MemberSpec:
        if self.login == "kubeconfig" and self.kubeconfig is None:
            raise refuse(Problem((), 'missing key "kubeconfig"; login: kubeconfig needs one'))
        for key, value in (("kubeconfig", self.kubeconfig), ("context", self.context)):
            if value is not None and self.effective_login != "kubeconfig":
                message = f"is not used with login: {self.effective_login}; remove it or write login: kubeconfig"
                raise refuse(Problem((key,), message))
        return self

    @model_validator(mode="after")
    def _pool_names(self) -> MemberSpec:
        problems = list(duplicates([pool.name for pool in self.pools], "pool", "name", "pools"))
        selectors = [pool.selector for pool in self.pools]
        for index, selector in enumerate(selectors):
            if selector in selectors[:index]:
                twin = self.pools[selectors.index(selector)].name
                problems.append(
                    Problem(("pools", index, "selector"), f"the same as of pool {shown(twin)}; tell them apart")
                )
        if problems:
            raise refuse(*problems)
        return self


class AlertsSpec(Strict):
    """Alertmanager, both ways."""

    webhook_token_file: LongText | None = None
    """Path, relative to this file, of the token that Alertmanager sends (http_config.authorization.credentials) to
    /webhooks/alertmanager. Default: nobody may post there."""
    alertmanager_url: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$", max_length=2000)] | None = None
    """Where open incidents are posted (its v2 API), such as http://alertmanager.monitoring:9093. Default: nowhere."""
    alertmanager_token_file: LongText | None = None
    """Path, relative to this file, of a bearer token for it. Default: none is sent."""


class AiopsSpec(Strict):
    """How the fleet is watched."""

    false_alarms_per_day: Annotated[float, Field(ge=0, le=1000)] = 0.1
    """How many false alarms of the learning detectors are allowed, of the whole fleet; 0: they are off. Rules do not
    count."""
    learn: PositiveDuration = 86400.0
    """How long a metric is learnt before the detectors speak of it."""
    unnoticed_after: Duration = 3600.0
    """How long such trouble used to go unnoticed here: what a remedy saves is reckoned with it."""
    queue_wait: PositiveDuration | None = None
    """How long a workload may wait in its queue before the forecast of a longer wait is an incident. Default: any."""


class TracesSpec(Strict):
    """OpenTelemetry traces of workloads, from when they are queued to when they run."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$", max_length=2000)] | None = None
    """Base URL of an OTLP/HTTP collector, such as http://collector:4318. Default: OTEL_EXPORTER_OTLP_ENDPOINT of the
    environment; without it there are no traces."""


class DnsSpec(Strict):
    """A hook of yours that sets DNS weights by cluster."""

    url: LongText
    """Where weights are posted: https, or http on this very machine."""
    token_file: LongText
    """Path, relative to this file, of the bearer token that is sent."""
    ca_file: LongText | None = None
    """Path, relative to this file, of the authorities that sign its certificate. Default: the system's."""

    @model_validator(mode="after")
    def _private(self) -> DnsSpec:
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname or "", parts.port
        except ValueError as error:
            raise refuse(
                Problem(("url",), f"not a URL ({error}); write one such as https://dns.example/weights")
            ) from error
        if parts.scheme not in ("http", "https") or not host or any(char.isspace() for char in self.url):
            raise refuse(Problem(("url",), "not a URL; write one such as https://dns.example/weights"))
        if parts.scheme == "http" and not _is_loopback(host):
            raise refuse(Problem(("url",), "a token would be sent in the clear; write https"))
        if "@" in parts.netloc or parts.fragment:
            raise refuse(Problem(("url",), "holds a user or a fragment; remove it, the token goes into tokenFile"))
        return self


class GatheringSpec(Strict):
    """How replicas share the watching of members' nodes and pods."""

    shards: Annotated[int, Field(ge=0, le=64)] = 0
    """Into how many parts members are split, each watched by one replica for all; 0: every replica watches all."""
    token_file: LongText | None = None
    """Path, relative to this file, of a token that the replicas know one another by. Needed with shards."""

    @model_validator(mode="after")
    def _token(self) -> GatheringSpec:
        if self.shards and self.token_file is None:
            raise refuse(Problem((), 'missing key "tokenFile"; shards need one'))
        return self


class FederationSpec(Strict):
    """A federation: one hub, its members, and how the daemon runs."""

    mode: Literal["shadow", "active"] = "shadow"
    """shadow: observe and explain only, write nothing; active: place and burst."""
    hub: HubSpec = Field(default_factory=HubSpec)
    listen: ListenSpec = Field(default_factory=ListenSpec)
    history: HistorySpec = Field(default_factory=HistorySpec)
    predictor: Literal["first", "learned"] = "learned"
    """first: run times by what users say, start-up by the pools' own figures; learned: by what the history has taught,
    where it has."""
    clock_file: LongText | None = None
    """Path, relative to this file, of the sandbox's virtual clock. Default: the machine's own clock."""
    prices: Annotated[list[PriceSourceSpec], Field(min_length=1, max_length=32)] | None = None
    """Where prices of pools without one of their own are found. Default: the list prices that come with Overspill."""
    currencies: Annotated[dict[CurrencyCode, CurrencyRate], Field(max_length=200)] = Field(default_factory=dict)
    """USD for one unit of each currency that prices are in: EUR: {usdPerUnit: 1.08, asOf: 2026-03-31}, or EUR: 1.08."""
    alerts: AlertsSpec = Field(default_factory=AlertsSpec)
    aiops: AiopsSpec = Field(default_factory=AiopsSpec)
    traces: TracesSpec = Field(default_factory=TracesSpec)
    gathering: GatheringSpec = Field(default_factory=GatheringSpec)
    dns_weights: DnsSpec | None = None
    """Where weights of services with spec.traffic.dns are posted. Default: nowhere."""
    metric_queries: LongText | None = None
    """Path, relative to this file, of queries that are laid over the shipped ones. Default: those."""
    own_queries: bool = True
    """false: queries in workloads' annotations (progress-query, speed-query) are never asked; how far runs are is then
    told by the metrics of common exporters alone."""
    dependents: Annotated[
        list[Literal["ConfigMap", "Secret", "ServiceAccount", "PersistentVolumeClaim"]], Field(max_length=4)
    ] = Field(default_factory=list)
    """Kinds of objects that follow FederatedWorkloads to their members when their pods refer to them. Default: none.
    Each needs deploy/rbac/hub-dependents.yaml and member-dependents.yaml."""
    members: Annotated[list[MemberSpec], Field(min_length=1)]

    @model_validator(mode="after")
    def _no_rate_of_usd(self) -> FederationSpec:
        if "USD" in self.currencies:
            raise refuse(Problem(("currencies", "USD"), "USD is what the rates lead to; remove it"))
        return self

    @model_validator(mode="after")
    def _member_names(self) -> FederationSpec:
        if problems := list(duplicates([member.name for member in self.members], "member", "name", "members")):
            raise refuse(*problems)
        return self


class FederationDocument(Strict):
    """The federation that a daemon looks after."""

    api_version: ApiVersion
    kind: Literal["Federation"]
    metadata: Metadata
    spec: FederationSpec


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
