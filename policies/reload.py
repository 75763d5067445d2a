"""Reloading that keeps the last good set. The daemon watches the folder and calls `reload`; nothing here waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from policies.errors import PolicyError, PolicyErrors
from policies.loader import FederationNames, check_policies
from scheduler.model.policy import PolicySet


@dataclass(frozen=True, slots=True)
class Reload:
    """What a reload came to. `policies` is the set in force after it: when refused, the last good one."""

    outcome: Literal["changed", "unchanged", "refused"]
    policies: PolicySet
    errors: tuple[PolicyError, ...] = ()
    warnings: tuple[PolicyError, ...] = ()


class PolicyFolder:
    """Policy files and folders, and the last good set that was read from them."""

    def __init__(self, paths: Sequence[Path], names: FederationNames | None = None) -> None:
        """Reads them. Raises: PolicyErrors, for there is no last good set yet."""
        self.paths = tuple(paths)
        self._names = names
        checked = check_policies(self.paths, names)
        if checked.policies is None:
            raise PolicyErrors(checked.errors)
        self.current: PolicySet = checked.policies
        self.warnings = checked.warnings

    def reload(self) -> Reload:
        """Read again. Never raises for what the files hold: a set with any mistake is refused whole."""
        checked = check_policies(self.paths, self._names)
        if checked.policies is None:
            return Reload("refused", self.current, errors=checked.errors)
        self.warnings = checked.warnings
        if checked.policies.digest == self.current.digest:
            return Reload("unchanged", self.current, warnings=checked.warnings)
        self.current = checked.policies
        return Reload("changed", self.current, warnings=checked.warnings)
