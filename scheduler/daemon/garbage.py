"""How often Python looks for cycles of garbage."""

from __future__ import annotations

import gc
from typing import Final

_NEW_OBJECTS: Final = 100_000
_ROUNDS: Final = 10


def collect_seldom() -> None:
    """Look for cycles a hundred times less often than by default. To be called once, when the process begins.

    A snapshot and its plan are trees of immutable objects, freed when nobody holds them any more; they make no cycles.
    But each plan of a large backlog makes hundred thousands of objects at once, and by default (700 new ones) a third
    of the time of such a cycle goes into looking at them again and again (`tests/bench/engine.py`).
    """
    gc.set_threshold(_NEW_OBJECTS, _ROUNDS, _ROUNDS)
