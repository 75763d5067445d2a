"""Whose turn it is to write on a member: so many at once, the rest in line.

Who is in line costs nothing until it is woken; looking again and again would cost more than the writes themselves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from scheduler.model.ids import ClusterId, Uid


class Turns:
    """Belongs to the event loop. A turn that ends is kept for the first in line, which is woken to take it."""

    def __init__(self, at_once: int, wake: Callable[[Uid], None]) -> None:
        self._at_once = at_once
        self._wake = wake
        self._busy: Counter[ClusterId] = Counter()
        """Turns that are taken or kept for somebody."""
        self._kept: dict[Uid, ClusterId] = {}
        self._lines: defaultdict[ClusterId, dict[Uid, None]] = defaultdict(dict)

    @property
    def waiting(self) -> int:
        return sum(map(len, self._lines.values()))

    def is_open(self, uid: Uid, member: ClusterId) -> bool:
        """Whether the workload may write there now; if not, it is put in line and woken when it may."""
        if self._kept.get(uid) == member or self._busy[member] < self._at_once:
            return True
        self._lines[member][uid] = None
        return False

    @contextmanager
    def taken(self, uid: Uid, member: ClusterId) -> Iterator[None]:
        """For the time of a write."""
        if self._kept.get(uid) == member:
            del self._kept[uid]
        else:
            self._busy[member] += 1
        self._lines[member].pop(uid, None)
        try:
            yield
        finally:
            self._end(member)

    def let_go(self, uid: Uid) -> None:
        """The workload was looked at: a turn that was kept for it, and that it has no use for, is the next one's."""
        member = self._kept.pop(uid, None)
        if member is not None:
            self._end(member)

    def _end(self, member: ClusterId) -> None:
        self._busy[member] -= 1
        line = self._lines[member]
        while line and self._busy[member] < self._at_once:
            uid = next(iter(line))
            del line[uid]
            if uid in self._kept:
                # It is woken already, for another member, and gets in line here again if it still wants to.
                continue
            self._busy[member] += 1
            self._kept[uid] = member
            self._wake(uid)
