"""From a look to what is written: when it is written, what is kept in it, and how a service is handed back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.engine.serving.leaving import leave
from scheduler.engine.serving.looking import Looked, PartState, Sight, adopt, look, remembered
from scheduler.engine.serving.memory import Memory
from scheduler.engine.serving.offers import Offered
from scheduler.engine.serving.slots import Slot
from scheduler.model.division import ReplicaTarget
from scheduler.model.ids import ClusterId
from scheduler.model.service_intent import StoredRevision
from scheduler.model.serving import ClientDemand, ReplicaOwner, ServingOffer
from scheduler.model.serving_policy import ScalingRule
from tests.builders.serving import NOW, a_pool, an_offer, an_slo
from tests.unit.engine_world import pods, workload

OFFERS = (an_offer(), an_offer("aws/g5"))
R1, R2 = StoredRevision("r1", NOW - 60.0, "one"), StoredRevision("r2", NOW, "two")


def a_sight(parts: dict[str, int] | None = None, demand: float | None = 5.0, **changes: Any) -> Sight:
    there = {Slot(a_pool(name), "r1"): PartState(count, count) for name, count in (parts or {}).items()}
    told = () if demand is None else (ClientDemand("eu", demand, NOW),)
    return replace(Sight(NOW, workload("chat", pods(1), runs_forever=True), R1, 3, there, demand=told), **changes)


def looked(
    sight: Sight, memory: Memory | None = None, offers: tuple[ServingOffer, ...] = OFFERS, more: int = 10**6
) -> Looked:
    return look(sight, an_slo(), Offered(offers, more), (), memory or remembered(sight.intent))


def after(sight: Sight, found: Looked, **changes: Any) -> Sight:
    """As it is seen when what was asked for is there."""
    parts = {Slot(one.pool, one.revision): PartState(one.replicas, one.replicas) for one in found.intent.targets}
    written = replace(sight.workload, intent=found.intent)
    return replace(sight, workload=written, parts=parts, weights=found.intent.weights, **changes)


def test_the_same_look_is_written_once() -> None:
    first = looked(a_sight())
    assert first.differs
    assert sum(one.replicas for one in first.intent.targets) > 0
    seen = after(a_sight(), first)
    second = looked(seen, first.memory)
    assert second.differs, "its weights are known now"
    seen = after(seen, second)
    third = looked(seen, second.memory)
    assert not third.differs
    # What is remembered is written after a while, if nothing else is.
    later = replace(seen, now=NOW + 301.0, demand=(ClientDemand("eu", 5.0, NOW + 301.0),))
    assert looked(later, third.memory).differs


def test_the_queues_quota_limits_it() -> None:
    sight = after(a_sight(), looked(a_sight()))
    asked = sum(part.wanted for part in sight.parts.values())
    grown = replace(sight, demand=(ClientDemand("eu", 20.0, NOW),))
    assert sum(one.replicas for one in looked(grown).division.targets) > asked + 1
    assert sum(one.replicas for one in looked(grown, more=1).division.targets) == asked + 1


def test_revisions_are_kept_as_long_as_they_may_be_needed() -> None:
    first = looked(a_sight())
    assert [one.name for one in first.intent.revisions] == ["r1"]
    seen = replace(after(a_sight(), first), revision=R2)
    second = looked(seen, first.memory)
    assert second.memory.rollout is not None
    assert [(one.name, one.content) for one in second.intent.revisions] == [("r1", "one"), ("r2", "two")]
    done = replace(second.memory, stable="r2", rollout=None)
    gone = replace(after(seen, second), parts={Slot(a_pool("onprem/a10"), "r2"): PartState(7, 7)})
    gone = replace(gone, workload=replace(gone.workload, intent=replace(second.intent, targets=())))
    assert [one.name for one in looked(gone, done).intent.revisions] == ["r2"]


def test_a_silent_cluster_is_noted_and_a_broken_memory_forgotten() -> None:
    lost = (an_offer(), an_offer("aws/g5", open=False, reachable=False, why_closed="lost"))
    found = looked(a_sight({"onprem/a10": 2, "aws/g5": 5}), offers=lost)
    assert found.intent.silent == (ClusterId("aws"),)
    assert {str(one.pool) for one in found.intent.targets} == {"onprem/a10"}
    for text in ("", "{}", "[1]", "{broken", '{"needs": 3}'):
        assert remembered(replace(found.intent, memory=text)) == Memory()
    assert remembered(found.intent) == found.memory


def test_suspended_it_is_nowhere() -> None:
    sight = a_sight({"onprem/a10": 2})
    found = looked(replace(sight, workload=replace(sight.workload, suspended=True)))
    assert found.intent.targets == ()
    assert found.division.conditions[0].reason == "Suspended"


def test_what_runs_as_a_whole_is_its_first_part() -> None:
    sight = a_sight()
    intent = adopt(sight, "slo", a_pool("onprem/a10"), "chat-1", 3)
    seen = replace(a_sight({"onprem/a10": 3}, demand=None), workload=replace(sight.workload, intent=intent))
    found = looked(seen)
    assert [(str(one.pool), one.revision, one.replicas) for one in found.intent.targets] == [("onprem/a10", "r1", 3)]
    assert [one.name for one in found.intent.adopted] == ["chat-1"]


@pytest.mark.parametrize(
    ("parts", "want", "done"),
    [
        ({"onprem/a10": 8, "aws/g5": 4}, {"onprem/a10": 3, "aws/g5": 4}, False),  # home has too many yet
        ({"onprem/a10": 1, "aws/g5": 4}, {"onprem/a10": 3, "aws/g5": 4}, False),  # and here too few
        ({"onprem/a10": 3, "aws/g5": 4}, {"onprem/a10": 3, "aws/g5": 4}, True),
        ({"aws/g5": 4}, {"aws/g5": 3}, False),
        ({}, {}, True),
    ],
)
def test_it_gathers_before_it_is_handed_back(parts: dict[str, int], want: dict[str, int], done: bool) -> None:
    sight = a_sight(parts)
    targets = looked(sight).intent
    intent = replace(targets, targets=tuple(_target(name, count) for name, count in parts.items()))
    leaving = leave(replace(sight, workload=replace(sight.workload, intent=intent)), OFFERS)
    assert {str(one.pool): one.replicas for one in leaving.intent.targets} == want
    assert leaving.done is done
    assert leaving.intent.slo == ""
    again = leave(replace(sight, workload=replace(sight.workload, intent=leaving.intent)), OFFERS)
    assert again.intent == leaving.intent, "written once"


def _target(name: str, count: int) -> ReplicaTarget:
    return ReplicaTarget(a_pool(name), "r1", count)


def test_where_home_is_lost_it_waits() -> None:
    sight = a_sight({"aws/g5": 4})
    intent = replace(looked(sight).intent, targets=(_target("aws/g5", 4),))
    lost = (an_offer(), an_offer("aws/g5", open=False, reachable=False))
    leaving = leave(replace(sight, workload=replace(sight.workload, intent=intent)), lost)
    assert (leaving.home, leaving.done) == (None, False)
    assert leaving.intent.targets == intent.targets


def test_another_owner_keeps_its_replicas() -> None:
    sight = a_sight({"onprem/a10": 6}, owner=ReplicaOwner.KNATIVE, owner_bounds=(0, 9))
    found = looked(sight)
    assert all(one.bounds is not None and one.bounds[1] <= 10 for one in found.intent.targets)
    assert "ReplicasOwnedElsewhere" in {one.reason for one in found.division.conditions}


def test_what_sleeps_is_written_once_and_handed_back_asleep() -> None:
    slo = replace(an_slo(), scaling=ScalingRule(zero_after_seconds=60.0, down_after_seconds=0.0, down_step=1.0))
    sight = a_sight({"onprem/a10": 1}, 0.0, owner=ReplicaOwner.KNATIVE, owner_bounds=(0, 9), last_request_at=NOW - 61.0)
    first = look(sight, slo, Offered(OFFERS, 10**6), (), remembered(None))
    (target,) = first.intent.targets
    assert (target.replicas, target.bounds) == (0, (0, 9))
    seen = after(sight, first)
    again = look(seen, slo, Offered(OFFERS, 10**6), (), first.memory)
    assert again.intent.targets == first.intent.targets
    assert not again.differs
    assert not again.division.changed
    leaving = leave(seen, OFFERS)
    assert leaving.home == Slot(target.pool, target.revision)
    assert leaving.done, "nobody wakes it to be counted"
    awake = replace(seen, parts={Slot(target.pool, target.revision): PartState(0, 1)}, replicas=3)
    assert not leave(awake, OFFERS).done
