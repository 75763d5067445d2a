"""A trace made of recorded runs: what counts, what is left out, and what is said of it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from scheduler.model.errors import InvalidObjectError
from scheduler.model.resources import Resources
from scheduler.model.workload import PodSet, Toleration
from scheduler.simulate.recorded import trace_of_runs

NOW = 100_000.0
POD = PodSet(
    "main", 2, Resources(1000, 2**30, 4, 1, (("rdma/hca", 1),)), (("zone", "a"),), (Toleration("k", "Exists", "", ""),),
    ("H100",),
)  # fmt: skip


def row(name: str, **changes: Any) -> dict[str, Any]:
    """As the daemon records it, through JSON; 1000 s of work that waited for 50 s."""
    base: dict[str, Any] = {
        "uid": f"uid-{name}", "kind": "job", "namespace": "ml", "name": name, "queue": "research", "priority": 3,
        "arrived_at": 50_000.0, "first_started_at": 50_050.0, "last_started_at": 50_050.0, "finished_at": 51_050.0,
        "outcome": "succeeded", "attempts": 1, "attempt": 1, "pool": "onprem/a100", "gpu_model": "H100",
        "runs_forever": False, "pod_sets": [POD], "labels": [["team", "x"]],
        "hints": {"expected_seconds": 900.0, "checkpoint_every_seconds": 60.0, "deadline_at": 57_200.0},
    }  # fmt: skip
    found: dict[str, Any] = orjson.loads(orjson.dumps(base | changes))
    return found


def hints(expected: float | None) -> dict[str, Any]:
    return {"expected_seconds": expected, "checkpoint_every_seconds": None, "deadline_at": None}


def test_a_finished_run_becomes_a_job_with_all_that_policies_look_at() -> None:
    found, notes = trace_of_runs([row("b", arrived_at=50_400.0), row("a")], NOW)
    first, second = found.jobs
    assert (first.arrival_seconds, second.arrival_seconds) == (0.0, 400.0)
    assert first.name == "ml/a/uid-a"
    assert (first.run_seconds, first.queue, first.priority) == (1000.0, "research", 3)
    assert first.pod_sets == (POD,)
    assert (first.kind, first.namespace, first.labels) == ("job", "ml", (("team", "x"),))
    assert (first.hint_known, first.hint_seconds) == (True, 900.0)
    assert (first.checkpoint_seconds, first.deadline_seconds) == (60.0, 7200.0)
    assert notes[-2:] == (
        "run times are those of the hardware that each job ran on, and count as the same everywhere",
        "a job that was interrupted counts with the run time of its last attempt",
    )
    assert len(notes) == 2


CASES: list[tuple[dict[str, Any], float | None, str]] = [
    ({"outcome": "failed"}, 1000.0, ""),
    ({"last_started_at": 50_550.0, "attempts": 2}, 500.0, ""),
    ({"finished_at": 50_050.0}, 1.0, ""),
    ({"finished_at": None, "outcome": None}, 49_950.0, "1 that still run count with what their user expected"),
    ({"finished_at": None, "outcome": None, "hints": hints(60_000.0)}, 60_000.0, "1 that still run count with"),
    ({"finished_at": 50_100.0, "outcome": "deleted"}, 900.0, "1 that were deleted while they ran count with"),
    ({"finished_at": 50_100.0, "outcome": "deleted", "hints": hints(None)}, 50.0, "1 that were deleted while they ran"),
    ({"last_started_at": None, "first_started_at": None, "finished_at": None}, 900.0, "1 that still wait count with"),
    (
        {"last_started_at": None, "first_started_at": None, "finished_at": None, "hints": hints(None)},
        None,
        "1 that still wait, of a run time that nobody told, are left out",
    ),
    ({"last_started_at": None}, None, "1 that ended without having been seen to start are left out"),
    ({"runs_forever": True}, None, "1 that serve without an end are left out"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "want", "note"), CASES)
def test_what_is_not_known_is_said(changes: dict[str, Any], want: float | None, note: str) -> None:
    found, notes = trace_of_runs([row("x", **changes), row("usual")], NOW)
    runs = {job.name.split("/")[1]: job.run_seconds for job in found.jobs}
    assert runs == {"usual": 1000.0} | ({} if want is None else {"x": want})
    assert any(each.startswith(note) for each in notes) if note else len(notes) == 2


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [row(name) for name in "cab"]
    assert trace_of_runs(rows, NOW) == trace_of_runs(rows[::-1], NOW)


def test_nothing_to_replay_is_an_error_that_says_why() -> None:
    with pytest.raises(
        InvalidObjectError, match="holds no job that can be replayed: nothing was recorded in that time"
    ):
        trace_of_runs([], NOW)
    with pytest.raises(InvalidObjectError, match="replayed: 1 that serve without an end are left out"):
        trace_of_runs([row("x", runs_forever=True)], NOW)


def test_a_row_that_cannot_be_read_is_an_error() -> None:
    broken = row("x")
    del broken["queue"]
    with pytest.raises(InvalidObjectError, match="a run that cannot be read: KeyError"):
        trace_of_runs([broken], NOW)
