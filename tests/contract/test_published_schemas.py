"""What is written of other projects' objects fits their published schemas, by another validator than the sandbox's.

The definitions in `tests/crds` and the demo's HTTPRoute are the published ones, reduced to what is used. What a schema
leaves to its project's webhook is asked for here: it is quoted beside each question.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator

from clusters.kinds.templates import Template
from clusters.sandbox.apiserver.patch import merge
from scheduler.cli.demo import manifests
from scheduler.daemon.services import routes
from scheduler.daemon.services.traffic_spec import traffic_of
from scheduler.model import contract
from scheduler.model.ids import ClusterId, Uid
from scheduler.model.ports import Resource
from scheduler.model.serving import TrafficWeight, apportion
from tests.contract.test_parts import a_target, made_part, revision_of
from tests.contract.test_templates import TEMPLATES, made_copy, refreshed, sample
from tests.unit.test_kinds_federatedworkload import federated

DEFINITIONS = {
    contract.HTTP_ROUTES: manifests.route_definition(),
    **{
        resource: yaml.safe_load((Path(__file__).parents[1] / "crds" / f"{name}.yaml").read_text("utf-8"))
        for resource, name in (
            (contract.BACKEND_TRAFFIC_POLICIES, "backendtrafficpolicies"),
            (contract.KNATIVE_ROUTES, "knativeroutes"),
            (contract.KNATIVE_SERVICES, "knativeservices"),
            (contract.INFERENCE_SERVICES, "inferenceservices"),
        )
    },
}
KUBERNETES = "1.34"
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""Names of Knative's and KServe's objects, for they are parts of host names."""
OPEN = "x-kubernetes-preserve-unknown-fields"
MEMBERS = ("onprem", "eks", "gke", "aks")


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as JSON Schema in which a field that is not told of is an error, as an API server says it is where
    fields are validated strictly."""
    made = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-") and key != "default"}
    if "properties" in schema:
        made["properties"] = {name: closed(inner) for name, inner in schema["properties"].items()}
        made["additionalProperties"] = bool(schema.get(OPEN))
    if isinstance(schema.get("items"), Mapping):
        made["items"] = closed(schema["items"])
    return made


def problems(resource: Resource, document: Mapping[str, Any]) -> list[str]:
    definition = DEFINITIONS[resource]
    schema = closed(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    schema["required"] = [*schema.get("required", ()), "apiVersion", "kind", "metadata"]
    found = Draft4Validator(schema).iter_errors(document)
    return [f"{'/'.join(map(str, one.absolute_path))}: {one.message}" for one in found]


def http_route(*backends: tuple[str, int]) -> dict[str, Any]:
    refs = [{"name": name, "port": 80, "weight": weight} for name, weight in backends]
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "filters": [{"type": "URLRewrite", "urlRewrite": {"hostname": "chat.internal"}}],
        "timeouts": {"request": "30s"},
        "backendRefs": refs,
    }
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "chat", "namespace": "default", "resourceVersion": "7"},
        "spec": {"parentRefs": [{"name": "gateway"}], "hostnames": ["chat.example.com"], "rules": [rule]},
    }


def traffic_policy(scope: str, unit: str) -> dict[str, Any]:
    rules = [{"limit": {"requests": 10, "unit": unit}}]
    target = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "chat"}
    return {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "BackendTrafficPolicy",
        "metadata": {"name": "chat", "namespace": "default", "resourceVersion": "7"},
        "spec": {"targetRefs": [target], "rateLimit": {scope: {"rules": rules}}},
    }


@pytest.mark.parametrize("resource", DEFINITIONS, ids=lambda resource: str(resource.key))
def test_what_is_asked_for_is_what_is_defined(resource: Resource) -> None:
    definition = DEFINITIONS[resource]
    (version,) = definition["spec"]["versions"]
    names = definition["spec"]["names"]
    said = (definition["spec"]["group"], version["name"], names["plural"], names["kind"])
    assert said == (resource.group, resource.version, resource.plural, resource.kind)
    assert definition["metadata"]["name"] == f"{resource.plural}.{resource.group}"


def test_the_validator_refuses_what_an_api_server_would() -> None:
    """Or the other tests would prove nothing."""
    assert problems(contract.HTTP_ROUTES, http_route(("a", 1))) == []
    (heavy,) = problems(contract.HTTP_ROUTES, http_route(("a", 1_000_001)))
    assert "spec/rules/0/backendRefs/0/weight" in heavy
    unknown = http_route(("a", 1))
    unknown["spec"]["rules"][0]["backends"] = []
    assert len(problems(contract.HTTP_ROUTES, unknown)) == 1
    policy = traffic_policy("local", "Second")
    del policy["spec"]["targetRefs"][0]["group"]
    assert len(problems(contract.BACKEND_TRAFFIC_POLICIES, policy)) == 1


@given(st.lists(st.integers(0, 1000), min_size=4, max_size=4))
def test_a_route_with_our_weights_fits(shares: Sequence[int]) -> None:
    backends = [{"name": f"chat-{name}", "cluster": name} for name in MEMBERS]
    spec = traffic_of({"spec": {"traffic": {"routes": [{"name": "chat", "backends": backends}]}}})
    weights = [TrafficWeight(ClusterId(name), "r1", share) for name, share in zip(MEMBERS, shares, strict=True)]
    wanted = routes.wanted_weights(spec.routes[0], apportion(weights, 1000), "r1")
    assert sum(wanted) == (1000 if any(shares) else 0)
    raw = http_route(*((f"chat-{name}", 1) for name in MEMBERS))
    patch = routes.route_patch(raw, spec.routes[0], wanted)
    assert patch is not None
    after = merge(copy.deepcopy(raw), patch)
    assert problems(contract.HTTP_ROUTES, after) == []
    assert tuple(one["weight"] for one in after["spec"]["rules"][0]["backendRefs"]) == wanted
    assert [{**one, "backendRefs": 0} for one in after["spec"]["rules"]] == [
        {**one, "backendRefs": 0} for one in raw["spec"]["rules"]
    ]


def test_the_demos_route_fits() -> None:
    made = manifests.route(MEMBERS)
    assert problems(contract.HTTP_ROUTES, made) == []
    # Gateway API: "Must have port for Service reference"; the schema says so by a CEL rule, which this validator skips.
    assert all("port" in one for rule in made["spec"]["rules"] for one in rule["backendRefs"])


@given(
    st.floats(0.001, 1e12), st.sampled_from(["global", "local"]), st.sampled_from(["Second", "Minute", "Hour", "Day"])
)
def test_a_limit_of_ours_fits(ready: float, scope: str, unit: str) -> None:
    spec = traffic_of({"spec": {"traffic": {"rateLimits": [{"name": "chat", "headroomPercent": 120}]}}})
    raw = traffic_policy(scope, unit)
    patch = routes.limit_patch(raw, spec.rate_limits[0], ready)
    after = merge(copy.deepcopy(raw), patch) if patch is not None else raw
    assert problems(contract.BACKEND_TRAFFIC_POLICIES, after) == []
    # A limit is an unsigned 32-bit number to Envoy's rate limit service.
    assert 1 <= after["spec"]["rateLimit"][scope]["rules"][0]["limit"]["requests"] < 2**32


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20))
def test_a_knative_route_fits_and_its_webhook_takes_it(shares: Sequence[int]) -> None:
    parts = [TrafficWeight(ClusterId("onprem"), f"chat-{number}", share) for number, share in enumerate(shares)]
    owner = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "chat-0", "uid": "u"}
    made = routes.knative_route("chat", "default", Uid("uid"), parts, [owner])
    assert problems(contract.KNATIVE_ROUTES, made) == []
    traffic = made["spec"]["traffic"]
    if any(shares):
        # "Traffic targets sum to %d, want 100"
        assert sum(one["percent"] for one in traffic) == 100
    for one in traffic:
        assert 0 <= one["percent"] <= 100
        # A target without a revision's name names a configuration; a url is disallowed in spec.
        assert set(one) == {"configurationName", "percent"}
        assert DNS_1035.fullmatch(one["configurationName"])


def test_what_knatives_webhook_adds_to_a_route_is_no_difference() -> None:
    """It sets latestRevision of each target that names no revision, and annotations of who wrote it."""
    parts = [TrafficWeight(ClusterId("onprem"), "chat-a", 3), TrafficWeight(ClusterId("onprem"), "chat-b", 1)]
    owner = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "name": "chat-a", "uid": "u"}
    made = routes.knative_route("chat", "default", Uid("uid"), parts, [owner])
    there = copy.deepcopy(made)
    there["metadata"] |= {"resourceVersion": "9", "annotations": {"serving.knative.dev/creator": "overspill"}}
    for one in there["spec"]["traffic"]:
        one["latestRevision"] = True
    assert routes.knative_patch(there, made) is None
    there["spec"]["traffic"][0]["percent"] = 50
    patch = routes.knative_patch(there, made)
    assert patch is not None
    assert problems(contract.KNATIVE_ROUTES, merge(there, patch)) == []


@pytest.fixture(params=sorted(TEMPLATES))
def template(request: pytest.FixtureRequest) -> Template:
    return TEMPLATES[request.param]


def fits(template: Template, made: Mapping[str, Any]) -> None:
    """By its project's schema and, in what is ours, by its webhook."""
    if not template.resource.custom:
        kubernetes_validate.validate(made, KUBERNETES, strict=True)
        return
    assert problems(template.resource, made) == []
    assert DNS_1035.fullmatch(made["metadata"]["name"])
    scale = template.scale(made)
    assert scale.most is None or 0 <= scale.least <= scale.most


def test_copies_and_parts_fit_whatever_is_done_to_them(template: Template) -> None:
    obj = federated(sample(template.name))
    target = a_target(template, revision_of(obj).name, 6)
    for made in (made_copy(obj), made_part(template, obj, 2)):
        fits(template, made)
        scaled = template.scale_patch(made, 6, target.bounds)
        assert scaled is not None
        fits(template, merge(copy.deepcopy(made), scaled))
        stopped = merge(copy.deepcopy(made), template.suspend_patch(made, suspend=True))
        fits(template, stopped)
        fits(template, merge(copy.deepcopy(stopped), template.suspend_patch(stopped, suspend=False)))


def test_a_copy_made_anew_of_what_changed_fits(template: Template) -> None:
    plain = sample(template.name)
    changed = federated(template.scaled(plain, 4, (2, 6)))
    made = made_copy(federated(plain))
    patch = refreshed(changed, made)
    assert patch is not None
    fits(template, merge(made, patch))
