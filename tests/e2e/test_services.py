"""Services divided over clusters, over emulated and over real Kubernetes APIs: every kind, its traffic, its rollouts,
its dependents, the loss of a cluster, a definition that is missing, measurements that lie, another's autoscaler.

The real ones run when $KUBEBUILDER_ASSETS names a folder with etcd and kube-apiserver. What is measured is played.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import pytest_asyncio

from scheduler.daemon.deployed import documents
from scheduler.model.contract import (
    CONDITION_SERVING,
    CONDITION_TRAFFIC,
    CONFIG_MAPS,
    CRDS,
    DEPLOYMENTS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    KNATIVE_ROUTES,
    KNATIVE_SERVICES,
)
from scheduler.model.errors import AlreadyExistsError, NotFoundError
from scheduler.model.ports import Resource
from scheduler.model.serving import CanaryVerdict
from tests.builders import rbac
from tests.e2e.federations import VARIANTS, Federation
from tests.e2e.services import (
    LITTLE,
    MUCH,
    QUICK,
    RESOURCES,
    TWO_CLUSTERS,
    WHOLE,
    a_serving_federation,
    at_home,
    burst,
    divided,
    made_of,
    parts,
    ready_on,
    remove,
    revisions,
    says,
    served,
    until_ready,
)
from tests.loop import test_behaviours_dependents as dependents
from tests.loop import test_behaviours_templates as templates
from tests.loop.harness import until
from tests.loop.services import Played, condition, patch, serving, status, submit

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(VARIANTS))
async def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    async with a_serving_federation(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.mark.parametrize("name", sorted(RESOURCES))
async def test_each_kind_bursts_and_returns_sleeps_and_goes(federation: Federation, name: str) -> None:
    played, resource = Played(LITTLE), RESOURCES[name]
    async with divided(federation, played):
        uid = await submit(federation, made_of(name))
        await at_home(federation)
        assert (await condition(federation))["status"] == "True"
        played.per_second = MUCH
        found = await burst(federation)
        told = await status(federation)
        assert told["readyReplicas"] == sum(found.values())
        assert sorted(one["name"] for one in told["clusters"]) == ["eks", "onprem"]
        assert all(bool(one.get("url")) == resource.custom for one in told["clusters"])
        assert set(await parts(federation, resource, uid)) == {"eks", "onprem"}
        played.per_second = LITTLE
        await at_home(federation)
        await until(lambda: _only_on(federation, resource, uid, "onprem"), "its part in the cloud is gone")
        await patch(federation, {"spec": {"suspend": True}})
        await until(lambda: _only_on(federation, resource, uid), "suspended, it runs nowhere")
        await patch(federation, {"spec": {"suspend": False}})
        await at_home(federation)
        await remove(federation, resource, uid)


async def _only_on(federation: Federation, resource: Resource, uid: str, *members: str) -> bool:
    return set(await parts(federation, resource, uid)) == set(members)


@pytest.mark.parametrize("name", sorted(RESOURCES))
async def test_a_new_revision_takes_over_and_a_bad_one_is_taken_back(federation: Federation, name: str) -> None:
    played, resource = Played(4.0), RESOURCES[name]
    async with divided(federation, played):
        uid = await submit(federation, made_of(name))
        await until_ready(federation, lambda found: found.get("onprem", 0) >= 4, "it carries enough")
        played.verdicts[""] = CanaryVerdict("", "bad", "latency +40 % at the same load", 100)
        await patch(federation, {"spec": {"template": made_of(name, "vllm:bad")}})
        await until(lambda: says(federation, CONDITION_SERVING, "RolledBack", "+40 %"), "it is taken back")
        await until(lambda: _is(federation, resource, uid, "vllm:1"), "the old one serves alone")
        del played.verdicts[""]
        await patch(federation, {"spec": {"template": made_of(name, "vllm:2")}})
        await until(lambda: _is(federation, resource, uid, "vllm:1", "vllm:2"), "both stand side by side")
        played.verdicts[""] = CanaryVerdict("", "good", "the same", 100)
        await until(lambda: _is(federation, resource, uid, "vllm:2"), "the new one has taken over")
        await until_ready(federation, lambda found: sum(found.values()) >= 3, "and carries it")
        await remove(federation, resource, uid)


async def _is(federation: Federation, resource: Resource, uid: str, *images: str) -> bool:
    return await revisions(federation, resource, uid) == set(images)


def a_route(federation: Federation) -> dict[str, Any]:
    refs = [{"name": f"chat-{one}", "port": 80, "weight": 1} for one in federation.members]
    return {
        "apiVersion": HTTP_ROUTES.api_version,
        "kind": HTTP_ROUTES.kind,
        "metadata": {"name": "chat", "namespace": "default"},
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"backendRefs": refs}]},
    }


def steered(federation: Federation) -> dict[str, Any]:
    backends = [{"name": f"chat-{one}", "cluster": one} for one in federation.members]
    return {"routes": [{"name": "chat", "backends": backends}]}


async def test_weights_of_a_route_follow_over_clusters(federation: Federation) -> None:
    async def weights(onprem: Callable[[int], bool], eks: Callable[[int], bool]) -> bool:
        raw = await federation.hub.get(HTTP_ROUTES, "default", "chat")
        now = {one["name"]: one["weight"] for one in raw["spec"]["rules"][0]["backendRefs"]}
        return onprem(now["chat-onprem"]) and eks(now["chat-eks"])

    played = Played(LITTLE)
    async with divided(federation, played):
        uid = await submit(federation, spec={"traffic": steered(federation)})
        await at_home(federation)
        await until(
            lambda: says(federation, CONDITION_TRAFFIC, "TrafficNotSet", "no HTTPRoute"), "the route is missing"
        )
        await federation.hub.create(HTTP_ROUTES, "default", a_route(federation))
        await until(lambda: says(federation, CONDITION_TRAFFIC, "WeightsSet"), "it is found and set")
        assert await weights(lambda one: one == 1000, lambda one: one == 0)
        played.per_second = MUCH
        await burst(federation)
        await until(lambda: weights(lambda one: 0 < one < 1000, lambda one: one > 0), "requests go to both")
        played.per_second = LITTLE
        await until(lambda: weights(lambda one: one == 1000, lambda one: one == 0), "and to on-prem alone")
        await at_home(federation)
        await remove(federation, DEPLOYMENTS, uid)
    await federation.hub.delete(HTTP_ROUTES, "default", "chat")


async def test_a_knative_route_follows_the_revisions_of_its_service(federation: Federation) -> None:
    played = Played(LITTLE)
    async with divided(federation, played):
        uid = await submit(federation, made_of("knativeservice"), spec={"traffic": {"knativeRoute": "front"}})
        await at_home(federation)

        async def leads_to() -> set[str]:
            try:
                raw = await federation.member("onprem").get(KNATIVE_ROUTES, "default", "front")
            except NotFoundError:
                return set()
            assert sum(one["percent"] for one in raw["spec"]["traffic"]) == 100
            return {one["configurationName"] for one in raw["spec"]["traffic"]}

        (old,) = await until(leads_to, "the route is made")
        await until(lambda: says(federation, CONDITION_TRAFFIC, "WeightsSet"), "it is said")
        await patch(federation, {"spec": {"template": made_of("knativeservice", "vllm:2")}})
        played.verdicts[""] = CanaryVerdict("", "good", "the same", 100)

        async def to_the_new_one() -> bool:
            found = await leads_to()
            return len(found) == 1 and old not in found

        await until(to_the_new_one, "requests go to the new revision")
        await remove(federation, KNATIVE_SERVICES, uid)

        async def gone() -> bool:
            return not await leads_to()

        await until(gone, "the route goes with what it leads to")


async def test_a_lost_cluster_is_replaced_and_taken_back(federation: Federation) -> None:
    played = Played(4.0)
    async with divided(federation, played, TWO_CLUSTERS, limits=QUICK, ping_seconds=0.2) as daemon:
        uid = await submit(federation)
        before = await until_ready(federation, lambda found: set(found) == {"onprem", "eks"}, "in both")
        federation.servers["onprem"].fall_silent()
        try:
            await until(lambda: serving(federation, "ClusterLost"), "it says so")
            lost_at = daemon.outside.clock.now()

            async def restored() -> bool:
                return (await ready_on(federation)).get("eks", 0) >= sum(before.values())

            await until(restored, "its share is ready elsewhere")
            assert daemon.outside.clock.now() - lost_at < 45.0
        finally:
            federation.servers["onprem"].speak()
        await until_ready(federation, lambda found: found == before, "back as it was")
        await remove(federation, DEPLOYMENTS, uid)


async def test_a_member_without_the_definition_is_left_out_until_it_has_it(federation: Federation) -> None:
    onprem = federation.member("onprem")
    definition = f"{INFERENCE_SERVICES.plural}.{INFERENCE_SERVICES.group}"
    await onprem.delete(CRDS, "", definition)

    async def missing() -> bool:
        return not await served(onprem, INFERENCE_SERVICES)

    await until(missing, "on-prem knows it no more")
    async with divided(federation, Played(LITTLE)):
        uid = await submit(federation, made_of("inferenceservice"))
        await until_ready(federation, lambda found: found == {"eks": 2}, "where the kind is known")
        lacks = f"no {definition} in onprem"

        async def told() -> bool:
            return lacks in (await condition(federation)).get("message", "")

        await until(told, "it says where it is not")
        await templates.define(onprem)
        await until_ready(federation, lambda found: found == {"onprem": 2}, "once it is there, it comes home")
        await remove(federation, INFERENCE_SERVICES, uid)


async def test_what_is_measured_wrong_or_promised_in_vain_keeps_what_runs(federation: Federation) -> None:
    vain = WHOLE.replace("maxReclaimableShare: 0", "maxReclaimableShare: 0\n    maxProviderShare: 0.4")
    played = Played(4.0)
    async with divided(federation, played) as daemon:
        uid = await submit(federation)
        before = await until_ready(federation, lambda found: found.get("onprem", 0) >= 4, "it carries enough")
        names = {raw["metadata"]["uid"] for raw in (await parts(federation, DEPLOYMENTS, uid))["onprem"]}

        async def kept(reason: str) -> None:
            await until(lambda: serving(federation, reason), reason)
            looks, since = daemon.services.keeper.looks, time.monotonic()
            await until(lambda: daemon.services.keeper.looks > looks + 5 and time.monotonic() > since + 4, "looks")
            assert await ready_on(federation) == before
            found = await parts(federation, DEPLOYMENTS, uid)
            assert {raw["metadata"]["uid"] for raw in found["onprem"]} == names

        played.per_second = -6.0
        await kept("ImplausibleMetrics")
        played.per_second = 1e9
        await kept("ImplausibleMetrics")
        policies, sound = daemon.outside.policies, daemon.outside.policies.current
        (federation.policies / "policies.yaml").write_text(vain)
        # Before anything is measured that the sound policy could be followed by.
        await until(lambda: policies.current is not sound, "the policy is read")
        played.per_second = LITTLE
        await kept("ContradictorySLO")
        (federation.policies / "policies.yaml").write_text(WHOLE)
        await at_home(federation)
        await remove(federation, DEPLOYMENTS, uid)


async def test_what_sleeps_at_nothing_stays_to_be_woken(federation: Federation) -> None:
    """Knative's own autoscaler wakes it, of the Service that is there."""
    sleepy = WHOLE.replace("minReplicas: 2", "minReplicas: 1").replace("maxReplicas: 20", "zeroAfter: 1s")
    template = templates.knative(replicas=0)
    played = Played(LITTLE)
    async with divided(federation, played, sleepy) as daemon:
        uid = await submit(federation, template)
        await at_home(federation)
        played.per_second, played.last_request_at = 0.0, daemon.outside.clock.now()
        await until(lambda: serving(federation, "ScaledToZero"), "it says that nobody asks")
        await until_ready(federation, lambda found: not found, "nothing of it runs")
        (copy,) = (await parts(federation, KNATIVE_SERVICES, uid))["onprem"]
        bounds = copy["spec"]["template"]["metadata"]["annotations"]
        assert bounds["autoscaling.knative.dev/min-scale"] == "0"
        assert int(bounds["autoscaling.knative.dev/max-scale"]) >= 1
        played.per_second, played.last_request_at = LITTLE, daemon.outside.clock.now()
        await at_home(federation)
        (awake,) = (await parts(federation, KNATIVE_SERVICES, uid))["onprem"]
        assert awake["metadata"]["uid"] == copy["metadata"]["uid"], "the same one"
        await remove(federation, KNATIVE_SERVICES, uid)


@pytest.mark.parametrize("name", ["deployment", "statefulset"])
@pytest.mark.parametrize("said", [True, False], ids=["replicas said", "replicas left out"])
async def test_replicas_that_an_autoscaler_sets_are_kept(federation: Federation, name: str, said: bool) -> None:
    """As an HPA does it, by the scale subresource."""
    resource, template = RESOURCES[name], made_of(name)
    if said:
        federation.needs_owners_of_fields()
    else:
        del template["spec"]["replicas"]
    played = Played(LITTLE)
    async with divided(federation, played) as daemon:
        uid = await submit(federation, template)
        await until_ready(federation, lambda found: found.get("onprem", 0) >= 1, "it serves")
        (copy,) = (await parts(federation, resource, uid))["onprem"]
        await scale(federation, resource, copy["metadata"]["name"], 3)
        await until_ready(federation, lambda found: found == {"onprem": 3}, "its autoscaler's number")
        await until(lambda: _owned(federation), "it says whose they are")
        looks = daemon.services.keeper.looks
        await until(lambda: daemon.services.keeper.looks > looks + 5, "looks")
        (copy,) = (await parts(federation, resource, uid))["onprem"]
        assert copy["spec"]["replicas"] == 3
        await remove(federation, resource, uid)


async def _owned(federation: Federation) -> bool:
    return "owns the replicas" in (await condition(federation)).get("message", "")


async def scale(federation: Federation, resource: Resource, name: str, replicas: int) -> None:
    path = f"/apis/{resource.group}/{resource.version}/namespaces/default/{resource.plural}/{name}/scale"
    api = federation.member("onprem")
    body, _ = await api.exchange("GET", path)
    asked = json.loads(body)
    asked["spec"]["replicas"] = replicas
    await api.exchange("PUT", f"{path}?fieldManager=kube-controller-manager", json.dumps(asked).encode())


async def test_what_its_pods_need_follows_to_every_cluster_and_goes_with_it(federation: Federation) -> None:
    played = Played(MUCH)
    async with divided(federation, played, dependents=dependents.ALL) as daemon:
        daemon.reconciler.dependents.look_seconds = 0.2
        await dependents.make_all(federation.hub)
        template = dependents.whole()
        template["spec"]["template"]["spec"]["containers"][0]["image"] = "vllm:1"
        uid = await submit(federation, template)
        await burst(federation)
        want = {"ConfigMap/settings", "Secret/login", "Secret/registry", "ServiceAccount/runner"}
        claim = {"PersistentVolumeClaim/models"}
        for one in federation.members:
            assert await dependents.ours(federation.member(one)) == want | claim
        await federation.hub.patch(CONFIG_MAPS, "default", "settings", {"data": {"size": "16"}})

        async def carried() -> bool:
            found = [await federation.member(one).get(CONFIG_MAPS, "default", "settings")
                     for one in federation.members]  # fmt: skip
            return all(one["data"] == {"size": "16"} for one in found)

        await until(carried, "a change is carried over")
        played.per_second = LITTLE
        await until(lambda: _has(federation, "eks", claim), "they leave the cloud with the last part there")
        assert await dependents.ours(federation.member("onprem")) == want | claim
        await remove(federation, DEPLOYMENTS, uid)
        await until(lambda: _has(federation, "onprem", claim), "and go with it")


async def _has(federation: Federation, member: str, want: set[str]) -> bool:
    return await dependents.ours(federation.member(member)) == want


async def allow(federation: Federation) -> None:
    """What the deployment grants for all of this."""
    await rbac.apply(federation.hub, rbac.manifests("hub"))
    for name in ("hub-traffic.yaml", "hub-dependents.yaml"):
        await rbac.apply(federation.hub, documents("rbac", name))
    for one in federation.members:
        await rbac.apply(federation.member(one), rbac.manifests("member"))
        for name in ("member-traffic.yaml", "member-dependents.yaml"):
            await rbac.apply(federation.member(one), documents("rbac", name))


async def test_the_roles_of_the_deployment_suffice(federation: Federation) -> None:
    """As the API servers judge them: a service with dependents and a route, and one of Knative with its own."""
    await allow(federation)
    with contextlib.suppress(AlreadyExistsError):
        await dependents.make_all(federation.hub)
    await federation.hub.create(HTTP_ROUTES, "default", a_route(federation))
    played = Played(LITTLE)
    async with divided(federation, played, dependents=dependents.ALL, restricted=True):
        uid = await submit(federation, dependents.whole(), spec={"traffic": steered(federation)})
        await at_home(federation)
        await until(lambda: says(federation, CONDITION_TRAFFIC, "WeightsSet"), "its route is set")
        played.per_second = MUCH
        await burst(federation)
        played.per_second = LITTLE
        await at_home(federation)
        await remove(federation, DEPLOYMENTS, uid)
        uid = await submit(federation, made_of("knativeservice"), spec={"traffic": {"knativeRoute": "front"}})
        await at_home(federation)
        await until(lambda: says(federation, CONDITION_TRAFFIC, "WeightsSet"), "its route is made")
        await remove(federation, KNATIVE_SERVICES, uid)
    await federation.hub.delete(HTTP_ROUTES, "default", "chat")
