"""Reloading that keeps the last good set. The daemon watches the folder and calls `reload`; nothing here waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from policies.errors import PolicyError, PolicyErrors
from policies.loader import FederationNames, check_policies
from scheduler.model.ids import Instant
from scheduler.model.policy import PolicySet


@dataclass(frozen=True, slots=True)
class Reload:
    """What a reload came to. `policies` is the set in force after it: when refused, the last good one."""

    outcome: Literal["changed", "unchanged", "refused"]
    policies: PolicySet
    errors: tuple[PolicyError, ...] = ()
    warnings: tuple[PolicyError, ...] = ()

    @property
    def changed(self) -> bool:
        return self.outcome == "changed"


class PolicyFolder:
    """Policy files and folders, the last good set that was read from them, and what is wrong with a newer one."""

    def __init__(self, paths: Sequence[Path], names: FederationNames | None = None) -> None:
        """Reads them. Raises: PolicyErrors, for there is no last good set yet."""
        self.paths = tuple(paths)
        self._names = names
        checked = check_policies(self.paths, names)
        if checked.policies is None:
            raise PolicyErrors(checked.errors)
        self.current: PolicySet = checked.policies
        self.warnings = checked.warnings
        self.errors: tuple[PolicyError, ...] = ()
        """Of the last reload; empty when it was good."""
        self.previous: PolicySet | None = None
        """What was in force before `current`; None: nothing, or it was put back already."""
        self.rolled_back = ""
        """Digest of a set that was taken back, and is not taken up again while the files still hold it."""
        self.loaded_at: Instant | None = None
        """When `current` came into force; set by who has a clock."""

    def roll_back(self) -> PolicySet:
        """Put the set before the current one in force again, until the files change; the current one when there is
        none before it."""
        if self.previous is not None:
            self.rolled_back = self.current.digest
            self.current, self.previous = self.previous, None
        return self.current

    @property
    def error(self) -> str | None:
        """What was wrong with the last reload, in one line; None when it was good."""
        if not self.errors:
            return None
        more = f" (and {len(self.errors) - 1} more)" if len(self.errors) > 1 else ""
        return f"{self.errors[0]}{more}"

    def reload(self) -> Reload:
        """Read again. Never raises for what the files hold: a set with any mistake is refused whole."""
        checked = check_policies(self.paths, self._names)
        self.errors = checked.errors
        if checked.policies is None:
            return Reload("refused", self.current, errors=checked.errors)
        self.warnings = checked.warnings
        if checked.policies.digest in (self.current.digest, self.rolled_back):
            return Reload("unchanged", self.current, warnings=checked.warnings)
        self.previous, self.current, self.rolled_back = self.current, checked.policies, ""
        return Reload("changed", self.current, warnings=checked.warnings)
