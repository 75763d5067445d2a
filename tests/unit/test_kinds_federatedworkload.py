"""FederatedWorkloads: a Deployment, wrapped, copied, refreshed when its template changes, and told of on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from clusters.kinds.federatedworkload import KIND
from clusters.kubernetes.annotations import format_placement
from scheduler.model.contract import DEPLOYMENTS, FEDERATED_WORKLOADS, copy_name
from scheduler.model.ids import ClusterId
from scheduler.model.ports import MemberFacts, RawObject
from scheduler.model.resources import Resources
from scheduler.model.workload import CopyState
from tests.unit.test_kinds_job import MEMBER, PLACEMENT, applied

UID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
CRD = Path(__file__).parents[2] / "deploy" / "crds" / "federatedworkloads.yaml"


def template(image: str = "vllm:1", **changes: Any) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"labels": {"team": "a"}},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "llm"}},
            "template": {
                "metadata": {"labels": {"app": "llm"}},
                "spec": {
                    "containers": [{"name": "c", "image": image, "resources": {"limits": {"nvidia.com/gpu": "2"}}}],
                    "nodeSelector": {"zone": "a"},
                },
            },
        },
        **changes,
    }


def federated(wrapped: Any = None, status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "overspill.dev/v1alpha1",
        "kind": "FederatedWorkload",
        "metadata": {
            "name": "llm",
            "namespace": "serving",
            "uid": UID,
            "generation": 5,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"overspill.dev/queue": "serving"},
            "annotations": {"overspill.dev/placement": format_placement(PLACEMENT)},
        },
        "spec": {"template": template() if wrapped is None else wrapped, **spec},
        "status": status or {},
    }


def made_copy(obj: RawObject | None = None) -> Any:
    source = obj or federated()
    return KIND.make_copy(source, KIND.parse(source), PLACEMENT, MEMBER)


def on_member(status: dict[str, Any] | None = None) -> Any:
    """The copy as an API server keeps it: with what it fills in."""
    made = made_copy()
    made["metadata"] |= {"uid": "copy-uid", "creationTimestamp": "2026-01-01T00:10:00Z", "generation": 2}
    made["spec"] |= {"progressDeadlineSeconds": 600}
    made["spec"]["template"]["spec"] |= {"restartPolicy": "Always"}
    return made | {"status": status or {}}


def refreshed(source: RawObject, copy: RawObject) -> Any:
    return KIND.refresh_copy(source, KIND.parse(source), PLACEMENT, MEMBER, copy)


def test_the_example_is_one_and_its_overrides_apply() -> None:
    example: Any = YAML(typ="safe").load(CRD.parents[2] / "examples" / "federatedworkload.yaml")
    example["metadata"] |= {"uid": UID, "creationTimestamp": "2026-01-01T00:00:00Z"}
    workload = KIND.parse(example)
    assert (workload.invalid, workload.runs_as) == (None, "inferenceservices.serving.kserve.io")
    there = MemberFacts(ClusterId("gke"), "hub", (), labels=(("tier", "edge"),))
    predictor = KIND.make_copy(example, workload, PLACEMENT, there)["spec"]["predictor"]
    assert predictor["containers"][0]["image"] == "registry.example.com/vllm:0.9"
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (1, 6)


def test_a_federated_deployment_is_read() -> None:
    workload = KIND.parse(federated())
    assert str(workload.ref) == "federatedworkload/serving/llm"
    assert workload.invalid is None
    assert (workload.runs_forever, workload.finished, workload.suspended) == (True, False, False)
    assert workload.placement == PLACEMENT
    assert workload.pod_sets[0].count == 3
    assert workload.requests == Resources(0, 0, 6, 3)
    assert workload.pod_sets[0].node_selector == (("zone", "a"),)


def other_selector() -> dict[str, Any]:
    wrapped = template()
    wrapped["spec"]["selector"] = {"matchLabels": {"app": "other"}}
    return wrapped


@pytest.mark.parametrize(
    ("wrapped", "want"),
    [
        ("text", "spec.template is missing"),
        (template(kind="DaemonSet"), "apps/v1 DaemonSet; what can be federated is apps/v1 Deployment, serving.k"),
        (template(apiVersion="extensions/v1beta1"), "what can be federated is apps/v1 Deployment"),
        (template(spec={}), "spec.template.spec.template is missing"),
        (template(spec={"template": {"spec": {"containers": []}}}), "no containers"),
        (template(metadata={"namespace": "elsewhere"}), "namespace is elsewhere"),
        (other_selector(), "selector is missing or does not match"),
    ],
)
def test_what_cannot_be_federated_says_why(wrapped: Any, want: str) -> None:
    invalid = KIND.parse(federated(wrapped)).invalid
    assert invalid is not None
    assert want in invalid


def test_the_copy_is_the_deployment_pinned_and_marked() -> None:
    made = made_copy()
    assert (made["apiVersion"], made["kind"]) == ("apps/v1", "Deployment")
    assert (made["metadata"]["name"], made["metadata"]["namespace"]) == (copy_name("llm", UID), "serving")
    assert made["metadata"]["labels"] == {"team": "a", "overspill.dev/origin-uid": UID}
    assert made["spec"]["selector"] == {"matchLabels": {"app": "llm"}}
    assert made["spec"]["replicas"] == 3
    pods = made["spec"]["template"]
    assert pods["metadata"]["labels"] == {"app": "llm", "overspill.dev/origin-uid": UID}
    assert pods["spec"]["nodeSelector"] == {"eks.amazonaws.com/nodegroup": "p4d", "zone": "a"}
    assert pods["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_an_unchanged_template_changes_nothing() -> None:
    assert refreshed(federated(), on_member()) is None


def test_a_changed_template_reaches_the_copy() -> None:
    wrapped = template("vllm:2")
    wrapped["spec"]["replicas"] = 5
    del wrapped["spec"]["template"]["spec"]["nodeSelector"]
    patch = refreshed(federated(wrapped), on_member())
    after = applied(on_member(), patch)
    assert after["spec"]["replicas"] == 5
    assert after["spec"]["template"]["spec"]["containers"][0]["image"] == "vllm:2"
    assert after["spec"]["template"]["spec"]["nodeSelector"] == {"eks.amazonaws.com/nodegroup": "p4d"}
    assert after["spec"]["selector"] == {"matchLabels": {"app": "llm"}}
    assert refreshed(federated(wrapped), after) is None


def test_replicas_that_the_user_left_out_belong_to_an_autoscaler() -> None:
    wrapped = template("vllm:2")
    del wrapped["spec"]["replicas"]
    assert "replicas" not in refreshed(federated(wrapped), on_member())["spec"]


def test_suspending_scales_to_nothing_and_back() -> None:
    assert KIND.suspend_patch(on_member(), suspend=False) is None
    down = KIND.suspend_patch(on_member(), suspend=True)
    assert down is not None
    asleep = applied(on_member(), down)
    assert asleep["spec"]["replicas"] == 0
    assert KIND.suspend_patch(asleep, suspend=True) is None
    copy = KIND.parse_copy(asleep, ClusterId("eks"))
    assert (copy.state, copy.suspended, copy.pods_wanted) == (CopyState.SUSPENDED, True, 0)
    up = KIND.suspend_patch(asleep, suspend=False)
    assert up is not None
    assert applied(asleep, up)["spec"]["replicas"] == 3
    assert KIND.suspend_patch(applied(asleep, up), suspend=True) is not None


def test_a_suspended_copy_learns_its_new_size_without_waking() -> None:
    down = KIND.suspend_patch(on_member(), suspend=True)
    assert down is not None
    wrapped = template("vllm:2")
    wrapped["spec"]["replicas"] = 7
    asleep = applied(on_member(), down)
    asleep = applied(asleep, refreshed(federated(wrapped), asleep))
    assert asleep["spec"]["replicas"] == 0
    up = KIND.suspend_patch(asleep, suspend=False)
    assert up is not None
    assert applied(asleep, up)["spec"]["replicas"] == 7


READY = {
    "observedGeneration": 2,
    "replicas": 3,
    "readyReplicas": 2,
    "availableReplicas": 2,
    "updatedReplicas": 3,
    "conditions": [
        {
            "type": "Available",
            "status": "True",
            "reason": "MinimumReplicasAvailable",
            "message": "m",
            "lastUpdateTime": "2026-01-01T00:12:00Z",
            "lastTransitionTime": "2026-01-01T00:11:00Z",
        }
    ],
}


@pytest.mark.parametrize(("status", "state"), [({}, CopyState.PENDING), (READY, CopyState.RUNNING)])
def test_a_copy_is_read(status: dict[str, Any], state: CopyState) -> None:
    copy = KIND.parse_copy(on_member(status), ClusterId("eks"))
    assert (copy.origin, copy.attempt, copy.state, copy.pods_wanted) == (UID, 3, state, 3)
    assert copy.started_at == (1767226260.0 if status else None)
    assert not copy.finished


def test_status_is_mirrored_and_settles() -> None:
    placed = {"type": "overspill.dev/Placed", "status": "True", "reason": "Placed"}
    hub = federated(status={"conditions": [placed]})
    patch = KIND.mirror_status(hub, on_member(READY))
    assert patch is not None
    after = applied(hub, patch)
    counts = {"replicas": 3, "readyReplicas": 2, "availableReplicas": 2, "updatedReplicas": 3}
    assert after["status"]["clusters"] == [{"name": "eks", **counts}]
    assert after["status"]["observedGeneration"] == 5
    assert {name: after["status"][name] for name in counts} == counts
    assert [one["type"] for one in after["status"]["conditions"]] == ["overspill.dev/Placed", "Available"]
    assert "lastUpdateTime" not in after["status"]["conditions"][1]
    assert KIND.mirror_status(after, on_member(READY)) is None
    gone = KIND.mirror_status(after, None)
    assert gone is not None
    ended = applied(after, gone)["status"]
    assert (ended["clusters"], ended["readyReplicas"], ended["conditions"]) == ([], 0, [placed])
    assert KIND.mirror_status(applied(after, gone), None) is None


def test_the_observed_generation_waits_for_the_copy() -> None:
    changed = federated(template("vllm:2"))
    patch = KIND.mirror_status(changed, on_member(READY))
    assert patch is not None
    assert "observedGeneration" not in patch["status"]
    lagging = KIND.mirror_status(federated(), on_member({**READY, "observedGeneration": 1}))
    assert lagging is not None
    assert "observedGeneration" not in lagging["status"]


def test_the_condition_names_the_generation() -> None:
    patch = KIND.condition_patch(federated(), reason="Held", message="m", placed=False, now=0.0)
    assert patch is not None
    assert patch["status"]["conditions"][0]["observedGeneration"] == 5


def test_the_definition_speaks_of_the_same_thing() -> None:
    crd = YAML(typ="safe").load(CRD)
    spec, version = crd["spec"], crd["spec"]["versions"][0]
    names = spec["names"]
    assert crd["metadata"]["name"] == f"{FEDERATED_WORKLOADS.plural}.{FEDERATED_WORKLOADS.group}"
    assert (spec["group"], version["name"]) == (FEDERATED_WORKLOADS.group, FEDERATED_WORKLOADS.version)
    assert (names["kind"], names["plural"], names["shortNames"]) == ("FederatedWorkload", "federatedworkloads", ["fw"])
    assert version["subresources"] == {"status": {}}
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    patch = KIND.mirror_status(federated(), on_member(READY))
    assert patch is not None
    assert patch["status"].keys() <= status.keys()
    assert patch["status"]["clusters"][0].keys() <= status["clusters"]["items"]["properties"].keys()
    condition = status["conditions"]["items"]
    assert set(condition["required"]) <= patch["status"]["conditions"][0].keys() <= condition["properties"].keys()
    assert DEPLOYMENTS in KIND.member_resources
