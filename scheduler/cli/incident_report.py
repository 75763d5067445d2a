"""What `overspill incidents` shows, asked of the daemon."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

from rich.table import Table
from rich.text import Text

from scheduler.cli.api import Reply, fetch, parse
from scheduler.cli.output import CommandError, console, print_json
from scheduler.cli.switches import check_id
from scheduler.cli.tables import wide_table


class SubjectReply(Reply):
    cluster: str | None = None
    pool: str | None = None
    node: str | None = None
    gpu: str | None = None
    workload: str | None = None

    def __str__(self) -> str:
        parts = (self.cluster, self.node or self.pool, self.gpu, None if self.node else self.workload)
        return "/".join(part for part in parts if part) or "-"


class NoteReply(Reply):
    action: str
    reason: str
    text: str


class RemedyReply(Reply):
    action: str
    policy: str
    began_at: float
    ended_at: float | None = None
    outcome: str | None = None


class IncidentReply(Reply):
    id: str
    kind: str = ""
    severity: str = ""
    state: str
    opened_at: float | None = None
    subject: SubjectReply = SubjectReply()
    policy: str | None = None
    phase: str | None = None
    action: str | None = None
    notes: tuple[NoteReply, ...] = ()
    remedies: tuple[RemedyReply, ...] = ()


class BreakerReply(Reply):
    policy: str
    family: str
    cause: str


class PastIncidentReply(Reply):
    id: str
    kind: str
    severity: str
    opened_at: float
    subject: str = ""
    ended_at: float | None = None
    outcome: str | None = None
    gpu_hours_at_risk: float | None = None
    usd_at_risk: str | None = None
    gpu_hours_saved: float | None = None
    usd_saved: str | None = None


class PastReply(Reply):
    past: tuple[PastIncidentReply, ...] = ()
    gpu_hours_saved: float = 0.0
    usd_saved: str | None = None


class IncidentsReply(Reply):
    paused: bool
    bursting_paused: bool
    switches_error: str = ""
    incidents: tuple[IncidentReply, ...] = ()
    breakers: tuple[BreakerReply, ...] = ()
    quarantined_pools: tuple[str, ...] = ()
    quarantined_clusters: tuple[str, ...] = ()


def show_all(url: str, *, as_json: bool) -> int:
    """`overspill incidents list`."""
    answer = fetch(url, "/api/v1/incidents")
    if as_json:
        print_json(answer)
        return 0
    told = parse(IncidentsReply, answer)
    screen = console()
    for line in bounds(told):
        screen.print(Text(line, style="yellow"))
    screen.print(_table(told) if told.incidents else Text("no incidents"))
    return 0


def show_past(url: str, days: float, *, as_json: bool) -> int:
    """`overspill incidents list --history`."""
    answer = fetch(url, f"/api/v1/incidents?days={days}")
    if as_json:
        print_json(answer)
        return 0
    told = parse(PastReply, answer)
    screen = console()
    if not told.past:
        screen.print(Text(f"no incidents in the last {days:g} days"))
        return 0
    screen.print(_past_table(told))
    screen.print(Text(summary(told)))
    return 0


def summary(told: PastReply) -> str:
    """What all of them came to, in a line."""
    ended = Counter(each.outcome for each in told.past if each.outcome is not None)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(ended.items())) or "none ended"
    usd = "" if told.usd_saved is None else f", {told.usd_saved} USD"
    return f"{len(told.past)} incidents: {counts}; saved {told.gpu_hours_saved:.1f} GPU-hours{usd}"


def show_one(url: str, incident: str, *, as_json: bool) -> int:
    """`overspill incidents show`."""
    answer = _one(url, incident)
    if as_json:
        print_json(answer)
        return 0
    screen = console()
    for line in lines(parse(IncidentReply, answer)):
        screen.print(Text(line))
    return 0


def waiting(url: str, incident: str) -> str:
    """The action that waits for approval. Raises: CommandError when none does."""
    told = parse(IncidentReply, _one(url, incident))
    found = next((note.action for note in told.notes if note.reason == "ApprovalNeeded"), None)
    if found is None:
        raise CommandError(f"nothing waits for approval of incident {told.id}; name an action with --action")
    return found


def bounds(told: IncidentsReply) -> list[str]:
    """What keeps the remedies from acting, a line each."""
    found = []
    if told.paused:
        why = f" (the switches cannot be read: {told.switches_error})" if told.switches_error else ""
        found.append(f"remediation is paused{why}")
    if told.bursting_paused:
        found.append("bursting is paused")
    found += [f"breaker open: policy {each.policy}, {each.family} ({each.cause})" for each in told.breakers]
    closed = (*told.quarantined_pools, *told.quarantined_clusters)
    return [*found, *([f"quarantined: {', '.join(closed)}"] if closed else [])]


def lines(told: IncidentReply) -> list[str]:
    """One incident and its course."""
    found = [f"{told.id}  {told.kind}  {told.severity}  {told.state}  on {told.subject}"]
    if told.opened_at is not None:
        found.append(f"opened {_when(told.opened_at)}")
    if told.policy:
        found.append(f"policy {told.policy}: {told.phase}, step {told.action or 'none left'}")
    for remedy in reversed(told.remedies):
        ended = f"{remedy.outcome} {_when(remedy.ended_at)}" if remedy.ended_at is not None else "under way"
        found.append(f"  {_when(remedy.began_at)}  {remedy.action} (policy {remedy.policy}): {ended}")
    return [*found, *(f"  not {note.action or 'remedied'}: {note.reason}, {note.text}" for note in told.notes)]


def _one(url: str, incident: str) -> Any:
    check_id(incident)
    return fetch(url, f"/api/v1/incidents/{incident}")


def _table(told: IncidentsReply) -> Table:
    headings = ("id", "signal", "severity", "on", "state", "now")
    table = wide_table("incidents", *((heading, "left") for heading in headings))
    for each in told.incidents:
        note = each.notes[0] if each.notes else None
        doing = f"{each.phase} {each.action or ''}".strip() if each.phase else ""
        why = f"{note.reason}: {note.text}" if note is not None else ""
        now = "; ".join(part for part in (doing, why) if part)
        table.add_row(each.id, each.kind, each.severity, str(each.subject), each.state, now)
    return table


def _past_table(told: PastReply) -> Table:
    left, right = ("id", "signal", "severity", "on", "opened", "ended"), ("at risk", "saved")
    columns = [
        *((heading, "left") for heading in left),
        ("outcome", "left"),
        *((heading, "right") for heading in right),
    ]
    table = wide_table("incidents of the past", *columns)
    for each in told.past:
        table.add_row(
            each.id, each.kind, each.severity, each.subject, _when(each.opened_at),
            _when(each.ended_at) if each.ended_at is not None else "-", each.outcome or "goes on",
            _worth(each.gpu_hours_at_risk, each.usd_at_risk), _worth(each.gpu_hours_saved, each.usd_saved),
        )  # fmt: skip
    return table


def _worth(gpu_hours: float | None, usd: str | None) -> str:
    parts = [f"{gpu_hours:.1f} GPU h" if gpu_hours is not None else "", f"{usd} USD" if usd is not None else ""]
    return ", ".join(part for part in parts if part) or "-"


def _when(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
