"""Rules for what is known, one file each, found by name. Adding one is adding a file.

A rule has `SCOPE` (of what its table has a row each), `FIELDS` (what it remembers of a row), `VERSION` (raised when
their meaning changes) and

    step(columns, table) -> (columns, hits)

a pure function of what was remembered and of the telemetry now. Unknown telemetry (NaN, or a metric that nobody has)
never makes a hit, and a value that is new to the rule is no event: what was there at the start has happened before.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Protocol, cast

import numpy as np

from scheduler.aiops.findings import Hit, Table
from scheduler.aiops.series import Columns, Field, empty, select
from scheduler.model.errors import InvalidObjectError

GPU: Final = "gpu"
NODE: Final = "node"
WORKLOAD: Final = "workload"
POOL: Final = "pool"
CLUSTER: Final = "cluster"
PATH: Final = "path"
SCOPES: Final = (CLUSTER, PATH, POOL, NODE, GPU, WORKLOAD)


class Rule(Protocol):
    SCOPE: str
    FIELDS: tuple[Field, ...]
    VERSION: int

    def step(self, columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]: ...


@dataclass(frozen=True, slots=True)
class Memory:
    """What the rules of one scope remember of `rows` things."""

    scope: str
    rows: int
    parts: Mapping[str, Columns]


def new_memory(scope: str, rows: int) -> Memory:
    """Nothing remembered. Raises: InvalidObjectError for too many rows."""
    return Memory(scope, rows, {name: empty(load_rule(name).FIELDS, rows) for name in rule_names(scope)})


def check(memory: Memory, table: Table) -> tuple[Memory, tuple[Hit, ...]]:
    """All rules of the scope over one table, in the order of their names. Raises: InvalidObjectError when the table has
    other rows than the memory."""
    if table.rows != memory.rows:
        raise InvalidObjectError(f"{table.rows} rows of telemetry for rules that remember {memory.rows}")
    parts: dict[str, Columns] = {}
    hits: list[Hit] = []
    for name, columns in sorted(memory.parts.items()):
        parts[name], told = load_rule(name).step(columns, table)
        hits.extend(told)
    return Memory(memory.scope, memory.rows, parts), tuple(hits)


def rearrange(memory: Memory, rows: Sequence[int]) -> Memory:
    """A memory whose row i is the old row `rows[i]`, or a new one where that is negative."""
    chosen = np.asarray(rows, dtype=np.int64)
    parts = {name: select(load_rule(name).FIELDS, columns, chosen) for name, columns in sorted(memory.parts.items())}
    return Memory(memory.scope, len(chosen), parts)


@cache
def rule_names(scope: str | None = None) -> tuple[str, ...]:
    """Names of all rules (of one scope), sorted."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    names = sorted(name for name in found if not name.startswith("_"))
    return tuple(name for name in names if scope is None or scope == load_rule(name).SCOPE)


@cache
def load_rule(name: str) -> Rule:
    """The rule of that name. Raises: InvalidObjectError when there is none, or it is incomplete."""
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise InvalidObjectError(f"rule {name[:60]!r} cannot be imported: {error}") from error
    for wanted in ("SCOPE", "FIELDS", "VERSION", "step"):
        if not hasattr(module, wanted):
            raise InvalidObjectError(f"rule {name!r} is incomplete: it lacks {wanted!r}")
    if module.SCOPE not in SCOPES:
        raise InvalidObjectError(f"rule {name!r}: no scope {module.SCOPE!r}; there are {', '.join(SCOPES)}")
    return cast("Rule", module)
