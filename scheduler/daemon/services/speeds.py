"""What replicas of each service can do on each kind of GPU: as their user says, and as is measured. In the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
import structlog

from clusters.kubernetes.annotations import parse_replica_speeds
from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import MEMORIES
from scheduler.daemon.services.ports import ServiceObservation
from scheduler.daemon.state.mirror import Mirror
from scheduler.model.cluster import NodePool
from scheduler.model.errors import OverspillError
from scheduler.model.ids import Instant, PoolRef, Uid, WorkloadRef
from scheduler.model.ports import Clock
from scheduler.model.serving import ReplicaSpeed
from scheduler.model.workload import Workload
from scheduler.predict.bounded import Recent
from scheduler.predict.replica_speed import SpeedLearner, speed_on

log = structlog.get_logger(__name__)
NAME: Final = "replica speeds"
_VERSION: Final = 1
_MOST: Final = 2000
_SAVE_SECONDS: Final = 600.0
_ANY: Final = "*"


class Speeds:
    """Belongs to the event loop; `frozen` is for a thread."""

    def __init__(self, mirror: Mirror, history: History, clock: Clock, *, saves: bool = True) -> None:
        self._mirror = mirror
        self._history = history
        self._clock = clock
        self._saves = saves
        self._learners: Recent[tuple[Uid, str], SpeedLearner] = Recent(_MOST)
        self._gpus: dict[Uid, set[str]] = {}
        """On which it was measured."""
        self._seen: Recent[tuple[Uid, str, str, str], Instant] = Recent(4 * _MOST)
        self._saved_at: Instant | None = None

    def told(self, ref: WorkloadRef, observed: ServiceObservation) -> None:
        """After a round of metrics."""
        for one in observed.metrics:
            key = ref.uid, one.cluster, one.pool or "", one.revision
            if one.pool is None or (self._seen.get(key) or 0.0) >= one.at:
                continue
            self._seen.put(key, one.at)
            pool = self._mirror.pool(PoolRef(one.cluster, one.pool))
            if pool is not None and one.load is not None and one.p95_latency_seconds is not None:
                learner = self._learners.touch((ref.uid, pool.gpu_model or ""), SpeedLearner)
                self._gpus.setdefault(ref.uid, set()).add(pool.gpu_model or "")
                learner.learn(one.load, one.p95_latency_seconds, one.p95_first_token_seconds)
        if self._saves and self._clock.now() - (self._saved_at or 0.0) >= _SAVE_SECONDS:
            self.save()

    def frozen(self) -> Callable[[Workload, NodePool], ReplicaSpeed | None]:
        """What is known now of a replica of a service on a pool; it gives None where nothing is."""
        known = {uid: self._known(uid) for uid, each in self._mirror.hub.items() if each.workload.runs_forever}
        return lambda workload, pool: _on(known.get(workload.ref.uid, {}), pool.gpu_model)

    def _known(self, uid: Uid) -> dict[str, ReplicaSpeed]:
        """What is measured, beside what is said."""
        entry = self._mirror.hub.get(uid)
        annotations = {} if entry is None else entry.raw["metadata"].get("annotations") or {}
        said, _ = parse_replica_speeds(annotations)
        found = dict(said)
        for gpu in self._gpus.get(uid, ()):
            learner = self._learners.get((uid, gpu))
            if learner is not None and (speed := learner.speed(_on(said, gpu))) is not None:
                found[gpu] = speed
        return found

    # -- persistence ---------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what was known. What cannot be read is left, and logged: it is measured again."""
        try:
            saved = await self._history.memory(NAME)
            if saved is not None:
                self._read(saved)
        except (OverspillError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("replica_speeds_not_restored", error=repr(error)[:300])

    def save(self) -> None:
        """Queue what is known for the history."""
        self._saved_at = self._clock.now()
        speeds = [[uid, gpu, learner.state()] for (uid, gpu), learner in self._learners.items()]
        body = orjson.dumps({"version": _VERSION, "speeds": speeds}).decode()
        self._history.record(MEMORIES, {"name": NAME, "at": self._saved_at, "body": body})

    def _read(self, saved: Mapping[str, Any]) -> None:
        if saved.get("version") != _VERSION:
            raise ValueError(f"replica speeds of version {saved.get('version')}, not {_VERSION}")
        for uid, gpu, state in saved["speeds"]:
            self._gpus.setdefault(Uid(str(uid)), set()).add(str(gpu))
            self._learners.put((Uid(str(uid)), str(gpu)), SpeedLearner.from_state(state))


def _on(known: Mapping[str, ReplicaSpeed], gpu: str | None) -> ReplicaSpeed | None:
    found = speed_on(gpu, {name: speed for name, speed in known.items() if name != _ANY})
    return known.get(_ANY) if found is None else found
