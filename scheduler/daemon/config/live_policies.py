"""The policies in force: read at start, then on change or SIGHUP; a bad set never replaces a good one."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from policies.loader import FederationNames
from policies.reload import PolicyFolder
from scheduler.daemon.config.watch_files import changes
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.ids import Instant
from scheduler.model.policy import PolicySet
from scheduler.model.ports import Clock

log = structlog.get_logger(__name__)


class LivePolicies:
    """Raises PolicyErrors when made from files with mistakes: there is no last good set yet."""

    def __init__(
        self, paths: Sequence[Path], clock: Clock, telemetry: Telemetry, names: FederationNames | None = None
    ) -> None:
        self._clock = clock
        self._telemetry = telemetry
        self._folder = PolicyFolder(paths, names)
        self.loaded_at: Instant = clock.now()
        self.error: str | None = None
        """Why the files on disk are not in force, in one line; None: they are."""
        self.on_change: Callable[[], None] = lambda: None
        self._report("policies_loaded")
        telemetry.policy_reload.set(1)
        telemetry.policy_reloaded_at.set(self.loaded_at)

    @property
    def current(self) -> PolicySet:
        return self._folder.current

    def reload(self) -> None:
        """Read the files again; what is wrong with them is logged, counted and shown in the status."""
        result = self._folder.reload()
        if result.outcome == "refused":
            more = f" (and {len(result.errors) - 1} more)" if len(result.errors) > 1 else ""
            self.error = f"{result.errors[0]}{more}"
            self._telemetry.policy_reload.set(0)
            log.error("policies_refused", error=self.error, in_force=self.current.digest[:12])
            return
        if result.outcome == "unchanged" and self._folder.rolled_back:
            return
        self.error = None
        self._telemetry.policy_reload.set(1)
        if result.outcome == "changed":
            self.loaded_at = self._clock.now()
            self._telemetry.policy_reloaded_at.set(self.loaded_at)
            self._report("policies_changed")
            self.on_change()

    def roll_back(self) -> str:
        """Put the set before the current one in force again, until the files change; the digest of what is in force."""
        before = self.current.digest
        current = self._folder.roll_back()
        if current.digest != before:
            self.loaded_at = self._clock.now()
            self._telemetry.policy_reload.set(0)
            self._telemetry.policy_reloaded_at.set(self.loaded_at)
            self.error = f"set {before[:12]} was rolled back by a remedy; change the files to load them again"
            self._report("policies_rolled_back")
            self.on_change()
        return current.digest

    async def run(self) -> None:
        """Follow the files for ever."""
        async with asyncio.TaskGroup() as following:
            for path in self._folder.paths:
                following.create_task(self._follow(path))

    async def _follow(self, path: Path) -> None:
        async for _ in changes(path):
            self.reload()

    def _report(self, event: str) -> None:
        log.info(
            event, digest=self.current.digest[:12], policies=len(self.current.policies), queues=len(self.current.queues)
        )
        for warning in self._folder.warnings:
            log.warning("policy_warning", warning=str(warning))
        if self.current.serving or any(policy.value_of_time is not None for policy in self.current.policies):
            # What solves programmes takes a while to load: now, and not in the first cycle that needs it.
            importlib.import_module("scipy.optimize")
