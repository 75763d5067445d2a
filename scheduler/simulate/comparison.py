"""What the runs of a study say of one another: each baseline at its best setting, savings against it, the gap to the
bound. Only runs whose cost is that of the whole work are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scheduler.simulate.study import Findings, Run


@dataclass(frozen=True, slots=True)
class Standing:
    """A policy set, or a baseline at one setting, over all seeds."""

    name: str
    kind: str
    family: str
    setting: str
    runs: tuple[Run, ...]
    """In the order of the seeds."""
    best: bool
    """Of its family's settings; a policy set is always its own best."""

    @property
    def comparable(self) -> bool:
        return all(run.comparable for run in self.runs)

    def mean(self, measure: str) -> float | None:
        """Over the seeds, of a measure by its name in the JSON; None when it is unknown for one of them."""
        values = [run.measures.as_json()[measure] for run in self.runs]
        return None if any(value is None for value in values) else sum(values) / len(values)


@dataclass(frozen=True, slots=True)
class Saving:
    """Of a policy set against a baseline's best setting, in percent of the baseline's total cost."""

    baseline: str
    """With its setting; the family's name when no setting can be compared."""
    mean_percent: float | None
    """None: one of the two has runs that cannot be compared."""
    least_percent: float | None
    """Over the seeds."""
    most_percent: float | None
    mean_usd: float | None
    p95_wait_seconds: float | None
    """The policy's less the baseline's, mean over the seeds: above 0 it waits longer."""


@dataclass(frozen=True, slots=True)
class Change:
    """From the first policy set to another: the other's less the first's, means over the seeds.

    None where one of the two is unknown, or has runs that cannot be compared."""

    name: str
    first: str
    total_cost_usd: float | None
    cloud_spend_usd: float | None
    wait_mean_seconds: float | None
    wait_p95_seconds: float | None


def standings(findings: Findings) -> tuple[Standing, ...]:
    """In the order of the runs."""
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in findings.runs:
        grouped.setdefault((run.contender.kind, run.contender.name), []).append(run)
    plain = [_standing(runs, best=True) for runs in grouped.values()]
    best = _best_names(plain)
    return tuple(_standing(list(one.runs), best=(one.kind, one.name) in best) for one in plain)


def savings(policy: Standing, others: Sequence[Standing]) -> tuple[Saving, ...]:
    """Against the best setting of each baseline among `others`."""
    found: list[Saving] = []
    for family in dict.fromkeys(one.family for one in others if one.kind == "baseline"):
        best = next((one for one in others if one.family == family and one.best), None)
        found.append(_saving(policy, family, best))
    return tuple(found)


def changes(all_of_them: Sequence[Standing]) -> tuple[Change, ...]:
    """What each further policy set changes; empty where there is but one."""
    first, *further = [one for one in all_of_them if one.kind == "policy"]
    return tuple(_change(first, one) for one in further)


def _change(first: Standing, other: Standing) -> Change:
    def difference(measure: str) -> float | None:
        before, after = first.mean(measure), other.mean(measure)
        if before is None or after is None or not (first.comparable and other.comparable):
            return None
        return after - before

    return Change(
        other.name, first.name, difference("total_cost_usd"), difference("cloud_spend_usd"),
        difference("wait_mean_seconds"), difference("wait_p95_seconds"),
    )  # fmt: skip


def gap_percent(standing: Standing, findings: Findings) -> float | None:
    """How far its mean cost lies above the bound, in percent of the bound; None: there is no bound, or no cost."""
    cost = standing.mean("total_cost_usd")
    bound = None if findings.bound is None else findings.bound.total_cost_usd
    if cost is None or not bound or not standing.comparable:
        return None
    return 100.0 * (cost / bound - 1.0)


def comparison_json(findings: Findings) -> dict[str, Any]:
    """The `comparison` of `overspill simulate --json`."""
    all_of_them = standings(findings)
    return {
        "value_of_time": {
            "usd_per_hour": float(findings.study.value.usd_per_hour),
            "usd_per_gpu_hour": float(findings.study.value.usd_per_gpu_hour),
        },
        "policies": [_policy_json(one, all_of_them, findings) for one in all_of_them if one.kind == "policy"],
        "baselines": [
            {
                "name": one.name,
                "baseline": one.family,
                "setting": one.setting,
                "best": one.best,
                "comparable": one.comparable,
                "mean_total_cost_usd": _rounded(one.mean("total_cost_usd")),
                "gap_to_bound_percent": _rounded(gap_percent(one, findings)),
            }
            for one in all_of_them
            if one.kind == "baseline"
        ],
        "changes": [
            {
                "name": one.name,
                "first": one.first,
                "total_cost_usd": _rounded(one.total_cost_usd),
                "cloud_spend_usd": _rounded(one.cloud_spend_usd),
                "wait_mean_seconds": _rounded(one.wait_mean_seconds),
                "wait_p95_seconds": _rounded(one.wait_p95_seconds),
            }
            for one in changes(all_of_them)
        ],
        "bound_total_cost_usd": None if findings.bound is None else _rounded(findings.bound.total_cost_usd),
    }


def _policy_json(policy: Standing, others: Sequence[Standing], findings: Findings) -> dict[str, Any]:
    return {
        "name": policy.name,
        "comparable": policy.comparable,
        "mean_total_cost_usd": _rounded(policy.mean("total_cost_usd")),
        "gap_to_bound_percent": _rounded(gap_percent(policy, findings)),
        "against": [
            {
                "baseline": saving.baseline,
                "saving_percent_mean": _rounded(saving.mean_percent),
                "saving_percent_least": _rounded(saving.least_percent),
                "saving_percent_most": _rounded(saving.most_percent),
                "saving_usd_mean": _rounded(saving.mean_usd),
                "wait_p95_difference_seconds": _rounded(saving.p95_wait_seconds),
            }
            for saving in savings(policy, others)
        ],
    }


def _standing(runs: list[Run], *, best: bool) -> Standing:
    first = runs[0].contender
    return Standing(first.name, first.kind, first.family, first.setting, tuple(runs), best)


def _best_names(plain: Sequence[Standing]) -> set[tuple[str, str]]:
    """By mean total cost over the seeds, of the settings that can be compared; ties go to the first."""
    best: dict[tuple[str, str], tuple[float, str]] = {}
    for one in plain:
        cost = one.mean("total_cost_usd")
        if cost is None or not one.comparable:
            continue
        known = best.get((one.kind, one.family))
        if known is None or cost < known[0]:
            best[(one.kind, one.family)] = (cost, one.name)
    return {(kind, name) for (kind, _), (_, name) in best.items()}


def _saving(policy: Standing, family: str, best: Standing | None) -> Saving:
    if best is None or not policy.comparable:
        return Saving(family if best is None else best.name, None, None, None, None, None)
    theirs = [run.measures.total_cost_usd for run in best.runs]
    ours = [run.measures.total_cost_usd for run in policy.runs]
    percent = [100.0 * (t - o) / t if t else 0.0 for t, o in zip(theirs, ours, strict=True)]
    usd = [t - o for t, o in zip(theirs, ours, strict=True)]
    waits = policy.mean("wait_p95_seconds"), best.mean("wait_p95_seconds")
    difference = None if waits[0] is None or waits[1] is None else waits[0] - waits[1]
    return Saving(best.name, sum(percent) / len(percent), min(percent), max(percent), sum(usd) / len(usd), difference)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
