"""Node pools of clouds: one module each, found by name. A module offers `Settings` and `create(settings, *, clock)`.

Adding a cloud is adding a file here. Modules whose name begins with an underscore serve the others. A cloud's SDK is
imported by its own module only, so that a daemon pays in memory for the clouds it is configured with and no more.
"""

from __future__ import annotations

from typing import Protocol, cast

from pydantic import BaseModel

from clusters._plugins import load_plugin, plugin_names
from scheduler.model.ports import Clock, NodePoolProvider


class ProviderModule(Protocol):
    """What a module of this folder is made of."""

    Settings: type[BaseModel]
    """What stands under `provider:` in the federation file, `type` included."""

    def create(self, settings: BaseModel, *, clock: Clock) -> NodePoolProvider:
        """The provider; nothing is sent yet. Raises: AuthError or InvalidObjectError for unusable credentials."""
        ...


def provider_names() -> tuple[str, ...]:
    """Every provider there is a file for, sorted; nothing is imported."""
    return plugin_names(__path__)


def load_provider(type_name: str) -> ProviderModule:
    """The module `clusters.providers.<type_name>`.

    Raises: InvalidObjectError, naming the provider, when there is none of that name or it cannot be imported.
    """
    module = load_plugin(
        __name__,
        type_name,
        provider_names(),
        kind="provider",
        type_of="provider type",
        otherwise="remove it from the file",
    )
    return cast(ProviderModule, module)
