"""How far each run is: asked of its own metric after each round of metrics, else reckoned from the time that it ran.

A workload says in annotations what a Prometheus API is to be asked (`contract.ANNOTATION_PROGRESS_QUERY`); of others
the metrics of common exporters are looked at, by the names of their pods. An attempt leaves to the next what
its last checkpoint holds. Kept in the history's `memories` as one versioned JSON object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
import structlog

from clusters.metrics.queries import own_query
from scheduler.daemon.gathering.metrics import MetricsKeeper
from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import MEMORIES
from scheduler.daemon.state.mirror import Mirror
from scheduler.engine.remaining import left_seconds, of_part
from scheduler.model.errors import OverspillError
from scheduler.model.ids import ClusterId, Instant, PoolId, PoolRef, Uid
from scheduler.model.metrics import OK, MetricQuery, Reading, Sample
from scheduler.model.ports import Clock, Prediction, Predictor
from scheduler.model.snapshot import Progress
from scheduler.model.workload import Copy, PlacementState, Workload
from scheduler.predict.bounded import Recent
from scheduler.predict.progress import Attempt, part_kept

log = structlog.get_logger(__name__)
NAME: Final = "progress"
STEPS: Final = "workload_steps_count"
RATIO: Final = "workload_progress_ratio"
_BUSY: Final = "gpu_utilization_ratio"
_MEMORY: Final = "gpu_memory_used_bytes"
_CLOCK_REASONS: Final = "gpu_clock_event_reasons_code"
_THROTTLED: Final = 0x8 | 0x20 | 0x40 | 0x80
"""Hardware slowdown, software and hardware thermal, power brake: NVML's clock event reasons (nvml.h); a power cap and
idling are ordinary."""
_VERSION: Final = 1
_MOST_RUNS: Final = 20_000
_ASKED_AT_MOST: Final = 100
"""Workloads' own queries on one member in one round; the others have theirs in the next ones."""
_SAVE_SECONDS: Final = 300.0
_TAUGHT_AFTER_SECONDS: Final = 600.0
"""So long must a run go undisturbed before its speed teaches others while it still runs."""


@dataclass(frozen=True, slots=True)
class _Known:
    """Of one workload. `going` None: it waits, and its next attempt begins with `begun`."""

    begun: float = 0.0
    going: Attempt | None = None
    taught: bool = False
    over: bool = False
    """Its copy has ended, and the hub is not told yet: what is known of the attempt is asked for when it is."""

    @property
    def is_told(self) -> bool:
        return self.begun > 0 or (self.going is not None and bool(self.going.samples or self.going.begun))


class ProgressBook:
    """Listens to the mirror and to the rounds of metrics. Belongs to the event loop."""

    def __init__(
        self,
        mirror: Mirror,
        readings: MetricsKeeper,
        history: History,
        clock: Clock,
        predictor: Callable[[], Predictor],
        *,
        own_queries: bool = True,
    ) -> None:
        """`own_queries` False: what workloads say in annotations is not asked, as if they had said nothing."""
        self._mirror = mirror
        self._readings = readings
        self._history = history
        self._clock = clock
        self._predictor = predictor
        self._own_queries = own_queries
        self._known: Recent[Uid, _Known] = Recent(_MOST_RUNS)
        self._asked_last: dict[ClusterId, Uid] = {}
        self._saved_at: Instant | None = None
        self.on_speed: Callable[[Uid, float], None] = lambda uid, steps_per_second: None
        """Told once of each attempt that goes well for ten minutes."""

    # -- what is asked of it -------------------------------------------------------------------------------------

    def progress(self) -> tuple[Progress, ...]:
        """For the snapshot: those of which anything is known."""
        return tuple(_told(uid, known) for uid, known in self._known.items() if known.is_told)

    def of(self, uid: Uid) -> Progress | None:
        known = self._known.get(uid)
        return None if known is None or not known.is_told else _told(uid, known)

    def finished(self, uid: Uid) -> Attempt | None:
        """It is over: what is known of its last attempt, given once."""
        known = self._known.pop(uid)
        return None if known is None else known.going

    # -- what it is told -----------------------------------------------------------------------------------------

    def look(self, uid: Uid) -> None:
        """Something about the workload, or one of its copies, has changed."""
        workload, known = self._mirror.workload(uid), self._known.get(uid)
        if workload is None or workload.finished:
            return  # `finished` is told; one that is not listed yet is not gone.
        if workload.runs_forever:
            return
        copy = self._running(workload)
        going = None if known is None else known.going
        if copy is None:
            self._look_at_end(workload, known)
            return
        assert workload.placement is not None
        assert copy.started_at is not None
        if going is not None and (going.attempt, going.started_at) == (copy.attempt, copy.started_at):
            return
        begun = 0.0
        if known is not None:
            begun = known.begun if going is None or known.over else self._kept(workload, going)
        began = Attempt(
            copy.attempt, copy.started_at, str(workload.placement.pool_ref), begun, workload.hints.total_steps
        )
        self._known.put(uid, _Known(begun, began))

    def _look_at_end(self, workload: Workload, known: _Known | None) -> None:
        """None of its copies runs."""
        going = None if known is None else known.going
        if known is None or going is None or known.over or not self._is_over(workload, going):
            return
        kept = self._kept(workload, going)
        copy = self._placed(workload)
        if copy is not None and copy.finished and copy.attempt == going.attempt:
            self._known.put(workload.ref.uid, replace(known, begun=kept, over=True))
        else:
            self._known.put(workload.ref.uid, _Known(kept))

    def _running(self, workload: Workload) -> Copy | None:
        copy = self._placed(workload)
        return None if copy is None or copy.suspended or copy.finished else copy

    def _placed(self, workload: Workload) -> Copy | None:
        """Its copy where the hub's placement says, once that has started."""
        placement = workload.placement
        if placement is None or placement.state is not PlacementState.STARTED:
            return None
        for entry in self._mirror.copies(workload.ref.uid):
            copy = entry.copy
            if (copy.cluster, copy.attempt) == (placement.cluster, placement.attempt) and copy.started_at is not None:
                return copy
        return None

    def _is_over(self, workload: Workload, going: Attempt) -> bool:
        """A member that is silent, or not listed yet, does not tell that a copy is gone."""
        placement = workload.placement
        if placement is None or placement.attempt != going.attempt or placement.state is not PlacementState.STARTED:
            return True
        member = self._mirror.members.get(_ref(going.pool).cluster)
        return member is not None and member.available

    def _kept(self, workload: Workload, going: Attempt) -> float:
        """What the next attempt begins with: what the last checkpoint of this one holds."""
        now, every = self._clock.now(), workload.hints.checkpoint_every_seconds
        by_metric = going.kept(now, every)
        if by_metric is not None:
            return by_metric
        if every is None or every <= 0:
            return 0.0
        pool = self._mirror.pool(_ref(going.pool))
        plain = None if pool is None else self._predictor().predict(workload, pool, 0)
        if plain is None or plain.run_seconds is None:
            return going.begun
        return _reckoned(going, plain, now, every)

    # -- metrics -------------------------------------------------------------------------------------------------

    async def on_round(self) -> None:
        """After each round of metrics."""
        latest = self._readings.readings()
        self._take_common(latest)
        await self._ask()
        self._look_at_throttling(latest)
        self._look_at_use(latest)
        for uid, known in list(self._known.items()):
            going = known.going
            speed = None if going is None or known.taught else going.steps_per_second
            if going is not None and speed is not None and going.clean_seconds >= _TAUGHT_AFTER_SECONDS:
                self._known.put(uid, replace(known, taught=True))
                self.on_speed(uid, speed)
        if self._clock.now() - (self._saved_at or 0.0) >= _SAVE_SECONDS:
            self.save()

    def _take_common(self, latest: Iterable[Reading]) -> None:
        """What common exporters say of pods, the furthest pod of each run."""
        found: dict[tuple[Uid, bool], tuple[Instant, float]] = {}
        for uid, metric, sample in self._of_runs(latest, (STEPS, RATIO)):
            key = uid, metric == STEPS
            old = found.get(key)
            if old is None or sample.value > old[1]:
                found[key] = sample.at, sample.value
        for (uid, in_steps), (at, value) in found.items():
            workload = self._mirror.workload(uid)
            if workload is not None and not (workload.progress_query and self._own_queries):
                self._put_progress(uid, at, value, in_steps=in_steps)

    def _of_runs(self, latest: Iterable[Reading], metrics: tuple[str, ...]) -> Iterator[tuple[Uid, str, Sample]]:
        """Samples of pods that belong to a workload: which, of which metric."""
        for reading in latest:
            member = self._mirror.members.get(reading.cluster)
            if reading.metric not in metrics or reading.state != OK or member is None:
                continue
            for sample in reading.samples:
                labels = dict(sample.labels)
                pod = member.pods.get(f"{labels.get('namespace', '')}/{labels.get('pod', '')}")
                if pod is not None and pod.origin_uid is not None:
                    yield pod.origin_uid, reading.metric, sample

    def _look_at_use(self, latest: Iterable[Reading]) -> None:
        """How busy the GPUs of each run are, and how much memory it takes of them."""
        found: dict[Uid, tuple[list[float], list[float]]] = {}
        for uid, metric, sample in self._of_runs(latest, (_BUSY, _MEMORY)):
            busy, memory = found.setdefault(uid, ([], []))
            (busy if metric == _BUSY else memory).append(sample.value)
        for uid, (busy, memory) in found.items():
            known = self._known.get(uid)
            if known is not None and known.going is not None:
                going = replace(known.going, use=known.going.use.looked(busy, memory))
                self._known.put(uid, replace(known, going=going))

    def _put_progress(self, uid: Uid, at: Instant, value: float, *, in_steps: bool) -> None:
        known = self._known.get(uid)
        if known is None or known.going is None:
            return
        going = known.going
        if in_steps and going.total is None:
            return  # Steps of nobody knows how many.
        if not in_steps and going.total is not None:
            value *= going.total
        throttled = going.was_throttled
        self._known.put(uid, replace(known, going=going.told(at, value, throttled=throttled)))

    async def _ask(self) -> None:
        if not self._own_queries:
            return
        by_member: dict[ClusterId, list[tuple[Uid, bool, MetricQuery]]] = {}
        for uid, known in self._known.items():
            workload = self._mirror.workload(uid)
            if known.going is not None and workload is not None and (workload.progress_query or workload.speed_query):
                copy = self._running(workload)
                if copy is not None:
                    by_member.setdefault(copy.cluster, []).extend(_queries(uid, workload, copy))
        for cluster, wanted in sorted(by_member.items()):
            chosen = self._turn(cluster, wanted)
            answers = await self._readings.ask(cluster, [query for _, _, query in chosen])
            for (uid, is_speed, _), answer in zip(chosen, answers, strict=False):
                if answer.state == OK and answer.samples:
                    newest = max(answer.samples, key=lambda sample: sample.value)
                    self._take_own(uid, newest.at, newest.value, is_speed=is_speed)

    def _turn(
        self, cluster: ClusterId, wanted: list[tuple[Uid, bool, MetricQuery]]
    ) -> list[tuple[Uid, bool, MetricQuery]]:
        """As many as may be asked in a round, after those who had their turn in the last one."""
        if len(wanted) <= _ASKED_AT_MOST:
            return wanted
        last = self._asked_last.get(cluster)
        at = next((index + 1 for index, one in enumerate(wanted) if one[0] == last), 0)
        chosen = (wanted[at:] + wanted[:at])[:_ASKED_AT_MOST]
        self._asked_last[cluster] = chosen[-1][0]
        return chosen

    def _take_own(self, uid: Uid, at: Instant, value: float, *, is_speed: bool) -> None:
        known = self._known.get(uid)
        if known is None or known.going is None:
            return  # It has ended while its metric was asked.
        going = known.going
        made = going.told_speed(at, value) if is_speed else going.told(at, value, throttled=going.was_throttled)
        self._known.put(uid, replace(known, going=made))

    def _look_at_throttling(self, latest: Iterable[Reading]) -> None:
        """Runs on nodes with a GPU whose clocks are lowered for a reason that is not ordinary."""
        slow = throttled_nodes(latest)
        now = self._clock.now()
        for uid, known in list(self._known.items()):
            workload = self._mirror.workload(uid)
            copy = None if workload is None or known.going is None else self._running(workload)
            if copy is not None and known.going is not None:
                member = self._mirror.members[copy.cluster]
                is_slow = not slow.get(copy.cluster, frozenset()).isdisjoint(member.nodes_of(uid))
                looked = known.going.looked(now, throttled=is_slow)
                self._known.put(uid, replace(known, going=replace(looked, was_throttled=is_slow)))

    # -- persistence ---------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what was known. What cannot be read is left, and logged: runs have their whole work before them."""
        try:
            saved = await self._history.memory(NAME)
            if saved is not None:
                self._read(saved)
        except (OverspillError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("progress_not_restored", error=repr(error)[:300])

    def save(self) -> None:
        """Queue what is known for the history."""
        self._saved_at = self._clock.now()
        runs = [
            [uid, one.begun, None if one.going is None else one.going.state(), one.taught]
            for uid, one in self._known.items()
            if one.is_told or one.going is not None
        ]
        body = orjson.dumps({"version": _VERSION, "runs": runs}).decode()
        self._history.record(MEMORIES, {"name": NAME, "at": self._saved_at, "body": body})

    def _read(self, saved: Mapping[str, Any]) -> None:
        if saved.get("version") != _VERSION:
            raise ValueError(f"progress of version {saved.get('version')}, not {_VERSION}")
        for uid, begun, going, taught in saved["runs"]:
            if not 0 <= begun <= 1:
                raise ValueError("progress that cannot be")
            attempt = None if going is None else Attempt.from_state(going)
            self._known.put(Uid(str(uid)), _Known(float(begun), attempt, bool(taught)))


def _told(uid: Uid, known: _Known) -> Progress:
    going = known.going
    if going is None or known.over:
        return Progress(uid, known.begun)
    at, done = going.done or (0.0, None)
    return Progress(uid, going.begun, done, at, going.per_second if done is not None else None)


def _reckoned(going: Attempt, plain: Prediction, now: Instant, every: float) -> float:
    """Without a metric: the time that its checkpoints hold, beside what would be left after that."""
    ran = max(0.0, now - going.started_at - (plain.start_seconds or 0.0))
    kept = ran - ran % every
    left = left_seconds(of_part(plain, 1.0 - going.begun), kept)
    return part_kept(going.begun, kept, max(60.0, kept) if left is None else left)


def _queries(uid: Uid, workload: Workload, copy: Copy) -> list[tuple[Uid, bool, MetricQuery]]:
    """(workload, whether it tells its speed, the query) of what it asks for."""
    names = {"namespace": copy.namespace, "job": copy.name, "pods": f"{re.escape(copy.name)}-.*"}
    asked = ((False, workload.progress_query), (True, workload.speed_query))
    return [(uid, is_speed, own_query(text, names)) for is_speed, text in asked if text]


def throttled_nodes(latest: Iterable[Reading]) -> dict[ClusterId, frozenset[str]]:
    """By member, nodes of which at least one GPU is slowed down by heat, its board or the power supply."""
    found: dict[ClusterId, set[str]] = {}
    for reading in latest:
        if reading.metric == _CLOCK_REASONS and reading.state == OK:
            for sample in reading.samples:
                node = dict(sample.labels).get("node", "")
                if node and 0 <= sample.value < 2**53 and int(sample.value) & _THROTTLED:
                    found.setdefault(reading.cluster, set()).add(node)
    return {cluster: frozenset(nodes) for cluster, nodes in found.items()}


def _ref(pool: str) -> PoolRef:
    cluster, _, name = pool.partition("/")
    return PoolRef(ClusterId(cluster), PoolId(name))
