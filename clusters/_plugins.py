"""Plugins that are modules of a folder, found by name: clouds, price sources, metrics sources."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Collection, Iterable
from typing import Any

from scheduler.model.errors import InvalidObjectError

_WANTED = ("Settings", "create")


def plugin_names(path: Iterable[str], serving: Collection[str] = ()) -> tuple[str, ...]:
    """Modules in the folders of `path`, sorted, but those that begin with an underscore or are in `serving`; nothing is
    imported."""
    found = (module.name for module in pkgutil.iter_modules(path))
    return tuple(sorted(name for name in found if not name.startswith("_") and name not in serving))


def load_plugin(package: str, name: str, known: tuple[str, ...], *, kind: str, type_of: str, otherwise: str) -> Any:
    """The module `package.name`. `kind` and `type_of` are what such a thing and its name are called in errors,
    `otherwise` what to do instead of installing what it needs.

    Raises: InvalidObjectError, naming it, when there is none of that name, or it cannot be imported or is incomplete.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise InvalidObjectError(f"{type_of} {name!r} is not known; {hint}")
    try:
        module = importlib.import_module(f"{package}.{name}")
    except ImportError as error:
        text = f"{kind} {name!r} cannot be imported: {error}; install what it needs or {otherwise}"
        raise InvalidObjectError(text) from error
    for wanted in _WANTED:
        if not hasattr(module, wanted):
            raise InvalidObjectError(f"{kind} {name!r} is incomplete: {module.__name__} lacks {wanted!r}")
    return module
