"""How a demo ended: the figures, as one JSON object and as a table. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from rich.table import Table
from rich.text import Text

from scheduler.cli.demo.invariants import Invariants, Violation
from scheduler.cli.demo.service_day import ServiceDay
from scheduler.cli.output import UNKNOWN, duration, usd
from scheduler.model.money import to_cents


@dataclass(frozen=True, slots=True)
class Summary:
    submitted: int
    finished: int
    lost: int
    duplicated: int
    bursts: int
    returns: int
    bought_nodes_left: int
    violations: tuple[Violation, ...]
    spend_usd: Decimal
    """The daemon's ledger."""
    metered_usd: Decimal
    """The sandbox's bill."""
    waits_seconds: tuple[float, ...]
    """Submitted to running, virtual, of every job that ran."""
    wall_seconds: float
    virtual_seconds: float
    copy_latencies_seconds: tuple[float, ...]
    """Submitted to its copy seen, wall, of the jobs that were neither held nor waited for bought machines."""
    daemon_rss_mib: float | None
    aborted: str | None = None
    """Why the run was cut short, when it was."""
    notes: tuple[str, ...] = field(default=())
    service: ServiceDay | None = None
    """None: no service was under load."""
    promised: bool = True
    """Whether the whole demo ran, under its own policies: others may promise the service nothing."""

    @property
    def ok(self) -> bool:
        """Every job finished exactly once, nothing was broken, and what the service was promised was kept."""
        return not (
            self.aborted
            or self.lost
            or self.duplicated
            or self.violations
            or self.bought_nodes_left
            or self.finished != self.submitted
            or (self.promised and self.service is not None and not self.service.kept)
        )

    def as_json(self) -> dict[str, Any]:
        """For the last line of `overspill demo --json`."""
        return {
            "ok": self.ok,
            "jobs": {
                "submitted": self.submitted,
                "finished": self.finished,
                "lost": self.lost,
                "duplicated": self.duplicated,
            },
            "bursts": self.bursts,
            "returns": self.returns,
            "bought_nodes_left": self.bought_nodes_left,
            "invariant_violations": len(self.violations),
            "violations": [{"kind": one.kind, "text": one.text} for one in self.violations],
            "spend_usd": str(to_cents(self.spend_usd)),
            "metered_usd": str(to_cents(self.metered_usd)),
            "wait_p50_seconds": _rounded(percentile(self.waits_seconds, 0.50), 1),
            "wait_p95_seconds": _rounded(percentile(self.waits_seconds, 0.95), 1),
            "wall_seconds": round(self.wall_seconds, 1),
            "virtual_seconds": round(self.virtual_seconds, 1),
            "submit_to_copy_p50_ms": _rounded(percentile(self.copy_latencies_seconds, 0.50), 1, 1000),
            "submit_to_copy_p99_ms": _rounded(percentile(self.copy_latencies_seconds, 0.99), 1, 1000),
            "daemon_rss_mib": _rounded(self.daemon_rss_mib, 1),
            "aborted": self.aborted,
            "service": None if self.service is None else self.service.as_json(),
        }

    def table(self) -> Table:
        """For people."""
        table = Table(title="Summary", title_justify="left", title_style="bold", box=None, show_header=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for name, text in self.rows():
            table.add_row(name, text)
        return table

    def rows(self) -> list[tuple[str, Text]]:
        """What was reached, by name; what belongs to the row before has none."""
        jobs = f"{self.finished} of {self.submitted} finished, {self.lost} lost, {self.duplicated} ran twice"
        good = self.finished == self.submitted and not self.lost and not self.duplicated
        waits = " / ".join(duration(percentile(self.waits_seconds, share)) for share in (0.5, 0.95))
        left = f"{self.bought_nodes_left} left" if self.bought_nodes_left else "none left"
        rows = [
            ("jobs", Text(jobs, style="green" if good else "red")),
            ("wait, median / 95 %", Text(f"{waits} (submitted to running)")),
            ("bursts", Text(f"{self.bursts} jobs ran on machines bought for them")),
            ("returns", Text(f"{self.returns} bought machines given back, {left}")),
        ]
        if self.service is not None:
            style = "green" if self.service.kept else "red" if self.promised else "yellow"
            rows.append(("service", Text(self.service.text(), style=style)))
        spend = f"{usd(self.spend_usd)} by the daemon's ledger, {usd(self.metered_usd)} on the bill"
        rows += [("spend", Text(spend)), ("invariants", self._invariants_text())]
        rows += [("", Text(f"{one.kind}: {one.text}", style="red")) for one in self.violations[:8]]
        copies = [percentile(self.copy_latencies_seconds, share) for share in (0.5, 0.99)]
        latency = " / ".join(UNKNOWN if value is None else f"{value * 1000:.0f} ms" for value in copies)
        memory = UNKNOWN if self.daemon_rss_mib is None else f"{self.daemon_rss_mib:.0f} MiB"
        took = f"{duration(self.virtual_seconds)} of the federation in {duration(self.wall_seconds)}"
        rows += [
            ("submit to copy", Text(f"{latency} (median / 99 %, of jobs that could start at once)")),
            ("daemon memory", Text(memory)),
            ("time", Text(took)),
        ]
        rows += [("", Text(note, style="yellow")) for note in self.notes]
        if self.aborted:
            rows.append(("cut short", Text(self.aborted, style="red")))
        return rows

    def _invariants_text(self) -> Text:
        if not self.violations:
            return Text("none broken", style="green")
        return Text(f"{len(self.violations)} broken", style="red")


def job_counts(invariants: Invariants, submitted: frozenset[str]) -> tuple[int, int, int]:
    """(finished exactly once, lost, ran twice) of the submitted hub Jobs, by UID."""
    complete = {uid for uid in submitted if (record := invariants.hub.get(uid)) is not None and record.complete}
    twice = submitted & invariants.duplicated
    return len(complete - twice), len(submitted - complete), len(twice)


def wait_seconds(invariants: Invariants, submitted: frozenset[str]) -> tuple[float, ...]:
    """From submission to all pods running (virtual), for each submitted job that ran."""
    return tuple(
        max(0.0, at - invariants.hub[uid].created_at)
        for uid, at in sorted(invariants.running_at.items())
        if uid in submitted and uid in invariants.hub
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); None of no values."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _rounded(value: float | None, digits: int, scale: float = 1.0) -> float | None:
    return None if value is None else round(value * scale, digits)
