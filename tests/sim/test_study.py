"""Studies: which runs there are, the best setting of a baseline, savings, what fits nowhere, the report."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from scheduler.model.policy import Budget, Constraints, ValueOfTime
from scheduler.simulate.assumptions import Assumptions
from scheduler.simulate.comparison import comparison_json, gap_percent, savings, standings
from scheduler.simulate.feasible import impossible_jobs, without
from scheduler.simulate.report import report_html
from scheduler.simulate.study import Findings, NamedPolicies, Run, Study, contenders, run_study
from scheduler.simulate.trace import Trace
from tests.sim.worlds import A_DOLLAR, burst_at_once, job, run, site, spot_pool, trace
from tests.unit.engine_world import bought_pool, pods

JOBS = trace(*(job(f"j{index}", arrival=index * 300.0, run=1800.0, gpus=8) for index in range(6)))
AT_ONCE = NamedPolicies("at-once", burst_at_once())
NEVER = NamedPolicies("never", burst_at_once(burst=None))


def a_study(*sets: NamedPolicies, **changes: Any) -> Study:
    base = Study(JOBS, site(1), sets or (AT_ONCE,), (), (0,), Assumptions(), A_DOLLAR)
    return replace(base, **changes)


def test_every_set_and_every_setting_is_replayed_with_every_seed() -> None:
    told: list[tuple[int, str, float]] = []
    study = a_study(AT_ONCE, NEVER, baselines=("onprem-only", "threshold"), seeds=(0, 5), with_bound=True)
    found = run_study(study, lambda index, name, done: told.append((index, name, done)))
    names = [(each.contender.name, each.measures.seed) for each in found.runs]
    settings = ["0m", "10m", "30m", "1h", "2h", "4h", "12h"]
    want = ["at-once", "never", "onprem-only", *(f"threshold {each}" for each in settings)]
    assert names == [(name, seed) for name in want for seed in (0, 5)]
    assert found.bound is not None
    assert told[0] == (0, "at-once, seed 0", 0.0)
    assert told[-1] == (20, "bound", 1.0)
    assert [index for index, _, _ in told] == sorted(index for index, _, _ in told)


def test_a_study_gives_the_same_figures_again() -> None:
    study = a_study(baselines=("cheapest",), seeds=(0, 1), with_bound=True)
    first, second = run_study(study), run_study(study)
    assert comparison_json(first) == comparison_json(second)
    assert [each.measures for each in first.runs] == [each.measures for each in second.runs]


def with_cost(one: Run, cost: float, **changes: Any) -> Run:
    return replace(one, measures=replace(one.measures, total_cost_usd=cost, **changes))


@pytest.fixture(scope="module")
def plain() -> Findings:
    """A policy set, a baseline with settings, one without; seeds 0 and 1."""
    return run_study(a_study(baselines=("onprem-only", "threshold"), seeds=(0, 1), with_bound=True))


def test_the_best_setting_is_that_of_the_least_mean_and_savings_are_by_seed(plain: Findings) -> None:
    costs = {
        "at-once": (80.0, 90.0), "onprem-only": (200.0, 200.0), "threshold 10m": (100.0, 100.0),
        "threshold 30m": (20.0, 190.0),
    }  # fmt: skip
    runs = tuple(
        with_cost(each, costs.get(each.contender.name, (500.0, 500.0))[each.measures.seed]) for each in plain.runs
    )
    found = replace(plain, runs=runs)
    all_of_them = standings(found)
    assert [one.name for one in all_of_them if one.best] == ["at-once", "onprem-only", "threshold 10m"]
    onprem, threshold = savings(all_of_them[0], all_of_them)
    assert (onprem.baseline, threshold.baseline) == ("onprem-only", "threshold 10m")
    assert onprem.mean_percent == pytest.approx(57.5)
    assert threshold.mean_percent == pytest.approx(15.0)
    assert threshold.least_percent == pytest.approx(10.0)
    assert threshold.most_percent == pytest.approx(20.0)
    assert threshold.mean_usd == pytest.approx(15.0)
    assert plain.bound is not None
    assert gap_percent(all_of_them[0], found) == pytest.approx(100 * (85.0 / plain.bound.total_cost_usd - 1))


def test_runs_whose_cost_is_not_known_are_not_compared(plain: Findings) -> None:
    unpriced = tuple(
        with_cost(each, 1.0, unpriced_gpu_hours=2.0) if each.contender.family == "onprem-only" else each
        for each in plain.runs
    )
    found = comparison_json(replace(plain, runs=unpriced))
    against = {each["baseline"]: each["saving_percent_mean"] for each in found["policies"][0]["against"]}
    assert against["onprem-only"] is None
    assert all(value is not None for name, value in against.items() if name != "onprem-only")
    assert [each["best"] for each in found["baselines"] if each["baseline"] == "onprem-only"] == [False]


def test_what_never_ends_is_told_and_not_compared() -> None:
    nowhere = NamedPolicies("nowhere", burst_at_once(constraints=Constraints(clusters=("mars",))))
    found = run_study(a_study(AT_ONCE, nowhere, baselines=("cheapest",)))
    (stuck,) = found.runs[1].unfinished
    assert (stuck.jobs, stuck.examples) == (6, ("j0", "j1", "j2", "j3", "j4"))
    assert stuck.why
    policies = {each["name"]: each for each in comparison_json(found)["policies"]}
    assert policies["nowhere"]["comparable"] is False
    assert policies["nowhere"]["against"][0]["saving_percent_mean"] is None
    assert policies["at-once"]["against"][0]["saving_percent_mean"] is not None


def test_budgets_are_metered_and_kept_where_there_are_any() -> None:
    thrifty = burst_at_once(budgets=(Budget("month", Decimal(15), "month"),))
    (found,) = run_study(a_study(NamedPolicies("thrifty", thrifty))).runs
    assert (found.broken_budgets, found.measures.budgets_broken) == ((), 0)
    assert found.measures.cloud_spend_usd <= 15


def test_contenders_are_named_and_grouped() -> None:
    found = list(contenders(a_study(baselines=("threshold",))))
    assert [(each.kind, each.family, each.setting) for each in found][:2] == [
        ("policy", "at-once", ""), ("baseline", "threshold", "0m"),
    ]  # fmt: skip


IMPOSSIBLE = [
    (job("a", gpus=1), ""),
    (job("a", gpus=32), ""),
    (job("a", gpus=40), "its 5 pods (40 GPUs) must run at the same time, and no pool can be that large"),
    (
        replace(job("a"), pod_sets=(pods(1, gpus=16),)),
        "one of its pods asks for 16 GPUs, 8 cores and 64 GiB, more than any node of a fitting pool has",
    ),
    (
        replace(job("a"), pod_sets=(pods(1, gpus=0, cpu=500),)),
        "one of its pods asks for 500 cores and 64 GiB, more than any node of a fitting pool has",
    ),
    (replace(job("a"), pod_sets=(pods(1, gpu_models=("B200", "T4")),)), "no pool has a GPU that it accepts (B200, T4)"),
]


@pytest.mark.parametrize(("one", "want"), IMPOSSIBLE)
def test_what_fits_nowhere_is_known_before_anything_is_replayed(one: Any, want: str) -> None:
    what = trace(one, job("z", arrival=9.0))
    found = impossible_jobs(what, site(2))
    assert [(each.name, each.why) for each in found] == ([("a", want)] if want else [])
    assert [each.name for each in without(what, found).jobs] == (["z"] if want else ["a", "z"])


def test_without_any_node_nothing_fits() -> None:
    (found,) = impossible_jobs(trace(job("a")), site(0, bought_pool("cloud", "od", max_nodes=0)))
    assert found.why == "no pool has a node"


def about() -> dict[str, Any]:
    return {
        "trace": {"jobs": 6, "gpu_hours": 24.0, "last_arrival_seconds": 1500.0, "notes": ["a <note>"]},
        "federation": {"clusters": ["cloud", "onprem"]},
        "assumptions": {"start_seconds": 15.0, "pool_reclaims_per_hour": {"cloud/od": 0.1}},
        "value_of_time_from": "the command line",
    }


def test_the_report_is_one_self_contained_file(plain: Findings) -> None:
    page = report_html(plain, about())
    assert page == report_html(plain, about())
    named = re.findall(r'https?://[^"\s<>]+', page)
    assert set(named) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\((?!#)", page)
    assert page.count("<svg ") == 6
    assert "prefers-color-scheme:dark" in page
    assert "width=device-width" in page
    assert "a &lt;note&gt;" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'(?:url\(|href=")#([^)"]+)', page))
    assert wanted <= set(ids)
    for one in standings(plain):
        assert one.name in page


def test_the_report_says_what_cannot_be_compared() -> None:
    nowhere = NamedPolicies("<nowhere>", burst_at_once(constraints=Constraints(clusters=("mars",))))
    page = report_html(run_study(a_study(nowhere, value=ValueOfTime())), about())
    assert "Not every replay can be compared" in page
    assert "&lt;nowhere&gt;, seed 0: 6 jobs never ended" in page
    assert "<nowhere>" not in page


def test_an_idle_record_can_be_drawn() -> None:
    single: Trace = trace(job("only", run=1.0))
    page = report_html(run_study(a_study(trace=single, site=site(1, spot_pool()))), about())
    assert page.count("<svg ") == 4
    assert run(single, site(1)).moments
