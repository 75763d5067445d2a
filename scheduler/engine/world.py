"""One cycle's working state: the snapshot, indexed and sorted once, and the ledgers that placements change.

Made and thrown away by each `cycle`; nothing of it outlives the call, so the cycle as a whole stays a pure function.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property

from scheduler.engine.budgets import BudgetLedger
from scheduler.engine.commitments import UNKNOWN_RUN_SECONDS, Commitments
from scheduler.engine.filters import Ask
from scheduler.engine.matching import Matcher, Rule, idle_seconds_of
from scheduler.engine.memory import Memory
from scheduler.engine.packing import Shape
from scheduler.engine.quota import QuotaLedger
from scheduler.engine.remaining import left_seconds, part_left, told_left_seconds
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.transfer import transfer, with_transfer
from scheduler.model.ids import ClusterId, Instant, PoolRef, Uid
from scheduler.model.policy import PlacementPolicy, PolicySet
from scheduler.model.ports import Prediction, Predictor
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Placement, PodSet, Workload


class World:
    def __init__(
        self, snapshot: Snapshot, policies: PolicySet, predictor: Predictor, memory: Memory | None = None
    ) -> None:
        self.snapshot = snapshot
        self.policies = policies
        self.now: Instant = snapshot.now
        self.clusters = tuple(sorted(snapshot.clusters, key=lambda cluster: cluster.id))
        self.cluster_of = {cluster.id: cluster for cluster in self.clusters}
        self.memory = Memory() if memory is None else memory
        self.static_numbers = self.memory.take_numbers(policies)
        self.roll = self.memory.take_roll(snapshot)
        self.census = self.memory.take_census(predictor, len(snapshot.workloads))
        backoffs = {backoff.pool: backoff for backoff in sorted(snapshot.backoffs, key=lambda b: (b.pool, b.until))}
        self._members = [self.memory.take_rooms(cluster, self.now, backoffs) for cluster in self.clusters]
        self.rooms: dict[PoolRef, PoolRoom] = {room.pool.ref: room for each in self._members for room in each.rooms}
        self.owned = tuple(room for room in self.rooms.values() if not room.pool.bought)
        self._room_at = {(room.pool.ref.cluster, room.pool.ref.pool): room for room in self.rooms.values()}
        self.copies = self.roll.copies
        self.capacity: Resources = sum((each.capacity for each in self._members), Resources())
        self.quotas = QuotaLedger(policies)
        self.budgets = BudgetLedger(policies.policies, snapshot.spend, self.now)
        self.commitments = Commitments()
        self.tracks_money = bool(self.budgets.accounts) or any(
            policy.burst is not None and policy.burst.max_nodes is not None for policy in policies.policies
        )
        self.wakes: set[Instant] = set()
        self.released: set[Uid] = set()
        """Whose placement this cycle has ended."""
        self.stranded: dict[Uid, tuple[PodSet, ...]] = {}
        """Of started workloads, pods that are on no node yet and now fit on none."""
        self.fitted: dict[Uid, int] = {}
        """Of started workloads, how many pods that are not on a node yet have been given room in this cycle."""
        self.backed_off = tuple(room.backoff for room in self.rooms.values() if room.backoff is not None)
        self.progress = {told.workload: told for told in snapshot.progress}
        self._matcher = Matcher(policies)
        self._rule_of: dict[int, Rule] = {}
        self._ask_of_class: dict[tuple[int, bool], Ask] = {}
        self._asks: dict[tuple[int, str, bool, bool], Ask] = {}
        self._groups: dict[Hashable, int] = {}
        self._with_data: dict[tuple[int, int, int, ClusterId], Prediction] = {}
        self._alike_of: dict[int, int] = {}
        self._seconds_left: dict[Uid, float | None] = {}
        self._idle_seconds: dict[PoolRef, float] = {}

    @cached_property
    def workloads(self) -> tuple[Workload, ...]:
        """All, by name."""
        return tuple(sorted(self.snapshot.workloads, key=by_name))

    @cached_property
    def placed(self) -> tuple[Workload, ...]:
        """Those that had a placement when the cycle began and have not finished, by name."""
        return tuple(sorted(self.roll.holders(), key=by_name))

    def close(self) -> None:
        """The end of the cycle: what may be of use again goes back into the memory."""
        self.memory.keep(self.roll, self.census, self._members)

    def wake_at(self, instant: Instant) -> None:
        """Note a future instant at which time alone may change the plan."""
        if instant > self.now:
            self.wakes.add(instant)

    def policy_of(self, workload: Workload) -> PlacementPolicy | None:
        return self._matcher.policy_of(workload)

    def ask_for(self, workload: Workload) -> Ask | None:
        """The class of the workload under the policy that speaks for it; None: none does."""
        traits = self.traits_of(workload)
        known = self._rule_of.get(traits)
        if known is None:
            known = self._rule_of[traits] = self._matcher.rule_of(workload)
        policy = known.policy
        if not known.certain:
            policy = self._matcher.policy_of(workload)
        if policy is None:
            return None
        if not known.certain or (policy.burst is not None and policy.burst.expression is not None):
            return self.ask_of(workload, policy)
        waited = policy.burst is not None and self.now >= workload.queued_at + policy.burst.after_wait_seconds
        ask = self._ask_of_class.get((traits, waited))
        if ask is None:
            ask = self._ask_of_class[traits, waited] = self.ask_of(workload, policy)
        return ask

    def has_waited(self, workload: Workload, policy: PlacementPolicy | None) -> bool:
        """Whether it had to wait, or had when it was placed, for longer than its policy says that anybody is to."""
        patience = None if policy is None else policy.reservation.after_wait_seconds
        until = self.now if workload.placement is None else workload.placement.decided_at
        return patience is not None and until > workload.queued_at + patience

    def room_of(self, placement: Placement) -> PoolRoom | None:
        """The pool it is placed on; None when that is no longer there."""
        return self._room_at.get((placement.cluster, placement.pool))

    def shape_of(self, workload: Workload) -> Shape:
        return self.census.shape_of(workload)

    def traits_of(self, workload: Workload) -> int:
        """The number of what equal workloads have in common."""
        return self.census.traits_of(workload, self._part_left(workload))

    def _part_left(self, workload: Workload) -> float:
        return part_left(self.progress.get(workload.ref.uid)) if self.progress else 1.0

    def ask_of(self, workload: Workload, policy: PlacementPolicy) -> Ask:
        """The class of the workload under its policy, made once for all that are equal."""
        rule = policy.burst
        burst_matches = rule is not None and (rule.expression is None or rule.expression.matches(workload))
        waited = rule is not None and self.now >= workload.queued_at + rule.after_wait_seconds
        key = (self.traits_of(workload), policy.name, burst_matches, waited)
        ask = self._asks.get(key)
        if ask is None:
            shape = self.shape_of(workload)
            like = (shape.number, *key[1:], workload.hints.avoided_pools)
            group = self._groups.setdefault(like, len(self._groups))
            ask = Ask(len(self._asks), group, workload, shape, policy, burst_matches, waited)
            self._asks[key] = ask
        return ask

    def predict(self, workload: Workload, room: PoolRoom, new_nodes: int) -> Prediction:
        """Of its present attempt, or its next one. One prediction serves all pools that are alike to the predictor."""
        alike = self._alike_of.get(id(room))
        if alike is None:
            alike = self._alike_of[id(room)] = self.census.alike(room.pool)
        plain = self.census.predict(workload, self._part_left(workload), room.pool, alike, new_nodes)
        return plain if not workload.hints.data else self._with_its_data(plain, alike, new_nodes, workload, room)

    def _with_its_data(
        self, plain: Prediction, alike: int, new_nodes: int, workload: Workload, room: PoolRoom
    ) -> Prediction:
        """Pools that are alike may lie in different clusters, and some of those far from its data."""
        there = self.traits_of(workload), alike, new_nodes, room.cluster.id
        known = self._with_data.get(there)
        if known is None:
            moved = transfer(workload.hints.data, room.cluster)
            known = self._with_data[there] = with_transfer(plain, moved)
        return known

    def left_seconds(self, workload: Workload, room: PoolRoom, started_at: Instant) -> float | None:
        """Until a run that started there then ends: as its own metric tells, else as is predicted of one that has gone
        on for so long. None: nobody knows, or it has gone on for longer than predicted."""
        told = self.progress.get(workload.ref.uid)
        by_metric = None if told is None else told_left_seconds(told, self.now)
        if by_metric is not None:
            return by_metric
        prediction = self.predict(workload, room, 0)
        if told is not None and told.done is not None and prediction.run_seconds is not None:
            # How far it is it tells, how fast it goes not: as fast as predicted.
            left = (1.0 - told.done) / part_left(told) * prediction.run_seconds - (self.now - told.at)
            return left if left > 0 else None
        starting = prediction.start_seconds or 0.0
        ran = self.now - started_at
        if ran < starting:
            return None if prediction.run_seconds is None else prediction.run_seconds + starting - ran
        return left_seconds(prediction, ran - starting)

    def seconds_left(self, workload: Workload, room: PoolRoom) -> float | None:
        """`left_seconds` of one that is placed there, if it has not started as if it did now; reckoned once."""
        uid = workload.ref.uid
        if uid not in self._seconds_left:
            copy = self.copies.get((uid, room.cluster.id))
            started = self.now if copy is None or copy.started_at is None else copy.started_at
            self._seconds_left[uid] = self.left_seconds(workload, room, started)
        return self._seconds_left[uid]

    def idle_seconds(self, room: PoolRoom) -> float:
        """How long a node of the pool stays idle before it is given back."""
        ref = room.pool.ref
        known = self._idle_seconds.get(ref)
        if known is None:
            known = self._idle_seconds[ref] = idle_seconds_of(room, self.policies.policies)
        return known

    def busy_seconds(self, workload: Workload, room: PoolRoom, prediction: Prediction) -> float:
        """For how much longer the workload, placed there, keeps its nodes paid for; an unknown run counts an hour.

        From start-up through the run's remainder to the end of the idle time after which the node is given back.
        """
        placement = workload.placement
        copy = self.copies.get((workload.ref.uid, placement.cluster)) if placement is not None else None
        if copy is not None and copy.started_at is not None:
            known = self.left_seconds(workload, room, copy.started_at)
            overdue = UNKNOWN_RUN_SECONDS if prediction.run_seconds is None else 0.0
            left = overdue if known is None else known
        else:
            run = UNKNOWN_RUN_SECONDS if prediction.run_seconds is None else prediction.run_seconds
            left = run + (prediction.start_seconds or 0.0)
        return left + self.idle_seconds(room)

    def commit(self, workload: Workload, policy: str, room: PoolRoom, prediction: Prediction) -> None:
        """Count a workload that is placed in the commitments and budgets: its nodes where they are bought, and bringing
        its data there."""
        if not self.tracks_money:
            return
        self.commit_data(workload, room, prediction)
        if not room.pool.bought:
            return
        seconds = self.busy_seconds(workload, room, prediction)
        usd = self.commitments.add(room, self.shape_of(workload), seconds, policy)
        if usd is not None:
            self.budgets.commit(workload.queue, room.pool, usd)

    def commit_data(self, workload: Workload, room: PoolRoom, prediction: Prediction) -> None:
        """What bringing its data there costs, until that is metered: from the first pod that is bound on."""
        placement, usd = workload.placement, prediction.transfer_usd
        if not usd or not self.tracks_money:
            return
        copy = self.copies.get((workload.ref.uid, placement.cluster)) if placement is not None else None
        if placement is not None and copy is not None and copy.attempt == placement.attempt and copy.pods_bound:
            return
        self.commitments.version += 1
        self.budgets.commit(workload.queue, room.pool, usd)

    def commit_idle(self, room: PoolRoom) -> None:
        """Count the pool's idle nodes until they are given back; after all placed workloads are counted."""
        if not self.tracks_money or not room.pool.bought:
            return
        usd = self.commitments.add_idle(room, self.idle_seconds(room))
        if usd is not None:
            self.budgets.commit_idle(room.pool, usd)


def by_name(workload: Workload) -> tuple[str, str, str, str]:
    """As `WorkloadRef` orders, without its cost."""
    ref = workload.ref
    return ref.kind, ref.namespace, ref.name, ref.uid
