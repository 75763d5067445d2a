"""Latency objectives that break, foretold an hour ahead. Run: python -m tests.bench.latency_objective.

A recorded log of serving requests, p95 by the hour. The objective is a percentile of the first half's p95; judged is
the second half, one pass, as the rule `forecast` does: twice in a row beyond the objective. Beside it the last value,
twice in a row beyond it. Nothing was chosen by these figures.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from scheduler.predict.served import HORIZON_SECONDS, Served

LOG = Path(__file__).parents[3] / "shared" / "data" / "traces" / "genai_requests.csv.gz"
HOUR = 3600.0
LEAST_REQUESTS = 10
PERCENTILES = (0.5, 0.75, 0.9)


def read_hours() -> list[tuple[float, float]]:
    """(begin, p95 in seconds) of each hour with requests enough."""
    found: dict[float, list[float]] = defaultdict(list)
    with gzip.open(LOG, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["predict_status"] == "SUCCEED" and row["exec_time_seconds"]:
                found[float(row["t_s"]) // HOUR * HOUR].append(float(row["exec_time_seconds"]))
    ordered = ((at, sorted(values)) for at, values in sorted(found.items()) if len(values) >= LEAST_REQUESTS)
    return [(at, values[min(len(values) - 1, int(0.95 * len(values)))]) for at, values in ordered]


def trial(points: list[tuple[float, float]], percentile: float) -> dict[str, Any]:
    half = len(points) // 2
    objective = sorted(value for _, value in points[:half])[int(percentile * half)]
    actual, served = dict(points), Served()
    before = (False, False)
    judged: list[tuple[bool, bool, bool]] = []
    for number, (at, value) in enumerate(points):
        served.learn(at, value, None, 1)
        view = served.view()
        ahead = None if view is None else view.p95_in_an_hour_seconds
        now = (ahead is not None and ahead > objective, value > objective)
        then = actual.get(at + HORIZON_SECONDS)
        if number >= half and then is not None:
            judged.append((now[0] and before[0], now[1] and before[1], then > objective))
        before = now
    broken = sum(one[2] for one in judged)
    found: dict[str, Any] = {"percentile": percentile, "hours": len(judged), "broken": broken}
    for column, name in enumerate(("forecast", "last_value")):
        said = sum(one[column] for one in judged)
        right = sum(one[column] and one[2] for one in judged)
        found[name] = {"said": said, "recall": _share(right, broken), "precision": _share(right, said)}
    return found


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 3) if whole else None


def main() -> int:
    points = read_hours()
    rows = [trial(points, percentile) for percentile in PERCENTILES]
    print(f"{'objective at':>14}{'hours':>8}{'broken':>8}{'forecast: recall':>18}{'precision':>11}"
          f"{'last value: recall':>20}{'precision':>11}")  # fmt: skip
    for one in rows:
        cells = [one[name][what] for name in ("forecast", "last_value") for what in ("recall", "precision")]
        shown = ["-" if cell is None else f"{cell:.0%}" for cell in cells]
        print(f"{one['percentile']:>14.0%}{one['hours']:>8}{one['broken']:>8}{shown[0]:>18}{shown[1]:>11}"
              f"{shown[2]:>20}{shown[3]:>11}")  # fmt: skip
    print(json.dumps({"latency_objective": rows}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
