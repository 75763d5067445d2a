"""Feeds what is learned, off the event loop, and hands the planner a frozen view of it.

All of `Learning` lives in one worker thread: observations are handed over in batches, and what comes back replaces the
predictor at once. What was learned is saved in the history as one JSON object and loaded at the next start.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

import orjson
import structlog

from clusters.kubernetes.codec import NodeFacts
from scheduler.daemon.gathering.serving import Latency, serving_of
from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import LEARNED
from scheduler.daemon.learning.runs import RunEnded, RunStarted
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.state.neighbours import only_neighbour
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.waiting import happened_or_due
from scheduler.model.cluster import SPOT, NodePool, Reclaim
from scheduler.model.contract import TOPOLOGY_ZONE
from scheduler.model.errors import OverspillError
from scheduler.model.ids import ClusterId, Instant, PoolRef, Uid
from scheduler.model.metrics import Reading
from scheduler.model.ports import Clock, Predictor
from scheduler.predict import records
from scheduler.predict.bounded import Recent
from scheduler.predict.learned import LearnedPredictor
from scheduler.predict.learning import MOST_SERVING, Began, Change, Learning
from scheduler.predict.progress import Attempt
from scheduler.predict.ratios import Correction
from scheduler.predict.records import Record
from scheduler.predict.served import INTERVAL_SECONDS
from scheduler.predict.use import NO_USE

log = structlog.get_logger(__name__)
NAME: Final = "runs"
"""Of the row in the history's table `learned`."""
_WAITING_AT_MOST: Final = 20_000
_ROUND_SECONDS: Final = 300.0
"""Between two looks at the spot nodes, in the federation's time; what was learned is saved then, too."""
_AT_LEAST_WALL_SECONDS: Final = 1.0
"""Between two batches: a busy federation is learned from in steps."""
_REFIT_SHARE: Final = 0.05
"""Of the wall time, at most, goes into learning anew: where thousands of short runs end in a minute, so much is new
every second or two that it would otherwise take a good part of the process."""
_ONE_SCALE_UP_SECONDS: Final = 240.0
_DAYS: Final = 7
_THROTTLED_AT_MOST: Final = 0.05
"""Of a run's time, beyond which its length tells a bound only."""
T = TypeVar("T")
_Observation = Callable[[Learning], None]


@dataclass(frozen=True, slots=True)
class _Round:
    """What a batch has come to."""

    predictor: LearnedPredictor
    changes: list[Change]
    refitted: bool
    refit_seconds: float
    told: dict[str, dict[str, Record]]
    """The last seven days, by what and name."""
    drifting: dict[str, bool]
    corrections: dict[str, dict[str, Correction]]
    """How other things that were said were off: by what (wait, cost) and name."""


class Learner:
    """Belongs to the event loop, but for what runs in its own thread."""

    def __init__(self, mirror: Mirror, history: History, clock: Clock, telemetry: Telemetry) -> None:
        self._mirror = mirror
        self._history = history
        self._clock = clock
        self._telemetry = telemetry
        self._learning = Learning()
        self._worker = ThreadPoolExecutor(1, "learning")
        self._waiting: deque[_Observation] = deque()
        self._news = asyncio.Event()
        self._looked_at: Instant | None = None
        self._reclaims: deque[tuple[PoolRef, str]] = deque(maxlen=_WAITING_AT_MOST)
        """Pool and zone of each node that was taken back since the last look."""
        self._short: set[PoolRef] = set()
        self._served: Recent[Uid, Instant] = Recent(MOST_SERVING)
        self._came: dict[PoolRef, Instant] = {}
        self._failed: dict[PoolRef, Instant] = {}
        self._unsaved = False
        self._refit_not_before = 0.0
        """By the event loop's clock."""
        self.predictor: Predictor = LearnedPredictor()

    async def load(self) -> None:
        """Take up what was learned before. What cannot be read is left, logged, and learned anew."""
        try:
            text, now = await self._history.learned(NAME), self._clock.now()
            if text is not None:
                self._learning, self.predictor = await self._off_loop(lambda: _read(text, now))
        except (OverspillError, ValueError) as error:
            log.error("learned_not_restored", error=str(error)[:300])

    # -- what it is told ---------------------------------------------------------------------------------------------

    def run_started(self, started: RunStarted) -> None:
        pool = self._mirror.pool(started.placement.pool_ref)
        if pool is None:
            return
        began = Began(started.workload.ref.uid, started.at, started.workload, pool)
        self._observe("start", lambda learning: learning.began(began))
        seconds = started.bought_seconds
        if seconds is not None and self._is_new(self._came, pool.ref, started.at):
            self._observe("provisioning", lambda learning: learning.nodes_came(pool.ref, seconds, started.at))

    def run_ended(self, ended: RunEnded, attempt: Attempt | None = None) -> None:
        """`attempt`: what its own metric told of the last stretch of it."""
        lesson = lesson_of(ended, attempt)
        if attempt is not None and attempt.steps_per_second is not None:
            self.speed_told(ended.uid, attempt.steps_per_second)
        use = NO_USE if attempt is None else attempt.use
        self._observe("use", lambda learning: learning.used(ended.uid, use, ended.restarts))
        kind = "end" if lesson.seconds is not None else "end without a length"
        if lesson.seconds is None and lesson.at_least is not None:
            kind = "end at least"
        self._observe(
            kind,
            lambda learning: learning.ended(
                ended.uid, ended.at, lesson.seconds, at_least=lesson.at_least, whole=lesson.whole
            ),
        )

    def speed_told(self, uid: Uid, steps_per_second: float) -> None:
        """By a run's own metric, of the time in which nothing throttled it."""
        beside = only_neighbour(self._mirror, uid)
        self._observe("speed", lambda learning: learning.speed(uid, steps_per_second, beside))

    def undelivered(self, pool: PoolRef, after_seconds: float | None) -> None:
        """Nodes that were to be bought did not come."""
        now = self._clock.now()
        if self._is_new(self._failed, pool, now):
            self._observe("shortage", lambda learning: learning.nodes_refused(pool, now, after_seconds))

    def _is_new(self, seen: dict[PoolRef, Instant], pool: PoolRef, at: Instant) -> bool:
        """Whether it is another scale-up: what comes within minutes was asked for together."""
        last = seen.get(pool)
        if last is not None and abs(at - last) < _ONE_SCALE_UP_SECONDS:
            return False
        seen[pool] = at
        return True

    def waited(self, cluster: ClusterId, said_seconds: float, seconds: float) -> None:
        """A workload has waited on a member's own capacity."""
        self._observe("wait", lambda learning: learning.waited(cluster, said_seconds, seconds))

    def paid(self, pool: PoolRef, said_usd: float, p90_usd: float, paid_usd: float) -> None:
        """A run on bought nodes has ended, and the ledger says what it cost."""
        self._observe("cost", lambda learning: learning.paid(pool, said_usd, p90_usd, paid_usd))

    def look_at_serving(self, latest: Iterable[Reading]) -> None:
        """After a round of metrics: latency and load of workloads that serve, every five minutes of each."""
        now = self._clock.now()
        for uid, one in serving_of(self._mirror, latest).items():
            last = self._served.get(uid)
            if last is None or now - last >= INTERVAL_SECONDS:
                self._served.put(uid, now)
                self._observe("serving", _served(uid, now, one))

    def reclaimed(self, reclaim: Reclaim) -> None:
        """Counted with the hours that the pool's nodes were there for."""
        if reclaim.pool is not None:
            member = self._mirror.members.get(reclaim.cluster)
            facts = None if member is None else member.nodes.get(reclaim.node)
            self._reclaims.append((PoolRef(reclaim.cluster, reclaim.pool), _zone(facts)))

    def _observe(self, kind: str, observation: _Observation) -> None:
        if len(self._waiting) >= _WAITING_AT_MOST:
            self._telemetry.model_dropped.inc()
            return
        self._telemetry.model_observations.labels(kind).inc()
        self._waiting.append(observation)
        self._news.set()

    # -- its loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Learn from what comes, batch by batch, for ever."""
        while True:
            due = self._clock.now() + _ROUND_SECONDS
            await happened_or_due(self._news, self._clock, due)
            if self._clock.now() - (self._looked_at or 0.0) >= _ROUND_SECONDS:
                self._look()
                await self._learn(anyway=True)
                await self._save()
            else:
                await self._learn()
            await asyncio.sleep(_AT_LEAST_WALL_SECONDS)

    async def close(self) -> None:
        """Learn from what is left, and save it."""
        try:
            await self._learn(refit=False)
            await self._save()
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)

    async def _learn(self, *, refit: bool = True, anyway: bool = False) -> None:
        """From what is waiting; `anyway`: as time alone makes what is known older."""
        self._news.clear()
        batch, self._waiting = list(self._waiting), deque()
        if not batch and not anyway:
            return
        now, learning, self._unsaved = self._clock.now(), self._learning, self._unsaved or bool(batch)
        wall = asyncio.get_running_loop().time
        refit = refit and wall() >= self._refit_not_before
        done = await self._off_loop(lambda: _absorb(learning, batch, now, refit=refit))
        if done.refitted:
            self._refit_not_before = wall() + done.refit_seconds / _REFIT_SHARE
        self.predictor = done.predictor
        self._tell(done)

    async def _save(self) -> None:
        if not self._unsaved:
            return
        learning = self._learning
        body = await self._off_loop(lambda: orjson.dumps(learning.state()).decode())
        self._history.record(LEARNED, {"name": NAME, "saved_at": self._clock.now(), "body": body})
        self._unsaved = False

    async def _off_loop(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    def _look(self) -> None:
        """How many spot nodes were there for how long, what was taken back of them, and which pools are short."""
        now, before = self._clock.now(), self._looked_at
        self._looked_at = now
        taken, self._reclaims = list(self._reclaims), deque(maxlen=_WAITING_AT_MOST)
        if before is None:
            return
        hours, hour = (now - before) / 3600.0, int(now % 86400.0 // 3600.0)
        used: dict[tuple[PoolRef, str], list[float]] = {}
        for member in self._mirror.members.values():
            for facts in member.nodes.values():
                pool = member.pool_of(facts)
                if pool is not None and pool.capacity_type == SPOT:
                    used.setdefault((pool.ref, _zone(facts)), [0.0, 0.0])[1] += hours
            self._look_for_shortages(member.pools())
        for place in taken:
            # The node may be gone by now: it was there for a part of the round.
            used.setdefault(place, [0.0, hours / 2])[0] += 1
        for (ref, zone), (reclaims, there) in used.items():
            self._observe("spot hours", _spot(ref, zone, hour, int(reclaims), there))

    def _look_for_shortages(self, pools: Iterable[NodePool]) -> None:
        for pool in pools:
            if pool.shortage is None:
                self._short.discard(pool.ref)
            elif pool.ref not in self._short and pool.shortage.kind == "capacity":
                self._short.add(pool.ref)
                self.undelivered(pool.ref, None)

    def _tell(self, done: _Round) -> None:
        for change in done.changes:
            choice = change.choice
            result = "adopted" if choice.challenger_wins else "rejected"
            self._telemetry.model_refits.labels(change.what, result).inc()
            self._telemetry.model_refit_seconds.set(done.refit_seconds)
            log.info(
                "model_refit",
                model=change.what,
                result=result,
                incumbent_error=choice.champion_loss,
                challenger_error=choice.challenger_loss,
                seconds=round(done.refit_seconds, 2),
            )
        for gauge, field in ((self._telemetry.model_error, "error"), (self._telemetry.model_coverage, "coverage")):
            gauge.clear()
            for what, by_name in done.told.items():
                for name, record in by_name.items():
                    gauge.labels(what, name).set(getattr(record, field))
        self._tell_corrections(done.corrections)
        self._telemetry.model_drifting.clear()
        for queue, drifts in done.drifting.items():
            self._telemetry.model_drifting.labels(queue).set(float(drifts))

    def _tell_corrections(self, found: dict[str, dict[str, Correction]]) -> None:
        gauges = (self._telemetry.said_error, self._telemetry.said_coverage, self._telemetry.said_drifting)
        for gauge in gauges:
            gauge.clear()
        for what, by_name in found.items():
            for name, one in by_name.items():
                for gauge, value in zip(gauges, (one.error, one.covered, float(one.drifting)), strict=True):
                    gauge.labels(what, name).set(value)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What an end may teach. `at_least`: its length is censored there; `whole`: its length tells its speed, too."""

    seconds: float | None
    at_least: float | None = None
    whole: bool = True


def lesson_of(ended: RunEnded, attempt: Attempt | None) -> Lesson:
    """One that failed or was stopped would have taken longer. One that was throttled for more than a twentieth of its
    time would have taken less, but not less than the rest. One that went on from a checkpoint tells its length by the
    part that its metric says it had begun with."""
    ran = ended.ran_seconds
    slow = 0.0 if attempt is None else attempt.throttled_seconds
    clean = None if ran is None or ran <= slow else ran - slow
    if not ended.succeeded:
        return Lesson(None, clean)
    if ran is not None and slow > _THROTTLED_AT_MOST * ran:
        return Lesson(None, clean, whole=False)
    if ended.seconds is None and clean is not None and attempt is not None and attempt.samples and attempt.begun > 0:
        return Lesson(clean / (1.0 - attempt.begun), whole=False)
    return Lesson(ended.seconds)


def _zone(facts: NodeFacts | None) -> str:
    """ "": not told."""
    return "" if facts is None else next((value for key, value in facts.labels if key == TOPOLOGY_ZONE), "")


def _served(uid: Uid, at: Instant, one: Latency) -> _Observation:
    return lambda learning: learning.served(uid, at, one.p95_seconds, one.requests_per_second, one.replicas)


def _spot(ref: PoolRef, zone: str, hour: int, reclaims: int, hours: float) -> _Observation:
    return lambda learning: learning.spot_used(ref, zone, hour, reclaims, hours)


def _read(text: str, now: Instant) -> tuple[Learning, LearnedPredictor]:
    """Raises: ValueError."""
    state = orjson.loads(text)
    if not isinstance(state, dict):
        raise ValueError("not a JSON object")
    learning = Learning.from_state(state)
    return learning, learning.predictor(now)


def _absorb(learning: Learning, batch: list[_Observation], now: Instant, *, refit: bool) -> _Round:
    """In the worker thread."""
    with learning.together():
        for observation in batch:
            observation(learning)
    learning.outlive(now)
    began, changes = time.perf_counter(), []
    refit = refit and learning.wants_refit
    if refit:
        changes = learning.learn_anew(now)
    took = time.perf_counter() - began
    since = now - _DAYS * 86400.0
    told = {what: learning.records.total(what, since) for what in (records.QUEUE, records.GPU, records.SOURCE)}
    drifting: dict[str, bool] = {}
    for group in learning.calibration.groups():
        queue = group.partition("|")[2]
        drifting[queue] = drifting.get(queue, False) or learning.calibration.drifting(group)
    return _Round(learning.predictor(now), changes, refit, took, told, drifting, learning.corrections())
