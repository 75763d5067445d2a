"""The learned predictor: a frozen view of what was learned up to a moment, behind the `Predictor` port.

With nothing learned it says what `FirstPredictor` says. Three sources know a run's time: its work (the steps that its
user tells over the learned speed there), the history of runs alike, and its user's expectation. Each queue has them in
the order in which they have erred least there; the first that knows an answer gives it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scheduler.model.cluster import SPOT, NodePool
from scheduler.model.contract import TOPOLOGY_ZONE
from scheduler.model.ids import PoolRef
from scheduler.model.ports import Prediction
from scheduler.model.resources import Resources
from scheduler.model.traits import NO_TRAITS, Traits
from scheduler.model.workload import Workload
from scheduler.predict.alike import configuration_of, groups_of, replicas_of
from scheduler.predict.cost import RunCost, predicted_cost
from scheduler.predict.first import POD_START_SECONDS, SPOT_RECLAIMS_PER_HOUR, lost_to_reclaims, nodes_spanned
from scheduler.predict.provisioning import PRIOR_SECONDS, Provisioning
from scheduler.predict.ratios import Correction, corrections
from scheduler.predict.served import Serving
from scheduler.predict.sharing import Alone, Kept, SharingModel
from scheduler.predict.spot import DailyRates
from scheduler.predict.throughput import Configuration, Spread, ThroughputModel
from scheduler.predict.work import Efficiency, surer

WORK, HISTORY, HINT = "work", "history", "hint"
SOURCES: Final = (WORK, HISTORY, HINT)
"""In the order of an unknown queue."""
_PRIOR_EFFICIENCY: Final = Efficiency()
_USUAL_RECLAIMS: Final = DailyRates((SPOT_RECLAIMS_PER_HOUR,))
_NORMAL_95: Final = 1.6449
LEAST_ALIKE: Final = 3
"""So many runs alike must have ended before their history is asked."""


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds that it stays under with a chance of 5 %, 50 % and 95 %."""

    low: float
    median: float
    high: float
    shape: tuple[float, ...] = ()
    """Logs of the seconds as in `scheduler.model.spread`, less that of the median; empty: no more is known than the
    three."""

    @property
    def log_sd(self) -> float | None:
        """Standard deviation of the logarithm, as if it were normal; None: it has no width."""
        return math.log(self.high / self.low) / (2 * _NORMAL_95) if 0 < self.low < self.high else None

    @property
    def logs(self) -> tuple[float, ...]:
        """As in `scheduler.model.spread`; empty: not known."""
        middle = math.log(self.median)
        return tuple(middle + each for each in self.shape)


def _nothing() -> Mapping[str, Span]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Known:
    """What was learned; whatever is missing is at its prior. Not changed by anybody once it is here."""

    lengths: Mapping[str, Span] = field(default_factory=_nothing)
    """By the finest group of runs alike, and by queue and GPUs."""
    throughput: ThroughputModel | None = None
    efficiency: Efficiency = _PRIOR_EFFICIENCY
    """Of models that were never seen, and declare what they are."""
    order: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Sources by queue, the best first."""
    provisioning: Mapping[PoolRef, Provisioning] = field(default_factory=lambda: MappingProxyType({}))
    reclaims: Mapping[tuple[PoolRef, str], DailyRates] = field(default_factory=lambda: MappingProxyType({}))
    """By pool and zone; zone "": in whichever."""
    any_reclaims: DailyRates = _USUAL_RECLAIMS
    """Of a spot pool that was never used."""
    hour: float = 0.0
    """Of the day (UTC), with its part: when runs that are asked about would begin."""
    sharing: SharingModel | None = None
    """What is kept of a speed beside others on one GPU."""
    waits: Mapping[str, Correction] = field(default_factory=lambda: MappingProxyType({}))
    """By member, how queue waits were off."""
    costs: Mapping[str, Correction] = field(default_factory=lambda: MappingProxyType({}))
    """By pool, how costs of runs were off."""
    serving: Mapping[str, Serving] = field(default_factory=lambda: MappingProxyType({}))
    """By UID of the workload."""


_Where = tuple[str | None, int, int]
"""GPU model, GPUs of a node, how many times over each is handed out: all that a run's time depends on of a pool."""


_MOST_PLACES: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Place:
    """What is worked out of a pool, once."""

    pool: NodePool
    where: int
    """Of `_Where`, by number: a tuple would be hashed at each question."""
    node: int
    """Of the size of its nodes, likewise."""
    spot: bool
    rates: DailyRates
    """Reclaims of a node."""
    provisioning: float | None
    """Seconds until a new node is ready, with what is lost on scale-ups that fail."""
    start: float | None
    """The same, and the start of pods."""
    chance: float | None
    """That a scale-up succeeds; None: none was seen."""


@dataclass(frozen=True, slots=True)
class _Run:
    """As a prediction tells it."""

    span: Span
    seconds: float
    log_sd: float | None
    shape: tuple[float, ...]


@dataclass(slots=True)
class _Asked:
    """A workload that is being asked about, and what is the same wherever it runs."""

    workload: Workload
    history: Span | None
    order: tuple[str, ...]
    runs: dict[int, _Run | None] = field(default_factory=dict)
    """By `_Place.where`."""
    nodes: dict[int, int] = field(default_factory=dict)
    """That it spans at least, by `_Place.node`."""


class LearnedPredictor:
    """Pure: remembers only what it has worked out already."""

    def __init__(self, known: Known | None = None) -> None:
        self.known = Known() if known is None else known
        self._asked: _Asked | None = None
        self._wheres: dict[_Where, int] = {}
        self._nodes: dict[Resources, int] = {}
        self._places: dict[int, _Place] = {}
        """By the identity of the pool, which is kept: to hash a pool's labels takes longer than to predict."""

    def predict(self, workload: Workload, pool: NodePool, new_nodes: int) -> Prediction:
        """Unknown stays None, as in `FirstPredictor`."""
        place = self._place(pool)
        start, chance = (POD_START_SECONDS, None) if new_nodes == 0 else (place.start, place.chance)
        run = None if workload.runs_forever else self._run(workload, place)
        if run is None:
            return Prediction(None, start, 0.0, None, chance)
        lost = self._lost(run.seconds, place) if place.spot else 0.0
        return Prediction(run.seconds, start, lost, run.log_sd, chance, run.shape)

    def alike(self, pool: NodePool) -> Hashable:
        """All that a prediction looks at of a pool."""
        place = self._place(pool)
        spot = (place.rates, place.node) if place.spot else None
        return place.where, place.provisioning, place.chance, spot

    def run_seconds(self, workload: Workload, pool: NodePool) -> Mapping[str, Span]:
        """What each source says that knows anything; the spans of hints have no width."""
        found: dict[str, Span] = {}
        if workload.runs_forever:
            return found
        if (work := self._work(workload, pool)) is not None:
            found[WORK] = work
        if (history := self._history(workload)) is not None:
            found[HISTORY] = history
        if (said := workload.hints.expected_seconds) is not None:
            found[HINT] = Span(said, said, said)
        return found

    def run_cost(self, workload: Workload, pool: NodePool, new_nodes: int, usd_per_hour: Decimal) -> RunCost | None:
        """What a run there costs: expected and p90, in parts; None: its length or start is unknown."""
        prediction = self.predict(workload, pool, new_nodes)
        hazard = None
        if pool.capacity_type == SPOT and prediction.run_seconds is not None:
            hazard = self._reclaims(self._place(pool).rates, prediction.run_seconds)
        return predicted_cost(prediction, usd_per_hour, hazard, workload.hints.checkpoint_every_seconds)

    def serving(self, workload: Workload) -> Serving | None:
        """What is known of one that serves: its latency now and in an hour, and what a replica carries."""
        return self.known.serving.get(workload.ref.uid)

    def reclaims_per_hour(self, pool: NodePool) -> float:
        """Of one node of a spot pool, in the hours from now on."""
        return self._reclaims(self._place(pool).rates, 3600.0)

    def cost_correction(self, pool: PoolRef) -> Correction:
        """How far off the costs of runs on a pool were."""
        return corrections(self.known.costs, str(pool))

    def wait_correction(self, cluster: str) -> Correction:
        """How far off queue waits on a member were."""
        return corrections(self.known.waits, cluster)

    def order(self, queue: str) -> tuple[str, ...]:
        return self.known.order.get(queue, SOURCES)

    def table(self, workloads: Sequence[Workload], pools: Sequence[NodePool]) -> tuple[Floats, Floats]:
        """Of many at once, workloads x pools: seconds that each runs, and of those spent on work done again. NaN:
        unknown. The same as `predict` says of each; work is shared between pools that are alike."""
        places = [self._place(pool) for pool in pools]
        runs = np.full((len(workloads), len(self._wheres)), math.nan)
        alike: dict[tuple[int, DailyRates, int], int] = {}
        at = [
            alike.setdefault((place.where, place.rates, place.node), len(alike)) if place.spot else -1
            for place in places
        ]
        examples = {place.where: place for place in places}
        risky = dict(zip(at, places, strict=True))
        risky.pop(-1, None)
        lost = np.zeros((len(workloads), len(risky) + 1))
        for row, workload in enumerate(workloads):
            if workload.runs_forever:
                lost[row, :-1] = math.nan
                continue
            for number, place in examples.items():
                run = self._run(workload, place)
                runs[row, number] = math.nan if run is None else run.seconds
            for column, place in risky.items():
                seconds = float(runs[row, place.where])
                lost[row, column] = seconds if math.isnan(seconds) else self._lost(seconds, place)
        return runs[:, [place.where for place in places]], lost[:, at]

    # -- the parts ---------------------------------------------------------------------------------------------------

    @property
    def _speeds(self) -> ThroughputModel | None:
        return self.known.throughput

    def _run(self, workload: Workload, place: _Place) -> _Run | None:
        asked = self._asked
        if asked is None or asked.workload is not workload:
            asked = self._asked = _Asked(workload, self._history(workload), self.order(workload.queue))
        if place.where not in asked.runs:
            span = self._chosen(asked, place.pool)
            asked.runs[place.where] = None if span is None else _Run(span, span.median, span.log_sd, span.shape)
        return asked.runs[place.where]

    def _lost(self, run_seconds: float, place: _Place) -> float:
        """Seconds that the workload which is being asked about is expected to do again on a spot pool."""
        asked = self._asked
        assert asked is not None
        nodes = asked.nodes.get(place.node)
        if nodes is None:
            nodes = asked.nodes[place.node] = nodes_spanned(asked.workload.pod_sets, place.pool.node_resources)
        gang = self._reclaims(place.rates, run_seconds) * nodes
        return lost_to_reclaims(run_seconds, gang, asked.workload.hints.checkpoint_every_seconds)

    def _chosen(self, asked: _Asked, pool: NodePool) -> Span | None:
        for source in asked.order:
            if source == WORK:
                found = self._work(asked.workload, pool)
            elif source == HISTORY:
                found = asked.history
            else:
                said = asked.workload.hints.expected_seconds
                found = None if said is None else Span(said, said, said)
            if found is not None:
                return found
        return self._arithmetic(asked.workload, pool)

    def _work(self, workload: Workload, pool: NodePool) -> Span | None:
        steps = workload.hints.total_steps
        if steps is None or self._speeds is None:
            return None
        configuration = configuration_of(workload, pool)
        return None if configuration is None else _span(steps, self.speed(configuration, workload.hints.traits))

    def _arithmetic(self, workload: Workload, pool: NodePool) -> Span | None:
        """By what it declares alone, where no speed was ever seen and nobody says how long it takes."""
        steps, configuration = workload.hints.total_steps, configuration_of(workload, pool)
        if steps is None or configuration is None:
            return None
        return _span(steps, self.known.efficiency.speed(workload.hints.traits, configuration))

    def speed(self, one: Configuration, traits: Traits = NO_TRAITS) -> Spread | None:
        """Steps per second. Of a model that was never seen: by its own arithmetic, or by what others do on such GPUs,
        whichever is surer. Of a share of a GPU that was not seen itself: the speed on whole ones, and the part of it
        that is kept beside others, of whom nothing is known; all shares are taken to be in use."""
        speeds, sharing = self.known.throughput, self.known.sharing
        if speeds is None:
            return None
        if traits != NO_TRAITS and not speeds.has_seen(one.model) and speeds.observed(one) is None:
            return surer(self.known.efficiency.speed(traits, one), speeds.predict(one))
        if one.share == 1.0 or sharing is None or speeds.observed(one) is not None:
            return speeds.predict(one)
        whole = speeds.predict(replace(one, share=1.0))
        if whole is None:
            return None
        alone = Alone(one.model, one.batch_size, whole.median)
        kept = sharing.beside_anyone(alone, gpu_name(one), round(1.0 / one.share) - 1)
        return speeds.predict(one) if kept is None else _together(whole, kept)

    def _history(self, workload: Workload) -> Span | None:
        if not self.known.lengths:
            return None
        fine, coarse, _ = groups_of(workload)
        found = self.known.lengths.get(fine)
        return found if found is not None else self.known.lengths.get(coarse)

    def _reclaims(self, rates: DailyRates, run_seconds: float) -> float:
        """An hour, of one node, in the hours that such a run takes from now on."""
        return rates.mean(self.known.hour, run_seconds)

    def _place(self, pool: NodePool) -> _Place:
        found = self._places.get(id(pool))
        if found is None:
            if len(self._places) >= _MOST_PLACES:
                self._places.clear()
            found = self._places[id(pool)] = self._worked_out(pool)
        return found

    def _worked_out(self, pool: NodePool) -> _Place:
        known, ref, node = self.known, pool.ref, pool.node_resources
        zone = next((value for name, value in pool.labels if name == TOPOLOGY_ZONE), "")
        learned = known.provisioning.get(ref)
        provisioning = self._provisioning(pool, learned)
        return _Place(
            pool,
            self._wheres.setdefault((pool.gpu_model, node.gpus, replicas_of(pool)), len(self._wheres)),
            self._nodes.setdefault(node, len(self._nodes)),
            pool.capacity_type == SPOT,
            known.reclaims.get((ref, zone)) or known.reclaims.get((ref, ""), known.any_reclaims),
            provisioning,
            None if provisioning is None else provisioning + POD_START_SECONDS,
            None if learned is None else round(learned.availability, 2),
        )

    def _provisioning(self, pool: NodePool, learned: Provisioning | None) -> float | None:
        if learned is None:
            return pool.provisioning_seconds
        if learned.count == 0:
            usual = pool.provisioning_seconds
            return None if usual is None else usual + rounded(learned.delay_seconds)
        prior = PRIOR_SECONDS if not pool.provisioning_seconds else pool.provisioning_seconds
        return rounded(replace(learned, prior_seconds=prior).quantile_seconds(0.5) + learned.delay_seconds)


def _span(steps: float, speed: Spread | None) -> Span | None:
    if speed is None or not 0 < speed.low <= speed.median <= speed.high:
        return None
    return Span(steps / speed.high, steps / speed.median, steps / speed.low)


Floats = NDArray[np.float64]


def gpu_name(one: Configuration) -> str:
    """As shared runs are known by."""
    return one.gpu.strip().lower()


def _together(whole: Spread, kept: Kept) -> Spread:
    """Both as if log-normal and independent."""
    middle = math.log(whole.median * kept.median)
    below = math.hypot(math.log(whole.median / whole.low), math.log(kept.median / kept.low))
    above = math.hypot(math.log(whole.high / whole.median), math.log(kept.high / kept.median))
    return Spread(math.exp(middle - below), math.exp(middle), math.exp(middle + above))


def rounded(value: float) -> float:
    """To two digits: places that differ by less are alike, and are predicted once."""
    if value == 0 or not math.isfinite(value):
        return value
    digits = 1 - math.floor(math.log10(abs(value)))
    return round(value, digits)
