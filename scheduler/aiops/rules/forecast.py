"""Forecasts that break a promise: a wait that is longer than the queue's objective, an end after the deadline, a p95
latency in an hour beyond the objective, or beyond it now already.

Twice in a row: forecasts move. That of a latency is made every five minutes: the same one counts once.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import HIGH, SYMPTOM, WARNING, Hit, Table, hit
from scheduler.aiops.rules._events import lasting
from scheduler.aiops.series import Columns, Field

SCOPE = "workload"
VERSION = 2
FIELDS = (Field("late"), Field("waits"), Field("slow"), Field("slow_at", np.nan), Field("broken"))
SAMPLES = 2
BROKEN_SAMPLES = 4
"""A single slow scrape breaks no objective."""
P95 = "serving_latency_p95"


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    wait, most = table.of("queue_wait_forecast_seconds"), table.of("queue_wait_objective_seconds")
    end, deadline = table.of("finish_forecast_seconds"), table.of("deadline_seconds")
    slow, objective = table.of(f"{P95}_forecast_seconds"), table.of(f"{P95}_objective_seconds")
    made, now = table.of(f"{P95}_forecast_at_seconds"), table.of(f"{P95}_seconds")
    with np.errstate(invalid="ignore"):
        waits = lasting(columns["waits"], wait > most, ~np.isnan(wait - most))
        late = lasting(columns["late"], end > deadline, ~np.isnan(end - deadline))
        foretold, measured = ~np.isnan(slow - objective), ~np.isnan(now - objective)
        slows = lasting(columns["slow"], slow > objective, foretold & (made != columns["slow_at"]))
        breaks = foretold & (slow > objective) & (slows >= SAMPLES)
        broken = lasting(columns["broken"], now > objective, measured)
    is_broken = measured & (broken >= BROKEN_SAMPLES)
    shown = {f"{P95}_forecast_seconds": slow, f"{P95}_objective_seconds": objective, f"{P95}_seconds": now}
    hits = (
        *hit("workload.deadline", HIGH, SYMPTOM, ~np.isnan(end - deadline) & (late >= SAMPLES),
             {"finish_forecast_seconds": end, "deadline_seconds": deadline}),
        *hit("workload.latency-slo", HIGH, SYMPTOM, is_broken, shown),
        *hit("workload.latency-slo", WARNING, SYMPTOM, breaks & ~is_broken, shown),
        *hit("workload.queue-wait", WARNING, SYMPTOM, ~np.isnan(wait - most) & (waits >= SAMPLES),
             {"queue_wait_forecast_seconds": wait, "queue_wait_objective_seconds": most}),
    )  # fmt: skip
    slow_at = np.where(foretold, made, columns["slow_at"])
    return {"late": late, "waits": waits, "slow": slows, "slow_at": slow_at, "broken": broken}, hits
