"""A table of two workloads on one GPU, evaluated: read, held out, foretold, scored beside the baselines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from scheduler.cli.model_throughput import read_speeds
from scheduler.cli.output import CommandError
from scheduler.predict.scores import scores
from scheduler.predict.sharing import Alone, Beside
from scheduler.predict.sharing_trial import HOLDOUTS, Trial, evaluate
from scheduler.simulate.table import Row, Table, open_table

_COLUMNS: Final = ("gpu", "job_a", "scale_a", "job_b", "scale_b", "steps_per_s_a", "steps_per_s_b")
_ALONE: Final = "gavel_throughput.csv"
_MOST_PAIRS: Final = 2_000
_SPREAD: Final = "_unconsolidated"


def evaluate_colocation(path: Path, alone: Path | None, holdout: str, seed: int) -> dict[str, Any]:
    """Scores of the model and of each baseline. `alone`: speeds of the same workloads alone; None: the file of Gavel's
    name beside `path`. Raises: CommandError, InvalidObjectError."""
    if holdout not in HOLDOUTS:
        raise CommandError(f"--holdout: no {holdout!r} of pairs; there are {', '.join(HOLDOUTS)}", exit_code=2)
    if alone is None:
        alone = path.parent / _ALONE
        if not alone.exists():
            text = f"{path}: no speeds alone; name their table with --throughput beside --colocation"
            raise CommandError(text, exit_code=2)
    speeds = {
        (one.model, one.batch_size, one.gpu): steps
        for one, steps in read_speeds(open_table(alone)).items()
        if one.gpus == 1 and one.share == 1.0
    }
    kept, refused, without = read_pairs(open_table(path), speeds)
    try:
        found = evaluate(kept, refused, holdout, seed)
    except ValueError as error:
        raise CommandError(f"{path}: {error}; give a fuller table", exit_code=2) from error
    covered = (found.low - 1e-9 <= found.actual) & (found.actual <= found.high + 1e-9)
    gpus = np.array([one.gpu for one in found.asked])
    return {
        "pairs": len({frozenset((one.own, one.other)) for one in (*kept, *refused)}),
        "predicted": len(found.actual),
        "without_speed_alone": without,
        "holdout": holdout,
        "seed": seed,
        **scores(found.median, found.actual),
        "coverage_90": float(covered.mean()),
        "log_width_90": float(np.median(np.log(found.high / found.low))),
        "coverage_90_by_gpu": {str(gpu): float(covered[gpus == gpu].mean()) for gpu in np.unique(gpus)},
        "median_ape_by_gpu": {str(gpu): _median_error(found, gpus == gpu) for gpu in np.unique(gpus)},
        "fits": _fits(found),
        "baselines": {name: scores(said, found.actual) for name, said in found.baselines.items()},
    }


def _median_error(found: Trial, which: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    return float(np.median(np.abs(found.median - found.actual)[which] / found.actual[which]))


def _fits(found: Trial) -> dict[str, Any]:
    """Of whether pairs fit: those that do not are what is to be found."""
    ran, chance, usual = found.fits
    told, missing = chance < 0.5, ran < 0.5
    return {
        "pairs": len(ran),
        "do_not_fit": int(missing.sum()),
        "accuracy": float((told == missing).mean()),
        "found": float(told[missing].mean()) if missing.any() else None,
        "right_of_found": float(missing[told].mean()) if told.any() else None,
        "brier": float(((chance - ran) ** 2).mean()),
        "baselines": {
            "how_often_by_gpu": {
                "accuracy": float(((usual < 0.5) == missing).mean()),
                "brier": float(((usual - ran) ** 2).mean()),
            }
        },
    }


def read_pairs(
    table: Table, speeds: dict[tuple[str, int | None, str], float]
) -> tuple[dict[Beside, float], list[Beside], int]:
    """Parts of the speed alone that are kept, each direction for itself; pairs that do not fit; rows left out because
    the speed alone of one of both is not known. Only pairs on one GPU: Gavel measured no others. `x_unconsolidated` is
    the GPU `x`. Raises: InvalidObjectError, CommandError."""
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise CommandError(f"{table.path}: no column {', '.join(missing)}; they are {', '.join(_COLUMNS)}", exit_code=2)
    kept: dict[Beside, float] = {}
    refused: dict[Beside, None] = {}
    without = 0
    for row in table.rows():
        if row.count("scale_a", least=1) != 1 or row.count("scale_b", least=1) != 1:
            continue
        gpu = row.text("gpu").lower().removesuffix(_SPREAD)
        sides = [_alone(row, name, gpu, speeds) for name in ("job_a", "job_b")]
        own, other = sides
        steps = [row.number(name, most=1e7) for name in ("steps_per_s_a", "steps_per_s_b")]
        if own is None or other is None:
            without += 1
            continue
        for one, speed in ((Beside(own, other, gpu), steps[0]), (Beside(other, own, gpu), steps[1])):
            if speed > 0:
                kept[one] = speed / one.own.steps_per_second
            else:
                refused[one] = None
        if len(kept) > _MOST_PAIRS:
            raise CommandError(f"{row.place}: more than {_MOST_PAIRS} runs beside another; cut the table", exit_code=2)
    return kept, [one for one in refused if one not in kept], without


def _alone(row: Row, column: str, gpu: str, speeds: dict[tuple[str, int | None, str], float]) -> Alone | None:
    """`model` or `model (batch size N)`, with its speed alone; None: that is not known."""
    text = row.text(column)
    found = re.fullmatch(r"(.+) \(batch size ([1-9][0-9]{0,8})\)", text)
    model, batch = (found[1], int(found[2])) if found else (text, None)
    speed = speeds.get((model, batch, gpu))
    return None if speed is None else Alone(model, batch, speed)
