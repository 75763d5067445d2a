"""Policies and baselines over one log, at every setting and seed, and what a policy saves at the same misses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scheduler.model.serving_policy import ServingSLO
from scheduler.simulate.serving.deciders import Engine, Hpa, HpaRule, ServingDecider, Static, ThresholdBurst
from scheduler.simulate.serving.log import RequestLog
from scheduler.simulate.serving.measures import ServingMeasures, measure
from scheduler.simulate.serving.replay import Happening, ServingRun, replay
from scheduler.simulate.serving.site import ServingSite

BASELINES: Final = ("onprem-hpa", "static-even", "threshold-burst")
TARGETS: Final = (0.3, 0.4, 0.5, 0.6, 0.7)
WINDOWS: Final = (300.0, 900.0)
NOTHING: Final = Happening()


@dataclass(frozen=True, slots=True)
class ServingStudy:
    log: RequestLog
    site: ServingSite
    policies: tuple[tuple[str, ServingSLO], ...]
    """Name and SLO; baselines are measured by the first one's."""
    baselines: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    cycle_seconds: float = 30.0
    peak_replicas: int = 50
    happening: Happening = NOTHING
    use_milp: bool = True


@dataclass(frozen=True, slots=True)
class ServingFindings:
    study: ServingStudy
    runs: tuple[ServingRun, ...]
    measures: tuple[ServingMeasures, ...]
    """One for each run, in the same order."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One contender over all seeds."""

    name: str
    kind: str
    family: str
    cost_usd: float
    out_percent: float
    out_percent_asked: float
    changes_per_hour: float


def contenders(study: ServingStudy) -> Iterator[tuple[ServingSLO, Callable[[], ServingDecider]]]:
    """Makers, since a decider remembers; baselines at each of their settings."""
    for name, slo in study.policies:
        yield slo, lambda name=name: Engine(name, use_milp=study.use_milp)  # type: ignore[misc]
    slo = study.policies[0][1]
    share = slo.max_reclaimable_share
    for name in study.baselines:
        if name == "static-even":
            yield slo, lambda: Static(study.peak_replicas)
        elif name == "onprem-hpa":
            for target in (0.5, 0.7):
                rule = HpaRule(target)
                yield slo, lambda rule=rule: Hpa(rule, f"onprem-hpa {rule.target:g}")  # type: ignore[misc]
        else:
            for rule in threshold_rules(share):
                yield slo, lambda rule=rule: threshold(rule)  # type: ignore[misc]


def threshold_rules(spot_share: float) -> list[HpaRule]:
    """Every setting that is tried: how busy, and for how long less must do."""
    return [
        HpaRule(target, window, use_spot=spot_share > 0, max_spot_share=spot_share)
        for target in TARGETS
        for window in WINDOWS
    ]


def threshold(rule: HpaRule) -> ServingDecider:
    return ThresholdBurst(rule, f"threshold-burst {rule.target:g} {rule.down_seconds:g}s")


def run_study(study: ServingStudy, progress: Callable[[str], None] = lambda _: None) -> ServingFindings:
    """Every contender with every seed."""
    runs = []
    for slo, make in contenders(study):
        for seed in study.seeds:
            decider = make()
            progress(f"{decider.name}, seed {seed}")
            runs.append(
                replay(
                    study.log, study.site, slo, decider, seed=seed, cycle_seconds=study.cycle_seconds,
                    happening=study.happening,
                )
            )  # fmt: skip
    return ServingFindings(study, tuple(runs), tuple(map(measure, runs)))


def standings(findings: ServingFindings) -> tuple[Standing, ...]:
    """Means over the seeds, in the order of the contenders."""
    by_name: dict[str, list[ServingMeasures]] = {}
    for one in findings.measures:
        by_name.setdefault(one.decider, []).append(one)
    return tuple(_standing(name, ones) for name, ones in by_name.items())


def _standing(name: str, ones: Sequence[ServingMeasures]) -> Standing:
    def mean(of: Callable[[ServingMeasures], float]) -> float:
        return sum(map(of, ones)) / len(ones)

    return Standing(
        name, ones[0].kind, name.split(" ")[0],
        mean(lambda one: float(one.cost_usd)), mean(lambda one: one.out_percent),
        mean(lambda one: one.out_percent_asked), mean(lambda one: one.changes_per_hour),
    )  # fmt: skip


def savings(findings: ServingFindings) -> list[dict[str, Any]]:
    """Of each policy against each baseline at its cheapest setting with no more misses; None where it has none."""
    everyone = standings(findings)
    found = []
    for policy in (one for one in everyone if one.kind == "policy"):
        for family in sorted({one.family for one in everyone if one.kind == "baseline"}):
            as_good = [one for one in everyone if one.family == family and one.out_percent <= policy.out_percent]
            best = min(as_good, key=lambda one: (one.cost_usd, one.name), default=None)
            found.append(
                {
                    "policy": policy.name,
                    "baseline": family,
                    "setting": None if best is None else best.name,
                    "saved_percent": None
                    if best is None or best.cost_usd <= 0
                    else round(100.0 * (1.0 - policy.cost_usd / best.cost_usd), 2),
                    "policy_out_percent": round(policy.out_percent, 4),
                    "baseline_out_percent": None if best is None else round(best.out_percent, 4),
                }
            )
    return found
