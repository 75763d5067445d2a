"""The node pools of one emulated cluster: machines that boot, run and go, and the Node objects that stand for them."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from clusters.sandbox.emulation import notices
from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.kubelet import Kubelets
from clusters.sandbox.emulation.machines import identity, node_object
from clusters.sandbox.emulation.objects import INSTANCE_FINALIZER, format_time, is_deleting, with_condition
from clusters.sandbox.emulation.timers import Timer, Timers
from clusters.sandbox.emulation.work import WorkQueue
from clusters.sandbox.ports import Instance, PoolState
from clusters.sandbox.scenario import ClusterPlan, PoolPlan
from scheduler.model.contract import EVENTS, NODES
from scheduler.model.errors import AlreadyExistsError, ConflictError, NotFoundError
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock, KubeApi, RawObject

_log = structlog.get_logger(__name__)
_JITTER: Final = 0.15
"""Provisioning takes its nominal time, give or take this share of it."""
_SHUTDOWN_SECONDS: Final = 20.0
"""From the order to terminate until the machine is gone."""


@dataclass(slots=True, eq=False)
class _Machine:
    instance_id: str
    provider_id: str
    node: str
    number: int
    launched_at: Instant
    state: str = "pending"
    timer: Timer | None = None
    reclaim: Timer | None = None
    created: bool = False
    """Whether its Node object was created."""
    reclaimed_at: Instant | None = None
    """When its cloud takes it back; None: it does not."""
    announced: bool = False
    """Whether the notice of that is out."""
    gone: bool = False
    """The machine no longer exists; its Node's finalizer is to go."""


@dataclass(slots=True, eq=False)
class _Pool:
    plan: PoolPlan
    desired: int
    machines: dict[str, _Machine] = field(default_factory=dict)
    """By node name, oldest first."""
    launched: int = 0
    shortage: str | None = None
    dry_until: Instant | None = None
    """No capacity until then; infinity: until it is lifted."""
    slowness: float = 1.0

    def alive(self) -> list[_Machine]:
        return [machine for machine in self.machines.values() if machine.state != "terminating"]


class NodePools:
    """Implements `clusters.sandbox.ports.EmulatedPools`. Seeded: the same calls at the same times do the same."""

    def __init__(
        self,
        plan: ClusterPlan,
        api: KubeApi,
        clock: Clock,
        timers: Timers,
        nodes: Informer,
        kubelets: Kubelets,
        *,
        seed: int = 0,
        workers: int = 4,
    ) -> None:
        self.cluster = plan.name
        self._plan = plan
        self._api = api
        self._clock = clock
        self._timers = timers
        self._nodes = nodes
        self._kubelets = kubelets
        self._seed = seed
        self._pools = {pool.spec.name: _Pool(pool, pool.initial_nodes) for pool in plan.pools}
        self._pool_of: dict[str, _Pool] = {}
        self.queue = WorkQueue("machines", self._reconcile, workers=workers)
        nodes.handle(self._on_node)

    def start(self) -> None:
        """Bring up the initial machines at once, and plan the scripted shortages."""
        now = self._clock.now()
        for pool in self._pools.values():
            for begin, end in pool.plan.shortages:
                self._plan_shortage(pool, now + begin, now + end)
            for _ in range(pool.desired):
                self._boot(pool, self._new_machine(pool, now), now)

    def _plan_shortage(self, pool: _Pool, begin: Instant, end: Instant) -> None:
        self._timers.at(begin, lambda _: self._run_dry(pool, end))

    # EmulatedPools

    def pools(self) -> tuple[PoolState, ...]:
        return tuple(self._state(pool) for pool in self._pools.values())

    def resize(self, pool: str, desired: int) -> None:
        found = self._pools[pool]
        spec = found.plan.spec
        if not spec.min_nodes <= desired <= spec.max_nodes:
            raise ValueError(f"pool {pool}: {desired} is outside {spec.min_nodes}..{spec.max_nodes}")
        found.desired = desired
        self._settle(found)

    def remove(self, pool: str, instance_or_node: str) -> None:
        found = self._pools[pool]
        for machine in found.machines.values():
            if instance_or_node in (machine.instance_id, machine.provider_id, machine.node):
                if machine.state != "terminating":
                    found.desired = max(found.plan.spec.min_nodes, found.desired - 1)
                    self._terminate(found, machine, self._clock.now())
                    self._settle(found)
                return

    # Faults

    def run_dry(self, pool: str, seconds: float | None) -> None:
        """The cloud has no such machines for so long (None: until `refill`). Raises: KeyError."""
        until = float("inf") if seconds is None else self._clock.now() + seconds
        self._run_dry(self._pools[pool], until)

    def refill(self, pool: str) -> None:
        """The cloud has such machines again. Raises: KeyError."""
        found = self._pools[pool]
        found.dry_until = None
        self._settle(found)

    def slow_down(self, pool: str, factor: float) -> None:
        """Machines launched from now on take `factor` times as long. Raises: KeyError."""
        self._pools[pool].slowness = factor

    def reclaim(self, node: str) -> None:
        """Give notice to this spot machine. Raises: KeyError when there is no such node."""
        self._give_notice(self._pool_of[node], self._pool_of[node].machines[node], self._clock.now())

    def lose(self, node: str) -> bool:
        """The machine breaks and is gone without notice. False when it belongs to a fixed pool (it then stays, dead).

        Raises: KeyError when there is no such node.
        """
        pool = self._pool_of[node]
        self._kubelets.kill(node)
        if pool.plan.fixed:
            return False
        machine = pool.machines[node]
        self._terminate(pool, machine, self._clock.now(), at_once=True)
        self._settle(pool)
        return True

    # Machines

    def _settle(self, pool: _Pool) -> None:
        """Launch or terminate until as many are alive as are wanted and can be had."""
        surplus = len(pool.alive()) - pool.desired
        now = self._clock.now()
        for machine in sorted(pool.alive(), key=self._first_to_go)[: max(0, surplus)]:
            self._terminate(pool, machine, now)
        pool.shortage = None
        while len(pool.alive()) < pool.desired:
            if pool.dry_until is not None and now < pool.dry_until:
                pool.shortage = "capacity"
                return
            if pool.plan.quota_nodes is not None and len(pool.machines) >= pool.plan.quota_nodes:
                pool.shortage = "quota"
                return
            machine = self._new_machine(pool, now)
            jitter = random.Random(f"{self._seed}/{machine.node}").uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311
            delay = pool.plan.spec.provisioning_seconds * jitter * pool.slowness
            machine.timer = self._timers.at(now + delay, partial(self._boot, pool, machine))

    def _first_to_go(self, machine: _Machine) -> tuple[bool, bool, int]:
        pending = machine.state == "pending"
        return (not pending, not pending and self._kubelets.active(machine.node) > 0, -machine.number)

    def _new_machine(self, pool: _Pool, now: Instant) -> _Machine:
        number, pool.launched = pool.launched, pool.launched + 1
        machine = _Machine(*identity(self._plan, pool.plan.spec, number, self._seed), number, now)
        pool.machines[machine.node] = machine
        self._pool_of[machine.node] = pool
        return machine

    def _boot(self, pool: _Pool, machine: _Machine, now: Instant) -> None:
        machine.state = "running"
        self.queue.add(machine.node)
        if pool.plan.reclaims_per_hour > 0:
            drawn = random.Random(f"{self._seed}/reclaim/{machine.node}")  # noqa: S311
            due = now + drawn.expovariate(pool.plan.reclaims_per_hour / 3600)
            machine.reclaim = self._timers.at(due, lambda at: self._give_notice(pool, machine, at))

    def _give_notice(self, pool: _Pool, machine: _Machine, now: Instant) -> None:
        if machine.state != "running" or machine.reclaimed_at is not None:
            return
        machine.reclaimed_at = now + pool.plan.reclaim_notice_seconds
        self.queue.add(machine.node)
        self._timers.at(machine.reclaimed_at, lambda due: self._reclaimed(pool, machine, due))

    def _reclaimed(self, pool: _Pool, machine: _Machine, now: Instant) -> None:
        if machine.state == "running":
            self._terminate(pool, machine, now)
            self._settle(pool)

    def _terminate(self, pool: _Pool, machine: _Machine, now: Instant, *, at_once: bool = False) -> None:
        if machine.state == "terminating" and not at_once:
            return
        for timer in (machine.timer, machine.reclaim):
            if timer is not None:
                timer.cancel()
        was, machine.state = machine.state, "terminating"
        if was == "pending":
            self._forget(pool, machine)
            return
        self.queue.add(machine.node)
        if at_once:
            self._gone(pool, machine)
            return
        self._kubelets.shut_down(machine.node, now)
        self._timers.at(now + _SHUTDOWN_SECONDS, lambda _: self._gone(pool, machine))

    def _gone(self, pool: _Pool, machine: _Machine) -> None:
        machine.gone = True
        self._kubelets.kill(machine.node)
        self.queue.add(machine.node)

    def _forget(self, pool: _Pool, machine: _Machine) -> None:
        pool.machines.pop(machine.node, None)
        self._pool_of.pop(machine.node, None)
        self._settle(pool)

    def _run_dry(self, pool: _Pool, until: Instant) -> None:
        pool.dry_until = max(until, pool.dry_until or 0.0)
        if until != float("inf"):
            self._timers.at(until, lambda _: self._settle(pool))

    def _state(self, pool: _Pool) -> PoolState:
        instances = tuple(
            Instance(m.instance_id, m.provider_id, m.node, m.state, m.launched_at) for m in pool.machines.values()
        )
        resizing = any(machine.state != "running" for machine in pool.machines.values())
        return PoolState(pool.plan.spec, pool.desired, instances, pool.shortage, resizing)

    # Node objects

    def _on_node(self, kind: str, old: RawObject | None, node: RawObject) -> None:
        name = str(node["metadata"]["name"])
        pool = self._pool_of.get(name)
        machine = pool.machines.get(name) if pool is not None else None
        if pool is None or machine is None:
            return
        if kind == "DELETED":
            for timer in (machine.timer, machine.reclaim):
                if timer is not None:
                    timer.cancel()
            self._forget(pool, machine)
        elif is_deleting(node) and machine.state == "running":
            # Somebody deleted the Node: as with Karpenter's finalizer, that is an order to terminate its machine.
            pool.desired = max(pool.plan.spec.min_nodes, pool.desired - 1)
            self._terminate(pool, machine, self._clock.now())

    async def _reconcile(self, name: str) -> None:
        """Bring the Node object to what its machine is."""
        pool = self._pool_of.get(name)
        machine = pool.machines.get(name) if pool is not None else None
        if pool is None or machine is None:
            return
        if not machine.created and machine.state == "running":
            await self._create(pool, machine)
        elif not machine.created and machine.state == "terminating":
            self._forget(pool, machine)
            return
        if machine.reclaimed_at is not None and not machine.announced and machine.state == "running":
            await self._announce_reclaim(machine)
        if machine.state == "terminating":
            await self._delete(pool, machine)

    async def _create(self, pool: _Pool, machine: _Machine) -> None:
        moment = format_time(self._clock.now())
        body = node_object(self._plan, pool.plan, machine.node, machine.provider_id, moment)
        try:
            self._nodes.observe(await self._api.create(NODES, "", body))
        except AlreadyExistsError:  # created by an earlier attempt whose answer was lost
            _log.info("node exists already", cluster=self.cluster, node=machine.node)
        machine.created = True

    async def _delete(self, pool: _Pool, machine: _Machine) -> None:
        """Ask for deletion (the finalizer holds it); once the machine is gone take the finalizer off."""
        try:
            node = self._nodes.get(machine.node) or await self._api.get(NODES, "", machine.node)
            if not is_deleting(node):
                await self._api.delete(NODES, "", machine.node)
                node = await self._api.get(NODES, "", machine.node)
            if machine.gone:
                left = [f for f in node["metadata"].get("finalizers") or () if f != INSTANCE_FINALIZER]
                version = {"resourceVersion": node["metadata"]["resourceVersion"], "uid": node["metadata"]["uid"]}
                await self._api.patch(NODES, "", machine.node, {"metadata": {**version, "finalizers": left or None}})
        except NotFoundError:
            self._forget(pool, machine)
        except ConflictError:
            self.queue.add_later(machine.node, 0.02)

    async def _announce_reclaim(self, machine: _Machine) -> None:
        """Say it on the Node and by an Event, each once, as the cloud's own agents do."""
        node = self._nodes.get(machine.node)
        if node is None or machine.reclaimed_at is None:
            return
        notice = notices.of(self._plan.provider, node, self._clock.now(), machine.reclaimed_at)
        version = {"resourceVersion": node["metadata"]["resourceVersion"], "uid": node["metadata"]["uid"]}
        if notice.condition is not None:
            conditions = with_condition((node.get("status") or {}).get("conditions") or (), notice.condition)
            body = {"metadata": version, "status": {"conditions": conditions}}
            node = await self._api.patch(NODES, "", machine.node, body, subresource="status")
            self._nodes.observe(node)
            version = {"resourceVersion": node["metadata"]["resourceVersion"], "uid": node["metadata"]["uid"]}
        taints = (node.get("spec") or {}).get("taints") or []
        if not any(known.get("key") == notice.taint["key"] for known in taints):
            body = {"metadata": version, "spec": {"taints": [*taints, notice.taint]}}
            self._nodes.observe(await self._api.patch(NODES, "", machine.node, body))
        with contextlib.suppress(AlreadyExistsError):
            await self._api.create(EVENTS, "default", notice.event)
        machine.announced = True
