"""How much load a group of replicas carries when each serves one request and the rest waits in one queue.

M/M/c: the chance of waiting by Erlang's C formula, the wait beyond that exponential (Kleinrock, "Queueing Systems"
vol. 1, 3.5); other service times stretch the wait by (1 + v) / 2, v their squared coefficient of variation (Lee and
Longton 1959). Load in erlangs: requests per second times the mean seconds of one.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

LATE: Final = 0.05
"""Part of the requests that may wait longer: the objectives are 95 % ones."""
_STEPS: Final = 40
_MOST_EXACT: Final = 400
"""Servers; beyond, waiting is what square-root staffing says (Halfin and Whitt 1981), which is close by then."""


def carried_load(servers: int, budget_services: float, variation: float = 1.0) -> float:
    """Most erlangs of which all but LATE wait at most `budget_services` mean service times; 0 without a budget.

    The budget is rounded down to two digits, so that answers can be remembered.
    """
    if servers < 1 or not budget_services >= 0:
        return 0.0
    return _carried(servers, _rounded_down(min(budget_services, 1e6)), round(max(0.0, variation), 1))


def _rounded_down(value: float) -> float:
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / unit + 1e-9) * unit


@lru_cache(maxsize=65_536)
def _carried(servers: int, budget: float, variation: float) -> float:
    if servers > _MOST_EXACT:
        return servers * _carried(_MOST_EXACT, budget, variation) / _MOST_EXACT
    low, high = 0.0, float(servers)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if late_share(servers, middle, budget, variation) <= LATE:
            low = middle
        else:
            high = middle
    return low


def late_share(servers: int, load: float, budget_services: float, variation: float = 1.0) -> float:
    """Part of the requests that wait longer than so many mean service times; 1 when the load is too much."""
    if load >= servers:
        return 1.0
    blocked = 1.0
    for count in range(1, servers + 1):  # Erlang B, by its recursion
        blocked = load * blocked / (count + load * blocked)
    waits = blocked / (1.0 - load / servers * (1.0 - blocked))
    return waits * math.exp(-(servers - load) * budget_services * 2.0 / (1.0 + variation))
