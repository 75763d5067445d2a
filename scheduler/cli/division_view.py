"""Divided services for people: the table of `overspill status`, and what `overspill explain` says of one."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from scheduler.cli.api import DivisionReply, OfferReply, StatusReply
from scheduler.cli.output import UNKNOWN, duration, usd

_TOTAL = 1000
"""What traffic weights add up to."""


def services_table(status: StatusReply) -> Table:
    """Services by name, with how they are."""
    table = _table("Services", "service", "SLO", ">replicas", ">asked/s", ">ready/s", ">USD/h", "state")
    for one in status.services:
        table.add_row(
            Text(f"{one.namespace}/{one.name}"),
            Text(one.slo or UNKNOWN),
            f"{one.ready}/{one.wanted}",
            _rate(one.demand_per_second),
            _rate(one.ready_per_second),
            usd(one.usd_per_hour),
            Text(one.condition, style="" if one.condition == "Serving" else "yellow"),
        )
    return table


def division_parts(division: DivisionReply) -> list[RenderableType]:
    """The sentence, what runs where, what was weighed with its costs, what binds."""
    parts: list[RenderableType] = [Text(division.sentence, style="yellow"), Text()]
    parts += [Text(f"{one.reason}: {one.message}") for one in division.conditions]
    rates = (
        f"asked {_rate(division.demand_per_second)}, planned for {_rate(division.planned_per_second)}, "
        f"carried {_rate(division.capacity_per_second)}, ready {_rate(division.ready_per_second)}"
    )
    parts.append(Text(f"requests/s: {rates} (SLO {division.slo}, by {division.solver})"))
    told = " + ".join(f"{part.name} ${part.usd:,.2f}" for part in division.cost_parts if part.usd)
    parts.append(Text(f"costs {usd(division.usd_per_hour)} an hour" + (f" ({told})" if told else "")))
    if division.rollout is not None:
        now = division.rollout
        parts.append(Text(f"rollout of {now.new} over {now.old}: {now.phase}, step {now.step + 1}", style="cyan"))
    if division.leaving:
        parts.append(Text(f"leaving {', '.join(division.leaving)} once others are ready", style="cyan"))
    parts += [Text(), _targets(division), Text(), _choices(division)]
    if division.binding:
        parts += [Text(), Text("What binds, and what it would cost less without", style="bold")]
        parts += [Text(f"  {one.name}: {one.meaning}{_saves(one.saves_usd_per_hour)}") for one in division.binding]
    refused = [one for one in division.choices if one.refused and not one.replicas]
    if refused:
        parts += [Text(), Text("Where no replica may be", style="bold")]
        parts += [Text(f"  {one.pool}: {one.refused}", style="dim") for one in refused]
    return parts


def _targets(division: DivisionReply) -> Table:
    shares = {(one.cluster, one.revision): one.weight / _TOTAL for one in division.weights}
    table = _table("Replicas", "pool", "revision", ">wanted", ">ready", ">traffic of cluster")
    for one in division.targets:
        wanted = str(one.replicas) if one.bounds is None else f"{one.bounds[0]} to {one.bounds[1]}"
        share = shares.get((one.pool.partition("/")[0], one.revision))
        table.add_row(
            Text(one.pool), one.revision, wanted, str(one.ready), UNKNOWN if share is None else f"{100 * share:.1f} %"
        )
    return table


def _choices(division: DivisionReply) -> Table:
    table = _table("Where it could be", "pool", "GPU", "capacity", ">replicas", ">req/s each", ">USD/1M req", ">way")
    for one in sorted((each for each in division.choices if each.replicas or not each.refused), key=_order):
        table.add_row(
            Text(one.pool),
            one.gpu_model or UNKNOWN,
            one.capacity_type,
            str(one.replicas),
            _rate(one.requests_per_second_each),
            usd(one.usd_per_million_requests),
            duration(one.latency_seconds) if one.latency_seconds is None else f"{1000 * one.latency_seconds:.0f} ms",
        )
    return table


def _order(one: OfferReply) -> tuple[bool, float, str]:
    price = one.usd_per_million_requests
    return price is None, price or 0.0, one.pool


def _saves(amount: float | None) -> str:
    return "" if amount is None else f" (${amount:,.2f} an hour)"


def _rate(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3g}"


def _table(title: str, *columns: str) -> Table:
    """A column whose heading begins with > is aligned right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in columns:
        right = heading.startswith(">")
        table.add_column(heading.lstrip(">"), justify="right" if right else "left", header_style="dim", overflow="fold")
    return table
