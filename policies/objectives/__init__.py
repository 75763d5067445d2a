"""Objectives: what a policy optimises, one file each, found by its file's name (`completion_time.py` is
"completion-time" in YAML). Each has a pure `score(candidate) -> float | None`: lower is better, None is unknown.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache

from scheduler.model.errors import InvalidObjectError
from scheduler.model.plan import Candidate

Objective = Callable[[Candidate], float | None]


@cache
def objective_names() -> tuple[str, ...]:
    """Names of all objectives, sorted, as written in YAML."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


@cache
def load_objective(name: str) -> Objective:
    """The scoring function of that name ("completion-time" and "completion_time" are the same).

    Raises: InvalidObjectError when there is none, or its file cannot be imported.
    """
    if name.replace("_", "-") not in objective_names():
        raise InvalidObjectError(f"no objective {name[:60]!r}; there are {', '.join(objective_names())}")
    try:
        score: Objective = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").score
    except (ImportError, AttributeError) as error:
        raise InvalidObjectError(f"objective {name!r} cannot be loaded: {error}") from error
    return score
