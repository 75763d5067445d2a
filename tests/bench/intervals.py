"""How far from 90 % the coverage of right intervals lies by chance, on a table of measured speeds.

Run: python -m tests.bench.intervals [--tables 4000] [--seed 17] [--json].

Tables are drawn from the throughput model itself, with the variances that it learned from Gavel's table, in that
table's own configurations. Whoever knows those variances gives intervals that hold 90 % to the point. Their coverage on
one table, by holdout and GPU as `overspill model evaluate --throughput` tells it, is then off by chance alone, and by
more than the number of rows suggests: the rows of a model stand and fall together. (Margins that are learned from the
same table may come closer to 90 % on it; that says nothing of another table.) Steps of several GPUs are taken to be
linear about the fit, as in the fit itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from scheduler.cli.model_throughput import read_speeds
from scheduler.cli.output import print_json
from scheduler.predict.throughput import Configuration
from scheduler.predict.throughput_fit import NORMAL_95, Fit, columns, learn_weights, solve
from scheduler.predict.throughput_kernels import Floats
from scheduler.predict.throughput_trial import HOLDOUTS, Fold, folds
from scheduler.simulate.table import open_table

TABLE: Final = Path("../shared/data/traces/gavel_throughput.csv")
_LEAST, _MOST = 88.0, 92.0
_SURE: Final = 1.96
"""Standard errors within which 95 % lie."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Coverage of right intervals, by chance.")
    parser.add_argument("--json", action="store_true", help="One JSON object as the last line.")
    parser.add_argument("--tables", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=17, help="Draws the tables; what is held out is drawn by seed 1.")
    options = parser.parse_args()
    if not TABLE.exists():
        print(f"skipped: {TABLE} is not there")
        return 0
    table = read_speeds(open_table(TABLE))
    cells = sorted(((one, float(np.log(steps))) for one, steps in table.items()), key=repr)
    configurations, log_seconds = columns(cells)
    fitted = solve(configurations, log_seconds, learn_weights(configurations, log_seconds))
    drawn = _drawn(fitted, options.tables, options.seed)
    figures: dict[tuple[str, str], Floats] = {}
    for holdout in HOLDOUTS:
        every = [fold for fold in folds(table, holdout, 1) if fold.known and fold.asked]
        figures |= dict(_coverage(fitted, drawn, holdout, every))
    rows = [_row(name, values) for name, values in figures.items()]
    for row in rows:
        print(
            f"{row['holdout']:10} {row['gpu']:5} {row['mean']:5.1f} ± {row['spread']:4.1f} %   within 88 to 92 in "
            f"{100 * row['within']:3.0f} % of tables; in 95 % with {row['models_needed']:4} models"
        )
    found = {
        "tables": options.tables,
        "seed": options.seed,
        "rows": rows,
        **_together(np.stack(list(figures.values()))),
    }
    print("figures within 88 to 92: {mean_within:.1f} of {figures}; 5, 50 and 95 %: {within}".format(**found))
    print("off from 90, mean of all figures: {mean_off:.1f}; 5, 50 and 95 %: {off}".format(**found))
    print("all within: {all_within:.2%} of tables".format(**found))
    if options.json:
        print_json(found)
    return 0


def _drawn(fitted: Fit, tables: int, seed: int) -> Floats:
    """Configurations x tables: log seconds of a step, less what is expected of all."""
    covariance = _covariance(fitted)
    noise = np.random.default_rng(seed).standard_normal((len(covariance), tables))
    return np.asarray(np.linalg.cholesky(covariance) @ noise)


def _covariance(fitted: Fit) -> Floats:
    found = np.linalg.inv(fitted.inverse)
    return np.asarray((found + found.T) / 2.0)


def _coverage(fitted: Fit, drawn: Floats, holdout: str, every: list[Fold]) -> Iterator[tuple[tuple[str, str], Floats]]:
    """By GPU, in each table, in %."""
    covariance, place = _covariance(fitted), {one: at for at, one in enumerate(fitted.cells)}
    covered, gpus = [], []
    for fold in every:
        known, asked = _places(place, fold.known), _places(place, fold.asked)
        gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[np.ix_(known, asked)]).T
        left = np.diag(covariance)[asked] - np.einsum("ij,ji->i", gain, covariance[np.ix_(known, asked)])
        off = drawn[asked] - gain @ drawn[known]
        covered.append(np.abs(off) <= NORMAL_95 * np.sqrt(left)[:, None])
        gpus += [one.gpu for one in fold.asked]
    held, at = np.concatenate(covered), np.array(gpus)
    for gpu in np.unique(at):
        yield (holdout, str(gpu)), 100.0 * held[at == gpu].mean(axis=0)


def _places(place: dict[Configuration, int], those: tuple[Configuration, ...]) -> Any:
    return np.array([place[one] for one in those])


def _row(name: tuple[str, str], values: Floats) -> dict[str, Any]:
    """`models_needed`: with so many, as unlike as these seven, chance alone is within 2 points in 95 % of tables; it
    falls with the root of their number."""
    spread = float(values.std())
    return {
        "holdout": name[0],
        "gpu": name[1],
        "mean": float(values.mean()),
        "spread": spread,
        "within": float(((values >= _LEAST) & (values <= _MOST)).mean()),
        "models_needed": round(7 * (_SURE * spread / 2.0) ** 2),
    }


def _together(figures: Floats) -> dict[str, Any]:
    """Of figures x tables."""
    within, off = ((figures >= _LEAST) & (figures <= _MOST)).sum(axis=0), np.abs(figures - 90.0).mean(axis=0)
    levels = [0.05, 0.5, 0.95]
    return {
        "figures": len(figures),
        "mean_within": float(within.mean()),
        "within": np.quantile(within, levels).tolist(),
        "mean_off": float(off.mean()),
        "off": np.round(np.quantile(off, levels), 1).tolist(),
        "all_within": float((within == len(figures)).mean()),
    }


if __name__ == "__main__":
    sys.exit(main())
