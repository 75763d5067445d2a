"""Resizes followed to their end. EKS answers a resize with an update, and only that update says how it ended.

The updates that this process began are followed by their ids; one that somebody else began (or we, before a restart, or
with an answer that was lost) is looked for while its node group says UPDATING.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from clusters.providers._eks_calls import AwsCalls
from scheduler.model.errors import AuthError, NotFoundError, NotServedError
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock

_FAILURE_SECONDS: Final = 1800.0
"""How long a failed update counts when nothing newer is known. EKS never takes it back."""
_REMEMBERED: Final = 200
"""Ended updates of a pool that are not described again; two pages' worth."""
_LOOKED_AT: Final = 5
"""Updates that are described in one pass in search of the running one."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An update that ended badly."""

    errors: tuple[tuple[str, str], ...]
    """(errorCode, errorMessage) as EKS tells them."""
    desired: int | None
    """The size that it was to bring; None: it was no resize, or does not say."""
    at: Instant


class Updates:
    """The updates of one cluster's node groups."""

    def __init__(self, aws: AwsCalls, cluster: str, clock: Clock) -> None:
        self._aws = aws
        self._cluster = cluster
        self._clock = clock
        self._running: dict[str, str] = {}
        self._targets: dict[str, int] = {}
        self._ended: dict[str, tuple[str, ...]] = {}
        self._failures: dict[str, Failure] = {}
        self._tokens: dict[str, tuple[int, str]] = {}

    def token(self, pool: str, desired: int) -> str:
        """The client request token for this resize.

        One token stands for one intention: the same until its outcome is known, so that a request whose answer was lost
        is not done twice; then a fresh one. A token made of pool and size alone would be wrong: EKS remembers it, and
        the second growth to 3 (after a shrink to 2) would be answered with the first one's update and not be done.
        """
        known = self._tokens.get(pool)
        if known is None or known[0] != desired:
            known = self._tokens[pool] = (desired, str(uuid.uuid4()))
        return known[1]

    def settled(self, pool: str) -> None:
        """The outcome of the pool's last resize request is known: it was refused, or begun."""
        self._tokens.pop(pool, None)

    def begun(self, pool: str, update: Mapping[str, Any], desired: int) -> None:
        """EKS took the resize on; what went before is of no interest any more."""
        self._failures.pop(pool, None)
        if update.get("id"):
            self._running[pool] = update["id"]
            self._targets[pool] = desired

    def lowered(self, pool: str) -> None:
        """A node of the pool was given back by itself."""
        if pool in self._targets:
            self._targets[pool] -= 1

    def target(self, pool: str) -> int | None:
        """The size that the pool's running update will bring; the Auto Scaling group learns of it only on the way."""
        return self._targets.get(pool)

    async def look(self, group: Mapping[str, Any]) -> bool:
        """Look how the node group's update is doing. Returns whether one is running. Raises: ExternalError."""
        pool = group["nodegroupName"]
        if pool not in self._running and group.get("status") == "UPDATING":
            await self._search(pool)
        if pool not in self._running:
            return False
        update_id = self._running[pool]
        update = await self._describe(pool, update_id)
        if update.get("status") == "InProgress":
            return True
        if self._running.get(pool) == update_id:  # another call may have looked meanwhile, or begun the next one
            del self._running[pool]
            self._end(pool, update_id, update)
        return False

    def failure(self, pool: str, *, running_nodes: int | None, desired_nodes: int) -> Failure | None:
        """How the pool's last update failed; None: it did not, or that is over: the machines came after all."""
        known = self._failures.get(pool)
        if known is None:
            return None
        there = running_nodes is not None and running_nodes >= desired_nodes
        came = known.desired is not None and known.desired <= desired_nodes and there
        if came or self._clock.now() - known.at >= _FAILURE_SECONDS:
            del self._failures[pool]
            return None
        return known

    async def _search(self, pool: str) -> None:
        answer = await self._permitted("ListUpdates", name=self._cluster, nodegroupName=pool, maxResults=100)
        listed = answer.get("updateIds") or []
        ended = frozenset(self._ended.get(pool, ()))
        for update_id in [one for one in listed if one not in ended][:_LOOKED_AT]:
            update = await self._describe(pool, update_id)
            if update.get("status") == "InProgress":
                self._running[pool] = update_id
                desired = _desired(update)
                if desired is not None:
                    self._targets[pool] = desired
                return
            self._note_end(pool, update_id)

    async def _describe(self, pool: str, update_id: str) -> Mapping[str, Any]:
        answer = await self._permitted("DescribeUpdate", name=self._cluster, nodegroupName=pool, updateId=update_id)
        update: Mapping[str, Any] = answer.get("update") or {}
        return update

    async def _permitted(self, action: str, **arguments: Any) -> dict[str, Any]:
        """The answer; {} where we may not ask, or there is nothing: the pools are listed all the same."""
        try:
            return await self._aws.ask("eks", action, **arguments)
        except (AuthError, NotFoundError, NotServedError):
            return {}

    def _end(self, pool: str, update_id: str, update: Mapping[str, Any]) -> None:
        self._targets.pop(pool, None)
        self._note_end(pool, update_id)
        if update.get("status") == "Failed":
            errors = update.get("errors") or [{}]
            told = tuple((one.get("errorCode") or "Unknown", one.get("errorMessage") or "") for one in errors)
            self._failures[pool] = Failure(told, _desired(update), self._clock.now())
        else:
            self._failures.pop(pool, None)

    def _note_end(self, pool: str, update_id: str) -> None:
        self._ended[pool] = (*self._ended.get(pool, ()), update_id)[-_REMEMBERED:]


def _desired(update: Mapping[str, Any]) -> int | None:
    values = [one.get("value", "") for one in update.get("params") or [] if one.get("type") == "DesiredSize"]
    return int(values[0]) if values and values[0].isdigit() else None
