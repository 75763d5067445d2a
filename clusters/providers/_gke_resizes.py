"""The last resize of each pool, followed to its end: a pool does not always tell why its operation failed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from google.cloud.container_v1.types import Operation

from clusters.providers._gke_reading import Groups, Trouble, operation_trouble
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock

_REMEMBERED_SECONDS: Final = 900.0
"""How long the failure of a resize speaks for its pool, from when it was seen: as long as a group's errors do."""


@dataclass(frozen=True, slots=True)
class _Resize:
    operation: str
    desired: int
    trouble: Trouble = (None, "")
    """Of one that has failed."""
    seen_at: Instant | None = None
    """When its end was seen; None: it runs."""


class Resizes:
    """One resize a pool, in memory: after a restart, pools and their groups alone tell what is wrong."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: dict[str, _Resize] = {}

    def begun(self, pool: str, operation: str, desired: int) -> None:
        """A resize was accepted; what an earlier one ran into is past. `operation` is its name, "" if not told."""
        self._last.pop(pool, None)
        if operation:
            self._last[pool] = _Resize(operation, desired)

    def running(self, pool: str) -> str | None:
        """Name of the operation to look up; None: none is known to run."""
        last = self._last.get(pool)
        return last.operation if last is not None and last.seen_at is None else None

    def any_operation(self) -> str | None:
        """Name of some operation that Google knew."""
        return next((one.operation for one in self._last.values()), None)

    def looked_up(self, pool: str, operation: Operation) -> None:
        """What `running` was found to be. One that went well is forgotten when it has ended."""
        last = self._last.get(pool)
        if last is None or last.operation != operation.name or operation.status != Operation.Status.DONE:
            return
        trouble = operation_trouble(operation)
        if trouble[0] is None:
            del self._last[pool]
        else:
            self._last[pool] = replace(last, trouble=trouble, seen_at=self._clock.now())

    def lost(self, pool: str) -> None:
        """Google no longer tells of it."""
        self._last.pop(pool, None)

    def trouble(self, pool: str, groups: Groups) -> Trouble:
        """What the last resize failed of, until its nodes have come after all or it is long ago."""
        last = self._last.get(pool)
        if last is None or last.seen_at is None:
            return None, ""
        came = groups.stable and groups.target >= last.desired
        if came or self._clock.now() - last.seen_at > _REMEMBERED_SECONDS:
            del self._last[pool]
            return None, ""
        return last.trouble
