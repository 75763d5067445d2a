"""Turns to write on a member: never more at once than allowed, nobody forgotten."""

from __future__ import annotations

from scheduler.daemon.placing.turns import Turns
from scheduler.model.ids import ClusterId, Uid

HERE, THERE = ClusterId("here"), ClusterId("there")
A, B, C, D = map(Uid, "abcd")


def turns(at_once: int = 1) -> tuple[Turns, list[Uid]]:
    woken: list[Uid] = []
    return Turns(at_once, woken.append), woken


def test_the_first_in_line_is_woken_when_a_turn_ends_and_nobody_takes_it_before() -> None:
    made, woken = turns()
    assert made.is_open(A, HERE)
    with made.taken(A, HERE):
        assert not made.is_open(B, HERE)
        assert not made.is_open(C, HERE)
        assert made.is_open(C, THERE)
        assert woken == []
    assert woken == [B]
    assert not made.is_open(D, HERE)
    assert made.is_open(B, HERE)
    with made.taken(B, HERE):
        made.let_go(B)
        assert woken == [B]
    assert woken == [B, C]


def test_a_turn_that_is_not_used_goes_to_the_next() -> None:
    made, woken = turns()
    with made.taken(A, HERE):
        for uid in (B, C, D):
            assert not made.is_open(uid, HERE)
    assert (woken, made.waiting) == ([B], 2)
    made.let_go(B)
    assert (woken, made.waiting) == ([B, C], 1)
    with made.taken(C, HERE):
        pass
    made.let_go(D)
    assert (woken, made.waiting) == ([B, C, D], 0)
    assert made.is_open(A, HERE)


def test_a_write_that_fails_ends_its_turn() -> None:
    made, woken = turns()
    try:
        with made.taken(A, HERE):
            assert not made.is_open(B, HERE)
            raise TimeoutError
    except TimeoutError:
        pass
    assert woken == [B]


def test_one_that_is_in_two_lines_is_woken_for_one_at_a_time() -> None:
    made, woken = turns()
    with made.taken(A, HERE), made.taken(D, THERE):
        assert not made.is_open(B, HERE)
        assert not made.is_open(B, THERE)
        assert not made.is_open(C, THERE)
    # The inner one ended first: B is woken for it, and not once more for the outer one.
    assert woken == [B]
    made.let_go(B)
    assert woken == [B, C]
    made.let_go(C)
    assert made.waiting == 0
    assert made.is_open(A, HERE)
    assert made.is_open(D, THERE)


def test_as_many_at_once_as_are_allowed() -> None:
    made, woken = turns(2)
    with made.taken(A, HERE):
        with made.taken(B, HERE):
            assert not made.is_open(C, HERE)
            assert not made.is_open(D, HERE)
        assert woken == [C]
        assert not made.is_open(D, HERE)
    assert woken == [C, D]
