"""Overspill's CustomResourceDefinitions, as files: `deploy/crds` of the source tree or of the installed package."""

from __future__ import annotations

from typing import Any

from scheduler.daemon.deployed import documents
from scheduler.model.contract import CRDS
from scheduler.model.errors import AlreadyExistsError
from scheduler.model.ports import KubeApi


def load() -> list[dict[str, Any]]:
    """All definitions, by file name. Raises: InvalidObjectError when this installation has none."""
    return documents("crds")


async def install(api: KubeApi) -> None:
    """Create those that are not there yet. Raises: ExternalError when the API refuses."""
    for definition in load():
        try:
            await api.create(CRDS, "", definition)
        except AlreadyExistsError:
            continue
