"""The spend ledger: node time times price, in hour buckets, per queue, cluster and capacity type; exact and pure.

One node's buckets add up to `cost_usd(price, lifetime)` to the nano-dollar: the cost of a stretch of time is the cost
of the lifetime up to its end less that up to its start, and queues share it in whole nano-dollars. Where the price
changes during the lifetime, each part costs what was in force then, and the parts add up.
Time is charged to the queues that use the node then, by GPUs; while it is idle to those that used it last; before its
first use to the queue that it was bought for; else to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import pairwise
from types import MappingProxyType
from typing import Final, NamedTuple

from scheduler.model.ids import ClusterId, Instant, NodeName, PoolId, QueueId
from scheduler.model.money import NANO, Usd, cost_usd
from scheduler.model.snapshot import SpendBucket

HOUR: Final = 3600.0
DAY: Final = 86400.0


class NodeUse(NamedTuple):
    """One workload's time on a node; `ended_at` None: it is still there."""

    started_at: Instant
    ended_at: Instant | None
    queue: QueueId
    gpus: int
    workload: str = ""
    """UID of its hub object; "": not recorded (by earlier versions)."""


class PriceChange(NamedTuple):
    """From `at` on a node costs `usd_per_hour`."""

    at: Instant
    usd_per_hour: Usd


@dataclass(frozen=True, slots=True)
class NodeLifetime:
    """A bought node from its creation to its end (None: still there), and who used it when."""

    cluster: ClusterId
    pool: PoolId
    uid: str
    name: NodeName
    capacity_type: str
    usd_per_hour: Usd | None
    """The first that was known, from the creation on. None: none was ever known; its time is counted, not charged."""
    created_at: Instant
    ended_at: Instant | None = None
    uses: tuple[NodeUse, ...] = ()
    bought_for: QueueId | None = None
    price_changes: tuple[PriceChange, ...] = ()
    """Later prices, oldest first, each from its instant on. While a price is not known any more the last one stays."""

    @property
    def last_usd_per_hour(self) -> Usd | None:
        return self.price_changes[-1].usd_per_hour if self.price_changes else self.usd_per_hour


class BucketKey(NamedTuple):
    hour_start: Instant
    cluster: ClusterId
    capacity_type: str
    queue: QueueId | None


def _empty() -> Mapping[BucketKey, Usd]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class SpendLedger:
    """Spend up to some instant. Never changed: `advance` makes the next one.

    Hours that are over are settled once, per node; only the hour that runs is reckoned anew each time.
    """

    settled: Mapping[BucketKey, Usd] = field(default_factory=_empty)
    running: Mapping[BucketKey, Usd] = field(default_factory=_empty)
    settled_until: Mapping[str, Instant] = field(default_factory=lambda: MappingProxyType({}))
    """By node UID: up to when its cost is in `settled`."""
    settled_unpriced_seconds: float = 0.0
    running_unpriced_seconds: float = 0.0

    @property
    def buckets(self) -> tuple[SpendBucket, ...]:
        """For `Snapshot.spend`, in order of hour, cluster, capacity type, queue; empty ones left out."""
        total = dict(self.settled)
        for key, usd in self.running.items():
            total[key] = total.get(key, Decimal(0)) + usd
        return tuple(SpendBucket(*key, total[key]) for key in sorted(total, key=_bucket_order) if total[key])

    @property
    def total_usd(self) -> Usd:
        return sum(self.settled.values(), Decimal(0)) + sum(self.running.values(), Decimal(0))

    @property
    def unpriced_seconds(self) -> float:
        """Time of bought nodes whose price nobody knows."""
        return self.settled_unpriced_seconds + self.running_unpriced_seconds

    def is_settled(self, node: NodeLifetime) -> bool:
        """Whether the node has ended and its whole cost is settled, so that it need not be given any more."""
        return node.ended_at is not None and self.settled_until.get(node.uid) == max(node.ended_at, node.created_at)


def advance(ledger: SpendLedger, nodes: Iterable[NodeLifetime], now: Instant) -> SpendLedger:
    """The ledger as of `now`.

    `nodes` are all that live and those that ended and are not yet `is_settled`; one that is left out keeps what is
    settled of it and loses the rest, and giving it again later would charge it twice. An end that is learned after its
    hour was settled is taken back exactly. O(nodes x hours since the last call).
    """
    hour = now - now % HOUR
    settled: dict[BucketKey, Usd] | None = None
    running: dict[BucketKey, Usd] = {}
    until: dict[str, Instant] = {}
    settled_unpriced, running_unpriced = ledger.settled_unpriced_seconds, 0.0
    for node in sorted(nodes, key=lambda each: (each.created_at, each.uid)):
        end = max(node.created_at, now if node.ended_at is None else min(node.ended_at, now))
        before = ledger.settled_until.get(node.uid, node.created_at)
        # A node that has ended is over for good: there is no need to wait for the hour to be.
        over = end if node.ended_at is not None and node.ended_at <= now else max(before, min(end, hour))
        until[node.uid] = over
        if node.usd_per_hour is None:
            settled_unpriced += over - before
            running_unpriced += end - over
            continue
        if over != before:
            settled = dict(ledger.settled) if settled is None else settled
            for key, usd in _charges(node, before, over):
                settled[key] = settled.get(key, Decimal(0)) + usd
        for key, usd in _charges(node, over, end):
            running[key] = running.get(key, Decimal(0)) + usd
    return SpendLedger(
        ledger.settled if settled is None else MappingProxyType(settled),
        MappingProxyType(running),
        MappingProxyType(until),
        settled_unpriced,
        running_unpriced,
    )


def charged(ledger: SpendLedger, key: BucketKey, usd: Usd) -> SpendLedger:
    """The ledger with an amount that is due once, as for bringing a run's data to where it runs."""
    settled = {**ledger.settled, key: ledger.settled.get(key, Decimal(0)) + usd}
    return replace(ledger, settled=MappingProxyType(settled))


def hour_of(instant: Instant) -> Instant:
    """When its hour began."""
    return instant - instant % HOUR


def priced(node: NodeLifetime, usd_per_hour: Usd, set_at: Instant, now: Instant) -> NodeLifetime:
    """The node with a price that was learned `now` and, as its source says, set at `set_at`.

    The first price known is taken to have been in force from the creation on. A later one counts from when it was set,
    when that lies after the last change; else from now, for a price that is older than the one in force cannot have
    followed it before now (the source has changed, say to the catalogue). The same price again changes nothing.
    """
    if node.last_usd_per_hour is None:
        return replace(node, usd_per_hour=usd_per_hour)
    if usd_per_hour == node.last_usd_per_hour:
        return node
    in_force_since = node.price_changes[-1].at if node.price_changes else node.created_at
    at = min(set_at, now) if set_at > in_force_since else max(now, in_force_since)
    return replace(node, price_changes=(*node.price_changes, PriceChange(at, usd_per_hour)))


def repriced(ledger: SpendLedger, old: NodeLifetime, new: NodeLifetime) -> SpendLedger:
    """The ledger after `old` was given other prices (`new`): what is settled of it is taken back and charged anew.

    Call it before the next `advance` with `new`; what is not settled yet needs nothing.
    """
    until = ledger.settled_until.get(old.uid, old.created_at)
    settled = dict(ledger.settled)
    for key, usd in (*_charges(old, until, old.created_at), *_charges(new, new.created_at, until)):
        settled[key] = settled.get(key, Decimal(0)) + usd
    known_now = old.usd_per_hour is None and new.usd_per_hour is not None
    was_unpriced = until - old.created_at if known_now else 0.0
    return replace(
        ledger,
        settled=MappingProxyType(settled),
        settled_unpriced_seconds=ledger.settled_unpriced_seconds - was_unpriced,
    )


def paid_for(node: NodeLifetime, workload: str, now: Instant) -> Usd | None:
    """What of the node's cost up to `now` is a workload's: its share by GPUs while it is there, and the time from the
    node's creation when it was the first on it. Idle time after its end is nobody's here. None: no price is known."""
    mine = [use for use in node.uses if use.workload == workload and use.started_at <= now]
    if not mine:
        return Decimal(0)
    if node.usd_per_hour is None:
        return None
    first = min(use.started_at for use in node.uses)
    end = max(node.created_at, now if node.ended_at is None else min(now, node.ended_at))
    total = Decimal(0)
    for begin, stop in pairwise(_edges(node, node.created_at, end)):
        there = [use for use in node.uses if _uses_at(use, first if begin < first else begin)]
        weights = [(use.workload, max(0, use.gpus)) for use in there]
        if not any(weight for _, weight in weights):
            weights = [(name, 1) for name, _ in weights]
        own = sum(weight for name, weight in weights if name == workload)
        if own:
            cost = _cost_until(node, stop) - _cost_until(node, begin)
            total += cost * own / sum(weight for _, weight in weights)
    return total.quantize(NANO)


def _uses_at(use: NodeUse, instant: Instant) -> bool:
    return use.started_at <= instant and (use.ended_at is None or use.ended_at > instant)


def by_day(ledger: SpendLedger, now: Instant) -> SpendLedger:
    """The same ledger with the hours before today (UTC) added up by day, which keeps it small over months.

    Exact for every budget window, since all begin at midnight UTC.
    """
    today = now - now % DAY
    merged: dict[BucketKey, Usd] = {}
    for key, usd in ledger.settled.items():
        start = key.hour_start - key.hour_start % DAY if key.hour_start < today else key.hour_start
        moved = key._replace(hour_start=start)
        merged[moved] = merged.get(moved, Decimal(0)) + usd
    return SpendLedger(
        MappingProxyType(merged),
        ledger.running,
        ledger.settled_until,
        ledger.settled_unpriced_seconds,
        ledger.running_unpriced_seconds,
    )


def _charges(node: NodeLifetime, start: Instant, end: Instant) -> Iterator[tuple[BucketKey, Usd]]:
    """What the node costs from `start` to `end`, by bucket; negative amounts when `end` is before `start`."""
    if end < start:
        for key, usd in _charges(node, end, start):
            yield key, -usd
        return
    if node.usd_per_hour is None or end == start:
        return
    edges = _edges(node, start, end)
    for begin, stop in pairwise(edges):
        usd = _cost_until(node, stop) - _cost_until(node, begin)
        hour = begin - begin % HOUR
        for queue, part in _split(usd, _users(node, begin)):
            yield BucketKey(hour, node.cluster, node.capacity_type, queue), part


def _cost_until(node: NodeLifetime, instant: Instant) -> Usd:
    """From the creation to `instant`: each price for as long as it was in force. 0 while no price is known."""
    rate, since, usd = node.usd_per_hour or Decimal(0), node.created_at, Decimal(0)
    for change in node.price_changes:
        if change.at >= instant:
            break
        if change.at > since:
            usd += cost_usd(rate, change.at - since)
            since = change.at
        rate = change.usd_per_hour
    return usd + cost_usd(rate, instant - since)


def _edges(node: NodeLifetime, start: Instant, end: Instant) -> list[Instant]:
    """`start`, every full hour and every change of use or price between, and `end`."""
    edges = {start, end}
    hour = start - start % HOUR + HOUR
    while hour < end:
        edges.add(hour)
        hour += HOUR
    for use in node.uses:
        edges.update(edge for edge in (use.started_at, use.ended_at) if edge is not None and start < edge < end)
    edges.update(change.at for change in node.price_changes if start < change.at < end)
    return sorted(edges)


def _users(node: NodeLifetime, instant: Instant) -> list[tuple[QueueId | None, int]]:
    """Who pays for the time from `instant` on, with their weights, in order of their names."""
    uses = [use for use in node.uses if use.started_at <= instant and (use.ended_at is None or use.ended_at > instant)]
    if not uses:
        ended = [(use.ended_at, use) for use in node.uses if use.ended_at is not None and use.ended_at <= instant]
        last = max((end for end, _ in ended), default=None)
        uses = [use for end, use in ended if end == last]
    if not uses:
        return [(node.bought_for, 1)]
    weights: dict[QueueId | None, int] = {}
    for use in uses:
        weights[use.queue] = weights.get(use.queue, 0) + max(0, use.gpus)
    if not any(weights.values()):
        weights = dict.fromkeys(weights, 1)
    return sorted(((queue, weight) for queue, weight in weights.items() if weight), key=lambda item: item[0] or "")


def _split(usd: Usd, weights: list[tuple[QueueId | None, int]]) -> Iterator[tuple[QueueId | None, Usd]]:
    """`usd` in whole nano-dollars by weight; what does not divide goes, one nano-dollar each, to the first."""
    nanos = int(usd / NANO)
    total = sum(weight for _, weight in weights)
    parts = [nanos * weight // total for _, weight in weights]
    rest = nanos - sum(parts)
    for index, (queue, _) in enumerate(weights):
        yield queue, (parts[index] + (1 if index < rest else 0)) * NANO


def _bucket_order(key: BucketKey) -> tuple[Instant, str, str, bool, str]:
    return key.hour_start, key.cluster, key.capacity_type, key.queue is not None, key.queue or ""
