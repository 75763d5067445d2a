"""What a divided service needs written on members: tables of what is there against what is to be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.engine.serving.parts import as_copies, as_workloads, parts_of, slot_of
from scheduler.engine.serving.slots import Slot
from scheduler.engine.serving.steps import DeletePart, MakePart, PartsView, ScalePart, due, may_let_go
from scheduler.model.contract import part_name, part_of
from scheduler.model.division import ReplicaTarget
from scheduler.model.ids import ClusterId, DecisionId, PoolId, Uid
from scheduler.model.service_intent import Adopted, ServiceIntent
from scheduler.model.workload import Copy, CopyState, PlacementState, Workload
from tests.builders.serving import a_pool
from tests.unit.engine_world import pods, pool, workload

BOTH = frozenset({ClusterId("a"), ClusterId("b")})


def an_intent(*targets: tuple[str, str, int], **changes: Any) -> ServiceIntent:
    made = tuple(ReplicaTarget(a_pool(name), revision, count) for name, revision, count in targets)
    return replace(ServiceIntent("slo", DecisionId("d"), 0.0, made), **changes)


def a_service(intent: ServiceIntent | None, **changes: Any) -> Workload:
    return replace(workload("chat", pods(3), runs_forever=True), intent=intent, has_finalizer=True, **changes)


def a_part(at: str, revision: str = "r1", **changes: Any) -> Copy:
    where = a_pool(at)
    part = part_of(where.pool, revision)
    copy = Copy(
        origin=Uid("uid-chat"), cluster=where.cluster, kind="federatedworkload", namespace="default",
        name=part_name("chat", "uid-chat", part), uid=Uid(f"{at}-{revision}"), attempt=0, state=CopyState.RUNNING,
        suspended=False, deleting=False, created_at=0.0, started_at=0.0, finished_at=None, pods_wanted=3, pods_bound=3,
        part=part, pool=where.pool, revision=revision,
    )  # fmt: skip
    return replace(copy, **changes)


def told(view: PartsView) -> set[tuple[str, str]]:
    found = set()
    for step in due(view):
        match step:
            case MakePart(target):
                found.add(("make", f"{target.pool} {target.revision}"))
            case ScalePart(copy, target):
                found.add(("scale", f"{copy.uid} to {target.replicas}"))
            case DeletePart(copy, _):
                found.add(("delete", str(copy.uid)))
    return found


@pytest.mark.parametrize(
    ("intent", "copies", "want"),
    [
        (an_intent(("a/x", "r1", 3)), (), {("make", "a/x r1")}),
        (an_intent(("a/x", "r1", 3)), (a_part("a/x"),), set()),
        # One part of each revision, and of each pool, side by side.
        (an_intent(("a/x", "r1", 2), ("a/x", "r2", 1), ("a/y", "r1", 1)), (a_part("a/x"),),
         {("make", "a/x r2"), ("make", "a/y r1")}),
        (an_intent(("b/x", "r1", 3)), (a_part("a/x"),), {("make", "b/x r1"), ("delete", "a/x-r1")}),
        # A member that does not answer waits, and holds nobody up.
        (an_intent(("a/x", "r1", 3), ("c/x", "r1", 3)), (a_part("c/y"),), {("make", "a/x r1")}),
        # What was silent when this was decided is not deleted on its account.
        (an_intent(("a/x", "r1", 3), silent=(ClusterId("b"),)), (a_part("a/x"), a_part("b/x")), set()),
        # One that is on its way out is waited for: its name is taken.
        (an_intent(("a/x", "r1", 3)), (a_part("a/x", deleting=True),), set()),
        # A copy that claims to be of nothing known goes.
        (an_intent(("a/x", "r1", 3)), (a_part("a/x"), a_part("a/z", part="", pool=None)), {("delete", "a/z-r1")}),
        (an_intent(), (a_part("a/x"),), {("delete", "a/x-r1")}),
    ],
)  # fmt: skip
def test_what_is_due(intent: ServiceIntent, copies: tuple[Copy, ...], want: set[tuple[str, str]]) -> None:
    assert told(PartsView(a_service(intent), copies, BOTH)) == want


def test_scales_are_due_where_they_differ() -> None:
    there = a_part("a/x"), a_part("b/x")
    view = PartsView(
        a_service(an_intent(("a/x", "r1", 5), ("b/x", "r1", 3))), there, BOTH, off_scale={there[0].uid: True}
    )
    assert told(view) == {("scale", "a/x-r1 to 5")}


def test_an_adopted_copy_is_its_part_under_its_own_name() -> None:
    plain = a_part("a/x", part="", pool=None, revision="", name="chat-old")
    intent = an_intent(("a/x", "r1", 3), adopted=(Adopted(ClusterId("a"), PoolId("x"), "r1", "chat-old"),))
    assert slot_of(plain, intent) == Slot(a_pool("a/x"), "r1")
    assert told(PartsView(a_service(intent), (plain,), BOTH)) == set()
    # Of two that claim to be one part the adopted one stays.
    assert told(PartsView(a_service(intent), (a_part("a/x"), plain), BOTH)) == {("delete", "a/x-r1")}


@pytest.mark.parametrize(
    ("copies", "lost", "targets", "want"),
    [
        ((), frozenset(), (("a/x", "r1", 3),), True),
        ((a_part("a/x"),), frozenset(), (("a/x", "r1", 3),), False),
        ((), frozenset(), (("c/x", "r1", 3),), False),  # nobody can look
        ((a_part("c/x"),), frozenset({ClusterId("c")}), (("c/x", "r1", 3),), True),  # given up
    ],
)
def test_a_deleted_service_is_let_go_when_nothing_can_be_left(
    copies: tuple[Copy, ...], lost: frozenset[ClusterId], targets: tuple[tuple[str, str, int], ...], want: bool
) -> None:
    view = PartsView(a_service(an_intent(*targets), deleting=True), copies, BOTH, lost)
    assert may_let_go(view) is want
    assert all(isinstance(step, DeletePart) for step in due(view))


def test_a_cycle_sees_each_part_as_a_workload_that_is_placed() -> None:
    intent = an_intent(("a/x", "r1", 2), ("a/x", "r2", 1), ("b/x", "r1", 4), ("b/y", "r1", 0))
    whole = a_service(intent, suspended=False)
    made = as_workloads(whole, intent, {a_pool("a/x"): pool("a", "x")})
    assert [(str(one.placement.pool_ref), one.pod_sets[0].count) for one in made if one.placement is not None] == [
        ("a/x", 2), ("a/x", 1), ("b/x", 4),
    ]  # fmt: skip
    assert len({one.ref.uid for one in made}) == 3
    assert all(one.part and one.placement and one.placement.state is PlacementState.STARTED for one in made)
    # The copies are theirs; what is asked for and not yet said there counts as wanted.
    copies = as_copies(whole.ref.uid, intent, [a_part("a/x", pods_wanted=1, pods_bound=1), a_part("b/z")])
    assert [(copy.origin, copy.pods_wanted, copy.pods_bound) for copy in copies] == [(made[0].ref.uid, 2, 1)]
    assert set(parts_of([a_part("a/x"), a_part("b/x")], intent)) == {
        Slot(a_pool("a/x"), "r1"), Slot(a_pool("b/x"), "r1"),
    }  # fmt: skip


def test_names_of_parts_fit_and_differ() -> None:
    names = {
        part_name("a" * 60, "6ba7b810-9dad-11d1-80b4-00c04fd430c8", part_of(pool_name, revision), 40)
        for pool_name in ("p", "q")
        for revision in ("r1", "r2")
    }
    assert len(names) == 4
    assert all(len(name) <= 40 for name in names)
