"""Long-running operations of an emulated cloud: a resize that is accepted at once and takes its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from clusters.sandbox.ports import PoolState
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock

_KEPT: Final = 500


@dataclass(frozen=True, slots=True)
class Operation:
    id: str
    pool: str
    desired: int
    started: Instant


class Operations:
    """The operations of one cluster, in the order in which they began; the last five hundred are known.

    One lasts for `least_seconds` of the sandbox's clock, and (with a `longest_seconds` beyond it) until the machines
    are there or cannot be had, or that time is over. What has ended does not begin again.
    """

    def __init__(
        self, clock: Clock, new_id: Callable[[], str], *, least_seconds: float, longest_seconds: float = 0.0
    ) -> None:
        self._clock = clock
        self._new_id = new_id
        self._least_seconds = least_seconds
        self._longest_seconds = longest_seconds
        self._known: dict[str, Operation] = {}
        self._ended: set[str] = set()

    def begin(self, pool: str, desired: int) -> Operation:
        operation = Operation(self._new_id(), pool, desired, self._clock.now())
        self._known[operation.id] = operation
        while len(self._known) > _KEPT:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._ended.discard(oldest)
        return operation

    def find(self, operation_id: str) -> Operation | None:
        return self._known.get(operation_id)

    def all(self) -> tuple[Operation, ...]:
        return tuple(self._known.values())

    def latest(self, pool: str) -> Operation | None:
        return next((one for one in reversed(self._known.values()) if one.pool == pool), None)

    def running(self, state: PoolState) -> Operation | None:
        """The operation that the pool is busy with; None: it may be resized."""
        latest = self.latest(state.spec.name)
        return latest if latest is not None and self.runs(latest, state) else None

    def runs(self, operation: Operation, state: PoolState) -> bool:
        """Whether `operation` of the pool in `state` has not ended."""
        if operation.id in self._ended or operation != self.latest(operation.pool):
            return False
        age = self._clock.now() - operation.started
        waits = state.resizing and state.shortage is None and age < self._longest_seconds
        if age < self._least_seconds or waits:
            return True
        self._ended.add(operation.id)
        return False

    def failed(self, operation: Operation, state: PoolState) -> bool:
        """Whether it ended without the machines it was to bring."""
        over = not self.runs(operation, state)
        return over and operation == self.latest(operation.pool) and state.shortage is not None
