"""What `overspill simulate` shows: a bar while it works, tables at the end, the JSON object."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from scheduler.cli.output import UNKNOWN, console, duration, print_error
from scheduler.simulate.comparison import Change, Standing, changes, comparison_json, gap_percent, savings, standings
from scheduler.simulate.measures import Measures
from scheduler.simulate.study import Findings, Run
from scheduler.simulate.study import Progress as ToldProgress

BOUND = "clairvoyant-bound"


@contextmanager
def shown_progress(runs: int) -> Iterator[ToldProgress]:
    """A bar on standard error for the run and for all of them; a line a run where that is no terminal."""
    if not sys.stderr.isatty():
        yield _line_by_line(runs)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as bars:
        whole = bars.add_task("runs", total=runs)
        one = bars.add_task("", total=100)

        def tell(index: int, name: str, done: float) -> None:
            bars.update(whole, completed=index)
            bars.update(one, description=name[:40], completed=round(100 * done))

        yield tell


def _line_by_line(runs: int) -> ToldProgress:
    told: set[int] = set()

    def tell(index: int, name: str, done: float) -> None:
        if index not in told:
            told.add(index)
            print(f"run {index + 1} of {runs}: {name}", file=sys.stderr, flush=True)

    return tell


def findings_json(findings: Findings, about: Mapping[str, Any]) -> dict[str, Any]:
    """The whole object: `about` (what was replayed), `runs`, `comparison`. No wall time is in it."""
    runs = [_run_json(run) for run in findings.runs]
    if findings.bound is not None:
        empty = dict.fromkeys(runs[0]) if runs else {}
        runs += [
            empty
            | {
                "name": BOUND,
                "kind": "bound",
                "seed": seed,
                "total_cost_usd": round(findings.bound.total_cost_usd, 6),
                "cloud_spend_usd": round(findings.bound.cloud_spend_usd, 6),
            }
            for seed in findings.study.seeds
        ]
    return {**about, "runs": runs, "comparison": comparison_json(findings)}


def _run_json(run: Run) -> dict[str, Any]:
    contender = run.contender
    return {
        **run.measures.as_json(),
        "baseline": contender.family if contender.kind == "baseline" else None,
        "setting": contender.setting or None,
        "comparable": run.comparable,
        "broken_budgets": list(run.broken_budgets),
        "unfinished": [
            {"why": each.why, "jobs": each.jobs, "examples": list(each.examples)} for each in run.unfinished
        ],
    }


def tables(findings: Findings) -> RenderableType:
    """Means over the seeds of every policy set and baseline, and what the policy sets save."""
    all_of_them = standings(findings)
    parts: list[RenderableType] = [_measures_table(all_of_them, findings)]
    further = changes(all_of_them)
    if further:
        parts.append(_changes_table(further))
    if not further or any(one.kind == "baseline" for one in all_of_them):
        parts += [_savings_table(one, all_of_them) for one in all_of_them if one.kind == "policy"]
    return Group(*[part for table in parts for part in (table, Text())][:-1])


def _measures_table(all_of_them: tuple[Standing, ...], findings: Findings) -> Table:
    seeds = len(findings.study.seeds)
    title = f"Mean of {seeds} seeds" if seeds > 1 else f"Seed {findings.study.seeds[0]}"
    table = _table(title)
    table.add_column("", no_wrap=True, min_width=1)
    table.add_column("run", no_wrap=True, overflow="ellipsis", min_width=12)
    for heading in ("total $", "cloud $", "wait", "p95", "done in", "late", "use", "gap"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in all_of_them:
        mark = "*" if one.best and one.kind == "baseline" else ""
        style = "bold" if one.kind == "policy" else ("" if one.best else "dim")
        table.add_row(mark, Text(one.name), *_cells(one, findings), style=style)
    if findings.bound is not None:
        bound = findings.bound
        table.add_row("", BOUND, _usd(bound.total_cost_usd), _usd(bound.cloud_spend_usd), style="cyan")
    return table


def _cells(one: Standing, findings: Findings) -> list[str]:
    use, gap = one.mean("gpu_utilization"), gap_percent(one, findings)
    late = one.mean("deadline_misses")
    unfinished = max(len(run.unfinished) for run in one.runs)
    return [
        _usd(one.mean("total_cost_usd")) + ("?" if not one.comparable else ""),
        _usd(one.mean("cloud_spend_usd")),
        duration(one.mean("wait_mean_seconds")),
        duration(one.mean("wait_p95_seconds")),
        "unfinished" if unfinished else duration(one.mean("completion_mean_seconds")),
        UNKNOWN if late is None else f"{late:.0f}",
        UNKNOWN if use is None else f"{100 * use:.0f}%",
        UNKNOWN if gap is None else f"{gap:+.0f}%",
    ]


def _changes_table(further: Sequence[Change]) -> Table:
    table = _table(f"What changes from {further[0].first}")
    table.add_column("to", no_wrap=True, overflow="ellipsis")
    for heading in ("total $", "cloud $", "wait", "p95 wait"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in further:
        table.add_row(
            Text(one.name), _signed_usd(one.total_cost_usd), _signed_usd(one.cloud_spend_usd),
            _signed_duration(one.wait_mean_seconds), _signed_duration(one.wait_p95_seconds),
        )  # fmt: skip
    return table


def _savings_table(policy: Standing, all_of_them: tuple[Standing, ...]) -> RenderableType:
    found = savings(policy, all_of_them)
    if not found:
        return Text("no baseline to compare with (--baseline all)", style="dim")
    table = _table(f"What {policy.name} saves")
    table.add_column("against", no_wrap=True, overflow="ellipsis")
    for heading in ("mean", "least", "most", "USD", "p95 wait"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in found:
        table.add_row(
            Text(each.baseline), _percent(each.mean_percent), _percent(each.least_percent), _percent(each.most_percent),
            _usd(each.mean_usd), _signed_duration(each.p95_wait_seconds),
        )  # fmt: skip
    return table


def tell_trouble(findings: Findings) -> bool:
    """What a reader of the figures must know, a line each on standard error; whether a replay could not finish."""
    unfinished = False
    for run in findings.runs:
        label = f"{run.contender.name}, seed {run.measures.seed}"
        for each in run.unfinished[:3]:
            unfinished = True
            print_error(f"{label}: {each.jobs} jobs never ended ({', '.join(each.examples[:3])}): {each.why}")
        if run.broken_budgets:
            print_error(
                f"{label}: {_budget_windows(run.measures)} over their limit: {', '.join(run.broken_budgets[:3])}"
            )
        if run.measures.unpriced_gpu_hours:
            hours = run.measures.unpriced_gpu_hours
            print_error(f"{label}: {hours:.1f} GPU-hours were bought at an unknown price; not compared")
    return unfinished


def _budget_windows(measures: Measures) -> str:
    return f"{measures.budgets_broken} budget window{'' if measures.budgets_broken == 1 else 's'}"


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False,
        header_style="dim",
    )  # fmt: skip


def _usd(amount: float | None) -> str:
    return UNKNOWN if amount is None else f"{amount:,.0f}" if abs(amount) >= 100 else f"{amount:,.2f}"


def _signed_usd(amount: float | None) -> str:
    return UNKNOWN if amount is None else ("-" if amount < 0 else "+") + _usd(abs(amount))


def _percent(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:+.1f}%"


def _signed_duration(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    return ("-" if seconds < 0 else "+") + duration(abs(seconds))
