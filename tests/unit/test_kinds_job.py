"""Jobs: what they ask for, what their copies are made of, and how their status is told on the hub."""

from __future__ import annotations

import copy as copying
from typing import Any

import pytest

from clusters.kinds.job import KIND
from clusters.kubernetes.annotations import format_placement
from scheduler.model.contract import FINALIZER, JOBS, MANAGED_BY, copy_name
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, PoolId
from scheduler.model.ports import MemberFacts, RawObject
from scheduler.model.resources import Resources
from scheduler.model.workload import CopyState, Placement, PlacementState, Toleration

UID = "0f8fad5b-d9cb-469f-a165-70867728950e"
PLACEMENT = Placement(
    ClusterId("eks"), PoolId("p4d"), "spot", True, PlacementState.STARTED, 3, 1_700_000_000.0, "d1"
)  # fmt: skip
MEMBER = MemberFacts(
    ClusterId("eks"), "hub", (("eks.amazonaws.com/nodegroup", "p4d"),), (("nvidia.com/gpu", "present", "NoSchedule"),)
)


def job(status: dict[str, Any] | None = None, pod: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "train",
            "namespace": "ml",
            "uid": UID,
            "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"overspill.dev/queue": "research", "team": "a", "batch.kubernetes.io/job-name": "train"},
            "annotations": {"note": "mine"},
            "finalizers": [FINALIZER],
            "ownerReferences": [{"kind": "CronJob"}],
            "managedFields": [{}],
        },
        "spec": {
            "managedBy": MANAGED_BY,
            "parallelism": 2,
            "completions": 4,
            "backoffLimit": 6,
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": UID}},
            "ttlSecondsAfterFinished": 60,
            "template": {
                "metadata": {"labels": {"app": "x", "controller-uid": UID, "job-name": "train"}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [
                        {
                            "name": "c",
                            "image": "i",
                            "resources": {"requests": {"cpu": "8"}, "limits": {"nvidia.com/gpu": 1}},
                        }
                    ],
                    **(pod or {}),
                },
            },
            **spec,
        },
        "status": status or {},
    }


def annotated(**annotations: str) -> dict[str, Any]:
    made = job()
    made["metadata"]["annotations"] |= {
        f"overspill.dev/{name.replace('_', '-')}": text for name, text in annotations.items()
    }
    return made


def applied(obj: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(obj) if isinstance(obj, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = applied(result.get(name), value)
    return result


def test_a_job_is_read() -> None:
    workload = KIND.parse(job())
    assert str(workload.ref) == "job/ml/train"
    assert workload.queue == "research"
    assert workload.invalid is None
    assert workload.created_at == workload.queued_at == 1767225600.0
    assert workload.has_finalizer
    (pods,) = workload.pod_sets
    assert (pods.count, pods.requests) == (2, Resources(8000, 0, 1, 1))


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({}, 2),
        ({"parallelism": 8}, 4),
        ({"parallelism": None, "completions": None}, 1),
        ({"parallelism": 0}, 0),
        ({"completions": None, "parallelism": 5}, 5),
    ],
)
def test_pods_at_once(spec: dict[str, Any], want: int) -> None:
    assert KIND.parse(job(**spec)).pod_sets[0].count == want


@pytest.mark.parametrize(
    ("obj", "want"),
    [
        (job(template=None), "spec.template is missing"),
        (job(template={"spec": {}}), "no containers"),
        (job(parallelism=-1), "spec.parallelism is -1"),
        (
            job(pod={"containers": [{"resources": {"requests": {"cpu": "many"}}}]}),
            "'many' is not a Kubernetes quantity",
        ),
        (annotated(placement="{}"), "overspill.dev/placement cannot be read"),
        (
            job(pod={"nodeSelector": {"nvidia.com/gpu.product": "H100", "cloud.google.com/gke-accelerator": "T4"}}),
            "exclude",
        ),
    ],
)
def test_a_job_that_can_never_be_placed_says_why(obj: RawObject, want: str) -> None:
    invalid = KIND.parse(obj).invalid
    assert invalid is not None
    assert want in invalid
    assert "\n" not in invalid


@pytest.mark.parametrize(
    ("managed_by", "want"),
    [(None, "create the Job anew"), ("kueue.x-k8s.io/multikueue", "create the Job anew"), (MANAGED_BY, None)],
)
def test_a_job_that_others_run_is_valid_but_says_how_to_hand_it_over(managed_by: str | None, want: str | None) -> None:
    workload = KIND.parse(job(managedBy=managed_by))
    assert workload.invalid is None
    assert want in workload.unmanaged if want and workload.unmanaged else workload.unmanaged is want


def test_a_job_without_a_queue_is_refused() -> None:
    bare = job()
    del bare["metadata"]["labels"]["overspill.dev/queue"]
    with pytest.raises(InvalidObjectError, match=r"job ml/train: field overspill.dev/queue is missing"):
        KIND.parse(bare)


def affinity(*terms: list[dict[str, Any]]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": [{"matchExpressions": term} for term in terms]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def product(*models: str, operator: str = "In") -> dict[str, Any]:
    return {"key": "nvidia.com/gpu.product", "operator": operator, "values": list(models)}


@pytest.mark.parametrize(
    ("pod", "want"),
    [
        ({}, ()),
        ({"nodeSelector": {"nvidia.com/gpu.product": "H100", "zone": "a"}}, ("H100",)),
        (affinity([product("H100", "A100")]), ("A100", "H100")),
        (affinity([product("H100")], [product("L4")]), ("H100", "L4")),
        (affinity([product("H100")], [{"key": "zone", "operator": "In", "values": ["a"]}]), ()),
        (affinity([product("H100", operator="NotIn")]), ()),
        ({"nodeSelector": {"nvidia.com/gpu.product": "H100"}, **affinity([product("H100", "L4")])}, ("H100",)),
    ],
)
def test_gpu_models(pod: dict[str, Any], want: tuple[str, ...]) -> None:
    pods = KIND.parse(job(pod=pod)).pod_sets[0]
    assert pods.gpu_models == want
    assert "nvidia.com/gpu.product" not in dict(pods.node_selector)


def test_the_users_words_are_heard() -> None:
    workload = KIND.parse(
        annotated(priority="9", gpu_models="H100", expected_duration="2h", queued_at="2026-01-02T00:00:00Z")
    )
    assert workload.priority == 9
    assert workload.pod_sets[0].gpu_models == ("H100",)
    assert workload.hints.expected_seconds == 7200
    assert workload.queued_at == workload.created_at + 86400


def test_placement_tolerations_and_state_are_read() -> None:
    obj = job(pod={"tolerations": [{"key": "k", "operator": "Exists"}], "priority": 4}, suspend=True)
    obj["metadata"]["annotations"]["overspill.dev/placement"] = format_placement(PLACEMENT)
    workload = KIND.parse(obj)
    assert workload.placement == PLACEMENT
    assert workload.pod_sets[0].tolerations == (Toleration("k", "Exists", "", ""),)
    assert (workload.priority, workload.suspended, workload.finished) == (4, True, False)
    done = job({"conditions": [{"type": "Failed", "status": "True"}]})
    assert KIND.parse(done).finished


def made_copy(obj: RawObject | None = None) -> Any:
    source = obj or job()
    return KIND.make_copy(source, KIND.parse(source), PLACEMENT, MEMBER)


def test_the_copy_is_the_job_without_what_is_the_hubs_own() -> None:
    source = job()
    before = copying.deepcopy(source)
    made = made_copy(source)
    assert source == before
    assert made["metadata"] == {
        "name": copy_name("train", UID),
        "namespace": "ml",
        "labels": {"team": "a", "overspill.dev/origin-uid": UID},
        "annotations": {
            "note": "mine",
            "overspill.dev/origin-cluster": "hub",
            "overspill.dev/origin-namespace": "ml",
            "overspill.dev/origin-name": "train",
            "overspill.dev/attempt": "3",
        },
    }
    spec = made["spec"]
    assert not spec.keys() & {"managedBy", "selector", "manualSelector", "ttlSecondsAfterFinished"}
    assert (spec["suspend"], spec["parallelism"], spec["completions"], spec["backoffLimit"]) == (False, 2, 4, 6)
    assert spec["template"]["metadata"]["labels"] == {"app": "x", "overspill.dev/origin-uid": UID}
    pod = spec["template"]["spec"]
    assert pod["nodeSelector"] == {"eks.amazonaws.com/nodegroup": "p4d"}
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"}
    ]
    assert pod["containers"] == source["spec"]["template"]["spec"]["containers"]
    assert "status" not in made


def test_the_users_node_selector_and_tolerations_win() -> None:
    mine = {"nodeSelector": {"eks.amazonaws.com/nodegroup": "mine", "z": "1"}, "tolerations": [{"operator": "Exists"}]}
    pod = made_copy(job(pod=mine))["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == mine["nodeSelector"]
    assert pod["tolerations"] == mine["tolerations"]


def on_member(status: dict[str, Any] | None = None, **spec: Any) -> Any:
    made = made_copy()
    made["metadata"] |= {"uid": "copy-uid", "creationTimestamp": "2026-01-01T00:10:00Z"}
    made["spec"] |= spec
    return made | {"status": status or {}}


COMPLETE = {
    "startTime": "2026-01-01T00:10:00Z",
    "completionTime": "2026-01-01T00:20:00Z",
    "succeeded": 4,
    "ready": 0,
    "terminating": 0,
    "uncountedTerminatedPods": {"succeeded": []},
    "conditions": [
        {"type": "SuccessCriteriaMet", "status": "True", "reason": "CompletionsReached", "lastTransitionTime": "t"},
        {"type": "Complete", "status": "True", "reason": "CompletionsReached", "lastTransitionTime": "t"},
    ],
}
FAILED = {
    "startTime": "2026-01-01T00:10:00Z",
    "failed": 7,
    "conditions": [
        {
            "type": "Failed",
            "status": "True",
            "reason": "BackoffLimitExceeded",
            "lastTransitionTime": "2026-01-01T00:15:00Z",
        }
    ],
}


@pytest.mark.parametrize(
    ("status", "spec", "state", "wanted"),
    [
        ({}, {}, CopyState.PENDING, 2),
        ({"active": 2, "startTime": "2026-01-01T00:10:01Z"}, {}, CopyState.PENDING, 2),
        ({"active": 2, "ready": 1}, {}, CopyState.RUNNING, 2),
        ({"active": 1, "succeeded": 3}, {}, CopyState.RUNNING, 1),
        ({}, {"suspend": True}, CopyState.SUSPENDED, 0),
        (COMPLETE, {}, CopyState.SUCCEEDED, 0),
        (FAILED, {}, CopyState.FAILED, 0),
    ],
)
def test_a_copy_is_read(status: dict[str, Any], spec: dict[str, Any], state: CopyState, wanted: int) -> None:
    copy = KIND.parse_copy(on_member(status, **spec), ClusterId("eks"))
    assert (copy.origin, copy.attempt, copy.origin_cluster) == (UID, 3, "hub")
    assert (copy.state, copy.pods_wanted) == (state, wanted)
    assert copy.finished == (copy.finished_at is not None)


def test_a_job_that_is_nobodys_copy_is_refused() -> None:
    with pytest.raises(InvalidObjectError, match=r"overspill\.dev/origin-uid"):
        KIND.parse_copy(job(), ClusterId("eks"))


def test_suspending_and_resuming() -> None:
    assert KIND.suspend_patch(on_member(), suspend=False) is None
    patch = KIND.suspend_patch(on_member(), suspend=True)
    assert patch == {"spec": {"suspend": True}}
    assert KIND.suspend_patch(applied(on_member(), patch), suspend=False) == {"spec": {"suspend": False}}
    assert KIND.suspend_patch(on_member(COMPLETE), suspend=True) is None


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({}, None),
        ({"parallelism": 3}, {"parallelism": 3}),
        ({"activeDeadlineSeconds": 60}, {"activeDeadlineSeconds": 60}),
        ({"completions": 9}, None),
        ({"completions": 3, "parallelism": 3, "completionMode": "Indexed"}, {"completions": 3, "parallelism": 3}),
    ],
)
def test_what_a_running_copy_follows(spec: dict[str, Any], want: dict[str, Any] | None) -> None:
    source = job(**spec)
    patch = KIND.refresh_copy(source, KIND.parse(source), PLACEMENT, MEMBER, on_member())
    assert patch == (None if want is None else {"spec": want})
    assert KIND.refresh_copy(source, KIND.parse(source), PLACEMENT, MEMBER, on_member(COMPLETE)) is None


PLACED = {"type": "overspill.dev/Placed", "status": "True", "reason": "Placed", "message": "on eks/p4d"}


def mirrored(hub: dict[str, Any], copy: RawObject | None) -> Any:
    patch = KIND.mirror_status(hub, copy)
    assert patch is not None
    after = applied(hub, patch)
    assert KIND.mirror_status(after, copy) is None
    return after["status"]


def test_a_running_copy_is_mirrored() -> None:
    status = mirrored(
        job({"conditions": [PLACED]}), on_member({"active": 2, "ready": 1, "startTime": "2026-01-01T00:10:01Z"})
    )
    assert status == {"active": 2, "ready": 1, "startTime": "2026-01-01T00:10:01Z", "conditions": [PLACED]}


def test_completion_is_mirrored_whole() -> None:
    status = mirrored(job({"active": 2, "ready": 2, "conditions": [PLACED]}), on_member(COMPLETE))
    assert [one["type"] for one in status["conditions"]] == ["overspill.dev/Placed", "SuccessCriteriaMet", "Complete"]
    assert (status["succeeded"], status["completionTime"]) == (4, "2026-01-01T00:20:00Z")
    assert status["startTime"] == "2026-01-01T00:10:00Z"
    assert not any(status.get(name) for name in ("active", "ready", "terminating", "uncountedTerminatedPods"))


def test_failure_brings_its_criterion_also_from_a_member_that_knows_none() -> None:
    status = mirrored(job(), on_member(FAILED))
    assert [one["type"] for one in status["conditions"]] == ["FailureTarget", "Failed"]
    assert "completionTime" not in status
    assert status["failed"] == 7


def test_a_criterion_alone_is_held_back() -> None:
    target = {"active": 1, "conditions": [{"type": "FailureTarget", "status": "True", "reason": "r"}]}
    assert "conditions" not in mirrored(job(), on_member(target))


def test_nothing_goes_back_for_a_copy_made_anew() -> None:
    hub = job({"startTime": "2026-01-01T00:01:00Z", "failed": 2, "succeeded": 3, "active": 1})
    status = mirrored(hub, on_member({"startTime": "2026-01-01T00:30:00Z", "active": 2, "succeeded": 1}))
    assert status == {"startTime": "2026-01-01T00:01:00Z", "failed": 2, "succeeded": 3, "active": 2}


def test_successes_may_go_back_for_elastic_jobs_only() -> None:
    elastic = job({"succeeded": 3, "completedIndexes": "0-2"}, completionMode="Indexed", completions=4, parallelism=4)
    status = mirrored(elastic, on_member({"succeeded": 1, "completedIndexes": "1", "active": 3}))
    assert (status["succeeded"], status["completedIndexes"]) == (1, "1")


def test_a_clock_behind_does_not_end_a_job_before_it_began() -> None:
    status = mirrored(job({"startTime": "2026-01-01T00:25:00Z"}), on_member(COMPLETE))
    assert status["completionTime"] == status["startTime"] == "2026-01-01T00:25:00Z"


def test_a_finished_job_without_a_start_gets_one() -> None:
    instant = {name: value for name, value in COMPLETE.items() if name != "startTime"}
    assert mirrored(job(suspend=True), on_member(instant))["startTime"] == "2026-01-01T00:10:00Z"


def test_suspended_jobs_have_no_start() -> None:
    suspended = {"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": "Job suspended"}
    hub = job({"startTime": "2026-01-01T00:01:00Z", "active": 2}, suspend=True)
    assert mirrored(hub, on_member({"conditions": [suspended]}, suspend=True)) == {"conditions": [suspended]}
    assert mirrored(hub, None) == {"conditions": [suspended]}
    resumed = job({"conditions": [suspended]})
    assert mirrored(resumed, on_member({"active": 2, "startTime": "2026-01-01T00:40:00Z"})) == {
        "active": 2,
        "startTime": "2026-01-01T00:40:00Z",
        "conditions": [{"type": "Suspended", "status": "False", "reason": "JobResumed", "message": "Job resumed"}],
    }


def test_without_a_copy_no_pods_are_claimed() -> None:
    status = mirrored(job({"active": 2, "ready": 1, "failed": 1, "startTime": "2026-01-01T00:01:00Z"}), None)
    assert status == {"failed": 1, "startTime": "2026-01-01T00:01:00Z"}
    assert KIND.mirror_status(job(), None) is None


def test_a_finished_job_is_left_alone() -> None:
    done = job(COMPLETE)
    assert KIND.mirror_status(done, None) is None
    assert KIND.mirror_status(done, on_member({"active": 2})) is None


def test_our_condition_is_set_once_and_others_stay() -> None:
    other = {"type": "Suspended", "status": "False"}
    hub = job({"conditions": [other]})
    patch = KIND.condition_patch(hub, reason="Held", message="over budget", placed=False, now=1767225660.0)
    assert patch is not None
    after = applied(hub, patch)
    assert after["status"]["conditions"][0] == other
    assert after["status"]["conditions"][1]["lastTransitionTime"] == "2026-01-01T00:01:00Z"
    assert KIND.parse(after).condition == ("Held", "over budget")
    assert KIND.condition_patch(after, reason="Held", message="over budget", placed=False, now=1767229999.0) is None
    later = KIND.condition_patch(after, reason="NoCapacity", message="0/1", placed=False, now=1767229999.0)
    assert later is not None
    assert later["status"]["conditions"][1]["lastTransitionTime"] == "2026-01-01T00:01:00Z"
    flipped = KIND.condition_patch(after, reason="Placed", message="on eks", placed=True, now=1767229999.0)
    assert flipped is not None
    assert flipped["status"]["conditions"][1]["lastTransitionTime"] == "2026-01-01T01:13:19Z"


def test_a_hint_that_was_ignored_shows_in_the_condition() -> None:
    hub = annotated(deadline="tomorrow")
    patch = KIND.condition_patch(hub, reason="Held", message="waits", placed=False, now=1767225660.0)
    assert patch is not None
    after = applied(hub, patch)
    assert "'tomorrow' is neither a time" in after["status"]["conditions"][0]["message"]
    assert KIND.parse(after).condition == ("Held", "waits")
    assert KIND.parse(after).invalid is None


def test_the_resource_is_the_same_on_hub_and_member() -> None:
    assert KIND.hub_resource is JOBS
    assert KIND.member_resources == (JOBS,)
