"""`overspill aiops`: how good detection is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scheduler.cli.output import UNKNOWN, console, print_error, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from scheduler.aiops.evaluation import Evaluation
    from scheduler.aiops.nab import Scored

app = typer.Typer(
    help="Anomaly detection over the fleet's series.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)

_SHORT = {"standard": "standard", "reward_low_FP_rate": "low_fp", "reward_low_FN_rate": "low_fn"}


@app.callback()
def aiops() -> None:
    """A group of commands."""


@app.command("evaluate", short_help="Score the detectors on labelled series, as NAB does.")
def evaluate_command(
    series: Annotated[Path, typer.Option("--series", help="Folder or tar archive of CSV files with timestamp,value.")],
    labels: Annotated[Path, typer.Option("--labels", help="JSON: file -> list of [start, end] of anomalies.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write NAB-shaped result files there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The last line of stdout is one JSON object.")] = False,
) -> int:
    """Score the detectors on labelled series by the Numenta Anomaly Benchmark's rules: one pass, one setting, one
    threshold for all files.

    Exits 0 when all was scored, 2 for input that cannot be used.
    """
    from scheduler.aiops.evaluation import evaluate, score_series
    from scheduler.aiops.nab import Scored
    from scheduler.cli.labelled_series import read_corpus, write_results

    corpus, left_out = read_corpus(series, labels)
    if left_out:
        print_error(f"{len(left_out)} files without labels are left out, such as {left_out[0]}")
    start = time.process_time()
    scores = score_series(corpus)
    spent = time.process_time() - start
    points = sum(len(one.values) for one in corpus)
    files = [Scored(one.name, score, one.windows) for one, score in zip(corpus, scores, strict=True)]
    found = evaluate(files)
    if out is not None:
        write_results(corpus, found.files, out)
        print_error(f"{len(corpus)} result files are in {out}")
    told = _described(found, points, spent)
    if as_json:
        print_json(told)
    else:
        console().print(_files_table(found))
        console().print(_scores_table(told))
        console().print(_summary(found, told))
    return 0


@app.command("inject", short_help="Plant faults into a fleet's telemetry and see what is found.")
def inject_command(
    scenario: Annotated[Path, typer.Option("--scenario", help="The scenario file (kind: FaultScenario).")],
    out: Annotated[Path | None, typer.Option("--out", help="Write faults.jsonl and incidents.jsonl there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The last line of stdout is one JSON object.")] = False,
) -> int:
    """Plant faults into the telemetry of a synthetic fleet, run rules, detectors and grouping over it, and count what
    they find. Touches no cluster.

    Exits 0 when it ran, 2 for a scenario that cannot be used.
    """
    from scheduler.cli import injection

    return injection.run(scenario, out=out, as_json=as_json)


def _described(found: Evaluation, points: int, seconds: float) -> dict[str, Any]:
    from scheduler.aiops.evaluation import tuned_on

    tuned = [file for file in found.files if tuned_on(file.name)]
    held_out = [file for file in found.files if not tuned_on(file.name)]
    return {
        "nab": _nab(found.files),
        "nab_tuning_half": _nab(tuned),
        "nab_held_out_half": _nab(held_out),
        "held_out_at_tuning_threshold": _transferred(tuned, held_out),
        "threshold": found.best["standard"].threshold,
        "precision": found.precision,
        "recall": found.recall,
        "median_delay_of_window": found.delay,
        "files": len(found.files),
        "windows": found.windows,
        "points": points,
        "us_per_point": round(seconds * 1e6 / points, 2),
        "by_file": [
            {"file": one.name, "windows": one.windows, "found": one.found, "false_alarms": one.false_alarms,
             "delays_of_window": list(one.delays)}
            for one in found.found
        ],
    }  # fmt: skip


def _nab(files: Sequence[Scored]) -> dict[str, float] | None:
    from scheduler.aiops.nab import PROFILES, best_threshold

    if not files:
        return None
    return {short: round(best_threshold(files, PROFILES[name]).normalised, 2) for name, short in _SHORT.items()}


def _transferred(tuned: Sequence[Scored], held_out: Sequence[Scored]) -> dict[str, float] | None:
    """The held-out half at the thresholds that are best on the other."""
    from scheduler.aiops.nab import PROFILES, best_threshold, score_at

    if not (tuned and held_out):
        return None
    return {
        short: round(score_at(held_out, PROFILES[name], best_threshold(tuned, PROFILES[name]).threshold), 2)
        for name, short in _SHORT.items()
    }


def _files_table(found: Evaluation) -> Table:
    from scheduler.cli.tables import wide_table

    table = wide_table(
        "Files", ("file", "left"), ("windows", "right"), ("found", "right"), ("false", "right"), ("delay", "right")
    )
    for one in found.found:
        delays = " ".join(f"{delay:.0%}" for delay in one.delays)
        table.add_row(one.name, str(one.windows), str(one.found), str(one.false_alarms), delays)
    return table


def _scores_table(told: dict[str, Any]) -> Table:
    from scheduler.cli.tables import wide_table

    table = wide_table("NAB score", ("files", "left"), *((short, "right") for short in _SHORT.values()))
    parts = {
        "all": "nab",
        "half that settings were tuned on": "nab_tuning_half",
        "other half": "nab_held_out_half",
        "other half at the first's threshold": "held_out_at_tuning_threshold",
    }
    for text, key in parts.items():
        if told[key] is not None:
            table.add_row(text, *(f"{told[key][short]:.1f}" for short in _SHORT.values()))
    return table


def _summary(found: Evaluation, told: dict[str, Any]) -> str:
    return (
        f"{found.windows} windows: recall {_share(found.recall)}, precision {_share(found.precision)}, median delay "
        f"{_share(found.delay)} of the window; {told['points']} points, {told['us_per_point']:g} us of CPU each"
    )


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"
