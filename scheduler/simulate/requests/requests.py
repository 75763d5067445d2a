"""Overspill's own: t_s (arrival), service_s (how long a worker was busy; may be empty), region (of the client)."""

from __future__ import annotations

from typing import Final

from scheduler.simulate.serving.log import RequestLog, request_log
from scheduler.simulate.table import Table

COLUMNS: Final = ("t_s", "service_s", "region")


def read(table: Table) -> RequestLog:
    rows = [
        (row.number("t_s"), row.optional("service_s", least=0.001, most=86400.0), row.text("region", "unknown"), 1.0)
        for row in table.rows()
    ]
    return request_log(table.path.name, rows, located=True)
