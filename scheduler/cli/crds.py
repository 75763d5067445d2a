"""Overspill's CustomResourceDefinitions, as files: `deploy/crds` of the source tree or of the installed package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from scheduler.cli.output import CommandError
from scheduler.model.contract import CRDS
from scheduler.model.errors import AlreadyExistsError
from scheduler.model.ports import KubeApi


def load() -> list[dict[str, Any]]:
    """All definitions, by file name. Raises: CommandError when this installation has none."""
    folders = Path(__file__).parents[2] / "deploy" / "crds", Path(sys.prefix) / "share" / "overspill" / "crds"
    files = next((found for folder in folders if (found := sorted(folder.glob("*.yaml")))), [])
    if not files:
        raise CommandError(f"no CustomResourceDefinitions in {' or '.join(map(str, folders))}; install overspill again")
    return [document for file in files for document in yaml.safe_load_all(file.read_text(encoding="utf-8")) if document]


async def install(api: KubeApi) -> None:
    """Create those that are not there yet. Raises: ExternalError when the API refuses."""
    for definition in load():
        try:
            await api.create(CRDS, "", definition)
        except AlreadyExistsError:
            continue
