"""Workload kinds, one module each, found by name: a module here exposes `KIND`, a pure `WorkloadKind`."""

from __future__ import annotations

import importlib
import pkgutil

from scheduler.model.errors import InvalidObjectError
from scheduler.model.ports import WorkloadKind


def load_kinds() -> dict[str, WorkloadKind]:
    """Every kind in this package by its name, sorted. Raises: InvalidObjectError naming a module that is none."""
    found: dict[str, WorkloadKind] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            continue
        name = f"{__name__}.{module.name}"
        try:
            kind: WorkloadKind | None = getattr(importlib.import_module(name), "KIND", None)
        except ImportError as error:
            raise InvalidObjectError(f"workload kind {module.name} cannot be imported: {error}") from error
        if kind is None:
            raise InvalidObjectError(f"workload kind {module.name}: {name} exposes no KIND")
        if kind.name != module.name:
            raise InvalidObjectError(f"workload kind {module.name}: its KIND calls itself {kind.name}")
        found[kind.name] = kind
    return dict(sorted(found.items()))
