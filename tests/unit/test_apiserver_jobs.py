"""Job rules of the emulated API server, as tables: specs, changes of them, and status transitions."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.sandbox.apiserver import jobs
from scheduler.model.contract import JOBS
from scheduler.model.errors import RefusedError
from tests.builders.apiserver import World, job, pod_spec

T0, T1, T2 = "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z"


def conditions(*kinds: str) -> list[dict[str, str]]:
    return [{"type": kind, "status": "True"} for kind in kinds]


COMPLETE = {
    "startTime": T0,
    "completionTime": T1,
    "succeeded": 1,
    "conditions": conditions("SuccessCriteriaMet", "Complete"),
}
FAILED = {"startTime": T0, "failed": 1, "conditions": conditions("FailureTarget", "Failed")}
RUNNING = {"startTime": T0, "active": 1, "ready": 1}


def less(status: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in status.items() if key not in keys}


@pytest.mark.parametrize(
    ("spec", "old", "new", "want_causes"),
    [
        pytest.param({}, {}, RUNNING, (), id="starts"),
        pytest.param({}, RUNNING, COMPLETE, (), id="completes"),
        pytest.param({}, RUNNING, FAILED, (), id="fails"),
        pytest.param({}, COMPLETE, COMPLETE, (), id="stays complete"),
        pytest.param(
            {},
            RUNNING,
            {**RUNNING, "conditions": conditions("SuccessCriteriaMet")},
            (),
            id="criteria met before the end",
        ),
        pytest.param(
            {},
            RUNNING,
            less(COMPLETE, "completionTime"),
            ("status.completionTime: Required value: completionTime is required for Complete jobs",),
            id="complete without completionTime",
        ),
        pytest.param(
            {},
            RUNNING,
            {**FAILED, "completionTime": T1},
            (
                f'status.completionTime: Invalid value: "{T1}": cannot set completionTime when there is no '
                "Complete=True condition",
            ),
            id="failed with completionTime",
        ),
        pytest.param(
            {},
            RUNNING,
            {**COMPLETE, "conditions": conditions("Complete")},
            (
                "status.conditions: Invalid value: cannot set Complete=True condition without the "
                "SuccessCriteriaMet=true condition",
            ),
            id="complete without SuccessCriteriaMet",
        ),
        pytest.param(
            {},
            RUNNING,
            {**FAILED, "conditions": conditions("Failed")},
            (
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true "
                "condition",
            ),
            id="failed without FailureTarget",
        ),
        pytest.param(
            {},
            {},
            less(COMPLETE, "startTime"),
            ("status.startTime: Required value: startTime is required for finished job",),
            id="finished without startTime",
        ),
        pytest.param(
            {},
            RUNNING,
            {**COMPLETE, "active": 1},
            ("status.active: Invalid value: 1: active>0 is invalid for finished job",),
            id="finished with active pods",
        ),
        pytest.param(
            {},
            RUNNING,
            {**COMPLETE, "terminating": 1},
            ("status.terminating: Invalid value: 1: terminating>0 is invalid for finished job",),
            id="finished with terminating pods",
        ),
        pytest.param(
            {},
            RUNNING,
            {**COMPLETE, "uncountedTerminatedPods": {"succeeded": ["u"]}},
            (
                'status.uncountedTerminatedPods: Invalid value: {"succeeded":["u"]}: uncountedTerminatedPods needs to '
                "be empty for finished job",
            ),
            id="finished with uncounted pods",
        ),
        pytest.param(
            {},
            COMPLETE,
            {**COMPLETE, "completionTime": T2},
            (f'status.completionTime: Invalid value: "{T2}": completionTime cannot be mutated',),
            id="completionTime moves",
        ),
        pytest.param(
            {},
            {"startTime": T1},
            {**COMPLETE, "startTime": T1, "completionTime": T0},
            (f'status.completionTime: Invalid value: "{T0}": completionTime cannot be set before startTime',),
            id="ends before it starts",
        ),
        pytest.param(
            {},
            RUNNING,
            {**RUNNING, "startTime": T1},
            ("status.startTime: Required value: startTime cannot be removed for unsuspended job",),
            id="startTime moves",
        ),
        pytest.param(
            {},
            RUNNING,
            {},
            ("status.startTime: Required value: startTime cannot be removed for unsuspended job",),
            id="startTime taken back",
        ),
        pytest.param({"suspend": True}, RUNNING, {}, (), id="startTime taken back while suspended"),
        pytest.param(
            {"suspend": True},
            {},
            {"startTime": T0},
            (f'status.startTime: Invalid value: "{T0}": startTime cannot be set while the job is suspended',),
            id="startTime set while suspended",
        ),
        pytest.param({"suspend": True}, {}, COMPLETE, (), id="suspended only after it had ended elsewhere"),
        pytest.param(
            {},
            COMPLETE,
            {**COMPLETE, "completionTime": None, "conditions": conditions("SuccessCriteriaMet")},
            ("status.conditions: Invalid value: cannot disable the terminal Complete=True condition",),
            id="complete taken back",
        ),
        pytest.param(
            {},
            FAILED,
            {**FAILED, "conditions": conditions("FailureTarget")},
            ("status.conditions: Invalid value: cannot disable the terminal Failed=True condition",),
            id="failed taken back",
        ),
        pytest.param(
            {},
            {**RUNNING, "conditions": conditions("FailureTarget")},
            RUNNING,
            ("status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition",),
            id="failure target taken back",
        ),
        pytest.param(
            {},
            {**RUNNING, "conditions": conditions("SuccessCriteriaMet")},
            RUNNING,
            ("status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",),
            id="criteria taken back",
        ),
        pytest.param(
            {},
            RUNNING,
            {**RUNNING, "conditions": conditions("SuccessCriteriaMet", "FailureTarget")},
            ("status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",),
            id="both ways at once",
        ),
        pytest.param(
            {},
            {"failed": 2},
            {"failed": 1},
            ("status.failed: Invalid value: 1: cannot decrease the failed counter",),
            id="failed counter falls",
        ),
        pytest.param(
            {},
            {"succeeded": 2},
            {"succeeded": 1},
            ("status.succeeded: Invalid value: 1: cannot decrease the succeeded counter",),
            id="succeeded counter falls",
        ),
        pytest.param(
            {"completionMode": "Indexed", "completions": 2, "parallelism": 2},
            {"succeeded": 2},
            {"succeeded": 1},
            (),
            id="elastic indexed job may lose successes",
        ),
        pytest.param(
            {},
            {},
            {"active": -1},
            ("status.active: Invalid value: -1: must be greater than or equal to 0",),
            id="negative",
        ),
        pytest.param(
            {},
            {},
            {"active": 1, "ready": 2},
            ("status.ready: Invalid value: 2: cannot set more ready pods than active",),
            id="more ready than active",
        ),
        pytest.param(
            {},
            {},
            {"uncountedTerminatedPods": {"succeeded": ["a", ""], "failed": ["a"]}},
            (
                'status.uncountedTerminatedPods.succeeded[1]: Invalid value: "": must not be empty',
                'status.uncountedTerminatedPods.failed[0]: Duplicate value: "a"',
            ),
            id="uncounted pods twice and empty",
        ),
        pytest.param(
            {},
            {},
            {"conditions": conditions("Suspended", "Suspended")},
            ('status.conditions[1].type: Duplicate value: "Suspended"',),
            id="a condition twice",
        ),
        pytest.param(
            {},
            {},
            {"completedIndexes": "0"},
            (
                'status.completedIndexes: Invalid value: "0": cannot set non-empty completedIndexes when non-indexed '
                "completion mode",
            ),
            id="indexes of a job without",
        ),
        pytest.param(
            {"completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1},
            {},
            {"completedIndexes": "0-2", "failedIndexes": "2,4"},
            ('status.failedIndexes: Invalid value: "2,4": failedIndexes and completedIndexes overlap at index: 2',),
            id="indexes overlap",
        ),
    ],
)
def test_status_transitions(
    spec: dict[str, Any], old: dict[str, Any], new: dict[str, Any], want_causes: tuple[str, ...]
) -> None:
    base = {"completions": 1, **spec}
    found = jobs.status_causes({"spec": base, "status": old}, {"spec": base, "status": new})
    assert tuple(str(cause) for cause in found) == want_causes


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({"managedBy": "overspill.dev/federation"}, None),
        ({"managedBy": "federation"}, "spec.managedBy: Invalid value"),
        ({"managedBy": "overspill.dev/" + "x" * 60}, "spec.managedBy: Too long"),
        ({"managedBy": "-bad-/x"}, "spec.managedBy: Invalid value"),
        ({"template": {"spec": pod_spec(restartPolicy="Always")}}, "spec.template.spec.restartPolicy: Required value"),
        ({"template": {"spec": {"restartPolicy": "Never"}}}, "spec.template.spec.containers: Required value"),
        ({"parallelism": -1}, "spec.parallelism: Invalid value: -1"),
        ({"completionMode": "Indexed"}, None),
        ({"completionMode": "Indexed", "parallelism": 2}, "spec.completions: Required value"),
        ({"completionMode": "Sometimes"}, "spec.completionMode: Unsupported value"),
        ({"backoffLimitPerIndex": 1}, "spec.backoffLimitPerIndex: Invalid value"),
        ({"selector": {"matchLabels": {"a": "b"}}}, "spec.template.metadata.labels: Invalid value"),
        ({"podFailurePolicy": {"rules": [{"action": "FailJob"}]}}, "specifying one of OnExitCodes"),
        ({"podReplacementPolicy": "Never"}, "spec.podReplacementPolicy: Unsupported value"),
    ],
)
async def test_new_specs(spec: dict[str, Any], want: str | None) -> None:
    world = World()
    if want is None:
        made = await world.api.create(JOBS, "default", job(**spec))
        assert made["spec"]["selector"]["matchLabels"] == {jobs.UID_LABEL: made["metadata"]["uid"]}
        return
    with pytest.raises(RefusedError) as refusal:
        await world.api.create(JOBS, "default", job(**spec))
    assert want in str(refusal.value)


async def test_defaults_and_generated_labels() -> None:
    made = await World().api.create(JOBS, "default", job("train"))
    uid = made["metadata"]["uid"]
    want = {"parallelism": 1, "completions": 1, "backoffLimit": 6, "suspend": False, "completionMode": "NonIndexed"}
    assert {key: made["spec"][key] for key in want} == want
    assert made["spec"]["template"]["metadata"]["labels"] == {
        "controller-uid": uid,
        "job-name": "train",
        jobs.UID_LABEL: uid,
        jobs.NAME_LABEL: "train",
    }
    assert "status" not in made


@pytest.mark.parametrize(
    ("start", "patch", "want"),
    [
        ({}, {"parallelism": 3}, None),
        ({}, {"suspend": True}, None),
        ({}, {"backoffLimit": 9}, None),
        ({}, {"completions": 3}, "spec.completions: Invalid value: 3: field is immutable"),
        ({"completionMode": "Indexed", "completions": 2, "parallelism": 2}, {"completions": 4, "parallelism": 4}, None),
        (
            {"completionMode": "Indexed", "completions": 2, "parallelism": 2},
            {"completions": 4},
            "can only be modified in tandem with spec.parallelism",
        ),
        ({"managedBy": "a.b/c"}, {"managedBy": "a.b/d"}, 'spec.managedBy: Invalid value: "a.b/d": field is immutable'),
        ({"managedBy": "a.b/c"}, {"managedBy": None}, "spec.managedBy: Invalid value: null: field is immutable"),
        ({}, {"completionMode": "Indexed"}, "spec.completionMode: Invalid value"),
        ({}, {"selector": {"matchLabels": {"x": "y"}}}, "spec.selector: Invalid value"),
        ({}, {"template": {"spec": {"nodeSelector": {"pool": "a"}}}}, "field is immutable"),
        ({"suspend": True}, {"template": {"spec": {"nodeSelector": {"pool": "a"}}}}, None),
        ({"suspend": True}, {"template": {"spec": {"tolerations": [{"operator": "Exists"}]}}}, None),
        ({"suspend": True}, {"template": {"spec": {"priorityClassName": "high"}}}, "field is immutable"),
    ],
)
async def test_changes_of_specs(start: dict[str, Any], patch: dict[str, Any], want: str | None) -> None:
    world = World()
    await world.api.create(JOBS, "default", job(**start))
    if want is None:
        changed = await world.api.patch(JOBS, "default", "j", {"spec": patch})
        assert changed["metadata"]["generation"] == 2
        return
    with pytest.raises(RefusedError, match="is invalid") as refusal:
        await world.api.patch(JOBS, "default", "j", {"spec": patch})
    assert want in str(refusal.value)


async def test_template_is_held_once_started_even_when_suspended_again() -> None:
    world = World()
    await world.api.create(JOBS, "default", job())
    await world.api.patch(JOBS, "default", "j", {"status": {"startTime": T0}}, subresource="status")
    await world.api.patch(JOBS, "default", "j", {"spec": {"suspend": True}})
    with pytest.raises(RefusedError, match="immutable"):
        await world.api.patch(JOBS, "default", "j", {"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}})


@pytest.mark.parametrize(
    ("text", "completions", "want"),
    [
        ("", 5, ()),
        ("0", 5, (range(1),)),
        ("0-2,4", 5, (range(3), range(4, 5))),
        ("0-2000000000", 2_000_000_001, (range(2_000_000_001),)),
        ("5", 5, 'too large index: "5"'),
        ("2,1", 5, "non-increasing order, previous: 2, current: 1"),
        ("2-1", 5, "non-increasing order, previous: 2, current: 1"),
        ("a", 5, 'cannot convert string to integer for index: "a"'),
    ],
)
def test_indexes(text: str, completions: int, want: Any) -> None:
    assert jobs.parse_indexes(text, completions) == want
