"""Forecasts that break a promise: a wait that is longer than the queue's objective, an end after the deadline.

Twice in a row: forecasts move.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import HIGH, SYMPTOM, WARNING, Hit, Table, hit
from scheduler.aiops.rules._events import lasting
from scheduler.aiops.series import Columns, Field

SCOPE = "workload"
VERSION = 1
FIELDS = (Field("late"), Field("waits"))
SAMPLES = 2


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    wait, most = table.of("queue_wait_forecast_seconds"), table.of("queue_wait_objective_seconds")
    end, deadline = table.of("finish_forecast_seconds"), table.of("deadline_seconds")
    with np.errstate(invalid="ignore"):
        waits = lasting(columns["waits"], wait > most, ~np.isnan(wait - most))
        late = lasting(columns["late"], end > deadline, ~np.isnan(end - deadline))
    hits = (
        *hit("workload.deadline", HIGH, SYMPTOM, ~np.isnan(end - deadline) & (late >= SAMPLES),
             {"finish_forecast_seconds": end, "deadline_seconds": deadline}),
        *hit("workload.queue-wait", WARNING, SYMPTOM, ~np.isnan(wait - most) & (waits >= SAMPLES),
             {"queue_wait_forecast_seconds": wait, "queue_wait_objective_seconds": most}),
    )  # fmt: skip
    return {"late": late, "waits": waits}, hits
