"""Rich tables of a daemon's status, 80 columns wide at most; `overspill status` and the demo's live view show them."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from scheduler.cli.api import ClusterReply, PoolReply, ReclaimReply, StatusReply
from scheduler.cli.output import UNKNOWN, bar, duration, usd

_CAPACITY_STYLE = {"owned": "green", "reserved": "green", "on-demand": "yellow", "spot": "magenta"}


def _table(title: str, *columns: tuple[str, str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading, justify in columns:
        table.add_column(heading, justify="right" if justify == "right" else "left", header_style="dim", no_wrap=True)
    return table


def wide_table(title: str, *columns: tuple[str, str]) -> Table:
    """A table that folds what is too wide for the screen instead of cutting it."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading, justify in columns:
        right = justify == "right"
        table.add_column(heading, justify="right" if right else "left", header_style="dim", overflow="fold")
    return table


_NAME = 22
"""Longest pool name that is shown whole."""


def shortages(status: StatusReply) -> tuple[Text, ...]:
    """A line for each pool whose provider could not deliver."""
    return tuple(
        Text(f"{cluster.id}/{pool.pool}: {pool.shortage}", style="red")
        for cluster in status.clusters
        for pool in cluster.pools
        if pool.shortage
    )


def reclaims(status: StatusReply) -> tuple[Text, ...]:
    """A line for each node that its cloud takes back."""
    return tuple(
        Text(f"{cluster.id}/{pool.pool}: {one.node} is taken back {_when(one, status.now)} ({one.source})", style="red")
        for cluster in status.clusters
        for pool in cluster.pools
        for one in pool.reclaimed
    )


def _when(reclaim: ReclaimReply, now: float) -> str:
    if reclaim.deadline is None:
        return "at a time not told"
    left = reclaim.deadline - now
    return f"in {duration(left)}" if left > 0 else f"since {duration(-left)}"


def pools_table(status: StatusReply) -> Table:
    """Each cluster's pools: nodes (ready, wanted), GPU use and price."""
    table = _table(
        "Clusters",
        ("pool", "left"),
        ("capacity", "left"),
        ("nodes", "right"),
        ("GPUs in use", "left"),
        ("$/h node", "right"),
        ("", "left"),
    )
    for cluster in status.clusters:
        for pool in cluster.pools:
            table.add_row(*_pool_row(cluster, pool))
        if not cluster.pools:
            table.add_row(Text(cluster.id), "", "", "", "", _cluster_note(cluster))
    return table


def _pool_row(cluster: ClusterReply, pool: PoolReply) -> tuple[Text | str, ...]:
    style = _CAPACITY_STYLE.get(pool.capacity_type, "")
    nodes = f"{pool.nodes_ready}/{pool.desired_nodes if pool.desired_nodes is not None else pool.nodes}"
    use = Text(bar(pool.gpus_used, pool.gpus, 8), style=style)
    use.append(f" {pool.gpus_used}/{pool.gpus}", style="default")
    note = _cluster_note(cluster)
    if not note.plain and pool.shortage:
        note = Text("shortage", style="red")
    elif not note.plain and pool.reclaimed:
        note = Text(f"{len(pool.reclaimed)} taken back", style="red")
    price = UNKNOWN if pool.usd_per_hour is None else f"{pool.usd_per_hour:.2f}"
    return Text(f"{cluster.id}/{pool.pool}"[:_NAME]), Text(pool.capacity_type, style=style), nodes, use, price, note


def _cluster_note(cluster: ClusterReply) -> Text:
    if cluster.available:
        return Text()
    if cluster.unreachable_seconds is None:
        return Text("not synced", style="red")
    return Text(f"silent {duration(cluster.unreachable_seconds)}", style="red")


def queues_table(status: StatusReply, *, limit: int | None = None) -> Table:
    """Queues, the busiest first when there are more than `limit`."""
    table = _table(
        "Queues", ("queue", "left"), ("waiting", "right"), ("placed", "right"), ("GPUs", "right"), ("share", "right")
    )
    queues = sorted(status.queues, key=lambda queue: queue.queue)
    if limit is not None and len(queues) > limit:
        queues = sorted(queues, key=lambda queue: (-queue.pending - queue.placed, queue.queue))[:limit]
    for queue in queues:
        table.add_row(
            Text(queue.queue[:28]),
            str(queue.pending),
            str(queue.placed),
            str(queue.gpus_used),
            f"{queue.dominant_share:.2f}",
        )
    return table


def spend_table(status: StatusReply) -> Table:
    """Spend by queue, cluster and capacity type, the largest first."""
    table = _table("Spend", ("queue", "left"), ("cluster", "left"), ("capacity", "left"), ("USD", "right"))
    for row in sorted(status.spend, key=lambda spend: (-spend.usd, spend.queue or "", spend.cluster)):
        table.add_row(Text((row.queue or "(nobody's)")[:28]), Text(row.cluster[:20]), row.capacity_type, usd(row.usd))
    table.add_row(Text("total", style="bold"), "", "", Text(usd(status.spend_usd), style="bold"))
    return table


def budgets_table(status: StatusReply) -> Table:
    """Budgets: spent, committed by what runs, and the limit."""
    table = _table(
        "Budgets",
        ("policy/budget", "left"),
        ("spent", "right"),
        ("committed", "right"),
        ("limit", "right"),
        ("", "left"),
        ("ends in", "right"),
    )
    for row in status.budgets:
        table.add_row(
            Text(f"{row.policy}/{row.budget}"[:28]),
            usd(row.spent_usd),
            usd(row.committed_usd),
            usd(row.limit_usd),
            bar(float(row.spent_usd + row.committed_usd), float(row.limit_usd)),
            duration(row.window_ends_at - status.now) if row.window_ends_at is not None else UNKNOWN,
        )
    return table
