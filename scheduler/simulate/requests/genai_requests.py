"""Alibaba's log of image generations (cluster-trace-v2026-GenAI, lora_request_trace): a request a line.

Those without an execution time never had a worker and are left out; failed ones had, and count.
"""

from __future__ import annotations

from typing import Final

from scheduler.simulate.serving.log import RequestLog, request_log
from scheduler.simulate.table import Table

COLUMNS: Final = ("t_s", "exec_time_seconds", "groupId")


def read(table: Table) -> RequestLog:
    rows = [
        (row.number("t_s"), seconds, row.text("groupId"), 1.0)
        for row in table.rows()
        if (seconds := row.optional("exec_time_seconds", most=86400.0))
    ]
    return request_log(table.path.name, rows)
