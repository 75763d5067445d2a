"""What the daemon knows of workloads beside the snapshot and the readings: whose a pod is, when a service was rolled
out, and when what has a deadline is expected to start and end."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson

from scheduler.aiops.workload_rows import Forecast, PodKey, PodPlace, WorkloadFacts
from scheduler.daemon.live_policies import LivePolicies
from scheduler.daemon.mirror import Mirror
from scheduler.engine.matching import Matcher
from scheduler.model.cluster import NodePool
from scheduler.model.ids import Instant, PoolRef
from scheduler.model.policy import PlacementPolicy
from scheduler.model.ports import Predictor
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Copy, Workload
from scheduler.predict.waits import Ahead, Going, queue_wait_seconds

_MOST_ROLLOUTS: Final = 20_000
_MOST_FORECASTS: Final = 100
"""Of workloads that wait, in one round: the first in line."""
Digests = dict[str, tuple[int, Instant | None]]
"""By UID: of the pod template, and when it changed to that; None: it has been so ever since it was first seen."""


class Facts:
    """Belongs to the event loop. `queue_wait_objective_seconds`: of queues that name none; None: there is none."""

    def __init__(
        self, mirror: Mirror, policies: LivePolicies, predictor: Callable[[], Predictor],
        queue_wait_objective_seconds: float | None,
    ) -> None:  # fmt: skip
        self._mirror = mirror
        self._policies = policies
        self._predictor = predictor
        self._objective = queue_wait_objective_seconds
        self._rollouts: Digests = {}

    def gather(self, snapshot: Snapshot) -> Callable[[], WorkloadFacts]:
        """What is left to reckon, on frozen values: that may take its time in a thread."""
        pods: dict[PodKey, PodPlace] = {
            (cluster, pod.namespace, pod.name): PodPlace(pod.origin_uid, pod.node or "")
            for cluster, member in self._mirror.members.items()
            for pod in member.pods.values()
            if pod.origin_uid is not None and not pod.terminal
        }
        self._look_for_rollouts(snapshot.now)
        rolled_out = {uid: at for uid, (_, at) in self._rollouts.items() if at is not None}
        policies, predictor = self._policies.current, self._predictor()

        def policy_of(workload: Workload) -> PlacementPolicy | None:
            return matcher.policy_of(workload) if limited else None

        def objective_of(workload: Workload) -> float | None:
            return objectives.get(workload.queue) or self._objective

        objectives = {each.id: each.wait_objective_seconds for each in policies.queues}
        limited = any(each.constraints.deadline_seconds is not None for each in policies.policies)
        matcher = Matcher(policies)
        return lambda: WorkloadFacts(pods, rolled_out, forecasts(snapshot, policy_of, predictor, objective_of))

    def _look_for_rollouts(self, now: Instant) -> None:
        """Of what runs for ever: its pods' template is another than before."""
        found: Digests = {}
        for uid, entry in self._mirror.hub.items():
            if not entry.workload.runs_forever or entry.workload.finished or len(found) >= _MOST_ROLLOUTS:
                continue
            digest, known = digest_of(entry.raw), self._rollouts.get(uid)
            found[uid] = known if known is not None and known[0] == digest else (digest, now if known else None)
        self._rollouts = found

    def kept(self) -> dict[str, Any]:
        """JSON values."""
        return {uid: list(told) for uid, told in self._rollouts.items()}

    def take_up(self, told: Any) -> None:
        """What `kept` gave before a restart; anything else is passed over."""
        pairs = told.items() if isinstance(told, dict) else ()
        for uid, value in list(pairs)[:_MOST_ROLLOUTS]:
            match value:
                case [int(digest), float() | int() | None as at]:
                    self._rollouts.setdefault(uid, (digest, at))


def digest_of(raw: Mapping[str, Any]) -> int:
    """Of the innermost template, which is that of the pods: how many there are is no rollout."""
    inner: Any = raw.get("spec")
    while isinstance(inner, Mapping):
        below = inner.get("template", inner.get("spec"))
        if not isinstance(below, Mapping):
            break
        inner = below
    return zlib.crc32(orjson.dumps(inner, option=orjson.OPT_SORT_KEYS))


def forecasts(
    snapshot: Snapshot,
    policy_of: Callable[[Workload], PlacementPolicy | None],
    predictor: Predictor,
    objective_of: Callable[[Workload], float | None],
) -> dict[str, Forecast]:
    """By UID, of workloads that wait or have a deadline. A wait is that for room on the best owned or bought pool as it
    is now, first come first served (`predict.waits`); None where that cannot be told."""
    pools = {pool.ref: pool for cluster in snapshot.clusters for pool in cluster.pools}
    running = {copy.origin: copy for copy in snapshot.copies if not copy.finished}
    line = sorted(
        (each for each in snapshot.workloads if _waits(each)),
        key=lambda each: (-each.priority, each.queued_at, each.ref),
    )
    waits = _waits_by_uid(snapshot, line[:_MOST_FORECASTS], pools, running, predictor)
    found: dict[str, Forecast] = {}
    for workload in snapshot.workloads:
        uid, placement = workload.ref.uid, workload.placement
        deadline = _deadline(workload, policy_of)
        if uid in waits:
            wait, ends = waits[uid]
            finish = None if ends is None else snapshot.now + ends
            found[uid] = Forecast(wait, objective_of(workload), workload.queued_at, finish, deadline)
        elif deadline is not None and placement is not None and not workload.finished:
            left = _left(workload, pools.get(placement.pool_ref), running.get(uid), snapshot.now, predictor)
            found[uid] = Forecast(finish_at=None if left is None else snapshot.now + left, deadline_at=deadline)
    return found


def _waits(workload: Workload) -> bool:
    blocked = workload.suspended or workload.deleting or workload.finished or workload.invalid or workload.unmanaged
    return workload.placement is None and not blocked and not workload.runs_forever


def _deadline(workload: Workload, policy_of: Callable[[Workload], PlacementPolicy | None]) -> Instant | None:
    policy = policy_of(workload)
    limit = policy.constraints.deadline_seconds if policy is not None else None
    given = [workload.hints.deadline_at, None if limit is None else workload.created_at + limit]
    return min((each for each in given if each is not None), default=None)


def _left(
    workload: Workload, pool: NodePool | None, copy: Copy | None, now: Instant, predictor: Predictor
) -> float | None:
    """Seconds until it is expected to end; a run that is overdue is expected to go on for as long again."""
    predicted = None if pool is None else predictor.predict(workload, pool, 0)
    if predicted is None or predicted.run_seconds is None:
        return None
    if copy is None or copy.started_at is None:
        return predicted.run_seconds + (predicted.start_seconds or 0.0)
    ran = max(now - copy.started_at, 0.0)
    return predicted.run_seconds - ran if ran < predicted.run_seconds else ran


def _waits_by_uid(
    snapshot: Snapshot,
    line: Iterable[Workload],
    pools: Mapping[PoolRef, NodePool],
    running: Mapping[Any, Copy],
    predictor: Predictor,
) -> dict[str, tuple[float | None, float | None]]:
    """Seconds until it starts, and until it ends."""
    waiting = list(line)
    if not waiting:
        return {}
    room = {ref: _Line() for ref in pools}
    for cluster in snapshot.clusters:
        for node in cluster.nodes if cluster.available else ():
            ref = PoolRef(cluster.id, node.pool) if node.pool is not None else None
            if ref in room and node.usable:
                room[ref].free += max(node.allocatable.gpus - node.used.gpus, 0)
    for workload in snapshot.workloads:
        placement = workload.placement
        if placement is not None and placement.pool_ref in room and not workload.finished:
            pool = pools[placement.pool_ref]
            left = _left(workload, pool, running.get(workload.ref.uid), snapshot.now, predictor)
            going = Going(workload.requests.gpus, None if workload.runs_forever else left)
            room[placement.pool_ref].going.append(going)
    found: dict[str, tuple[float | None, float | None]] = {}
    for workload in waiting:
        gpus = workload.requests.gpus
        best: tuple[float, float | None, PoolRef] | None = None
        for ref in sorted(room):
            if not gpus or not pools[ref].node_resources.gpus or not _takes(workload, pools[ref]):
                continue
            wait = queue_wait_seconds(room[ref].free, room[ref].going, room[ref].ahead, gpus)
            if wait is not None and (best is None or wait < best[0]):
                best = (wait, predictor.predict(workload, pools[ref], 0).run_seconds, ref)
        if best is None:
            found[workload.ref.uid] = (None, None)
            continue
        wait, run, ref = best
        room[ref].ahead.append(Ahead(gpus, run))
        found[workload.ref.uid] = (wait, None if run is None else wait + run)
    return found


class _Line:
    """What is on a pool, and who is expected to come to it."""

    def __init__(self) -> None:
        self.free = 0
        self.going: list[Going] = []
        self.ahead: list[Ahead] = []


def _takes(workload: Workload, pool: NodePool) -> bool:
    models = {model for pods in workload.pod_sets for model in pods.gpu_models}
    return not models or pool.gpu_model in models
