"""Where metrics are read: one module each, found by name. A module offers `Settings` and
`create(settings, *, cluster, clock)`.

Adding a source is adding a file here. Modules whose name begins with an underscore serve the others, and so do
`queries` (what is asked) and `collector` (one round over all members).
"""

from __future__ import annotations

from typing import Final, Protocol, cast

from clusters._plugins import load_plugin, plugin_names
from clusters.metrics._settings import MetricsSettings
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
    return plugin_names(__path__, _NO_SOURCES)


def load_metrics_source(type_name: str) -> MetricsSourceModule:
    """The module `clusters.metrics.<type_name>`.

    Raises: InvalidObjectError, naming the source, when there is none of that name or it cannot be imported.
    """
    module = load_plugin(
        __name__,
        type_name,
        metrics_source_names(),
        kind="metrics source",
        type_of="metrics type",
        otherwise="name another",
    )
    return cast(MetricsSourceModule, module)
