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


_Place = tuple[DailyRates, float | None, float | None]
"""Reclaims of a node; seconds until a new node is ready; the chance that a scale-up succeeds."""


@dataclass(slots=True)
class _Asked:
    """A workload that is being asked about, and what is the same wherever it runs."""

    workload: Workload
    history: Span | None
    order: tuple[str, ...]
    runs: dict[_Where, Span | None] = field(default_factory=dict)


class LearnedPredictor:
    """Pure: remembers only what it has worked out already."""

    def __init__(self, known: Known | None = None) -> None:
        self.known = Known() if known is None else known
        self._asked: _Asked | None = None
        self._places: dict[tuple[PoolRef, tuple[tuple[str, str], ...], float | None], _Place] = {}

    def predict(self, workload: Workload, pool: NodePool, new_nodes: int) -> Prediction:
        """Unknown stays None, as in `FirstPredictor`."""
        rates, provisioning, chance = self._place(pool)
        span = None if workload.runs_forever else self._run(workload, pool)
        run, sure, shape = (None, None, ()) if span is None else (span.median, span.log_sd, span.shape)
        lost = 0.0
        if run is not None and pool.capacity_type == SPOT:
            gang = self._reclaims(rates, run) * nodes_spanned(workload.pod_sets, pool.node_resources)
            lost = lost_to_reclaims(run, gang, workload.hints.checkpoint_every_seconds)
        if new_nodes == 0:
            return Prediction(run, POD_START_SECONDS, lost, sure, run_shape=shape)
        start = None if provisioning is None else provisioning + POD_START_SECONDS
        return Prediction(run, start, lost, sure, availability=chance, run_shape=shape)

    def alike(self, pool: NodePool) -> Hashable:
        """All that a prediction looks at of a pool."""
        rates, provisioning, chance = self._place(pool)
        spot = pool.capacity_type == SPOT
        return _where(pool), provisioning, chance, (rates, pool.node_resources) if spot else None

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
            hazard = self._reclaims(self._place(pool)[0], prediction.run_seconds)
        return predicted_cost(prediction, usd_per_hour, hazard, workload.hints.checkpoint_every_seconds)

    def serving(self, workload: Workload) -> Serving | None:
        """What is known of one that serves: its latency now and in an hour, and what a replica carries."""
        return self.known.serving.get(workload.ref.uid)

    def reclaims_per_hour(self, pool: NodePool) -> float:
        """Of one node of a spot pool, in the hours from now on."""
        return self._reclaims(self._place(pool)[0], 3600.0)

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
        kinds: dict[_Where, int] = {}
        column = [kinds.setdefault(_where(pool), len(kinds)) for pool in pools]
        example = dict(zip(column, pools, strict=True))
        runs = np.full((len(workloads), len(kinds)), math.nan)
        for row, workload in enumerate(workloads):
            if not workload.runs_forever:
                for number, pool in example.items():
                    span = self._run(workload, pool)
                    runs[row, number] = math.nan if span is None else span.median
        places: dict[tuple[int, DailyRates, Resources], int] = {}
        at = [
            places.setdefault((kind, self._place(pool)[0], pool.node_resources), len(places))
            if pool.capacity_type == SPOT
            else -1
            for kind, pool in zip(column, pools, strict=True)
        ]
        lost = np.zeros((len(workloads), len(places) + 1))
        for row, workload in enumerate(workloads):
            every = workload.hints.checkpoint_every_seconds
            for (kind, rates, node), place in places.items():
                seconds = float(runs[row, kind])
                if math.isnan(seconds):
                    lost[row, place] = seconds
                    continue
                gang = self._reclaims(rates, seconds) * nodes_spanned(workload.pod_sets, node)
                lost[row, place] = lost_to_reclaims(seconds, gang, every)
        return runs[:, column], lost[:, at]

    # -- the parts ---------------------------------------------------------------------------------------------------

    @property
    def _speeds(self) -> ThroughputModel | None:
        return self.known.throughput

    def _run(self, workload: Workload, pool: NodePool) -> Span | None:
        asked = self._asked
        if asked is None or asked.workload is not workload:
            asked = self._asked = _Asked(workload, self._history(workload), self.order(workload.queue))
        place = _where(pool)
        if place not in asked.runs:
            asked.runs[place] = self._chosen(asked, pool)
        return asked.runs[place]

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
        """Seconds until a new node is ready have what is lost on scale-ups that fail among them; the chance that one
        succeeds is None where none was seen."""
        key = (pool.ref, pool.labels, pool.provisioning_seconds)
        found = self._places.get(key)
        if found is None:
            known, ref = self.known, pool.ref
            zone = next((value for name, value in pool.labels if name == TOPOLOGY_ZONE), "")
            rates = known.reclaims.get((ref, zone)) or known.reclaims.get((ref, ""), known.any_reclaims)
            learned = known.provisioning.get(ref)
            chance = None if learned is None else round(learned.availability, 2)
            found = self._places[key] = rates, self._provisioning(pool, learned), chance
        return found

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


def _where(pool: NodePool) -> _Where:
    return pool.gpu_model, pool.node_resources.gpus, replicas_of(pool)


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
