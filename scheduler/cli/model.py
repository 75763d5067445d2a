"""`overspill model`: how good the learned predictions are, on a measured log."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from scheduler.cli.output import CommandError, console, print_json

app = typer.Typer(
    help="The learned model of durations, serving and throughput.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


@app.command("evaluate")
def evaluate_command(
    durations: Annotated[
        Path | None, typer.Option("--durations", help="A log of runs, CSV or .csv.gz (docs/model.md: formats).")
    ] = None,
    serving: Annotated[
        Path | None, typer.Option("--serving", help="Latency by time, CSV or .csv.gz (docs/model.md: formats).")
    ] = None,
    throughput: Annotated[
        Path | None, typer.Option("--throughput", help="Measured speeds, CSV or .csv.gz (docs/model.md: formats).")
    ] = None,
    colocation: Annotated[
        Path | None,
        typer.Option(
            "--colocation",
            help="Two workloads on one GPU, CSV or .csv.gz; their speeds alone in --throughput.",
        ),
    ] = None,
    holdout: Annotated[
        str,
        typer.Option(
            "--holdout",
            help="What is unknown of a speed asked for: pair, pair-batch, two, two-batch, model; of two workloads on "
            "one GPU: pair, pair-batch, model.",
        ),
    ] = "pair",
    seed: Annotated[int, typer.Option("--seed", help="Draws what is held out, where it is drawn.", min=0)] = 1,
    from_day: Annotated[
        float, typer.Option("--from-day", help="Report runs submitted from this day on; all are learned from.", min=0)
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Predict a log as it happened, or what is held out of a table of speeds, and say how far off that was."""
    chosen: list[Callable[[], dict[str, Any]]] = []
    if durations is not None:
        from scheduler.cli.model_durations import evaluate_durations

        chosen.append(lambda: evaluate_durations(durations, from_day))
    if serving is not None:
        chosen.append(lambda: evaluate_serving(serving))
    if colocation is not None:
        from scheduler.cli.model_colocation import evaluate_colocation

        chosen.append(lambda: evaluate_colocation(colocation, throughput, holdout, seed))
    elif throughput is not None:
        from scheduler.cli.model_throughput import evaluate_throughput

        chosen.append(lambda: evaluate_throughput(throughput, holdout, seed))
    if len(chosen) != 1:
        raise CommandError(
            "name one file to evaluate on: --durations, --serving, --throughput or --colocation", exit_code=2
        )
    found = chosen[0]()
    if as_json:
        print_json(found)
    else:
        console().print(_table(found))
        if held := _held(found):
            console().print(held)
        if found.get("remaining"):
            console().print(_remaining_table(found["remaining"]))
        if "note" in found:
            console().print(found["note"])
    return 0


@app.command("show")
def show_command(
    config: Annotated[Path, typer.Option("--config", help="The federation file: its history is read.")],
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Write error and coverage by day as one HTML file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """What the daemon has learned: how far off its run times were, by queue and GPU model, and what pools do."""
    from scheduler.cli import model_show

    return model_show.run(config, plot, as_json=as_json)


@app.command("export")
def export_command(
    throughput: Annotated[Path, typer.Option("--throughput", help="Measured speeds, CSV or .csv.gz.")],
    out: Annotated[Path, typer.Option("--out", help="The ONNX file to write.")],
) -> int:
    """Fit the throughput model to a table and write it as ONNX."""
    from scheduler.cli.model_throughput import export_throughput

    console().print(export_throughput(throughput, out))
    return 0


def evaluate_serving(path: Path) -> dict[str, Any]:
    """p95 of each interval from what was known an hour before."""
    from scheduler.cli.model_serving import evaluate_serving as evaluate

    return evaluate(path)


def _table(found: dict[str, Any]) -> Any:
    columns = ("median_ape", "mean_ape", "rmsle", "within_2x", "concordance", "coverage_90")
    table = _scores_table(("model",), columns)
    for name, one in [("learned", found), *found["baselines"].items()]:
        table.add_row(name, *(_number(one.get(key)) for key in columns))
    return table


def _remaining_table(found: dict[str, Any]) -> Any:
    from scheduler.cli.output import duration

    columns = ("median_ape", "mean_log_error", "coverage_90")
    table = _scores_table(("gone_on for", "runs", "what is_left, by"), columns)
    for age, one in found.items():
        for name, row in [("learned", one), *one["baselines"].items()]:
            table.add_row(duration(float(age)), str(one["runs"]), name, *(_number(row.get(key)) for key in columns))
    return table


def _scores_table(names: Iterable[str], columns: Iterable[str]) -> Any:
    """Heads are broken where they have an underscore, and there is no frame: in 80 columns no word is cut off."""
    from rich.box import SIMPLE
    from rich.table import Column, Table

    heads = (Column(name.replace("_", "\n"), no_wrap=True) for name in (*names, *columns))
    return Table(*heads, box=SIMPLE, padding=(0, 1, 0, 0))


def _number(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else "-"


def _held(found: dict[str, Any]) -> str:
    """By GPU or by queue; nothing where it is not known by any."""
    by = "gpu" if "coverage_90_by_gpu" in found else "queue"
    groups, errors = found.get(f"coverage_90_by_{by}"), found.get(f"coverage_90_standard_error_by_{by}", {})
    if not groups:
        return ""
    off = {name: f" ± {100 * error:.1f}" for name, error in errors.items()}
    held = ", ".join(f"{name} {100 * share:.1f}{off.get(name, '')} %" for name, share in groups.items())
    return f"90 % intervals hold: {held}"
