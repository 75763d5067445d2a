"""Everything that is learned, and how: from runs that start and end, nodes that come and are taken back.

Mutable, for one thread; `predictor` gives the frozen view that others use. `learn_anew` is heavy, the rest is quick.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np

from scheduler.model.cluster import NodePool
from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.model.workload import Workload
from scheduler.predict import records
from scheduler.predict.alike import configuration_of, groups_of, numbers_of
from scheduler.predict.bounded import Recent
from scheduler.predict.champion import Choice, choose
from scheduler.predict.conformal import Calibration
from scheduler.predict.durations import DurationModel, Run, fit, usable_seconds
from scheduler.predict.forest import Forest, quantiles
from scheduler.predict.group_lengths import GroupLengths
from scheduler.predict.learned import Known, LearnedPredictor, rounded
from scheduler.predict.open_runs import OpenRun, OpenRuns
from scheduler.predict.provisioning import Provisioning
from scheduler.predict.ratios import Correction, Ratios
from scheduler.predict.records import Records
from scheduler.predict.served import Served
from scheduler.predict.sharing import SharingModel
from scheduler.predict.sources import SourceErrors
from scheduler.predict.speeds import Speeds
from scheduler.predict.spot import DailyRates, ReclaimHazards
from scheduler.predict.throughput import ThroughputModel
from scheduler.predict.use import MODEL, Use, Uses

STATE_VERSION: Final = 1
WAIT_OFFSET_SECONDS: Final = 60.0
"""Added to waits before they are compared: whether one is of 1 s or of 10 s is of no interest."""
MOST_SERVING: Final = 200
"""Workloads that serve; about 20 kB each."""
_MOST_PLACES: Final = 2000
_HELD_OUT: Final = 500
"""The newest runs, at most, that a challenger is judged on and not fitted to."""


@dataclass(frozen=True, slots=True)
class Began:
    """A run whose copy has started on a pool."""

    uid: str
    at: float
    workload: Workload
    pool: NodePool


@dataclass(frozen=True, slots=True)
class Change:
    """What came of a refit: of `durations` or `throughput`."""

    what: str
    choice: Choice


class Learning:
    def __init__(self, *, keep: int = 10_000) -> None:
        self.durations = DurationModel(keep=keep)
        self.speeds = Speeds()
        self.open = OpenRuns()
        self.sources = SourceErrors()
        self.records = Records()
        self.hazards = ReclaimHazards()
        self.waits = Ratios()
        """By member: how long workloads waited, over what was said."""
        self.costs = Ratios()
        """By pool: what runs cost, over what was said."""
        self.starts = Ratios()
        """By pool: how long nodes took to come, over what was said."""
        self.latencies = Ratios()
        """By UID of what serves: its p95, over what was said an hour before."""
        self.serving: Recent[str, Served] = Recent(MOST_SERVING)
        """By UID of the workload."""
        self.provisioning: Recent[str, Provisioning] = Recent(_MOST_PLACES)
        self.uses = Uses()
        """By queue, GPU model and model: what runs made of their GPUs."""
        self._lengths = GroupLengths()
        self._fitted_at = 0

    @property
    def throughput(self) -> ThroughputModel:
        """Speeds of runs alone."""
        return self.speeds.throughput

    @property
    def sharing(self) -> SharingModel:
        """What runs keep of their speed beside another."""
        return self.speeds.sharing

    @property
    def calibration(self) -> Calibration:
        """Of the intervals of run times."""
        return self.open.calibration

    # -- observations ------------------------------------------------------------------------------------------------

    @contextmanager
    def together(self) -> Iterator[None]:
        """For many observations at once: how long runs alike take is told anew at its end, once for each group."""
        with self._lengths.together(self.durations):
            yield

    def began(self, run: Began) -> None:
        """A run has started: what is known now is what its end will be compared with."""
        self.outlive(run.at)
        workload, queue = run.workload, str(run.workload.queue)
        speeds = self.throughput if len(self.throughput) else None
        view = LearnedPredictor(Known(self._lengths.view(), speeds))
        said = {name: span for name, span in view.run_seconds(workload, run.pool).items() if span.median > 0}
        source = next((name for name in self.sources.order(queue) if name in said), None)
        low, high = math.nan, math.nan
        if source is not None:
            low, high = self.open.interval(source, queue, said[source])
        steps = workload.hints.total_steps
        opened = OpenRun(
            run.at,
            queue,
            run.pool.gpu_model or "",
            steps,
            configuration_of(workload, run.pool),
            {name: math.log(span.median) for name, span in said.items()},
            source,
            low,
            high,
            traits=workload.hints.traits,
        )
        self.open.put(run.uid, opened)
        asked = Run(run.uid, run.at, groups_of(workload), numbers_of(workload))
        self.durations.finish(run.uid, run.at, None)  # of an earlier attempt
        self.durations.submit(asked)
        self._lengths.tell(asked, self.durations)

    def ended(
        self,
        uid: str,
        at: float,
        seconds: float | None,
        *,
        at_least: float | None = None,
        whole: bool = True,
    ) -> None:
        """A run is over; `seconds` None: it failed, was stopped, moved or paused, and tells at most that it would have
        taken longer than `at_least`. `whole` False: it had begun with a part of its work done, or was slowed down, so
        that its length says nothing of its speed."""
        self.outlive(at)
        run = self.durations.run_of(uid)
        self.durations.finish(uid, at, seconds, at_least=at_least)
        if run is not None:
            self._lengths.tell(replace(run, submitted_at=at), self.durations)
        opened = self.open.pop(uid)
        if opened is not None and seconds is None and at_least is not None and usable_seconds(at_least):
            # Who said less is off by that much at least; of those who said more nothing is known.
            gone = math.log(at_least)
            self.sources.learn(opened.queue, {name: gone - said for name, said in opened.said.items() if said < gone})
        if opened is None or seconds is None or not usable_seconds(seconds):
            return
        length = math.log(seconds)
        self.sources.learn(opened.queue, {name: length - said for name, said in opened.said.items()})
        if opened.source is not None:
            self._judge(opened, at, length)
        if whole and not opened.speed_told and opened.configuration is not None and opened.steps is not None:
            self.speeds.learn(opened.configuration, opened.steps / seconds, opened.traits)

    def speed(self, uid: str, steps_per_second: float, beside: str | None = None) -> None:
        """As the own metric of a run that goes on, or has just been stopped, tells it. `beside`: the one other run that
        was on the same GPU meanwhile; None: there was none, or nobody knows."""
        opened = self.open.get(uid)
        if opened is None or opened.configuration is None:
            return
        if math.isfinite(steps_per_second) and steps_per_second > 0:
            other = None if beside is None else self.open.get(beside)
            if other is not None and other.configuration is not None:
                self.speeds.learn_shared(opened.configuration, other.configuration, steps_per_second)
            self.speeds.learn(opened.configuration, steps_per_second, opened.traits)
            self.open.told_speed(uid)

    def used(self, uid: str, use: Use, restarts: int) -> None:
        """What a run that is over, or is about to be, made of its GPUs in its last attempt; and how often it began
        again. Before `ended`."""
        opened = self.open.get(uid)
        if opened is None:
            return
        model = None if opened.configuration is None else opened.configuration.model
        for what, name in ((records.QUEUE, opened.queue), (records.GPU, opened.gpu), (MODEL, model)):
            if name:
                self.uses.learn(what, name, use, restarts)

    def nodes_came(self, pool: PoolRef, seconds: float, at: float = 0.0) -> None:
        """From the decision to buy nodes to a run's start on them, at `at`."""
        known = self.provisioning.get(str(pool)) or Provisioning()
        if known.count:
            self.starts.learn(str(pool), known.quantile_seconds(0.5), seconds, p90=known.quantile_seconds(0.9))
        self.provisioning.put(str(pool), known.aged(at).started(seconds))

    def nodes_refused(self, pool: PoolRef, at: float = 0.0, after_seconds: float | None = None) -> None:
        """They did not come, which was known at `at`, `after_seconds` from the decision to buy them."""
        known = self.provisioning.get(str(pool)) or Provisioning()
        self.provisioning.put(str(pool), known.aged(at).refused(after_seconds))

    def waited(self, cluster: str, said_seconds: float, seconds: float) -> None:
        """A workload waited so long on a member's own capacity, where so long was said; what cannot be, but for a
        minute of skew between clocks, teaches nothing."""
        offset = WAIT_OFFSET_SECONDS
        if not (said_seconds >= -offset and seconds >= -offset):
            return
        self.waits.learn(cluster, max(0.0, said_seconds) + offset, max(0.0, seconds) + offset)

    def paid(self, pool: PoolRef, said_usd: float, p90_usd: float, paid_usd: float) -> None:
        """A run that began and ended on bought nodes of the pool, by the ledger."""
        self.costs.learn(str(pool), said_usd, paid_usd, p90=p90_usd)

    def served(self, uid: str, at: float, p95_seconds: float, per_second: float | None, replicas: int) -> None:
        """What the latency metrics of a workload that serves say; `per_second`: requests, of all replicas."""
        known = self.serving.touch(uid, Served)
        said = known.forecast(at)
        if known.learn(at, p95_seconds, per_second, replicas) and said is not None:
            self.latencies.learn(uid, said, p95_seconds)

    def spot_used(self, pool: PoolRef, zone: str, hour: int, reclaims: int, node_hours: float) -> None:
        self.hazards.learn(str(pool), zone, hour, reclaims, node_hours)

    def outlive(self, now: float) -> None:
        """Runs that still go on after the end of their interval have missed it: that is learned at once."""
        self.open.outlive(now)

    # -- what heavy work there is ------------------------------------------------------------------------------------

    @property
    def wants_refit(self) -> bool:
        """Whether so much is new that learning anew may pay: a tenth more runs, at least 70 and at most 500."""
        new = self.durations.examples_seen - self._fitted_at
        due = min(_HELD_OUT, max(70, self.durations.examples_seen // 10))
        return new >= due or self.speeds.wants_refit

    def learn_anew(self, now: float) -> list[Change]:
        """Fit what has enough new to be fitted to. A challenger that is worse on the newest runs is sent back."""
        changes: list[Change] = []
        if self.durations.examples_seen > self._fitted_at:
            changes += self._refit_durations(now)
        choice = self.speeds.learn_anew()
        return changes if choice is None else [*changes, Change("throughput", choice)]

    def _refit_durations(self, now: float) -> list[Change]:
        examples, going = self.durations.examples(), self.durations.going(now)
        size, new = len(examples.targets), self.durations.examples_seen - self._fitted_at
        champion = self.durations.forest
        newest = min(new, _HELD_OUT, size // 4)
        self._fitted_at = self.durations.examples_seen
        challenger = fit(examples.until(size - newest), going, champion)
        if challenger is None:
            return []
        held = examples.since(size - newest)
        actual = held.targets - held.rows[:, 0]
        # The first has the last five runs alike to beat.
        incumbent = np.zeros(newest) if champion is None else _medians(champion, held.rows)
        choice = choose(incumbent, _medians(challenger, held.rows), actual)
        if choice.challenger_wins:
            self.durations.forest = challenger
            self._lengths.tell_all(now, self.durations)
        return [Change("durations", choice)]

    # -- what comes of it --------------------------------------------------------------------------------------------

    def predictor(self, now: float = 0.0) -> LearnedPredictor:
        """A frozen view of what is known at `now` (0: when something was last learned)."""
        rates = {(_pool_of(name), zone): _rounded_rates(one) for (name, zone), one in self.hazards.daily().items()}
        return LearnedPredictor(
            Known(
                lengths=dict(self._lengths.view()),
                throughput=self.throughput.fork() if len(self.throughput) else None,
                sharing=self.sharing.fork() if len(self.sharing) else None,
                efficiency=self.speeds.efficiencies.view(),
                order=self.sources.orders(),
                provisioning={_pool_of(name): one.aged(now) for name, one in self.provisioning.items()},
                reclaims=rates,
                hour=now % 86400.0 / 3600.0,
                waits=self.waits.all(),
                costs=self.costs.all(),
                serving={uid: view for uid, one in self.serving.items() if (view := one.view()) is not None},
                **({"any_reclaims": DailyRates((rounded(self.hazards.of_any().mean_per_hour),))} if rates else {}),
            )
        )

    def corrections(self) -> dict[str, dict[str, Correction]]:
        """How what was said was off, by what and name."""
        serving = {uid: one for uid, one in self.latencies.all().items() if uid in self.serving}
        return {
            "wait": self.waits.all(), "cost": self.costs.all(), "start": self.starts.all(), "latency": serving,
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """All that was learned, as JSON values."""
        return {
            "version": STATE_VERSION,
            "durations": self.durations.state(),
            **self.speeds.state(),
            "calibration": self.calibration.state(),
            "sources": self.sources.state(),
            "records": self.records.state(),
            "hazards": self.hazards.state(),
            "provisioning": [[name, one.state()] for name, one in self.provisioning.items()],
            "waits": self.waits.state(),
            "costs": self.costs.state(),
            "starts": self.starts.state(),
            "latencies": self.latencies.state(),
            "serving": [[uid, one.state()] for uid, one in self.serving.items()],
            "uses": self.uses.state(),
            "lengths": self._lengths.state(),
            "open": self.open.state(),
            "fitted_at": self._fitted_at - self.durations.examples_seen,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, keep: int = 10_000) -> Learning:
        """Raises: ValueError for another version, or for anything that `state` did not write."""
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"a state of version {state.get('version')}, not {STATE_VERSION}")
        found = cls(keep=keep)
        try:
            found._read(state, keep)
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise ValueError(f"a state that is damaged: {error!r}") from error
        return found

    def _read(self, state: Mapping[str, Any], keep: int) -> None:
        self.durations = DurationModel.from_state(state["durations"], keep=keep)
        self.speeds = Speeds.from_state(state)
        self.open.calibration = Calibration.from_state(state["calibration"])
        self.sources = SourceErrors.from_state(state["sources"])
        self.records = Records.from_state(state["records"])
        self.hazards = ReclaimHazards.from_state(state["hazards"])
        # Earlier versions had none of these.
        self.waits = Ratios.from_state(state.get("waits", []))
        self.costs = Ratios.from_state(state.get("costs", []))
        self.starts = Ratios.from_state(state.get("starts", []))
        self.latencies = Ratios.from_state(state.get("latencies", []))
        self.uses = Uses.from_state(state.get("uses", []))
        for uid, one in state.get("serving", []):
            self.serving.put(str(uid), Served.from_state(one))
        for pool, one in state["provisioning"]:
            self.provisioning.put(str(pool), Provisioning.from_state(one))
        self._lengths = GroupLengths.from_state(state["lengths"])
        self.open.read(state["open"])
        self._fitted_at = self.durations.examples_seen + min(0, int(state["fitted_at"]))

    def _judge(self, opened: OpenRun, at: float, length: float) -> None:
        assert opened.source is not None
        error, covered = length - opened.said[opened.source], self.open.judge(opened, length)
        for what, name in (
            (records.QUEUE, opened.queue),
            (records.GPU, opened.gpu),
            (records.SOURCE, opened.source),
        ):
            if name:
                self.records.add(at, what, name, error, covered)


def _medians(forest: Forest, rows: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return quantiles(forest.distribution(rows), forest.edges, np.array([0.5]))[:, 0] if len(rows) else np.empty(0)


@lru_cache(maxsize=4096)
def _rounded_rates(rates: DailyRates) -> DailyRates:
    return DailyRates(tuple(map(rounded, rates.per_hour)))


def _pool_of(name: str) -> PoolRef:
    cluster, _, pool = name.partition("/")
    return PoolRef(ClusterId(cluster), PoolId(pool))
