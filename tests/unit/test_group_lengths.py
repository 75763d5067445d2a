"""How long runs alike take, told once for each group when many runs come at once."""

from __future__ import annotations

import contextlib

import pytest

from scheduler.predict.durations import DurationModel, Run
from scheduler.predict.group_lengths import GroupLengths
from scheduler.predict.learned import LEAST_ALIKE


def a_run(name: str, at: float, group: str) -> Run:
    return Run(name, at, (f"fine {group}", f"coarse {group}", "queue"))


def a_model() -> DurationModel:
    model = DurationModel()
    for group in "ab":
        for number in range(LEAST_ALIKE + 2):
            run = a_run(f"{group}{number}", float(number), group)
            model.submit(run)
            model.finish(run.run_id, 100.0 + number, 60.0 * (number + 1))
    return model


def test_what_is_told_together_is_what_the_last_of_each_group_tells() -> None:
    model, one_by_one, together = a_model(), GroupLengths(), GroupLengths()
    runs = [a_run(f"r{number}", 200.0 + number, "ab"[number % 2]) for number in range(9)]
    for run in runs:
        one_by_one.tell(run, model)
    with together.together(model):
        for run in runs:
            together.tell(run, model)
        assert not together.view()
    assert set(together.view()) == {"fine a", "coarse a", "fine b", "coarse b"}
    assert dict(together.view()) == dict(one_by_one.view())
    assert together.state() == one_by_one.state()


def test_each_group_is_asked_of_the_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lengths = a_model(), GroupLengths()
    asked: list[str] = []
    features = model.history.features

    def counted(run: Run) -> tuple[float, ...]:
        asked.append(run.run_id)
        return features(run)

    monkeypatch.setattr(model.history, "features", counted)
    with lengths.together(model):
        for number in range(50):
            lengths.tell(a_run(f"r{number}", 200.0 + number, "a"), model)
    assert asked == ["r49", "r49"]


def test_what_came_before_one_that_fails_is_told() -> None:
    model, lengths = a_model(), GroupLengths()
    with contextlib.suppress(ZeroDivisionError), lengths.together(model):
        lengths.tell(a_run("r", 200.0, "a"), model)
        raise ZeroDivisionError
    assert set(lengths.view()) == {"fine a", "coarse a"}
    lengths.tell(a_run("s", 201.0, "b"), model)
    assert "fine b" in lengths.view()
