"""Looks through requirements.lock, offline: is every package pinned to one version with its hashes, is what is here
what is locked, and is none as old as a fault that is known of it (deploy/advisories.yaml)?

`make verify` runs it. It finds no fault that nobody has written down: that is pip-audit's work (`make audit`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT: Final = Path(__file__).parents[1]
NOT_LOCKED: Final = frozenset({"overspill", "pip"})
"""The project itself, and what the virtual environment was made with."""


def main() -> int:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    advisories = yaml.safe_load((ROOT / "deploy" / "advisories.yaml").read_text(encoding="utf-8"))
    installed = {str(canonicalize_name(each.metadata["Name"])): each.version for each in distributions()}
    wrong = list(faults(lock, advisories, installed))
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    return 1 if wrong else 0


def faults(lock: str, advisories: Mapping[str, Any], installed: Mapping[str, str]) -> Iterator[str]:
    """A line for each; none: all is well. `installed`: version by canonical name."""
    locked: dict[str, set[str]] = {}
    for entry in re.split(r"\n(?=\S)", lock.replace("\\\n", "").strip()):
        line, *hashes = re.split(r"\s+--hash=", entry.strip())
        try:
            found = Requirement(line)
        except InvalidRequirement:
            yield f"requirements.lock: {line[:80]!r} is no requirement; run `make lock`"
            continue
        name, pins = (
            str(canonicalize_name(found.name)),
            [each.version for each in found.specifier if each.operator == "=="],
        )
        if found.url or len(pins) != 1 or len(found.specifier) != 1 or "*" in pins[0]:
            yield f"{name}: is not pinned to one version; run `make lock`"
            continue
        if not hashes or not all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes):
            yield f"{name}: has no hashes; run `make lock`"
        locked.setdefault(name, set()).add(pins[0])
        advisory = advisories.get(name)
        if advisory is not None and Version(pins[0]) < Version(str(advisory["least"])):
            yield f"{name} {pins[0]}: {advisory['id']} is mended in {advisory['least']}; raise it in requirements.lock"
    for name, version in sorted(installed.items()):
        if name not in NOT_LOCKED and version not in locked.get(name, ()):
            yield f"{name} {version}: is installed and not locked; run `make setup`"


if __name__ == "__main__":
    sys.exit(main())
