"""Detectors, one file each, found by name. Adding one is adding a file.

A detector has `FIELDS` (what it remembers of a series), `VERSION` (raised when their meaning changes), `SPEAKS_AFTER`
(how many of a series' own surprises must be known before one is scored: a start is full of firsts) and

    step(columns, samples) -> (columns, surprise)

`surprise` has one entry per series: -ln of the probability, under the detector's own model, of what was seen or worse.
NaN where the detector cannot tell (too little seen, no sample, no peers, no limit). Models are only roughly right;
`scheduler.aiops.calibration` makes probabilities of them that can be trusted.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Protocol, cast

from scheduler.aiops.series import Columns, Field, Floats, Samples
from scheduler.model.errors import InvalidObjectError

MOST_BYTES = 200
"""Of state that a detector may keep of one series."""


class Detector(Protocol):
    FIELDS: tuple[Field, ...]
    VERSION: int
    SPEAKS_AFTER: int

    def step(self, columns: Columns, samples: Samples) -> tuple[Columns, Floats]: ...


@cache
def detector_names() -> tuple[str, ...]:
    """Names of all detectors, sorted."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


@cache
def load_detector(name: str) -> Detector:
    """The detector of that name. Raises: InvalidObjectError when there is none, or it is incomplete."""
    if name not in detector_names():
        raise InvalidObjectError(f"no detector {name[:60]!r}; there are {', '.join(detector_names())}")
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise InvalidObjectError(f"detector {name!r} cannot be imported: {error}") from error
    for wanted in ("FIELDS", "VERSION", "SPEAKS_AFTER", "step"):
        if not hasattr(module, wanted):
            raise InvalidObjectError(f"detector {name!r} is incomplete: it lacks {wanted!r}")
    return cast("Detector", module)
