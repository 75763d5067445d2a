"""Node pools of clouds: one module each, found by name. A module offers `Settings` and `create(settings, *, clock)`.

Adding a cloud is adding a file here. Modules whose name begins with an underscore serve the others. A cloud's SDK is
imported by its own module only, so that a daemon pays in memory for the clouds it is configured with and no more.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import Protocol, cast

from pydantic import BaseModel

from scheduler.model.errors import InvalidObjectError
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
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")))


def load_provider(type_name: str) -> ProviderModule:
    """The module `clusters.providers.<type_name>`.

    Raises: InvalidObjectError, naming the provider, when there is none of that name or it cannot be imported.
    """
    names = provider_names()
    if type_name not in names:
        near = difflib.get_close_matches(type_name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
        raise InvalidObjectError(f"provider type {type_name!r} is not known; {hint}")
    try:
        module = importlib.import_module(f"{__name__}.{type_name}")
    except ImportError as error:
        raise InvalidObjectError(
            f"provider {type_name!r} cannot be imported: {error}; install what it needs or remove it from the file"
        ) from error
    for wanted in ("Settings", "create"):
        if not hasattr(module, wanted):
            raise InvalidObjectError(f"provider {type_name!r} is incomplete: {module.__name__} lacks {wanted!r}")
    return cast(ProviderModule, module)
