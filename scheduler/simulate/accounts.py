"""What machines did and cost: busy GPU time, bought machines' lives, and the spend that budgets are held against."""

from __future__ import annotations

from dataclasses import replace

from scheduler.engine.spend import BucketKey, NodeLifetime, NodeUse, SpendLedger, advance, charged, hour_of
from scheduler.model.cluster import NodePool
from scheduler.model.ids import Instant, NodeName, QueueId
from scheduler.model.money import Usd, cost_usd
from scheduler.model.snapshot import SpendBucket
from scheduler.simulate.machines import Machine
from scheduler.simulate.record import MachineRecord, RunRecord


class Accounts:
    """Of one replay. `meters`: keep the ledger of spend by queue, hour by hour, which budgets need and costs time."""

    def __init__(self, record: RunRecord, *, meters: bool) -> None:
        self._record = record
        self._meters = meters
        self._lifetimes: dict[NodeName, NodeLifetime] = {}
        self._ledger = SpendLedger()
        self._metered_at: Instant | None = None
        self._busy_gpus: dict[NodeName, tuple[int, Instant, float]] = {}
        """By machine: GPUs in use, since when, GPU-seconds before that."""

    def began(self, machine: Machine, template: NodePool) -> None:
        """A bought machine has come."""
        if self._meters and template.bought:
            rate = None if template.price is None else template.price.usd_per_hour
            ref, name = machine.pool, machine.name
            life = NodeLifetime(ref.cluster, ref.pool, name, name, template.capacity_type, rate, machine.created_at)
            self._lifetimes[name] = life

    def use_began(self, machine: Machine, queue: QueueId, gpus: int, now: Instant) -> None:
        """A job of `queue` uses `gpus` of it from now on."""
        self._count(machine, gpus, now)
        life = self._lifetimes.get(machine.name)
        if life is not None:
            uses = (*_recent(life, self._ledger), NodeUse(now, None, queue, gpus))
            self._lifetimes[machine.name] = replace(life, uses=uses)

    def use_ended(self, machine: Machine, queue: QueueId, gpus: int, now: Instant) -> None:
        """And now it does not any more."""
        self._count(machine, -gpus, now)
        life = self._lifetimes.get(machine.name)
        if life is not None:
            mine = next(use for use in life.uses if use.ended_at is None and (use.queue, use.gpus) == (queue, gpus))
            uses = tuple(use._replace(ended_at=now) if use is mine else use for use in life.uses)
            self._lifetimes[machine.name] = replace(life, uses=uses)

    def data_brought(self, pool: NodePool, queue: QueueId, usd: Usd, now: Instant) -> None:
        """To where a job of `queue` begins to run."""
        if self._meters and usd:
            key = BucketKey(hour_of(now), pool.ref.cluster, pool.capacity_type, queue)
            self._ledger = charged(self._ledger, key, usd)

    def ended(self, machine: Machine, template: NodePool, now: Instant, *, reclaimed: bool) -> None:
        """The machine has gone, or the replay is over."""
        gpus, since, busy = self._busy_gpus.pop(machine.name, (0, now, 0.0))
        busy += gpus * (now - since)
        if not template.bought:
            self._record.owned_busy_gpu_seconds += busy
            self._worked(machine, template, busy)
            return
        usd = None if template.price is None else cost_usd(template.price.usd_per_hour, now - machine.created_at)
        self._record.machines.append(
            MachineRecord(
                machine.pool, template.capacity_type, machine.created_at, now, machine.size.gpus, busy, usd, reclaimed
            )
        )
        life = self._lifetimes.get(machine.name)
        if life is not None:
            self._lifetimes[machine.name] = replace(life, ended_at=now)

    def spend(self, now: Instant) -> tuple[SpendBucket, ...]:
        """Up to now; empty when nothing is metered."""
        if not self._meters:
            return ()
        if now == self._metered_at:
            return self._ledger.buckets
        self._metered_at = now
        self._ledger = advance(self._ledger, self._lifetimes.values(), now)
        self._lifetimes = {name: one for name, one in self._lifetimes.items() if not self._ledger.is_settled(one)}
        return self._ledger.buckets

    def _worked(self, machine: Machine, template: NodePool, busy_gpu_seconds: float) -> None:
        total = self._record.owned_busy_usd
        if not busy_gpu_seconds or total is None:
            return
        price = template.price
        seconds = busy_gpu_seconds / machine.size.gpus
        self._record.owned_busy_usd = None if price is None else total + cost_usd(price.usd_per_hour, seconds)

    def _count(self, machine: Machine, gpus: int, now: Instant) -> None:
        before, since, busy = self._busy_gpus.get(machine.name, (0, now, 0.0))
        self._busy_gpus[machine.name] = (before + gpus, now, busy + before * (now - since))


def _recent(life: NodeLifetime, ledger: SpendLedger) -> tuple[NodeUse, ...]:
    """Without the uses that ended before what is settled already, the last one apart (who pays for idle time): a node
    that serves thousands of jobs would carry them all through every cycle."""
    until = ledger.settled_until.get(life.uid)
    if until is None:
        return life.uses
    ends = [use.ended_at for use in life.uses if use.ended_at is not None]
    last = max((end for end in ends if end <= until), default=None)
    return tuple(use for use in life.uses if use.ended_at is None or use.ended_at > until or use.ended_at == last)
