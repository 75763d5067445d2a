"""The federation of a replay: obeys plans, runs jobs, loses machines. Virtual time; the same seed, the same history.

It is the counterpart of the daemon's mirror, reconciler and clusters: `snapshot` is what they would show, `obey` what
they would do, `pass_time` what would happen to it.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from scheduler.engine.exploration import explored
from scheduler.engine.settlement import queued_again_at
from scheduler.engine.transfer import transfer
from scheduler.model.cluster import Cluster
from scheduler.model.ids import ClusterId, Instant, NodeName, PoolRef, QueueId, Uid, WorkloadRef
from scheduler.model.plan import Plan, SetPlacement
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Backoff, Explored, Snapshot
from scheduler.model.workload import Copy, CopyState, Hints, PlacementState, Workload
from scheduler.simulate.accounts import Accounts
from scheduler.simulate.assumptions import Assumptions, draw, normal
from scheduler.simulate.machines import Machine, MachinePool
from scheduler.simulate.record import JobRecord, Moment, RunRecord
from scheduler.simulate.trace import Speeds, TraceJob

PROFILE_LABEL = "overspill.dev/profile"
_BACKOFF_SECONDS = 300.0
_LONGEST_BACKOFF_SECONDS = 3600.0


@dataclass(slots=True, eq=False)
class _Run:
    """One job on its way."""

    job: TraceJob
    workload: Workload
    record: JobRecord
    hint_factor: float | None
    """What its user says of its run time, over the truth; None: nothing."""
    left_seconds: float
    """Work to be done on reference hardware."""
    copy: Copy | None = None
    spots: tuple[tuple[Machine, Resources, int], ...] = ()
    running_since: Instant | None = None
    speed: float = 1.0
    parted: tuple[Instant, PoolRef] | None = None
    """When, and where, the last time slice took it off its nodes; it goes on there, or has been moved."""
    epoch: int = 0
    """Grows whenever it starts or stops, so that an outdated end is recognised."""


class SimulatedFederation:
    """Mutable; made by `driver.replay` for one run."""

    def __init__(
        self,
        clusters: Iterable[Cluster],
        owned_nodes: Mapping[PoolRef, int],
        assumptions: Assumptions,
        speeds: Speeds,
        record: RunRecord,
        *,
        meters_budgets: bool,
    ) -> None:
        self.now: Instant = record.started_at
        self.record = record
        self._assumptions = assumptions
        self._speeds = speeds
        self._templates = {cluster.id: cluster for cluster in sorted(clusters, key=lambda each: each.id)}
        self.pools = {
            pool.ref: MachinePool(pool, assumptions) for one in self._templates.values() for pool in one.pools
        }
        for ref, count in sorted(owned_nodes.items()):
            self.pools[ref].own(count, self.now)
        self._runs: dict[Uid, _Run] = {}
        self._unbound: dict[Uid, _Run] = {}
        self._users: dict[NodeName, dict[Uid, _Run]] = {}
        self._shown: dict[str, Cluster] = {}
        self._events: list[tuple[Instant, int, str, object]] = []
        self._sequence = 0
        self._backoffs: dict[PoolRef, Backoff] = {}
        self.explored: list[Explored] = []
        """Placements that were made to learn."""
        self._accounts = Accounts(record, meters=meters_budgets)

    # -- what is seen ------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        return Snapshot(
            now=self.now,
            hub_synced=True,
            clusters=tuple(self._cluster(name) for name in self._templates),
            workloads=tuple(run.workload for run in self._runs.values()),
            copies=tuple(run.copy for run in self._runs.values() if run.copy is not None),
            spend=self._accounts.spend(self.now),
            backoffs=tuple(each for each in self._backoffs.values() if each.until > self.now),
            explored=tuple(self.explored),
        )

    @property
    def next_event_at(self) -> Instant | None:
        """When something happens by itself; None: nothing will."""
        while self._events and not self._still_due(*self._events[0][2:]):
            heapq.heappop(self._events)
        return self._events[0][0] if self._events else None

    def _still_due(self, what: str, subject: object) -> bool:
        """Not of a run that was stopped, an order that was cancelled or a machine that has gone back meanwhile."""
        match what, subject:
            case "end", (uid, epoch):
                run = self._runs.get(Uid(str(uid)))
                return run is not None and run.epoch == epoch
            case "machines", (PoolRef() as ref, number):
                return number in self.pools[ref].arriving
            case "reclaim", Machine() as machine:
                return self.pools[machine.pool].machines.get(machine.name) is machine
        raise AssertionError(f"no such event: {what}")

    @property
    def keeps_more_than_it_must(self) -> bool:
        """Whether bought machines are there or ordered beyond their pools' minimum: they will go back."""
        return any(pool.template.bought and pool.desired > pool.template.min_nodes for pool in self.pools.values())

    @property
    def unfinished(self) -> int:
        return len(self._runs)

    def moment(self) -> Moment:
        """The state of now, for plots."""
        waiting = [run for run in self._runs.values() if run.running_since is None and not run.spots]
        used = dict.fromkeys(self._templates, 0)
        there = dict.fromkeys(self._templates, 0)
        usd = 0.0
        for pool in self.pools.values():
            for machine in pool.machines.values():
                there[pool.ref.cluster] += machine.size.gpus
                used[pool.ref.cluster] += machine.size.gpus - machine.free.gpus
                if pool.template.bought and pool.template.price is not None:
                    usd += float(pool.template.price.usd_per_hour) * (self.now - machine.created_at) / 3600
        usd += sum(float(each.usd or 0) for each in self.record.machines)
        gpus = sum(run.job.gpus for run in waiting)
        return Moment(self.now, len(waiting), gpus, tuple(used.values()), tuple(there.values()), usd)

    # -- what happens ------------------------------------------------------------------------------------------

    def pass_time(self, to: Instant) -> None:
        """Let everything happen that is due by `to`."""
        while self._events and self._events[0][0] <= to:
            at, _, what, subject = heapq.heappop(self._events)
            self.now = max(self.now, at)
            match what:
                case "end":
                    self._end(subject)
                case "machines":
                    self._arrive(subject)
                case "reclaim":
                    self._reclaim(subject)
        self.now = max(self.now, to)

    def submit(self, job: TraceJob) -> None:
        """A user creates it, now."""
        uid = Uid(job.name)
        factor = self._hint_factor(job)
        record = JobRecord(job, self.now)
        self.record.jobs.append(record)
        workload = Workload(
            ref=WorkloadRef(job.kind, job.namespace, job.name, uid), queue=QueueId(job.queue), priority=job.priority,
            created_at=self.now, queued_at=self.now, pod_sets=job.pod_sets,
            labels=(*job.labels, *(((PROFILE_LABEL, job.profile),) if job.profile else ())),
            hints=self._hints(job, job.run_seconds, factor), has_finalizer=True,
        )  # fmt: skip
        self._runs[uid] = _Run(job, workload, record, factor, job.run_seconds)

    def obey(self, plan: Plan) -> bool:
        """Carry the plan out; whether anything came of it that another cycle could answer to at once."""
        freed = False
        self.explored += explored(plan)
        for change in plan.placements:
            freed |= self._place(change)
        for decision in plan.decisions:
            run = self._runs.get(decision.workload.uid)
            if run is not None and decision.outcome == "held":
                said = (decision.reason.code, decision.sentence)
                run.workload = replace(run.workload, condition=said)
        for scale in plan.scales:
            freed |= self._scale(scale.pool, scale.desired_nodes)
        for closure in plan.closures:
            self._set_closed(closure.pool, closure.node, closed=True)
        for opening in plan.openings:
            self._set_closed(opening.pool, opening.node, closed=False)
        for removal in plan.removals:
            pool = self.pools[removal.pool]
            machine = pool.machines.get(removal.node)
            if machine is not None and machine.pods == 0:
                self._close(machine, reclaimed=False)
        for run in sorted(self._unbound.values(), key=lambda each: each.job.name):
            self._bind(run)
        return freed

    def _set_closed(self, pool: PoolRef, node: NodeName, *, closed: bool) -> None:
        machine = self.pools[pool].machines.get(node)
        if machine is not None:
            machine.set_closed(closed=closed)
            self._shown.pop(pool.cluster, None)

    # -- jobs --------------------------------------------------------------------------------------------------

    def _place(self, change: SetPlacement) -> bool:
        run = self._runs.get(change.workload.uid)
        if run is None or run.workload.placement != change.replaces:
            return False
        state = change.placement.state
        if state in (PlacementState.RELEASING, PlacementState.PAUSED):
            since = queued_again_at(change.placement, run.workload.queued_at, self.now)
            self._stop(run, preempted=True)
            run.workload = replace(run.workload, queued_at=since)
            return True
        moves = state is PlacementState.STARTED and run.copy is not None
        if moves:
            self._stop(run, preempted=False)
            run.record.moves += 1
        run.workload = replace(run.workload, placement=change.placement)
        if state is PlacementState.STARTED and run.copy is None:
            wanted = sum(each.count for each in run.job.pod_sets)
            run.copy = Copy(
                origin=run.workload.ref.uid, cluster=change.placement.cluster, kind=run.job.kind,
                namespace=run.job.namespace,
                name=run.job.name, uid=Uid(f"{run.job.name}-copy"), attempt=change.placement.attempt,
                state=CopyState.PENDING, suspended=False, deleting=False, created_at=self.now, started_at=None,
                finished_at=None, pods_wanted=wanted, pods_bound=0,
            )  # fmt: skip
            self._unbound[run.workload.ref.uid] = run
        return moves

    def _bind(self, run: _Run) -> None:
        """The member's scheduler: the whole gang, big pods first, each on the fullest node that it fits."""
        placement, copy = run.workload.placement, run.copy
        assert placement is not None
        assert copy is not None
        pool = self.pools[placement.pool_ref]
        spots: list[tuple[Machine, Resources, int]] = []
        for pod_set in sorted(run.job.pod_sets, key=lambda each: -each.requests.gpus):
            left = pod_set.count
            there = (each for each in pool.machines.values() if each.is_open_to(placement))
            for machine in sorted(there, key=lambda each: (each.free.gpus, each.name)):
                count = machine.room_for(pod_set.requests, left)
                if count:
                    machine.use(pod_set.requests, count, self.now)
                    spots.append((machine, pod_set.requests, count))
                    left -= count
                if not left:
                    break
            if left:
                for machine, pod, count in spots:
                    machine.use(pod, -count, self.now)
                return
        self._start(run, tuple(spots))

    def _start(self, run: _Run, spots: tuple[tuple[Machine, Resources, int], ...]) -> None:
        uid = run.workload.ref.uid
        del self._unbound[uid]
        pool = self.pools[spots[0][0].pool]
        self._shown.pop(pool.ref.cluster, None)
        start = self._start_seconds(run, pool.ref) + self._bring_data(run, pool.ref)
        run.speed = self._speed(run.job, pool)
        run.spots, run.running_since, run.epoch = spots, self.now + start, run.epoch + 1
        assert run.copy is not None
        run.copy = replace(
            run.copy, state=CopyState.RUNNING, started_at=self.now, pods_bound=run.copy.pods_wanted, holds=_holds(spots)
        )  # fmt: skip
        record = run.record
        record.first_started_at = self.now if record.first_started_at is None else record.first_started_at
        record.last_pool = pool.ref
        record.burst |= pool.template.bought
        for machine, pod, count in spots:
            self._users.setdefault(machine.name, {})[uid] = run
            self._accounts.use_began(machine, run.workload.queue, pod.gpus * count, self.now)
        self._event(run.running_since + run.left_seconds / run.speed, "end", (uid, run.epoch))

    def _start_seconds(self, run: _Run, pool: PoolRef) -> float:
        """Until it works; nothing where it goes on in the place that the slice before has left it in."""
        parted, run.parted = run.parted, None
        if parted == (self.now, pool):
            return 0.0
        if parted is not None:
            run.record.interruptions += 1
            run.record.preemptions += 1
        return self._assumptions.start_seconds + (self._assumptions.restart_seconds if run.record.interruptions else 0)

    def _bring_data(self, run: _Run, pool: PoolRef) -> float:
        """Seconds; what it costs goes on the job's account."""
        if not run.job.data:
            return 0.0
        moved = transfer(run.job.data, self._templates[pool.cluster])
        if moved.usd is not None:
            run.record.data_usd += moved.usd
            self._accounts.data_brought(self.pools[pool].template, run.workload.queue, moved.usd, self.now)
        return moved.seconds

    def part(self) -> None:
        """A time slice begins: all that runs goes back into the queue with its work kept."""
        for run in self._runs.values():
            if run.running_since is None:
                continue
            run.left_seconds -= min(run.left_seconds, max(0.0, self.now - run.running_since) * run.speed)
            run.parted = self.now, run.spots[0][0].pool
            self._vacate(run)
            self._wait(run)

    def _end(self, subject: object) -> None:
        assert isinstance(subject, tuple)
        uid, epoch = subject
        run = self._runs.get(uid)
        if run is None or run.epoch != epoch:
            return
        self._vacate(run)
        run.record.finished_at = self.now
        del self._runs[uid]

    def _stop(self, run: _Run, *, preempted: bool) -> None:
        """Off its nodes and back into the queue, with the work since its last checkpoint lost."""
        if run.running_since is not None:
            done = min(run.left_seconds, max(0.0, self.now - run.running_since) * run.speed)
            every = run.job.checkpoint_seconds
            kept = 0.0 if every is None else done - done % every
            run.record.lost_seconds += done - kept
            run.left_seconds -= kept
            run.record.interruptions += 1
            run.record.preemptions += preempted
        self._vacate(run)
        self._wait(run)

    def _wait(self, run: _Run) -> None:
        hints = self._hints(run.job, run.left_seconds, run.hint_factor)
        run.workload = replace(run.workload, placement=None, queued_at=self.now, hints=hints, condition=None)

    def _vacate(self, run: _Run) -> None:
        uid = run.workload.ref.uid
        for machine, pod, count in run.spots:
            machine.use(pod, -count, self.now)
            self._users.get(machine.name, {}).pop(uid, None)
            self._accounts.use_ended(machine, run.workload.queue, pod.gpus * count, self.now)
            self._shown.pop(machine.pool.cluster, None)
        self._unbound.pop(uid, None)
        run.spots, run.running_since, run.copy, run.epoch = (), None, None, run.epoch + 1

    def _speed(self, job: TraceJob, pool: MachinePool) -> float:
        if not job.profile:
            return 1.0
        return self._speeds[job.profile].get(pool.template.gpu_model or "", 1e-9)

    def _hint_factor(self, job: TraceJob) -> float | None:
        if job.hint_known:
            return None if job.hint_seconds is None else job.hint_seconds / job.run_seconds
        if not self._assumptions.hints:
            return None
        seed, spread = self._assumptions.seed, self._assumptions.hint_spread
        z = normal(draw(seed, "hint", job.name), draw(seed, "hint2", job.name)) if spread else 0.0
        return math.exp(spread * max(-4.0, min(4.0, z)))

    def _hints(self, job: TraceJob, seconds: float, factor: float | None) -> Hints:
        deadline = None
        if job.deadline_seconds is not None:
            deadline = self.record.started_at + job.arrival_seconds + job.deadline_seconds
        hint, training = None if factor is None else seconds * factor, job.training
        plain = Hints(hint, job.checkpoint_seconds, deadline, data=job.data)
        if training is None:
            return plain
        steps = seconds * training.steps_per_second
        return replace(plain, model=training.model, batch_size=training.batch_size, total_steps=steps)

    # -- machines ----------------------------------------------------------------------------------------------

    def _scale(self, ref: PoolRef, desired: int) -> bool:
        pool = self.pools[ref]
        known = set(pool.arriving)
        delivered = pool.resize(desired, self.now)
        for number, at in pool.arriving.items():
            if number not in known:
                self._event(at, "machines", (ref, number))
        self._shown.pop(ref.cluster, None)
        if delivered:
            return False
        old = self._backoffs.get(ref)
        failures = 1 if old is None else old.failures + 1
        pause = min(_BACKOFF_SECONDS * 2 ** min(failures - 1, 10), _LONGEST_BACKOFF_SECONDS)
        self._backoffs[ref] = Backoff(ref, self.now + pause, failures, "no such machine just now")
        return True

    def _arrive(self, subject: object) -> None:
        assert isinstance(subject, tuple)
        ref, number = subject
        pool = self.pools[ref]
        machine = pool.arrive(number)
        if machine is None:
            return
        self._shown.pop(ref.cluster, None)
        self._backoffs.pop(ref, None)
        if machine.reclaimed_at is not None:
            self._event(machine.reclaimed_at, "reclaim", machine)
        self._accounts.began(machine, pool.template)

    def _reclaim(self, subject: object) -> None:
        assert isinstance(subject, Machine)
        if self.pools[subject.pool].machines.get(subject.name) is not subject:
            return
        for run in list(self._users.get(subject.name, {}).values()):
            self._stop(run, preempted=False)
        self._close(subject, reclaimed=True)

    def _close(self, machine: Machine, *, reclaimed: bool) -> None:
        pool = self.pools[machine.pool]
        pool.remove(machine.name)
        self._users.pop(machine.name, None)
        self._shown.pop(machine.pool.cluster, None)
        self._accounts.ended(machine, pool.template, self.now, reclaimed=reclaimed)

    def close(self) -> None:
        """The end of the replay: every machine's account is closed, and of each job that is left it is told why."""
        for run in self._runs.values():
            run.record.why = _why(run)
        for pool in self.pools.values():
            for machine in list(pool.machines.values()):
                self._accounts.ended(machine, pool.template, self.now, reclaimed=False)
        self.record.spend = self._accounts.spend(self.now)

    def _cluster(self, name: str) -> Cluster:
        known = self._shown.get(name)
        if known is None or any(self.now >= pool.short_until > known_at for pool, known_at in self._short(name)):
            template = self._templates[ClusterId(name)]
            pools = [self.pools[pool.ref] for pool in template.pools]
            nodes = tuple(machine.node for pool in pools for machine in pool.machines.values())
            known = replace(template, nodes=nodes, pools=tuple(pool.shown(self.now) for pool in pools))
            self._shown[name] = known
        return known

    def _short(self, name: str) -> Iterable[tuple[MachinePool, Instant]]:
        shown = {pool.ref: pool.shortage is not None for pool in self._shown[name].pools}
        return [(self.pools[ref], float("-inf") if short else float("inf")) for ref, short in shown.items()]

    def _event(self, at: Instant, what: str, subject: object) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (at, self._sequence, what, subject))


def _why(run: _Run) -> str:
    """Why a job has not ended, in words."""
    if run.running_since is not None:
        return f"it runs still, after {run.record.interruptions} interruptions"
    if run.workload.placement is not None:
        return f"it waits for its nodes on {run.workload.placement.pool_ref}"
    if run.workload.condition is not None:
        return run.workload.condition[1]
    return "nothing was decided about it"


def _holds(spots: Iterable[tuple[Machine, Resources, int]]) -> tuple[tuple[NodeName, Resources], ...]:
    """What the pods ask for on each node, by its name."""
    found: dict[NodeName, Resources] = {}
    for machine, pod, count in spots:
        found[machine.name] = found.get(machine.name, Resources()) + pod.times(count)
    return tuple(sorted(found.items()))
