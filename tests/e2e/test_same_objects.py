"""The emulated API server keeps custom resources as a real one does: what it refuses, prunes, fills in and tells.

Of our definition and the published ones that tests reduce. Needs $KUBEBUILDER_ASSETS. Rules in CEL are compared where
the real server holds objects to them (tests/e2e/newer_definitions.py, or Kubernetes 1.29).
"""

from __future__ import annotations

import copy
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clusters.kubernetes.client import HttpKubeApi
from scheduler.model.contract import (
    BACKEND_TRAFFIC_POLICIES,
    CRDS,
    FEDERATED_WORKLOADS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    KNATIVE_ROUTES,
    KNATIVE_SERVICES,
)
from scheduler.model.errors import ExternalError
from scheduler.model.ports import Resource
from tests.e2e.federations import NEWER
from tests.e2e.real_cluster import find_assets
from tests.e2e.test_definitions import ALL, established, one_api
from tests.loop.harness import until
from tests.wire.test_traffic import route

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
_RULES = (1, 29)

BACKENDS = route(("chat", None))["spec"]["rules"][0]["backendRefs"]
RULE: dict[str, Any] = {"backendRefs": BACKENDS}
TEMPLATE = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 1}}
STEERED: dict[str, Any] = {"name": "front", "backends": [{"name": "a", "cluster": "onprem"}]}
CONTAINER = {"image": "vllm:1"}
MODEL = {"modelFormat": {"name": "huggingface"}}
LIMIT = {"limit": {"requests": 5, "unit": "Second"}}
TARGET = {"group": HTTP_ROUTES.group, "kind": "HTTPRoute", "name": "front"}


@dataclass(frozen=True, slots=True)
class Sample:
    """An object that is created, then changed by a merge patch. `rules`: rules in CEL have a say."""

    what: str
    resource: Resource
    spec: Any
    change: dict[str, Any] | None = None
    rules: bool = False


def a_route(
    what: str, *rules: Any, change: dict[str, Any] | None = None, with_rules: bool = False, **more: Any
) -> Sample:
    return Sample(what, HTTP_ROUTES, {"rules": list(rules), **more} if rules else more, change, with_rules)


def a_workload(what: str, change: dict[str, Any] | None = None, with_rules: bool = False, **more: Any) -> Sample:
    return Sample(what, FEDERATED_WORKLOADS, {"template": TEMPLATE, **more}, change, with_rules)


def a_limit(what: str, *rules: Any, **more: Any) -> Sample:
    spec = {"targetRefs": [TARGET], "rateLimit": {"type": "Local", "local": {"rules": list(rules)}}, **more}
    return Sample(what, BACKEND_TRAFFIC_POLICIES, spec)


SAMPLES = (
    a_route("a route of no rules, which are filled in"),
    a_route("a route without weights, which are filled in", RULE),
    a_route("a route with an unknown field", {**RULE, "unknown": 1}, unknown=2),
    a_route("a route with null for a field with a default", {"backendRefs": [{**BACKENDS[0], "weight": None}]}),
    a_route("a route with null for a field without one", {"backendRefs": BACKENDS, "name": None}),
    a_route("a route with an empty text", {"backendRefs": [{**BACKENDS[0], "group": ""}]}),
    a_route("a route with an empty name", {"backendRefs": [{**BACKENDS[0], "name": ""}]}),
    a_route("a route with weight 0", {"backendRefs": [{**BACKENDS[0], "weight": 0}]}),
    a_route("a route with a negative weight", {"backendRefs": [{**BACKENDS[0], "weight": -1}]}),
    a_route("a route with too large a weight", {"backendRefs": [{**BACKENDS[0], "weight": 1_000_001}]}),
    a_route("a route with a broken weight", {"backendRefs": [{**BACKENDS[0], "weight": 1.5}]}),
    a_route("a route with a whole weight as a fraction", {"backendRefs": [{**BACKENDS[0], "weight": 2.0}]}),
    a_route("a route with a text for a weight", {"backendRefs": [{**BACKENDS[0], "weight": "1"}]}),
    a_route("a route with too large a port", {"backendRefs": [{**BACKENDS[0], "port": 65536}]}),
    a_route("a route with too many backends", {"backendRefs": BACKENDS * 17}),
    a_route("a route with an odd timeout", {**RULE, "timeouts": {"request": "30"}}),
    a_route("a route without a port", {"backendRefs": [{"name": "chat"}]}, with_rules=True),
    a_route("a route with two rules of one name", {**RULE, "name": "a"}, {**RULE, "name": "a"}, with_rules=True),
    a_route("a route whose rules are replaced", RULE, change={"rules": [{"backendRefs": [{"name": "b", "port": 1}]}]}),
    a_route("a route whose rules are taken away", RULE, change={"rules": None}),
    Sample("a route of nothing", HTTP_ROUTES, None),
    Sample("a route of a list", HTTP_ROUTES, []),
    a_workload("a workload"),
    a_workload("a workload of a pod template that nobody checks", template={**TEMPLATE, "spec": {"a": [1, None, {}]}}),
    a_workload("a workload that is suspended by null", suspend=None),
    a_workload("a workload that is suspended by a number", suspend=1),
    a_workload("a workload with an unknown field", unknown={"a": 1}),
    a_workload("an override of both", overrides=[{"clusters": ["a"], "selector": {"b": "c"}, "merge": {}}],
               with_rules=True),
    a_workload("an override of neither", overrides=[{"clusters": ["a"]}], with_rules=True),
    a_workload("an override", overrides=[{"clusters": ["a"], "patch": [{"op": "add", "path": "/a", "value": None}]}]),
    a_workload("an override with an unknown operation",
               overrides=[{"clusters": ["a"], "patch": [{"op": "move it", "path": "/a"}]}]),
    a_workload("a dependent", dependents=[{"kind": "Secret", "name": "a"}]),
    a_workload("a dependent more", {"dependents": [{"kind": "Secret", "name": "a"}, {"kind": "Secret", "name": "b"}]},
               dependents=[{"kind": "Secret", "name": "a"}]),
    a_workload("a dependent twice", dependents=[{"kind": "Secret", "name": "a"}] * 2),
    a_workload("a dependent of an unknown kind", dependents=[{"kind": "Pod", "name": "a"}]),
    a_workload("a dependent without a name", dependents=[{"kind": "Secret"}]),
    a_workload("another kind", {"template": {"kind": "StatefulSet"}}, with_rules=True),
    a_workload("other replicas", {"template": {"spec": {"replicas": 7}}}),
    a_workload("traffic",
               traffic={"routes": [STEERED], "dns": {"hostname": "a.example"}, "rateLimits": [{"name": "a"}]}),
    a_workload("traffic to nothing", traffic={"routes": [{**STEERED, "backends": []}]}),
    a_workload("traffic to one backend twice", traffic={"routes": [{**STEERED, "backends": STEERED["backends"] * 2}]}),
    a_workload("traffic to an unknown revision",
               traffic={"routes": [{**STEERED, "backends": [{"name": "a", "cluster": "b", "revision": "old"}]}]}),
    a_workload("traffic by a negative rule", traffic={"routes": [{**STEERED, "rule": -1}]}),
    a_workload("traffic with too little headroom", traffic={"rateLimits": [{"name": "a", "headroomPercent": 9}]}),
    Sample("a workload of no template", FEDERATED_WORKLOADS, {"suspend": True}),
    Sample("an inference service", INFERENCE_SERVICES, {"predictor": {"minReplicas": 0, "model": MODEL}}),
    Sample("one with what only KServe knows", INFERENCE_SERVICES, {"predictor": {"logger": {"a": 1}, "model": MODEL}}),
    Sample("one with a field that nobody knows", INFERENCE_SERVICES, {"predictor": {"model": MODEL}, "other": 1}),
    Sample("one of no model format", INFERENCE_SERVICES, {"predictor": {"model": {"image": "a"}}}),
    Sample("one with a text for a bound", INFERENCE_SERVICES, {"predictor": {"minReplicas": "2", "model": MODEL}}),
    Sample("one with an odd measure", INFERENCE_SERVICES, {"predictor": {"scaleMetric": "luck", "model": MODEL}}),
    Sample("one of no predictor", INFERENCE_SERVICES, {"transformer": {}}),
    Sample("one whose bound is taken away", INFERENCE_SERVICES, {"predictor": {"minReplicas": 2, "model": MODEL}},
           {"predictor": {"minReplicas": None, "maxReplicas": 3}}),
    Sample("a knative service", KNATIVE_SERVICES, {"template": {"spec": {"containers": [CONTAINER]}}}),
    Sample("one with pull secrets of no name", KNATIVE_SERVICES,
           {"template": {"spec": {"containers": [CONTAINER], "imagePullSecrets": [{}]}}}),
    Sample("one with a pull secret", KNATIVE_SERVICES,
           {"template": {"spec": {"containers": [CONTAINER], "imagePullSecrets": [{"name": "a"}]}}}),
    Sample("one with annotations", KNATIVE_SERVICES,
           {"template": {"metadata": {"annotations": {"a": "b"}}, "spec": {"containers": [CONTAINER]}}},
           {"template": {"metadata": {"annotations": {"a": None, "c": "d"}}}}),
    Sample("one of no containers", KNATIVE_SERVICES, {"template": {"spec": {"timeoutSeconds": 5}}}),
    Sample("one of an odd field", KNATIVE_SERVICES, {"template": {"spec": {"containers": [CONTAINER], "odd": 1}}}),
    Sample("a knative route", KNATIVE_ROUTES, {"traffic": [{"configurationName": "a", "percent": 100}]}),
    Sample("one with a text for a share", KNATIVE_ROUTES, {"traffic": [{"configurationName": "a", "percent": "100"}]}),
    Sample("one with a large number", KNATIVE_ROUTES, {"traffic": [{"configurationName": "a", "percent": 2**53 + 1}]}),
    a_limit("a rate limit", LIMIT),
    a_limit("a rate limit in an odd unit", {"limit": {"requests": 5, "unit": "Blink"}}),
    a_limit("a rate limit of nothing", {"limit": {}}),
    a_limit("a rate limit with a selector of its own", LIMIT, targetSelectors=[{"kind": "HTTPRoute"}]),
)  # fmt: skip


async def kept(api: HttpKubeApi, sample: Sample, name: str, *, owners: bool) -> str:
    """What is stored of it, or how it is refused."""
    body = {"apiVersion": sample.resource.api_version, "kind": sample.resource.kind, "metadata": {"name": name}}
    if sample.spec is not None:
        body["spec"] = copy.deepcopy(sample.spec)
    try:
        made = await api.create(sample.resource, "default", body)
        if sample.change is not None:
            made = await api.patch(sample.resource, "default", name, {"spec": sample.change})
    except ExternalError as error:
        return f"{type(error).__name__} {error.code}"
    told = {"spec": made.get("spec"), "generation": made["metadata"]["generation"]}
    if owners:
        told["owners"] = [{**one, "time": ""} for one in made["metadata"].get("managedFields") or ()]
    return json.dumps(told, sort_keys=True)


async def all_kept(api: HttpKubeApi, *, rules: bool) -> dict[str, str]:
    for name, definition in ALL.items():
        await api.create(CRDS, "", definition)
        await until(partial(established, api, name), f"{name} is established")
    found = {}
    for at, sample in enumerate(SAMPLES):
        await until(partial(_served, api, sample.resource), f"{sample.resource.plural} are served")
        if rules or not sample.rules:
            found[sample.what] = await kept(api, sample, f"sample-{at}", owners=rules)
    return found


async def _served(api: HttpKubeApi, resource: Resource) -> bool:
    try:
        await api.list(resource)
    except ExternalError:
        return False
    return True


@pytest.mark.parametrize("variant", ["real", NEWER])
async def test_every_object_is_kept_alike(tmp_path: Path, variant: str) -> None:
    async with AsyncExitStack() as stack:
        theirs_api = await one_api(variant, tmp_path / "theirs", stack)
        ours_api = await one_api("emulated", tmp_path / "ours", stack)
        assets = find_assets()
        assert not isinstance(assets, str)
        rules = variant == NEWER or assets.version >= _RULES
        theirs, ours = [await all_kept(api, rules=rules) for api in (theirs_api, ours_api)]
    differ = {what: (ours[what], told) for what, told in theirs.items() if ours[what] != told}
    assert not differ, "\n".join(f"{what}:\n  ours   {one}\n  theirs {two}" for what, (one, two) in differ.items())


async def test_replicas_set_through_scale_are_told_alike(tmp_path: Path) -> None:
    """In managed fields, which tell an autoscaler (clusters/kinds/templates/_replicated.py)."""
    definition = {
        "apiVersion": CRDS.api_version,
        "kind": CRDS.kind,
        "metadata": {"name": "crews.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "crews", "singular": "crew", "kind": "Crew", "listKind": "CrewList"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
                    "subresources": {
                        "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
                    },
                }
            ],
        },
    }
    crews = Resource("example.com", "v1", "crews", "Crew")
    told = []
    async with AsyncExitStack() as stack:
        for variant in (NEWER, "emulated"):
            api = await one_api(variant, tmp_path / variant, stack)
            await api.create(CRDS, "", definition)
            await until(partial(_served, api, crews), "crews are served")
            body = {"apiVersion": "example.com/v1", "kind": "Crew", "metadata": {"name": "a"}, "spec": {"replicas": 2}}
            await api.create(crews, "default", body)
            path = "/apis/example.com/v1/namespaces/default/crews/a/scale"
            asked = json.loads((await api.exchange("GET", path))[0])
            asked["spec"]["replicas"] = 5
            await api.exchange("PUT", f"{path}?fieldManager=hpa", json.dumps(asked).encode())
            made = await api.get(crews, "default", "a")
            assert made["spec"]["replicas"] == 5
            entries = [{**one, "time": ""} for one in made["metadata"]["managedFields"]]
            told.append((made["metadata"]["generation"], sorted(entries, key=lambda one: str(one["manager"]))))
    assert told[1] == told[0]
