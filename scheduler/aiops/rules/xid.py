"""Xid errors. The metric is a gauge that holds the last code: only a change to another code but 0 is an event, so that
a code that was there at the start is none, and the same one after a reset (which shows as 0) is one."""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import Hit, Table, hit
from scheduler.aiops.rules._events import latest
from scheduler.aiops.rules._xids import xid
from scheduler.aiops.series import Columns, Field

SCOPE = "gpu"
VERSION = 1
FIELDS = (Field("code", np.nan),)
MOST_CODE = 1000
"""More is no code."""


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    code, last = table.of("gpu_xid_code"), columns["code"]
    with np.errstate(invalid="ignore"):
        fresh = (code != last) & ~np.isnan(last) & (code > 0) & (code < MOST_CODE) & (code == np.floor(code))
    hits: list[Hit] = []
    for number in np.unique(code[fresh]).astype(int).tolist():
        row = xid(number)
        where = fresh & (code == number)
        kind = f"gpu.xid.{number}"
        hits.extend(hit(kind, row.severity, row.origin, where, {"gpu_xid_code": code}, remedy=row.remedy))
    return {"code": latest(last, code)}, tuple(hits)
