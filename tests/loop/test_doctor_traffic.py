"""`overspill doctor` on what services name in spec.traffic: definitions, objects, their form, rights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.cli.demo.manifests import route_definition
from scheduler.daemon.deployed import documents
from scheduler.daemon.doctor import FAIL, OK, WARN
from scheduler.model.contract import BACKEND_TRAFFIC_POLICIES, CRDS, HTTP_ROUTES, SERVICES
from tests.builders import rbac
from tests.loop.harness import POLICIES, World
from tests.loop.services import SLO, a_serving_world, submit
from tests.loop.test_doctor import examined, of

CRDS_FOLDER = Path(__file__).parents[1] / "crds"
BACKENDS = [
    {"name": "chat-new", "cluster": "onprem", "revision": "current"},
    {"name": "chat-eks", "cluster": "eks"},
]
TRAFFIC: dict[str, Any] = {
    "routes": [{"name": "front", "backends": BACKENDS}],
    "rateLimits": [{"name": "front"}],
    "knativeRoute": "chat",
    "dns": {"hostname": "chat.example"},
}


async def define(world: World, cluster: str, *names: str) -> None:
    api = world.sandbox.servers[cluster].local
    for name in names:
        await api.create(CRDS, "", yaml.safe_load((CRDS_FOLDER / f"{name}.yaml").read_text("utf-8")))


async def make_all(world: World, *, unit: str = "Second", backends: tuple[str, ...] = ("chat-new", "chat-eks")) -> None:
    """Everything that is named, and rights to it."""
    await world.hub.create(CRDS, "", route_definition())
    await define(world, "hub", "backendtrafficpolicies")
    for member in ("onprem", "eks"):
        await define(world, member, "knativeroutes")
        await rbac.apply(world.member(member), documents("rbac", "member-traffic.yaml"))
    await rbac.apply(world.hub, documents("rbac", "hub-traffic.yaml"))
    refs = [{"name": name, "port": 80} for name in backends]
    meta = {"name": "front", "namespace": "default"}
    await world.hub.create(HTTP_ROUTES, "default", {"metadata": meta, "spec": {"rules": [{"backendRefs": refs}]}})
    target = {"group": HTTP_ROUTES.group, "kind": "HTTPRoute", "name": "front"}
    limits = {"local": {"rules": [{"limit": {"requests": 10, "unit": unit}}]}}
    spec = {"targetRefs": [target], "rateLimit": limits}
    await world.hub.create(BACKEND_TRAFFIC_POLICIES, "default", {"metadata": meta, "spec": spec})
    port = {"selector": {"app": "chat"}, "ports": [{"port": 80}]}
    await world.member("onprem").create(SERVICES, "default", {"metadata": {"name": "chat-new"}, "spec": port})


def hook(world: World) -> None:
    """The federation file names one for DNS."""
    document = yaml.safe_load(world.sandbox.federation_file.read_text())
    token = world.folder / "dns-token"
    token.write_text("secret")
    document["spec"]["dnsWeights"] = {"url": "http://127.0.0.1:1/weights", "tokenFile": str(token)}
    world.sandbox.federation_file.write_text(yaml.safe_dump(document))


async def test_where_no_service_steers_requests_no_more_rights_are_asked_for(tmp_path: Path) -> None:
    async with a_serving_world(tmp_path) as world:
        await rbac.restrict(world.sandbox)
        await submit(world)
        findings = await examined(world, policies=world.policies)
        (told,) = of(findings, "traffic", OK)
        assert told.what == "no service names anything in spec.traffic"
        assert not any("traffic" in one.line for one in findings if one.state != OK)


async def test_all_is_well_where_everything_is_there(tmp_path: Path) -> None:
    async with a_serving_world(tmp_path) as world:
        await rbac.restrict(world.sandbox)
        await make_all(world)
        hook(world)
        await submit(world, spec={"traffic": TRAFFIC})
        findings = await examined(world, policies=world.policies)
        assert [one.line for one in findings if one.state == FAIL and "cloud" not in one.area] == []
        assert not of(findings, "traffic", WARN)
        told = {one.what for one in of(findings, "hub", OK)}
        assert "2 objects that services name in spec.traffic are there" in told
        assert "may do all 4 things of deploy/rbac/hub-traffic.yaml" in told
        assert "may do all 5 things of deploy/rbac/member-traffic.yaml" in {
            one.what for one in of(findings, "onprem", OK)
        }


async def test_each_thing_that_is_missing_is_one_line_with_its_remedy(tmp_path: Path) -> None:
    async with a_serving_world(tmp_path) as world:
        await rbac.restrict(world.sandbox)
        await submit(world, spec={"traffic": TRAFFIC})
        findings = await examined(world, policies=world.policies)
        (dns,) = of(findings, "traffic", FAIL)
        assert dns.what == "default/chat: spec.traffic.dns, but the federation file has no dnsWeights"
        assert {(one.what, one.remedy) for one in of(findings, "hub", FAIL)} == {
            (
                "HTTPRoutes of gateway.networking.k8s.io are not served; default/chat name them",
                "install the Gateway API's CRDs, or take it out of spec.traffic",
            ),
            (
                "BackendTrafficPolicys of gateway.envoyproxy.io are not served; default/chat name them",
                "install Envoy Gateway's CRDs, or take it out of spec.traffic",
            ),
        }
        assert {one.what for one in of(findings, "onprem", FAIL)} == {
            "may not get services",
            "may not patch services",
        }
        (knative,) = [one for one in of(findings, "onprem", WARN) if "Routes" in one.what]
        assert knative.remedy == "install Knative Serving, or take it out of spec.traffic"
        remedies = {one.remedy for one in of(findings, "onprem", FAIL)}
        assert remedies == {"kubectl --context onprem apply -f deploy/rbac/member-traffic.yaml"}


async def test_objects_that_are_not_there_and_rights_that_are_not_given(tmp_path: Path) -> None:
    async with a_serving_world(tmp_path) as world:
        await world.hub.create(CRDS, "", route_definition())
        await submit(world, spec={"traffic": {"routes": TRAFFIC["routes"]}})
        findings = await examined(world)
        assert [one.line for one in of(findings, "hub", FAIL)] == [
            "fail  hub  no HTTPRoute default/front of default/chat  -> make it, or take it out of spec.traffic"
        ]
        assert [one.what for one in of(findings, "onprem", FAIL)] == ["no Service default/chat-new of default/chat"]
        await rbac.restrict(world.sandbox)
        findings = await examined(world)
        assert [one.what for one in of(findings, "hub", FAIL)] == [
            "may not get httproutes.gateway.networking.k8s.io",
            "may not patch httproutes.gateway.networking.k8s.io",
        ]
        assert not of(await examined(world, shadow=True), "hub", FAIL), "in shadow mode nothing is set"


@pytest.mark.parametrize(
    ("made", "want"),
    [
        ({"backends": ("chat-new",)}, "HTTPRoute front in hub: rule 0 has no backendRef chat-eks; add it"),
        ({"unit": "Month"}, "BackendTrafficPolicy front in hub: rule 0 has no limit by Second, Minute, Hour, Day"),
    ],
)
async def test_objects_of_another_form_than_is_asked_for(tmp_path: Path, made: dict[str, Any], want: str) -> None:
    async with a_serving_world(tmp_path) as world:
        await make_all(world, **made)
        await submit(world, spec={"traffic": {"routes": TRAFFIC["routes"], "rateLimits": TRAFFIC["rateLimits"]}})
        (found,) = of(await examined(world), "hub", FAIL)
        assert found.what.startswith(f"default/chat: {want}")
        assert found.remedy == "correct it, or what spec.traffic says of it"


async def test_what_no_slo_matches_and_what_names_no_cluster(tmp_path: Path) -> None:
    policies = POLICIES + SLO.replace("app: chat", "app: other")
    async with a_serving_world(tmp_path, policies) as world:
        backends = [{"name": "chat-nowhere", "cluster": "nowhere", "revision": "current"}]
        await world.hub.create(CRDS, "", route_definition())
        await submit(world, spec={"traffic": {"routes": [{"name": "front", "backends": backends}]}})
        findings = await examined(world, policies=world.policies)
        (unmatched,) = of(findings, "traffic", WARN)
        assert unmatched.what.endswith("no ServingSLO matches it: nothing is set for it")
        (unknown,) = of(findings, "traffic", FAIL)
        assert unknown.what == "default/chat: spec.traffic names a cluster 'nowhere'"
        assert unknown.remedy == "there are hub, onprem, eks"
