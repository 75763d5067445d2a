"""The files of `deploy/` that Overspill itself reads, from the source tree or from the installed package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from scheduler.model.errors import InvalidObjectError


def documents(folder: str, pattern: str = "*.yaml") -> list[dict[str, Any]]:
    """All YAML documents of `deploy/<folder>`, by file name. Raises: InvalidObjectError when there are none."""
    folders = Path(__file__).parents[2] / "deploy" / folder, Path(sys.prefix) / "share" / "overspill" / folder
    files = next((found for one in folders if (found := sorted(one.glob(pattern)))), [])
    if not files:
        raise InvalidObjectError(f"no {pattern} in {' or '.join(map(str, folders))}; install overspill again")
    return [document for file in files for document in yaml.safe_load_all(file.read_text(encoding="utf-8")) if document]
