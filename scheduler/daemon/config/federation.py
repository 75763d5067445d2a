"""The federation file: what the hub, the members and their node pools are, as the daemon uses it, and its loading."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, cast

from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.engine import make_url

from policies import source
from policies.documents import Problem, at_path, problems_of, validate
from policies.errors import PolicyError, PolicyErrors
from policies.loader import FederationNames, document_kind
from policies.source import Document, Steps
from policies.values import quantity
from scheduler.daemon.config.federation_schema import (
    CurrencyCode,
    CurrencyRate,
    DnsSpec,
    FederationDocument,
    HistorySpec,
    MemberSpec,
    MetricsSpec,
    PoolSpec,
    PriceSourceSpec,
    wrong_history,
)
from scheduler.model.cluster import NodePool, Taint
from scheduler.model.contract import LABEL_RESIDENCY
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, Instant, PoolId, PoolRef
from scheduler.model.money import Price, Usd
from scheduler.model.resources import Resources

ONPREM: Final = "onprem"
"""The provider of clusters whose network nobody sends a bill for."""
_Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Hub:
    name: str
    kubeconfig: Path | None
    """None: in the cluster, as its service account."""
    context: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """Where something is read: a price source, or where a member's metrics are."""

    type: str
    settings: Mapping[str, Any]
    """What stands in the file, `type` included."""
    base_dir: Path
    """The federation file's folder; relative paths in the settings start there."""


@dataclass(frozen=True, slots=True)
class Member:
    id: ClusterId
    region: str
    labels: _Labels
    login: str
    """kubeconfig, provider or in-cluster."""
    kubeconfig: Path | None
    """None: not by kubeconfig."""
    context: str | None
    provider_type: str
    provider_settings: Mapping[str, Any]
    """What stands under `provider:`, `type` included."""
    base_dir: Path
    """The federation file's folder; relative paths in the provider's settings start there."""
    metrics: Source | None
    pools: tuple[NodePool, ...]
    """Templates: what only the provider knows (`desired_nodes`, `shortage`) is None."""
    bytes_per_second: float | None = None
    """Of data that is brought there or away; None: not said."""
    egress_usd_per_gib: Usd | None = None
    """None: what its cloud takes."""
    client_latency: tuple[tuple[str, float], ...] = ()
    """Round trip in seconds from regions of services' clients, as it is declared."""


@dataclass(frozen=True, slots=True)
class DnsHook:
    """Where DNS weights are posted."""

    url: str
    token_file: Path
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class Federation:
    name: str
    mode: str
    """shadow or active."""
    hub: Hub
    listen_address: str
    listen_port: int
    history_url: str
    predictor: str
    """first or learned."""
    clock_file: Path | None
    prices: tuple[Source, ...]
    """In order of precedence; empty: what comes with Overspill."""
    currencies: Mapping[str, Mapping[str, Any]]
    """By ISO code: `usdPerUnit` (exact) and, where it is said, `asOf` (YYYY-MM-DD)."""
    metric_queries: Path | None
    """Queries that are laid over the shipped ones; None: just those."""
    members: tuple[Member, ...]
    api_token_file: Path | None = None
    """A token whose bearer may look and throw switches; None: only users of the hub may."""
    workload_metrics: int = 200
    """Of so many workloads the metrics tell by name."""
    webhook_token_file: Path | None = None
    """The token that Alertmanager's webhooks must bring; None: none is taken."""
    alertmanager_url: str | None = None
    alertmanager_token_file: Path | None = None
    false_alarms_per_day: float = 0.1
    """Of the learning detectors, whole fleet; 0: they are off."""
    learn_seconds: float = 86400.0
    """How long a metric is learnt before they speak of it."""
    unnoticed_seconds: float = 3600.0
    """How long trouble used to go unnoticed."""
    queue_wait_seconds: float | None = None
    """How long a workload may wait; None: for ever."""
    own_queries: bool = True
    """Whether queries in workloads' annotations are asked."""
    shards: int = 0
    """Of the gathering; 0: every replica gathers all."""
    shards_token_file: Path | None = None
    traces_endpoint: str | None = None
    """Base URL of an OTLP/HTTP collector; None: the environment's, if any."""
    dependents: frozenset[str] = frozenset()
    """Kinds of objects that follow workloads to their members."""
    dns: DnsHook | None = None

    @property
    def names(self) -> FederationNames:
        """What policies may name."""
        pools = [pool for member in self.members for pool in member.pools]
        return FederationNames(
            clusters=frozenset(member.id for member in self.members),
            providers=frozenset(member.provider_type for member in self.members),
            regions=frozenset(member.region for member in self.members),
            residency=frozenset(v for member in self.members for k, v in member.labels if k == LABEL_RESIDENCY),
            gpu_models=frozenset(pool.gpu_model for pool in pools if pool.gpu_model is not None),
        )


ValidateProvider = Callable[[str, Mapping[str, Any], Path], list[Problem]]
"""Problems of a provider's settings (type, settings, folder of relative paths); their paths lead from `provider:`."""
_Settings = Iterator[tuple[Steps, dict[str, Any], ValidateProvider]]


def load_federation(
    path: Path, *, as_of: Instant | None = None, validate_provider: ValidateProvider | None = None
) -> Federation:
    """The federation that the file describes. Prices are as of `as_of`, by default the file's last change.

    With `validate_provider` all settings of plug-ins are checked, those of price and metrics sources by their own
    models; without it none are, and no SDK is imported.
    Raises: PolicyErrors with every mistake in the file, and those that are found in settings.
    """
    data = source.read_bytes(path)
    checked = _checked(data, str(path), validate_provider, path.parent)
    if as_of is None:
        try:
            as_of = path.stat().st_mtime
        except OSError as error:
            raise PolicyErrors([PolicyError(str(path), 1, 1, "was removed while it was read; try again")]) from error
    return _federation(checked, path.parent, as_of, path.name)


def check_federation(data: bytes, file: str) -> None:
    """Raises: PolicyErrors with every mistake in the content of a federation file, provider settings apart."""
    _checked(data, file, None, Path())


def validate_settings(provider: str, settings: Mapping[str, Any], base_dir: Path) -> list[Problem]:
    """Checks with the provider's own model; imports that provider's module and so its SDK."""
    from clusters.providers import load_provider

    return _check_settings(load_provider, provider, settings, base_dir)


def _validate_prices(
    source_type: str, settings: Mapping[str, Any], base_dir: Path, *, currencies: Mapping[str, Any]
) -> list[Problem]:
    from clusters.prices import load_price_source

    return _check_settings(load_price_source, source_type, settings, base_dir, currencies=currencies)


def _validate_metrics(source_type: str, settings: Mapping[str, Any], base_dir: Path) -> list[Problem]:
    from clusters.metrics import load_metrics_source

    return _check_settings(load_metrics_source, source_type, settings, base_dir)


class _HasSettings(Protocol):
    @property
    def Settings(self) -> type[BaseModel]: ...  # noqa: N802  (the name that all plug-ins give their model)


def _check_settings(
    load: Callable[[str], _HasSettings], type_name: str, settings: Mapping[str, Any], base_dir: Path, **context: object
) -> list[Problem]:
    try:
        model = load(type_name).Settings
    except InvalidObjectError as error:
        return [Problem(("type",), str(error))]
    try:
        model.model_validate(dict(settings), context={"base_dir": base_dir, **context})
    except ValidationError as error:
        return problems_of(error, model)
    return []


def _checked(data: bytes, file: str, validate_provider: ValidateProvider | None, base_dir: Path) -> FederationDocument:
    documents, errors = source.parse(source.decode(data, file), file)
    if errors:
        raise PolicyErrors(errors)
    if len(documents) != 1:
        message = "empty file; write a Federation" if not documents else "more than one document; keep one Federation"
        raise PolicyErrors([PolicyError(file, 1, 1, message)])
    document = documents[0]
    document_kind(document, {"Federation": FederationDocument})
    problems: list[PolicyError] = []
    if validate_provider is not None:
        problems = _settings_problems(document, validate_provider, base_dir)
    try:
        checked = validate(document, FederationDocument)
    except PolicyErrors as error:
        told = {(mistake.line, mistake.column) for mistake in error.errors}
        more = [mistake for mistake in problems if (mistake.line, mistake.column) not in told]
        raise PolicyErrors([*error.errors, *more]) from error
    if problems:
        raise PolicyErrors(problems)
    return checked


def _settings_problems(document: Document, validate_provider: ValidateProvider, base_dir: Path) -> list[PolicyError]:
    """Checked beside the schema and not after it, so that all mistakes are told at once."""
    found: list[PolicyError] = []
    for place, settings, check in _plug_ins(source.plain(document.root), validate_provider):
        if not isinstance(settings.get("type"), str):
            continue
        for problem in check(settings["type"], cast(dict[str, Any], _floats(settings)), base_dir):
            path = ("spec", *place, *problem.path)
            found.append(at_path(document, path, problem.message, key=problem.message.startswith("unknown key")))
    return found


def _plug_ins(content: Any, validate_provider: ValidateProvider) -> _Settings:
    """(path below `spec`, settings, their check) of every plug-in that a document names, however wrong the rest is."""
    spec = content.get("spec") if isinstance(content, dict) else None
    spec = spec if isinstance(spec, dict) else {}
    prices, members = spec.get("prices"), spec.get("members")
    for index, settings in enumerate(prices if isinstance(prices, list) else ()):
        if isinstance(settings, dict):
            yield ("prices", index), settings, partial(_validate_prices, currencies=_rates(spec.get("currencies")))
    for index, member in enumerate(members if isinstance(members, list) else ()):
        for key, check in (("provider", validate_provider), ("metrics", _validate_metrics)):
            settings = member.get(key) if isinstance(member, dict) else None
            if isinstance(settings, dict):
                yield ("members", index, key), settings, check


def _rates(written: object) -> dict[str, Any]:
    """The currency table as far as it is right; its mistakes are told by the schema, and once."""
    table = {}
    for code, rate in written.items() if isinstance(written, dict) else ():
        try:
            TypeAdapter(dict[CurrencyCode, CurrencyRate]).validate_python({code: rate})
        except ValidationError:
            continue
        table[code] = rate
    return table


def _federation(document: FederationDocument, folder: Path, as_of: Instant, file: str) -> Federation:
    spec = document.spec
    return Federation(
        name=document.metadata.name,
        mode=spec.mode,
        hub=Hub(spec.hub.name, _beside(folder, spec.hub.kubeconfig), spec.hub.context),
        listen_address=spec.listen.address,
        listen_port=spec.listen.port,
        api_token_file=_nearby(spec.listen.token_file, folder),
        workload_metrics=spec.listen.workload_metrics,
        history_url=_history_url(spec.history, folder),
        webhook_token_file=_nearby(spec.alerts.webhook_token_file, folder),
        alertmanager_url=spec.alerts.alertmanager_url,
        alertmanager_token_file=_nearby(spec.alerts.alertmanager_token_file, folder),
        false_alarms_per_day=spec.aiops.false_alarms_per_day,
        learn_seconds=spec.aiops.learn,
        unnoticed_seconds=spec.aiops.unnoticed_after,
        queue_wait_seconds=spec.aiops.queue_wait,
        predictor=spec.predictor,
        own_queries=spec.own_queries,
        shards=spec.gathering.shards,
        shards_token_file=_nearby(spec.gathering.token_file, folder),
        traces_endpoint=spec.traces.endpoint,
        dependents=frozenset(spec.dependents),
        dns=None if spec.dns_weights is None else _dns(spec.dns_weights, folder),
        clock_file=_beside(folder, spec.clock_file),
        prices=tuple(_source(entry, folder) for entry in spec.prices or ()),
        currencies={
            code: rate.model_dump(by_alias=True, exclude_none=True) for code, rate in sorted(spec.currencies.items())
        },
        metric_queries=_beside(folder, spec.metric_queries),
        members=tuple(_member(member, folder, as_of, file) for member in spec.members),
    )


def _member(spec: MemberSpec, folder: Path, as_of: Instant, file: str) -> Member:
    return Member(
        id=ClusterId(spec.name),
        region=spec.region,
        labels=tuple(sorted(spec.labels.items())),
        login=spec.effective_login,
        kubeconfig=_beside(folder, spec.kubeconfig),
        context=spec.context,
        provider_type=spec.provider.type,
        provider_settings=cast(dict[str, Any], _floats(spec.provider.model_dump())),
        base_dir=folder,
        metrics=None if spec.metrics is None else _source(spec.metrics, folder),
        pools=tuple(_pool(pool, ClusterId(spec.name), as_of, file) for pool in spec.pools),
        bytes_per_second=None if spec.network.bytes_per_second is None else float(spec.network.bytes_per_second),
        egress_usd_per_gib=_egress(spec),
        client_latency=tuple(sorted(spec.network.client_latency.items())),
    )


def _dns(spec: DnsSpec, folder: Path) -> DnsHook:
    return DnsHook(spec.url, folder / spec.token_file, _beside(folder, spec.ca_file))


def _egress(spec: MemberSpec) -> Usd | None:
    said = spec.network.egress_usd_per_gib
    return Decimal(0) if said is None and spec.provider.type == ONPREM else said


def _pool(spec: PoolSpec, cluster: ClusterId, as_of: Instant, file: str) -> NodePool:
    node = spec.node
    extended = sorted((name, quantity(amount)) for name, amount in node.extended.items())
    return NodePool(
        ref=PoolRef(cluster, PoolId(spec.name)),
        capacity_type=spec.capacity_type,
        scaling=spec.effective_scaling,
        instance_type=node.instance_type,
        min_nodes=spec.min_nodes,
        max_nodes=spec.min_nodes if spec.max_nodes is None else spec.max_nodes,
        desired_nodes=None,
        node_resources=Resources(node.cpu, node.memory, node.gpus, node.pods, tuple(extended)),
        gpu_model=node.gpu_model,
        gpu_memory_bytes=node.gpu_memory,
        labels=tuple(sorted({**spec.labels, **spec.selector}.items())),
        selector=tuple(sorted(spec.selector.items())),
        taints=tuple(sorted(Taint(taint.key, taint.value, taint.effect) for taint in spec.taints)),
        price=None if spec.price is None else Price(spec.price.usd_per_hour, file, as_of),
        provisioning_seconds=spec.provisioning_seconds,
    )


def _source(spec: PriceSourceSpec | MetricsSpec, folder: Path) -> Source:
    return Source(spec.type, cast(dict[str, Any], _floats(spec.model_dump())), folder)


def _beside(folder: Path, path: str | None) -> Path | None:
    return None if path is None else folder / path


def _nearby(path: str | None, folder: Path) -> Path | None:
    return None if path is None else folder / path


def _history_url(spec: HistorySpec, folder: Path) -> str:
    if spec.url_file is not None:
        text = _one_line("history.urlFile", folder / spec.url_file, "the URL")
        wrong = wrong_history(text)
        if wrong:
            raise InvalidObjectError(f"history.urlFile: {folder / spec.url_file}: {wrong}")
    else:
        text = spec.url
    url = make_url(text)
    if spec.password_file is not None:
        password = _one_line("history.passwordFile", folder / spec.password_file, "the password")
        return url.set(password=password).render_as_string(hide_password=False)
    if not url.drivername.startswith("sqlite") or not url.database or url.database == ":memory:":
        return text
    return url.set(database=str((folder / url.database).absolute())).render_as_string(hide_password=False)


def _one_line(key: str, path: Path, what: str) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidObjectError(f"{key}: {path}: cannot be read ({type(error).__name__})") from error
    if not text or not text.isprintable():
        raise InvalidObjectError(f"{key}: {path}: should hold one line, {what} alone")
    return text


def _floats(value: object) -> object:
    """Provider settings know no Decimal: theirs are plain JSON numbers."""
    match value:
        case Decimal():
            return float(value)
        case dict():
            return {key: _floats(item) for key, item in value.items()}
        case list():
            return [_floats(item) for item in value]
    return value
