"""Prices of machines: one source a module, found by name. A source offers `Settings` and `create(settings, *, clock)`.

Adding a source is adding a file here. Modules whose name begins with an underscore, and the few in `_SERVING`, are not
sources but serve them. A cloud's SDK is imported by its own module only, so that a daemon pays in memory for the
sources it is configured with and no more.
"""

from __future__ import annotations

from typing import Final, Protocol, cast, runtime_checkable

from clusters._plugins import load_plugin, plugin_names
from clusters.prices._settings import PriceSettings
from scheduler.model.ports import Clock
from scheduler.model.prices import PriceSource

_SERVING: Final = frozenset({"book", "currency", "egress", "merge"})
"""Public modules of this folder that are no sources."""


class PriceSourceModule(Protocol):
    """What a source's module is made of."""

    Settings: type[PriceSettings]
    """What stands in an entry of `prices:` in the federation file, `type` included."""

    def create(self, settings: PriceSettings, *, clock: Clock) -> PriceSource:
        """The source, whose `name` is its type; nothing is read yet. Raises: AuthError or InvalidObjectError for
        unusable credentials or settings."""
        ...


@runtime_checkable
class TellsProblems(Protocol):
    """A source that may have something to say about what it could not use (lines of a file, unknown currencies)."""

    def problems(self) -> tuple[str, ...]:
        """One clear line each, of the last reading; empty: none. Never a secret."""
        ...


@runtime_checkable
class MayBeIncomplete(Protocol):
    """A source that asks several questions for one reading, some of which may fail while others are answered."""

    def incomplete(self) -> bool:
        """Whether part of the last reading failed: what it left out may be known all the same, and what was known
        before is kept until it is stale."""
        ...


def price_source_names() -> tuple[str, ...]:
    """Every price source there is a file for, sorted; nothing is imported."""
    return plugin_names(__path__, _SERVING)


def load_price_source(type_name: str) -> PriceSourceModule:
    """The module `clusters.prices.<type_name>`.

    Raises: InvalidObjectError, naming the source, when there is none of that name or it cannot be imported.
    """
    module = load_plugin(
        __name__,
        type_name,
        price_source_names(),
        kind="price source",
        type_of="price source type",
        otherwise="remove it from the file",
    )
    return cast(PriceSourceModule, module)
