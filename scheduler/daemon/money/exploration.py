"""What was placed to learn, and what it counts for: remembered for the policies' budgets for exploration.

A placement that is still there tells it itself (its annotation); this is for those that are over. Kept in the history:
where that is lost, so is what was spent on exploration before, as it is with all spend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import orjson
import structlog

from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import MEMORIES
from scheduler.model.errors import OverspillError
from scheduler.model.ids import Uid
from scheduler.model.money import Usd
from scheduler.model.ports import Clock
from scheduler.model.snapshot import Explored

log = structlog.get_logger(__name__)
NAME: Final = "explored"
_VERSION: Final = 1
_KEPT_SECONDS: Final = 32 * 86400.0
"""Longer than any window but `total`: older ones are added up."""
_MOST: Final = 5_000


class ExplorationBook:
    """Belongs to the event loop."""

    def __init__(self, history: History, clock: Clock, *, saves: bool) -> None:
        """`saves`: not in shadow mode, whose placements are nobody's spend."""
        self._history = history
        self._clock = clock
        self._saves = saves
        self._told: dict[tuple[Uid, int], Explored] = {}

    def explored(self) -> tuple[Explored, ...]:
        """For the snapshot."""
        return tuple(self._told.values())

    def placed(self, explored: Iterable[Explored]) -> None:
        """So much has been decided on."""
        before = len(self._told)
        self._told |= {(each.workload, each.attempt): each for each in explored}
        if len(self._told) != before:
            self._save()

    def undelivered(self, workload: Uid, attempt: int) -> None:
        """Its nodes did not come: it never ran there, and counts for nothing."""
        if self._told.pop((workload, attempt), None) is not None:
            self._save()

    def ended(self, workload: Uid, paid: Callable[[], Usd | None]) -> None:
        """A run is over: where it cost more than it was reckoned at, it counts for what it cost. `paid`: in USD, on
        bought nodes; None: not known."""
        mine = [key for key in self._told if key[0] == workload]
        usd = paid() if mine else None
        for key in mine[-1:]:
            if usd is not None and usd > self._told[key].usd:
                self._told[key] = replace(self._told[key], usd=usd)
                self._save()

    async def load(self) -> None:
        """Take up what was remembered. What cannot be read is left, and logged."""
        try:
            saved = await self._history.memory(NAME)
            if saved is not None:
                self._told = {(each.workload, each.attempt): each for each in _read(saved)}
        except (OverspillError, ValueError, TypeError, KeyError, ArithmeticError) as error:
            log.error("exploration_not_restored", error=repr(error)[:300])

    def _save(self) -> None:
        self._told = _added_up(self._told, self._clock.now() - _KEPT_SECONDS)
        if not self._saves:
            return
        rows = [[each.workload, each.attempt, each.policy, each.at, str(each.usd)] for each in self._told.values()]
        body = orjson.dumps({"version": _VERSION, "explored": rows}).decode()
        self._history.record(MEMORIES, {"name": NAME, "at": self._clock.now(), "body": body})


def _added_up(told: Mapping[tuple[Uid, int], Explored], before: float) -> dict[tuple[Uid, int], Explored]:
    """One for each policy in place of those that are old, or too many: at the time of the newest of them."""
    if len(told) <= _MOST and all(each.at >= before or not each.workload for each in told.values()):
        return dict(told)
    ordered = sorted(told.values(), key=lambda each: (each.at, each.workload, each.attempt))
    kept = {(each.workload, each.attempt): each for each in ordered[-_MOST // 2 :] if each.at >= before}
    sums: dict[str, Explored] = {}
    for each in ordered:
        if (each.workload, each.attempt) not in kept:
            known = sums.get(each.policy)
            usd = each.usd if known is None else known.usd + each.usd
            sums[each.policy] = Explored(Uid(""), 0, each.policy, each.at, usd)
    numbered = enumerate(sorted(sums.values(), key=lambda each: each.policy))
    return {(Uid(""), number): replace(each, attempt=number) for number, each in numbered} | kept


def _read(saved: Mapping[str, Any]) -> list[Explored]:
    """Raises: ValueError, TypeError, KeyError, ArithmeticError."""
    if saved["version"] != _VERSION:
        raise ValueError(f"exploration of version {saved['version']}, not {_VERSION}")
    found = [
        Explored(Uid(str(uid)), int(attempt), str(policy), float(at), Usd(usd))
        for uid, attempt, policy, at, usd in saved["explored"]
    ]
    if not all(each.usd.is_finite() and each.usd >= 0 for each in found):
        raise ValueError("an amount that cannot be")
    return found
