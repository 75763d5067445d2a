"""A table of measured speeds, evaluated: read, held out, foretold, scored beside the baselines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scheduler.cli.output import CommandError
from scheduler.model.traits import NO_TRAITS, Traits
from scheduler.predict.scores import scores, standard_error
from scheduler.predict.throughput import Configuration
from scheduler.predict.throughput_fit import fit
from scheduler.predict.throughput_onnx import to_onnx
from scheduler.predict.throughput_trial import HOLDOUTS, Outcome, all_but_one, evaluate
from scheduler.simulate.table import Table, open_table

Floats = NDArray[np.float64]
_COLUMNS: Final = ("model", "batch_size", "scale_factor", "gpu", "consolidated", "steps_per_s")
_TRAITS: Final = ("parameters", "sequence_length", "precision", "framework")
_MOST_ROWS: Final = 1_000


def evaluate_throughput(path: Path, holdout: str, seed: int) -> dict[str, Any]:
    """Scores of the model and of each baseline. Raises: CommandError, InvalidObjectError."""
    if holdout not in HOLDOUTS:
        raise CommandError(f"--holdout: no {holdout!r}; there are {', '.join(HOLDOUTS)}", exit_code=2)
    source = open_table(path)
    table, traits = read_speeds(source), read_traits(source)
    try:
        found = evaluate(table, holdout, seed, traits)
    except ValueError as error:
        raise CommandError(f"{path}: {error}; give a fuller table", exit_code=2) from error
    covered = (found.low <= found.actual) & (found.actual <= found.high)
    gpus, models = np.array([one.gpu for one in found.asked]), np.array([one.model for one in found.asked])
    by_gpu = {str(gpu): gpus == gpu for gpu in np.unique(gpus)}
    floor = all_but_one(table)
    return {
        "configurations": len(table),
        "predicted": len(found.actual),
        "holdout": holdout,
        "seed": seed,
        **scores(found.median, found.actual),
        "coverage_90": float(covered.mean()),
        "log_width_90": float(np.median(np.log(found.high / found.low))),
        "coverage_90_by_gpu": {gpu: float(covered[there].mean()) for gpu, there in by_gpu.items()},
        "coverage_90_standard_error_by_gpu": {
            gpu: standard_error(covered[there], models[there]) for gpu, there in by_gpu.items()
        },
        "all_but_one": {"median_ape": float(np.median(floor)), "mean_ape": float(floor.mean())},
        "baselines": {name: _rated(said, found) for name, said in found.baselines.items()},
    }


def export_throughput(path: Path, out: Path) -> str:
    """What was written, in a sentence. Raises: CommandError, InvalidObjectError."""
    table = read_speeds(open_table(path))
    fitted = fit([(one, math.log(steps)) for one, steps in table.items()])
    if fitted is None:
        raise CommandError(f"{path}: no speed above 0; give a table of measured ones", exit_code=2)
    try:
        graph = to_onnx(fitted)
    except ModuleNotFoundError as error:
        raise CommandError("ONNX export needs the extra: pip install 'overspill[onnx]'", exit_code=2) from error
    try:
        out.write_bytes(graph)
    except OSError as error:
        raise CommandError(f"{out}: {error.strerror or error}; name a file that can be written", exit_code=2) from error
    return f"{out}: {len(table)} configurations of {len(fitted.models)} models on {len(fitted.gpus)} GPUs"


def read_traits(table: Table) -> dict[str, Traits]:
    """By model, from the columns `parameters`, `sequence_length`, `precision` and `framework`, where there are such;
    a model's first row that says anything stands. Raises: InvalidObjectError."""
    found: dict[str, Traits] = {}
    if not set(_TRAITS) & set(table.columns):
        return found
    for row in table.rows():
        parameters = row.optional("parameters", least=1.0, most=1e15)
        length = row.count("sequence_length", least=1, most=10_000_000) if row.text("sequence_length") else None
        told = Traits(
            parameters,
            length,
            row.text("precision").lower() or None,
            row.text("framework").lower() or None,
        )
        if told != NO_TRAITS:
            found.setdefault(row.text("model"), told)
    return found


def _rated(said: Floats, found: Outcome) -> dict[str, float]:
    """Over what the baseline says anything of."""
    usable = np.isfinite(said)
    if usable.sum() < 2:
        return {"answers": float(usable.mean())}
    return {**scores(said[usable], found.actual[usable]), "answers": float(usable.mean())}


def read_speeds(table: Table) -> dict[Configuration, float]:
    """Steps per second by configuration. Rows of 0 (does not fit) say nothing of speed; one GPU is one node, so that
    its two rows, spread and not, are one: the last stands. Raises: InvalidObjectError, CommandError."""
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise CommandError(f"{table.path}: no column {', '.join(missing)}; they are {', '.join(_COLUMNS)}", exit_code=2)
    found: dict[Configuration, float] = {}
    for row in table.rows():
        steps = row.number("steps_per_s", most=1e7)
        gpus = row.count("scale_factor", least=1)
        batch = row.count("batch_size", least=1, most=2**31) if row.text("batch_size") else None
        together = gpus == 1 or row.count("consolidated", most=1) == 1
        if steps > 0:
            found[Configuration(row.text("model"), batch, row.text("gpu").lower(), gpus, together)] = steps
        if len(found) > _MOST_ROWS:
            raise CommandError(f"{row.place}: more than {_MOST_ROWS} configurations; cut the table", exit_code=2)
    return found
