"""`overspill explain`: where a workload is and why, from what was recorded with the decision."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from scheduler.cli.api import CandidateReply, DecisionReply, ExplainReply, fetch, parse_explain
from scheduler.cli.division_view import division_parts
from scheduler.cli.output import UNKNOWN, console, duration, print_json, usd

_HISTORY = 12


def run(workload: str, url: str, *, as_json: bool) -> int:
    """Show why `workload` is where it is.

    Raises: CommandError when there is no daemon at `url` or it knows no such workload.
    """
    answer = fetch(url, "/api/v1/explain", workload=workload)
    if as_json:
        print_json(answer)
        return 0
    console().print(view(parse_explain(answer)))
    return 0


def view(explained: ExplainReply) -> RenderableType:
    """The sentence, the choice and its alternatives, the refusals, the history."""
    workload = explained.workload
    head = Text(f"{workload.kind}/{workload.namespace}/{workload.name}", style="bold")
    head.append(f"  queue {workload.queue}, priority {workload.priority}", style="default")
    if workload.phase:
        head.append(f", {workload.phase}", style="cyan")
    parts: list[RenderableType] = [head]
    if workload.placement is not None:
        place = workload.placement
        bought = ", bought for it" if place.bought else ""
        parts.append(Text(f"on {place.cluster}/{place.pool} ({place.capacity_type}{bought}), {place.state}"))
    parts += _outlook(explained)
    if explained.division is not None:
        parts += division_parts(explained.division)
        if explained.decisions:
            parts += [Text(), _history(explained.decisions)]
        return Group(*parts)
    if not explained.decisions:
        parts.append(Text(workload.condition or "no decision is recorded yet", style="yellow"))
        return Group(*parts)
    telling = next((one for one in explained.decisions if one.chosen is not None), explained.decisions[0])
    parts.append(Text(explained.decisions[0].sentence, style="yellow"))
    parts += _decision_parts(telling)
    parts += [Text(), _history(explained.decisions)]
    return Group(*parts)


def _outlook(explained: ExplainReply) -> list[RenderableType]:
    """How far it is, or how long it is expected to wait."""
    lines: list[RenderableType] = []
    told = explained.progress
    if told is not None and told.done is not None:
        left = None if not told.per_second else (1.0 - told.done) / told.per_second
        lines.append(Text(f"{100 * told.done:.0f} % done, about {duration(left)} left, by its own metric"))
    elif told is not None and told.begun > 0:
        lines.append(Text(f"{100 * told.begun:.0f} % of its work is done and kept"))
    if explained.cost is not None:
        cost = explained.cost
        parts = " + ".join(f"{name} {usd(each)}" for name, each in cost.expected_parts.items() if each)
        told_cost = f"expected to cost {usd(cost.expected_usd)} ({parts}), 9 in 10 under {usd(cost.p90_usd)}"
        lines.append(Text(f"{told_cost}; paid so far {usd(cost.paid_usd)}"))
    for wait in explained.waits:
        times = f"about {duration(wait.expected_seconds)}, 9 in 10 under {duration(wait.p90_seconds)}"
        lines.append(Text(f"would wait for {wait.cluster}'s own capacity {times} ({wait.observed} waits seen)"))
    return lines


def _decision_parts(decision: DecisionReply) -> list[RenderableType]:
    policy = f"policy {decision.policy or UNKNOWN}"
    if decision.policy_digest:
        policy += f" (set {decision.policy_digest[:12]})"
    parts: list[RenderableType] = [Text(), Text(f"Decision {_when(decision.at)}: {decision.outcome}, {policy}")]
    offerings = ([decision.chosen] if decision.chosen else []) + [
        one for one in decision.alternatives if decision.chosen is None or one.pool != decision.chosen.pool
    ]
    weighed = [one for one in offerings if not one.refused]
    if weighed:
        parts.append(_offerings(weighed, decision.chosen))
        parts += _cost_lines(weighed)
    if decision.wait is not None:
        wait = decision.wait
        told = f"  waiting for {wait.pool}: about {duration(wait.expected_wait_seconds)}"
        parts.append(Text(f"{told}, ${wait.expected_cost_usd:,.2f} with the time until it is done"))
    if decision.binding:
        parts += [Text(), Text("What binds, and what one more would be worth", style="bold")]
        parts += [Text(f"  {one.name} {one.resource}: {one.worth_usd:,.4f} {one.meaning}") for one in decision.binding]
    if decision.refused or len(weighed) < len(offerings):
        parts += [Text(), Text("Why the rest did not fit", style="bold")]
    parts += [Text(f"  {count} x {reason.text} ({reason.code})") for reason, count in decision.refused]
    for one in offerings:
        if one.refused:
            reasons = "; ".join(reason.text for reason in one.refused)
            parts.append(Text(f"  {one.pool}: {reasons}", style="dim"))
    return parts


def _cost_lines(offerings: list[CandidateReply]) -> list[RenderableType]:
    """What the total cost of each offering is made of, where the policy values time."""
    lines: list[RenderableType] = []
    for one in offerings:
        if one.cost_parts:
            told = " + ".join(f"{part.name} ${part.usd:,.2f}" for part in one.cost_parts)
            lines.append(Text(f"  {one.pool}: {told}", style="dim"))
    return [Text(), Text("Cost in parts", style="bold"), *lines] if lines else []


def _offerings(offerings: list[CandidateReply], chosen: CandidateReply | None) -> Table:
    """The offerings that would do, best first as they were ranked."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True, min_width=2)
    table.add_column("offering", no_wrap=True, overflow="ellipsis")
    table.add_column("capacity", no_wrap=True)
    for heading in ("score", "cost", "starts in", "runs", "new"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in offerings:
        table.add_row(
            Text("->" if chosen is not None and one.pool == chosen.pool else "", style="green"),
            Text(one.pool),
            one.capacity_type,
            UNKNOWN if one.score is None else f"{one.score:,.2f}",
            usd(one.expected_cost_usd),
            duration(one.expected_start_seconds),
            duration(one.expected_seconds),
            str(one.new_nodes) if one.availability is None else f"{one.new_nodes} ({100 * one.availability:.0f} %)",
        )
    return table


def _history(decisions: tuple[DecisionReply, ...]) -> Table:
    table = Table(
        title="History", title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False
    )
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for decision in decisions[:_HISTORY]:
        table.add_row(_when(decision.at), decision.outcome, Text(decision.sentence))
    if len(decisions) > _HISTORY:
        table.add_row("", "", Text(f"... and {len(decisions) - _HISTORY} earlier ones (see --json)", style="dim"))
    return table


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%m-%d %H:%M:%S")
