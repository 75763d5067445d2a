"""What `overspill clusters` shows: the daemon's answers, and the tables made of them."""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scheduler.cli.api import Reply
from scheduler.cli.gathered import age, milliseconds
from scheduler.cli.output import UNKNOWN, duration
from scheduler.cli.tables import wide_table


class ClusterSummary(Reply):
    id: str
    provider: str
    region: str
    login: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    available: bool
    synced: bool = True
    unreachable_since: float | None = None
    error: str | None = None
    round_trip_seconds: float | None = None
    round_trip_at: float | None = None
    version: str | None = None
    status: str | None = None
    nodes: int | None = None
    nodes_ready: int | None = None
    gpus: int | None = None
    gpus_used: int | None = None
    pools_at: float | None = None
    pools_error: str | None = None
    clusters_at: float | None = None
    clusters_error: str | None = None
    warning_count: int = 0


class ClustersReply(Reply):
    now: float
    clusters: tuple[ClusterSummary, ...]


class CloudReply(Reply):
    name: str
    region: str = ""
    version: str | None = None
    endpoint: str | None = None
    status: str = ""


class ProviderPoolReply(Reply):
    instance_type: str = ""
    gpus: int | None = None
    gpu_model: str | None = None
    min_nodes: int = 0
    max_nodes: int = 0
    desired_nodes: int = 0
    taints: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    version: str | None = None
    autoscaled: bool = False
    busy: bool = False


class ShownPool(Reply):
    pool: str
    capacity_type: str
    scaling: str
    instance_type: str = ""
    gpu_model: str | None = None
    nodes: int | None = None
    nodes_ready: int | None = None
    desired_nodes: int | None = None
    max_nodes: int = 0
    usd_per_hour: Decimal | None = None
    shortage: str | None = None
    price_source: str | None = None
    price_as_of: float | None = None
    provider: ProviderPoolReply | None = None


class ClusterDetail(ClusterSummary):
    now: float
    cloud: CloudReply | None = None
    other_clusters: tuple[str, ...] = ()
    pools: tuple[ShownPool, ...] = ()
    warnings: tuple[str, ...] = ()


def list_view(reply: ClustersReply) -> RenderableType:
    """A row for each member, and below what is wrong with it."""
    table = wide_table(
        "Clusters",
        ("cluster", "left"),
        ("provider", "left"),
        ("region", "left"),
        ("version", "left"),
        ("nodes", "right"),
        ("GPUs", "right"),
        ("ping", "right"),
        ("cloud asked", "right"),
        ("", "left"),
    )
    for one in reply.clusters:
        table.add_row(
            Text(one.id),
            Text(one.provider),
            Text(one.region),
            Text(one.version or UNKNOWN),
            _share(one.nodes_ready, one.nodes),
            _share(one.gpus_used, one.gpus),
            milliseconds(one.round_trip_seconds),
            age(one.pools_at, reply.now),
            _note(one, reply.now),
        )
    return Group(table, *(line for one in reply.clusters for line in _troubles(one)))


def _note(one: ClusterSummary, now: float) -> Text:
    if one.unreachable_since is not None:
        return Text(f"silent {duration(now - one.unreachable_since)}", style="red")
    if not one.synced:
        return Text("not synced", style="red")
    if one.warning_count:
        return Text(f"{one.warning_count} warning{'s' if one.warning_count > 1 else ''}", style="yellow")
    return Text("ok", style="green")


def _troubles(one: ClusterSummary) -> list[Text]:
    """The last failure of each thing that is asked."""
    asked = ((one.error, "its API"), (one.pools_error, "its node pools"), (one.clusters_error, "its clusters"))
    return [Text(f"{one.id}: {what}: {error}", style="red") for error, what in asked if error]


def show_view(one: ClusterDetail) -> RenderableType:
    """Facts with their sources and ages, pools, warnings."""
    head = Text(one.id, style="bold")
    head.append(f"  {one.provider}, region {one.region}, login: {one.login or UNKNOWN}  ", style="default")
    parts: list[RenderableType] = [head.append_text(_note(one, one.now)), _facts(one), Text(), _pools(one)]
    parts += _troubles(one)
    if one.warnings:
        parts += [Text(), Text("Warnings", style="bold")]
        parts += [Text(f"  {line}", style="yellow") for line in one.warnings]
    if one.other_clusters:
        parts += [Text(), Text(f"The account also sees: {', '.join(one.other_clusters)}", style="dim")]
    return Group(*parts)


def _facts(one: ClusterDetail) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    nodes = f"{_share(one.nodes_ready, one.nodes)} ready, {_share(one.gpus_used, one.gpus)} GPUs used"
    since = "now" if one.unreachable_since is None else f"as of {age(one.unreachable_since, one.now)}"
    table.add_row("nodes", nodes if one.nodes is not None else UNKNOWN, Text(f"its API, {since}", style="dim"))
    table.add_row(
        "round trip",
        milliseconds(one.round_trip_seconds),
        Text(f"measured {age(one.round_trip_at, one.now)}", style="dim"),
    )
    if one.labels:
        labels = ", ".join(f"{key}={value}" for key, value in sorted(one.labels.items()))
        table.add_row("labels", Text(labels), Text("federation file", style="dim"))
    if one.cloud is not None:
        told = [one.cloud.name, one.cloud.region, one.cloud.status, f"version {one.cloud.version or UNKNOWN}"]
        source = Text(f"{one.provider}, asked {age(one.clusters_at, one.now)}", style="dim")
        table.add_row("cloud", Text(", ".join(word for word in told if word)), source)
        table.add_row("endpoint", Text(one.cloud.endpoint or UNKNOWN), source)
    return table


def _pools(one: ClusterDetail) -> RenderableType:
    """Sizes and prices, then machines: one table of both would be too wide."""
    asked = f"{one.provider}, asked {age(one.pools_at, one.now)}"
    sizes = wide_table(
        f"Pools (sizes: {asked})",
        ("pool", "left"),
        ("capacity", "left"),
        ("nodes", "right"),
        ("size", "right"),
        ("$/h node", "right"),
        ("price from", "left"),
    )
    machines = wide_table(
        f"Machines ({asked}; the file's word where it does not tell)",
        ("pool", "left"),
        ("machine", "left"),
        ("GPUs", "left"),
        ("zones", "left"),
        ("version", "left"),
        ("taints", "left"),
    )
    for pool in one.pools:
        sizes.add_row(*_size_row(pool, one.now))
        machines.add_row(*_machine_row(pool))
    shortages = [Text(f"{pool.pool}: {pool.shortage}", style="red") for pool in one.pools if pool.shortage]
    return Group(sizes, *shortages, Text(), machines)


def _size_row(pool: ShownPool, now: float) -> tuple[Text | str, ...]:
    cloud = pool.provider
    wanted = pool.desired_nodes if pool.desired_nodes is not None else pool.nodes
    size = f"{cloud.min_nodes}..{cloud.max_nodes}" if cloud is not None else f"..{pool.max_nodes}"
    resizing = " resizing" if cloud is not None and cloud.busy else ""
    source = f"{pool.price_source}, {age(pool.price_as_of, now)}" if pool.price_source else UNKNOWN
    return (
        Text(pool.pool),
        pool.capacity_type,
        _share(pool.nodes_ready, wanted),
        f"{size} {pool.scaling}{resizing}",
        UNKNOWN if pool.usd_per_hour is None else f"{pool.usd_per_hour:.4f}",
        Text(source),
    )


def _machine_row(pool: ShownPool) -> tuple[Text, ...]:
    cloud = pool.provider or ProviderPoolReply()
    model = pool.gpu_model or cloud.gpu_model
    gpus = f"{cloud.gpus} x {model}" if cloud.gpus else model or UNKNOWN
    return (
        Text(pool.pool),
        Text(cloud.instance_type or pool.instance_type or UNKNOWN),
        Text(gpus),
        Text(" ".join(cloud.zones) or UNKNOWN),
        Text(cloud.version or UNKNOWN),
        Text("\n".join(cloud.taints) or UNKNOWN),
    )


def _share(part: int | None, whole: int | None) -> str:
    return UNKNOWN if part is None else f"{part}/{UNKNOWN if whole is None else whole}"
