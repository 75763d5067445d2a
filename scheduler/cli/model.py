"""`overspill model`: how good the learned predictions are, on a measured log."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from scheduler.cli.output import CommandError, console, print_json

app = typer.Typer(
    help="The learned model of durations, serving and throughput.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
_HOUR: Final = 3600.0


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
    holdout: Annotated[
        str,
        typer.Option(
            "--holdout", help="What is unknown of a speed asked for: pair, pair-batch, two, two-batch, model."
        ),
    ] = "pair",
    seed: Annotated[int, typer.Option("--seed", help="Draws the two of --holdout two and two-batch.", min=0)] = 1,
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
    if throughput is not None:
        from scheduler.cli.model_throughput import evaluate_throughput

        chosen.append(lambda: evaluate_throughput(throughput, holdout, seed))
    if len(chosen) != 1:
        raise CommandError("name one file to evaluate on: --durations, --serving or --throughput", exit_code=2)
    found = chosen[0]()
    if as_json:
        print_json(found)
    else:
        console().print(_table(found))
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
    """p95 of each interval from what was known an hour before; columns t_s and e2e_p95_ms."""
    import numpy as np

    from scheduler.predict.scores import scores
    from scheduler.predict.serving import forecast_p95_ms
    from scheduler.simulate.table import open_table

    points = sorted(
        (row.number("t_s"), value)
        for row in open_table(path).rows()
        if (value := row.optional("e2e_p95_ms", least=1e-6)) is not None
    )
    said: dict[str, list[float]] = {"model": [], "last_value": [], "seasonal_naive": []}
    actual: list[float] = []
    past: deque[tuple[float, float]] = deque()
    upto = seasons = 0
    for at, value in points:
        while upto < len(points) and points[upto][0] <= at - _HOUR:
            past.append(points[upto])
            upto += 1
        forecast = forecast_p95_ms([p95 for _, p95 in past])
        if forecast is None:
            continue
        said["model"].append(forecast)
        said["last_value"].append(past[-1][1])
        # A log shorter than two days has no day before; the hour of the cycle is then an hour ago.
        season = at - 24 * _HOUR
        seasons += past[0][0] <= season
        said["seasonal_naive"].append(
            min(past, key=lambda one: abs(one[0] - season))[1] if past[0][0] <= season else past[-1][1]
        )
        actual.append(value)
    if len(actual) < 2:
        raise CommandError(f"{path}: no interval has another one an hour before it; give a longer log", exit_code=2)
    rated = {name: scores(np.array(values), np.array(actual)) for name, values in said.items()}
    found = {"intervals": len(actual), **rated.pop("model"), "baselines": rated}
    if seasons == 0:
        found["note"] = "the log does not reach back a day from any interval: seasonal_naive is the last value"
    return found


def _table(found: dict[str, Any]) -> Any:
    from rich.table import Table

    columns = ("median_ape", "mean_ape", "rmsle", "within_2x", "concordance", "coverage_90")
    table = Table("model", *columns)
    for name, one in [("learned", found), *found["baselines"].items()]:
        table.add_row(name, *(f"{one[key]:.3f}" if math.isfinite(one.get(key, math.nan)) else "-" for key in columns))
    groups = found.get("coverage_90_by_gpu") or found.get("coverage_90_by_queue")
    if groups:
        held = ", ".join(f"{name} {100 * share:.1f} %" for name, share in groups.items())
        table.caption = f"90 % intervals hold: {held}"
    return table
