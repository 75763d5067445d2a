"""`overspill prices`: what a node of each pool costs, who says so, and how old that is."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from scheduler.cli.api import Reply, parse
from scheduler.cli.gathered import age, answer
from scheduler.cli.output import UNKNOWN, console, print_json
from scheduler.cli.tables import wide_table

if TYPE_CHECKING:
    from scheduler.daemon.gathering.gather_once import OneLook


class AnswerReply(Reply):
    source: str
    state: str
    usd_per_hour: Decimal | None = None
    as_of: float | None = None
    text: str = ""


class PriceReply(Reply):
    cluster: str
    pool: str
    provider: str
    region: str
    instance_type: str = ""
    capacity_type: str
    gpus: int = 0
    usd_per_hour: Decimal | None = None
    usd_per_gpu_hour: Decimal | None = None
    source: str | None = None
    as_of: float | None = None
    why_unknown: str = ""
    answers: tuple[AnswerReply, ...] = ()


class SourceReply(Reply):
    name: str
    read_at: float | None = None
    error: str | None = None
    problems: tuple[str, ...] = ()


class TierReply(Reply):
    up_to_gib: int | None = None
    usd_per_gib: Decimal


class EgressReply(Reply):
    cluster: str
    destination: str
    tiers: tuple[TierReply, ...] = ()
    source: str = ""
    as_of: float | None = None


class PricesReply(Reply):
    now: float
    prices: tuple[PriceReply, ...]
    sources: tuple[SourceReply, ...] = ()
    egress: tuple[EgressReply, ...] = ()


def run(url: str, config: Path | None, *, as_json: bool) -> int:
    """Show the prices of all pools.

    Raises: CommandError or OverspillError, in one line, when there is nobody to ask.
    """

    async def look(once: OneLook) -> Any:
        await once.ask_prices()
        return once.gathered.prices()

    found = answer(url, config, "/api/v1/prices", look)
    if as_json:
        print_json(found)
    else:
        console().print(view(parse(PricesReply, found)))
    return 0


def view(reply: PricesReply) -> RenderableType:
    """Pools, what is unknown and why, the sources, and what traffic costs."""
    parts: list[RenderableType] = [_pools(reply)]
    parts += [
        Text(f"{one.cluster}/{one.pool}: unknown: {one.why_unknown}", style="yellow")
        for one in reply.prices
        if one.usd_per_hour is None
    ]
    if reply.sources:
        parts += [Text(), _sources(reply)]
    parts += [Text(f"{one.name}: {line}", style="yellow") for one in reply.sources for line in one.problems]
    if reply.egress:
        parts += [Text(), _egress(reply)]
    return Group(*parts)


def _pools(reply: PricesReply) -> RenderableType:
    table = wide_table(
        "Prices",
        ("pool", "left"),
        ("machine", "left"),
        ("capacity", "left"),
        ("$/h node", "right"),
        ("$/h GPU", "right"),
        ("source", "left"),
        ("age", "right"),
    )
    for one in reply.prices:
        stale = next((said for said in one.answers if said.state == "stale"), None)
        known = one.usd_per_hour is not None
        source, as_of = one.source or UNKNOWN, one.as_of
        amount = Text(_usd(one.usd_per_hour))
        if not known and stale is not None:
            # What is stale is shown, and that it is; planning does not go by it.
            amount, source, as_of = Text(f"({_usd(stale.usd_per_hour)})", style="yellow"), "stale", stale.as_of
        table.add_row(
            Text(f"{one.cluster}/{one.pool}"),
            Text(one.instance_type or UNKNOWN),
            one.capacity_type,
            amount,
            _usd(one.usd_per_gpu_hour),
            Text(source),
            age(as_of, reply.now) if as_of is not None else UNKNOWN,
        )
    return table


def _sources(reply: PricesReply) -> RenderableType:
    table = wide_table("Sources by precedence", ("source", "left"), ("read", "right"), ("", "left"))
    for one in reply.sources:
        state = Text(one.error or "ok", style="red" if one.error else "green")
        table.add_row(Text(one.name), age(one.read_at, reply.now), state)
    return table


def _egress(reply: PricesReply) -> RenderableType:
    """What leaving each member costs; where that is from in notes below, for the texts are long."""
    table = wide_table(
        "Egress",
        ("from", "left"),
        ("to", "left"),
        ("$ a GiB by volume in a month", "left"),
        ("age", "right"),
        ("note", "right"),
    )
    notes: dict[str, int] = {}
    for one in reply.egress:
        note = notes.setdefault(one.source, len(notes) + 1)
        table.add_row(
            Text(one.cluster), Text(one.destination), _tiers(one.tiers), age(one.as_of, reply.now), f"[{note}]"
        )
    return Group(table, *(Text(f"[{number}] {source}", style="dim") for source, number in notes.items()))


def _tiers(tiers: tuple[TierReply, ...]) -> Text:
    told = []
    for tier in tiers:
        upto = f" to {tier.up_to_gib:,} GiB" if tier.up_to_gib is not None else ""
        told.append(f"{tier.usd_per_gib.normalize():f}{upto}")
    return Text(", ".join(told) or UNKNOWN)


def _usd(amount: Decimal | None) -> str:
    return UNKNOWN if amount is None else f"{amount:.4f}"
