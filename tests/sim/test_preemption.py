"""A lender gets its own back in a replay, and what that costs is counted."""

from __future__ import annotations

from dataclasses import replace

from scheduler.model.ids import QueueId
from scheduler.model.policy import PolicySet, PreemptionRule, QueueSpec, Quota
from scheduler.simulate.measures import measure
from scheduler.simulate.record import RunRecord
from tests.sim.worlds import A_DOLLAR, burst_at_once, job, run, site, told, trace

LENT = trace(
    job("long", run=7200.0, queue="red", checkpoint_seconds=600.0),
    job("longer", run=7200.0, queue="red"),
    job("back", arrival=1000.0, run=600.0, queue="blue"),
)
"""red borrows blue's node as well, until blue wants it."""


def replayed(rule: PreemptionRule) -> RunRecord:
    queues = tuple(
        QueueSpec(QueueId(name), "all", quotas=(Quota("gpu", 8),), preemption=rule) for name in ("blue", "red")
    )
    policies: PolicySet = replace(burst_at_once(burst=None), queues=queues)
    return run(LENT, site(2), policies)


def test_a_lender_gets_its_own_back_at_the_price_of_least_work() -> None:
    found = replayed(PreemptionRule(reclaim=True))
    assert told(found)["back"] == (1000.0, 1600.0)
    jobs = {each.job.name: each for each in found.jobs}
    # The one with a checkpoint loses what it did since that, the other would have lost all.
    assert (jobs["long"].preemptions, jobs["long"].lost_seconds) == (1, 400.0)
    assert (jobs["longer"].preemptions, jobs["longer"].lost_seconds) == (0, 0.0)
    # 600 s of its 7200 are done; it starts anew when blue's has ended, 60 s of restart on top.
    assert told(found)["long"][1] == 1600.0 + 60.0 + 6600.0
    assert measure(found, A_DOLLAR).preemptions == 1


def test_without_it_the_lender_waits_for_the_borrower() -> None:
    found = replayed(PreemptionRule())
    assert told(found)["back"][0] == 7200.0
    assert measure(found, A_DOLLAR).preemptions == 0


def test_a_limit_on_lost_work_holds() -> None:
    assert told(replayed(PreemptionRule(reclaim=True, max_lost_seconds=300.0)))["back"][0] == 7200.0
