"""A comparison: every policy set and every baseline at each of its settings, over the same seeds, and the bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from scheduler.model.policy import PolicySet, ValueOfTime
from scheduler.model.ports import Predictor
from scheduler.simulate.adherence import broken_budgets, has_budgets
from scheduler.simulate.assumptions import Assumptions
from scheduler.simulate.baselines import baseline, settings_of
from scheduler.simulate.bound import Bound
from scheduler.simulate.bound_whole import tightest_bound
from scheduler.simulate.driver import Decider, PolicyDecider, Site, TracePredictor, replay
from scheduler.simulate.measures import Measures, measure
from scheduler.simulate.record import Moment, RunRecord
from scheduler.simulate.trace import Trace

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class NamedPolicies:
    name: str
    policies: PolicySet


@dataclass(frozen=True, slots=True)
class Study:
    """What is compared. Baselines keep the constraints, queues and budgets of the first policy set."""

    trace: Trace
    site: Site
    policies: tuple[NamedPolicies, ...]
    baselines: tuple[str, ...]
    seeds: tuple[int, ...]
    assumptions: Assumptions
    """Their own seed is replaced by each of `seeds`."""
    value: ValueOfTime
    with_bound: bool = False
    gather_seconds: float = 0.0
    slice_seconds: float | None = None
    """Set: decided is at the beginning of each time slice, and then on all that is unfinished."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One that is replayed once for each seed."""

    name: str
    kind: str
    """policy or baseline."""
    family: str
    """Of a baseline its name without the setting: the best of a family's settings stands for it."""
    setting: str
    decider: Decider
    policies: PolicySet


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Jobs that had not ended when a replay did, by what stood in their way."""

    why: str
    jobs: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One replay, measured; of its course only what a plot shows is kept."""

    contender: Contender
    measures: Measures
    unfinished: tuple[Unfinished, ...]
    broken_budgets: tuple[str, ...]
    clusters: tuple[str, ...]
    started_at: float
    moments: tuple[Moment, ...]

    @property
    def comparable(self) -> bool:
        """Whether its cost is that of the whole work: everything has ended, and every price is known."""
        return not self.unfinished and not self.measures.unpriced_gpu_hours


@dataclass(frozen=True, slots=True)
class Findings:
    study: Study
    runs: tuple[Run, ...]
    bound: Bound | None


def contenders(study: Study) -> Iterator[Contender]:
    """In the order of their names, policy sets first. Raises: InvalidObjectError for a baseline that is not there."""
    predictor: Predictor = TracePredictor(study.trace.speeds)
    for one in study.policies:
        yield Contender(
            one.name, "policy", one.name, "", PolicyDecider(one.name, one.policies, predictor), one.policies
        )
    for name in study.baselines:
        for setting in settings_of(name):
            decider = baseline(name, setting, study.policies[0].policies, predictor)
            yield Contender(decider.name, "baseline", name, setting, decider, decider.policies)


Progress = Callable[[int, str, float], None]
"""(index of the run, its name, the part of it that is done)."""


def run_study(study: Study, progress: Progress = lambda index, name, done: None) -> Findings:
    """Replay everything, one after the other. Raises: OverspillError when a replay or the bound cannot be made."""
    runs: list[Run] = []
    for contender in contenders(study):
        for seed in study.seeds:
            index, label = len(runs), f"{contender.name}, seed {seed}"
            progress(index, label, 0.0)
            runs.append(run_contender(study, contender, seed, lambda done, i=index, n=label: progress(i, n, done)))  # type: ignore[misc]
    bound = None
    if study.with_bound:
        progress(len(runs), "bound", 0.0)
        bound = tightest_bound(
            study.trace,
            study.site.clusters,
            study.site.owned_gpus,
            study.value,
            keeps_work=study.slice_seconds is not None,
        )
        progress(len(runs), "bound", 1.0)
    return Findings(study, tuple(runs), bound)


def run_contender(study: Study, contender: Contender, seed: int, progress: Callable[[float], None]) -> Run:
    """One replay, measured. Raises: OverspillError when it cannot be made."""
    record = replay(
        study.trace,
        study.site,
        contender.decider,
        replace(study.assumptions, seed=seed),
        gather_seconds=study.gather_seconds,
        slice_seconds=study.slice_seconds,
        meters_budgets=has_budgets(contender.policies),
        progress=progress,
    )
    broken = broken_budgets(contender.policies, record.spend)
    measures = measure(record, study.value, budgets_broken=len(broken))
    return Run(
        contender,
        measures,
        _unfinished(record),
        broken,
        record.clusters,
        record.started_at,
        tuple(record.moments),
    )


def _unfinished(record: RunRecord) -> tuple[Unfinished, ...]:
    """The most frequent first."""
    names: dict[str, list[str]] = {}
    for job in record.jobs:
        if job.finished_at is None:
            names.setdefault(job.why, []).append(job.job.name)
    found = [Unfinished(why, len(each), tuple(sorted(each)[:_EXAMPLES])) for why, each in names.items()]
    return tuple(sorted(found, key=lambda each: (-each.jobs, each.why)))
