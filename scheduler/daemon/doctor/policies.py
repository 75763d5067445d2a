"""The policy files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from policies.errors import PolicyErrors
from policies.loader import FederationNames
from policies.reload import PolicyFolder
from scheduler.daemon.doctor.finding import Report

_TOLD: Final = 20
"""Most mistakes of policy files that are told."""


def check_policies(paths: Sequence[Path], names: FederationNames, report: Report) -> None:
    """Every mistake with its place, up to twenty."""
    remedy = f"overspill policy check {' '.join(map(str, paths))}"
    try:
        found = PolicyFolder(paths, names)
    except PolicyErrors as errors:
        for error in errors.errors[:_TOLD]:
            report.fail(str(error), remedy)
        return
    for warning in found.warnings:
        report.warn(str(warning), remedy)
    current = found.current
    report.ok(f"{len(current.policies)} policies and {len(current.queues)} queues are valid")
