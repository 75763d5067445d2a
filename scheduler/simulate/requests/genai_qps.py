"""Alibaba's request rates by pod (cluster-trace-v2026-GenAI, qps), sampled every 57 s; of kind gen, those generated.

A line stands for the requests of its 57 s; how long they took is not recorded.
"""

from __future__ import annotations

from typing import Final

from scheduler.simulate.serving.log import RequestLog, request_log
from scheduler.simulate.table import Table

COLUMNS: Final = ("t_s", "pod", "kind", "qps")
SAMPLE_SECONDS: Final = 57.0
_GENERATED: Final = "gen"


def read(table: Table) -> RequestLog:
    rows = [
        (row.number("t_s"), None, "", SAMPLE_SECONDS * rate)
        for row in table.rows()
        if row.text("kind") == _GENERATED and (rate := row.number("qps", most=1e6)) > 0
    ]
    return request_log(table.path.name, rows)
