"""Alibaba's latency events (cluster-trace-v2026-GenAI): of metric e2e, one line for each request when it ended.

It arrived that much earlier. What it took holds its wait and the loading of its model, too, so that workers are taken
to be busy for longer than they were.
"""

from __future__ import annotations

from typing import Final

from scheduler.simulate.serving.log import RequestLog, request_log
from scheduler.simulate.table import Table

COLUMNS: Final = ("metric", "t_s", "pod", "ms")
_WHOLE: Final = "e2e"


def read(table: Table) -> RequestLog:
    rows = []
    for row in table.rows():
        if row.text("metric") == _WHOLE:
            seconds = row.number("ms", most=86_400_000.0) / 1000.0
            if seconds > 0:
                rows.append((max(0.0, row.number("t_s") - seconds), seconds, "", 1.0))
    return request_log(table.path.name, rows)
