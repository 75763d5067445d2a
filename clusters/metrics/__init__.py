"""Where metrics are read: one module each, found by name. A module offers `Settings` and
`create(settings, *, cluster, clock)`.

Adding a source is adding a file here. Modules whose name begins with an underscore serve the others, and so do
`queries` (what is asked) and `collector` (one round over all members).
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import Final, Protocol, cast

from clusters.metrics._settings import MetricsSettings
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId
from scheduler.model.metrics import MetricsSource
from scheduler.model.ports import Clock

_NO_SOURCES: Final = frozenset({"collector", "queries"})


class MetricsSourceModule(Protocol):
    """What a module of this folder is made of."""

    Settings: type[MetricsSettings]
    """What stands under `metrics:` of a member in the federation file, `type` included."""

    def create(self, settings: MetricsSettings, *, cluster: ClusterId, clock: Clock) -> MetricsSource:
        """The source; nothing is sent yet. Call it on the loop. Raises: InvalidObjectError for unusable settings, such
        as a certificate that cannot be read."""
        ...


def metrics_source_names() -> tuple[str, ...]:
    """Every type of source there is a file for, sorted; nothing is imported."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_") and name not in _NO_SOURCES))


def load_metrics_source(type_name: str) -> MetricsSourceModule:
    """The module `clusters.metrics.<type_name>`.

    Raises: InvalidObjectError, naming the source, when there is none of that name or it cannot be imported.
    """
    names = metrics_source_names()
    if type_name not in names:
        near = difflib.get_close_matches(type_name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        raise InvalidObjectError(f"metrics type {type_name!r} is not known; {hint}")
    try:
        module = importlib.import_module(f"{__name__}.{type_name}")
    except ImportError as error:
        raise InvalidObjectError(
            f"metrics source {type_name!r} cannot be imported: {error}; install what it needs or name another"
        ) from error
    for wanted in ("Settings", "create"):
        if not hasattr(module, wanted):
            raise InvalidObjectError(f"metrics source {type_name!r} is incomplete: {module.__name__} lacks {wanted!r}")
    return cast(MetricsSourceModule, module)
