"""What every template must do, whichever module it comes from: discovered, not listed.

A new template is tested once `SAMPLES` can make one; a template without a sample fails here by name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.kinds.federatedworkload import KIND
from clusters.kinds.templates import Template, load_templates
from clusters.kubernetes.hubobjects import resource_of
from scheduler.model.contract import ANNOTATION_DIGEST, ANNOTATION_OVERRIDDEN, LABEL_ORIGIN_UID, copy_name
from scheduler.model.ids import ClusterId
from scheduler.model.ports import RawObject
from scheduler.model.resources import Resources
from scheduler.model.workload import Dependent
from tests.contract.test_workload_kinds import refusal
from tests.unit.test_kinds_federatedworkload import UID, federated
from tests.unit.test_kinds_federatedworkload import template as deployment
from tests.unit.test_kinds_job import MEMBER, PLACEMENT, applied

TEMPLATES = load_templates()
LIMITS = {"limits": {"nvidia.com/gpu": "2"}}
CONTAINER = {"name": "c", "image": "vllm:1", "resources": LIMITS}


def statefulset() -> dict[str, Any]:
    made = deployment(kind="StatefulSet")
    claim = {"metadata": {"name": "cache"}, "spec": {"storageClassName": "fast"}}
    made["spec"] |= {"serviceName": "llm", "volumeClaimTemplates": [claim]}
    return made


def inference() -> dict[str, Any]:
    model = {"modelFormat": {"name": "huggingface"}, "resources": LIMITS}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "spec": {"predictor": {"minReplicas": 3, "maxReplicas": 5, "nodeSelector": {"zone": "a"}, "model": model}},
    }


def knative() -> dict[str, Any]:
    bounds = {"autoscaling.knative.dev/min-scale": "3", "autoscaling.knative.dev/max-scale": "5"}
    spec = {"containers": [CONTAINER], "nodeSelector": {"zone": "a"}}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "spec": {"template": {"metadata": {"annotations": bounds}, "spec": spec}},
    }


SAMPLES: dict[str, Callable[[], dict[str, Any]]] = {
    "deployment": deployment,
    "statefulset": statefulset,
    "inferenceservice": inference,
    "knativeservice": knative,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(params=sorted(TEMPLATES))
def template(request: pytest.FixtureRequest) -> Template:
    return TEMPLATES[request.param]


def sample(name: str) -> dict[str, Any]:
    assert name in SAMPLES, f"give tests/contract/test_templates.py a sample of template {name}"
    return copy.deepcopy(SAMPLES[name]())


def made_copy(obj: RawObject) -> Any:
    made = copy.deepcopy(KIND.make_copy(obj, KIND.parse(obj), PLACEMENT, MEMBER))
    assert isinstance(made, dict)
    made["metadata"] |= {"uid": "copy-uid", "creationTimestamp": "2026-01-01T00:10:00Z", "generation": 1}
    return made


def refreshed(obj: RawObject, made: RawObject) -> Any:
    return KIND.refresh_copy(obj, KIND.parse(obj), PLACEMENT, MEMBER, made)


def test_the_name_is_the_modules(template: Template) -> None:
    assert TEMPLATES[template.name] is template
    assert type(template).__module__ == f"clusters.kinds.templates.{template.name}"
    assert template.resource in KIND.member_resources


def test_it_is_read_with_what_its_pods_need(template: Template) -> None:
    workload = KIND.parse(federated(sample(template.name)))
    assert workload.invalid is None
    assert workload.runs_as == template.resource.key
    assert workload.requests == Resources(gpus=6, pods=3)
    assert workload.pod_sets[0].node_selector == (("zone", "a"),)
    scale = template.scale(sample(template.name))
    assert scale.least == 3
    assert scale.most in (3, 5)


def test_its_copy_tells_where_it_comes_from_and_is_pinned(template: Template) -> None:
    made = made_copy(federated(sample(template.name)))
    assert resource_of(KIND, made) == template.resource
    assert made["metadata"]["name"] == copy_name("llm", UID, template.longest_name)
    told = orjson.dumps(made["spec"]).decode()
    assert f'"{LABEL_ORIGIN_UID}":"{UID}"' in told
    for key, value in MEMBER.pool_selector:
        assert f'"{key}":"{value}"' in told
    for key, _, _ in MEMBER.pool_taints:
        assert f'"key":"{key}"' in told
    template.check(made)
    assert KIND.parse_copy(made, ClusterId("eks")).pods_wanted == 3


def test_a_long_name_is_cut_so_that_what_is_made_of_it_is_valid(template: Template) -> None:
    obj = federated(sample(template.name))
    obj["metadata"]["name"] = "a" * 63
    assert len(made_copy(obj)["metadata"]["name"]) == template.longest_name


def test_suspending_and_resuming_settle_and_bring_back_what_was(template: Template) -> None:
    made = made_copy(federated(sample(template.name)))
    down = KIND.suspend_patch(made, suspend=True)
    assert down is not None
    asleep = applied(made, down)
    assert KIND.suspend_patch(asleep, suspend=True) is None
    assert (KIND.parse_copy(asleep, ClusterId("e")).suspended, KIND.parse_copy(asleep, ClusterId("e")).pods_wanted) == (
        True,
        0,
    )
    up = KIND.suspend_patch(asleep, suspend=False)
    assert up is not None
    awake = applied(asleep, up)
    assert awake["spec"] == made["spec"]
    assert not KIND.parse_copy(awake, ClusterId("e")).suspended


def test_a_change_is_carried_over_once_and_wakes_nobody(template: Template) -> None:
    obj = federated(sample(template.name))
    made = made_copy(obj)
    assert refreshed(obj, made) is None
    changed = federated(orjson.loads(orjson.dumps(sample(template.name)).replace(b'"2"', b'"1"')))
    patched = applied(made, refreshed(changed, made))
    assert refreshed(changed, patched) is None
    assert patched["spec"] == made_copy(changed)["spec"]
    down = KIND.suspend_patch(made, suspend=True)
    assert down is not None
    slept = applied(applied(made, down), refreshed(changed, applied(made, down)))
    assert KIND.parse_copy(slept, ClusterId("eks")).suspended
    up = KIND.suspend_patch(slept, suspend=False)
    assert up is not None
    assert applied(slept, up)["spec"] == made_copy(changed)["spec"]


def test_an_override_changes_the_copy_there_alone_and_its_digest(template: Template) -> None:
    plain = made_copy(federated(sample(template.name)))
    merge = {"metadata": {"annotations": {"where": "eks"}}}
    elsewhere = federated(sample(template.name), overrides=[{"clusters": ["gke"], "merge": merge}])
    assert made_copy(elsewhere)["spec"] == plain["spec"]
    assert ANNOTATION_OVERRIDDEN not in made_copy(elsewhere)["metadata"]["annotations"]
    here = federated(sample(template.name), overrides=[{"clusters": [PLACEMENT.cluster], "merge": merge}])
    assert made_copy(here)["metadata"]["annotations"]["where"] == "eks"
    patch = refreshed(here, plain)
    assert patch is not None, "it is rolled out"
    assert refreshed(here, applied(plain, patch)) is None
    back = refreshed(federated(sample(template.name)), applied(plain, patch))
    assert back["metadata"]["annotations"][ANNOTATION_OVERRIDDEN] is None
    empty = made_copy(federated(sample(template.name), overrides=[]))
    assert empty == plain, "an empty list changes nothing"
    assert empty["metadata"]["annotations"][ANNOTATION_DIGEST]


def test_what_its_pods_refer_to_follows(template: Template) -> None:
    """Wherever the pod spec lies."""
    source = {"name": "v", "projected": {"sources": [{"secret": {"name": "login"}}]}}
    text = orjson.dumps(sample(template.name)).replace(
        b'"nodeSelector":{"zone":"a"}',
        b'"nodeSelector":{"zone":"a"},"serviceAccountName":"runner","volumes":[' + orjson.dumps(source) + b"]",
    )
    obj = federated(orjson.loads(text), dependents=[{"kind": "ConfigMap", "name": "more"}])
    assert KIND.dependents(obj, made_copy(obj)) == (
        Dependent("ConfigMap", "more", named=True),
        Dependent("Secret", "login"),
        Dependent("ServiceAccount", "runner"),
    )


def test_mirroring_settles(template: Template) -> None:
    obj = federated(sample(template.name))
    made = made_copy(obj)
    time = "2026-01-01T00:20:00Z"
    made["status"] = {
        "observedGeneration": 1, "readyReplicas": 2, "url": "http://llm.example",
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": time} for kind in template.conditions],
    }  # fmt: skip
    patch = KIND.mirror_status(obj, made, 2)
    assert patch is not None
    hub = applied(obj, patch)
    assert KIND.mirror_status(hub, made, 2) is None
    assert hub["status"]["readyReplicas"] == hub["status"]["clusters"][0]["readyReplicas"] == 2
    assert hub["status"]["observedGeneration"] == 5
    assert {one["type"] for one in hub["status"].get("conditions", ())} == set(template.conditions)
    if template.resource.custom:
        assert hub["status"]["url"] == hub["status"]["clusters"][0]["url"] == "http://llm.example"
    left = KIND.mirror_status(hub, None)
    assert left is not None
    assert applied(hub, left)["status"]["clusters"] == []
    assert not applied(hub, left)["status"].get("conditions")


PATHS = (
    ("metadata",), ("spec",), ("spec", "template"), ("spec", "replicas"), ("spec", "selector"), ("spec", "predictor"),
    ("spec", "template", "spec"), ("spec", "template", "metadata"), ("spec", "template", "metadata", "annotations"),
    ("spec", "predictor", "model"), ("spec", "predictor", "minReplicas"), ("spec", "predictor", "containers"),
    ("spec", "volumeClaimTemplates"), ("spec", "template", "spec", "volumes"), ("status",), ("status", "conditions"),
    ("metadata", "annotations"), ("metadata", "managedFields"),
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@settings(max_examples=60)
@given(path=st.sampled_from(PATHS), junk=JSON)
def test_any_json_is_understood_or_refused_in_one_line(name: str, path: tuple[str, ...], junk: Any) -> None:
    good = federated(sample(name))
    made = made_copy(good)
    for base in (sample(name), made):
        spoilt: Any = orjson.loads(orjson.dumps(base))
        inner = spoilt
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                return
        inner[path[-1]] = junk
        obj = federated(spoilt)
        for call, given_to in (
            (KIND.parse, obj),
            (made_copy, obj),
            (lambda one: KIND.refresh_copy(one, KIND.parse(good), PLACEMENT, MEMBER, made), obj),
            (lambda one: KIND.parse_copy(one, ClusterId("e")), spoilt),
            (lambda one: KIND.suspend_patch(one, suspend=True), spoilt),
            (lambda one: KIND.mirror_status(good, one, 1), spoilt),
            (lambda one: KIND.dependents(good, one), spoilt),
        ):
            assert "\n" not in refusal(call, given_to)
