"""A log of runs, evaluated: read, predicted in arrival order, scored beside the baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from scheduler.cli.output import CommandError
from scheduler.predict.durations import Run
from scheduler.predict.prequential import Ended, predict_all
from scheduler.predict.remaining_trial import AGES_SECONDS, Asked, remaining_scores
from scheduler.predict.scores import scores, standard_error
from scheduler.simulate.table import Row, Table, open_table

_DAY: Final = 86400.0
_REQUEST_NUMBERS: Final = (
    "prompt_length", "negative_prompt_length", "num_images_per_prompt", "num_inference_steps", "num_lora",
)  # fmt: skip
_LEAST_OF_A_QUEUE: Final = 500


def evaluate_durations(path: Path, from_day: float) -> dict[str, Any]:
    """Scores of the model and of each baseline over the same runs. Raises: CommandError, InvalidObjectError."""
    log = read_runs(open_table(path))
    # The blocks that boosting works on are small: more OpenMP threads than one only wait for each other, and spin.
    with threadpool_limits(limits=1, user_api="openmp"):
        said = predict_all(log)
    seconds = np.array([one.seconds for one in log])
    days = np.array([one.run.submitted_at for one in log]) / _DAY
    usable = (days >= from_day) & np.isfinite(said.model)
    for values in said.baselines.values():
        usable &= np.isfinite(values)
    if usable.sum() < 2:
        text = f"{path}: too few runs to learn from and report; give more, or an earlier --from-day"
        raise CommandError(text, exit_code=2)
    actual = seconds[usable]
    covered = ((np.log(seconds) >= said.low) & (np.log(seconds) <= said.high))[usable]
    queues = np.array([one.queue for one in log])[usable]
    return {
        "runs": int(usable.sum()),
        "split": f"in arrival order, each from runs ended before it; reported from day {from_day:g}",
        **scores(np.exp(said.model[usable]), actual),
        "coverage_90": float(covered.mean()),
        "width_90": float((said.high - said.low)[usable].mean()),
        "coverage_90_by_queue": _by_queue(covered, queues),
        "coverage_90_standard_error_by_queue": _by_queue(covered, queues, days[usable]),
        "remaining": _remaining(log, said.asked, from_day),
        "baselines": {name: scores(np.exp(values[usable]), actual) for name, values in said.baselines.items()},
    }


def _by_queue(
    covered: NDArray[np.bool_], queues: NDArray[np.str_], days: NDArray[np.float64] | None = None
) -> dict[str, float]:
    """Of queues with at least 500 runs. With `days`: how far off chance alone makes each, runs of one day being taken
    to stand and fall together."""
    names, counts = np.unique(queues, return_counts=True)
    found = {}
    for name, count in zip(names, counts, strict=True):
        if count >= _LEAST_OF_A_QUEUE:
            own = covered[queues == name]
            found[str(name)] = float(own.mean()) if days is None else standard_error(own, days[queues == name] // 1)
    return found


def _remaining(log: Sequence[Ended], asked: Sequence[Asked], from_day: float) -> dict[str, Any]:
    """By age in seconds, of runs submitted from that day on that reached it."""
    found = {}
    for age in AGES_SECONDS:
        told = [
            one
            for one in asked
            if one.age == age
            and log[one.index].run.submitted_at >= from_day * _DAY
            and math.isfinite(one.left[0] + one.last_five)
        ]
        if len(told) > 1:
            found[f"{age:g}"] = remaining_scores(told, [log[one.index].seconds for one in told])
    return found


def read_runs(table: Table) -> list[Ended]:
    """In order of submission. Raises: InvalidObjectError, CommandError for columns that are of neither format."""
    if {"arrival_s", "duration_s", "num_gpus"} <= set(table.columns):
        read = _job
    elif {"t_s", "exec_time_seconds"} <= set(table.columns):
        read = _request
    else:
        need = "arrival_s, duration_s, num_gpus (and vc), or t_s, exec_time_seconds"
        raise CommandError(f"{table.path}: the columns must be {need}", exit_code=2)
    log = [one for index, row in enumerate(table.rows()) if (one := read(str(index), row)) is not None]
    return sorted(log, key=lambda one: (one.run.submitted_at, int(one.run.run_id)))


def _job(run_id: str, row: Row) -> Ended | None:
    queue, gpus = row.text("vc", "default"), row.number("num_gpus", most=4096)
    run = Run(run_id, row.number("arrival_s"), (f"{queue}/{gpus:g}", queue), (gpus,))
    return Ended(run, row.number("duration_s", least=0.001), queue)


def _request(run_id: str, row: Row) -> Ended | None:
    """None for a request that failed or has no time: it teaches no length."""
    seconds = row.optional("exec_time_seconds")
    if not seconds or row.text("predict_status", "SUCCEED") != "SUCCEED":
        return None
    numbers = [row.optional(name) for name in _REQUEST_NUMBERS]
    kind, model, user = row.text("predict_type"), row.text("checkpoint_model_version_id"), row.text("groupId")
    work = "/".join([kind, *(row.text(name) for name in _REQUEST_NUMBERS[2:])])
    groups = (f"{user}/{model}/{work}", f"{model}/{work}", work, user, model)
    known = (*(-1.0 if value is None else value for value in numbers), float(kind == "IMG_2_IMG"))
    return Ended(Run(run_id, row.number("t_s"), groups, known), seconds, kind or "default")
