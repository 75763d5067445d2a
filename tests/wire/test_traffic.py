"""Requests follow ready capacity through standard objects, over a Kubernetes API: the sandbox's, and a real one where
KUBEBUILDER_ASSETS names one. Definitions are the published ones, reduced to what is used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from clusters.clock import SharedClock
from clusters.kubernetes.client import HttpKubeApi
from scheduler.daemon.leading.fence import FencedApi
from scheduler.daemon.services.replicas import Places
from scheduler.daemon.services.traffic import Traffic
from scheduler.daemon.state.mirror import HubEntry, Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.contract import (
    BACKEND_TRAFFIC_POLICIES,
    CRDS,
    HTTP_ROUTES,
    KNATIVE_ROUTES,
    KNATIVE_SERVICES,
    LABEL_REVISION,
    SERVICES,
)
from scheduler.model.division import Division
from scheduler.model.errors import (
    AlreadyExistsError,
    ConflictError,
    ExternalError,
    FencedError,
    InvalidObjectError,
    NotFoundError,
    NotServedError,
    ThrottledError,
)
from scheduler.model.ids import ClusterId
from scheduler.model.ports import KubeApi, RawObject, Resource
from scheduler.model.serving import TrafficWeight
from scheduler.model.workload import Workload
from tests.builders.measured import REF, Hand
from tests.e2e.federations import NEWER, emulated, with_newer_definitions
from tests.e2e.real_cluster import find_assets, real_clusters
from tests.loop.harness import until

ROOT = Path(__file__).parents[2]
DEFINITIONS = (ROOT / "tests" / "crds", ROOT / "scheduler" / "cli" / "demo")
CLUSTERS = ("hub", "onprem")
GATEWAY = ("httproutes", "backendtrafficpolicies")
KNATIVE = ("knativeservices", "knativeroutes")
TARGET = {"group": HTTP_ROUTES.group, "kind": "HTTPRoute", "name": "front"}


def route(*backends: tuple[str, int | None], name: str = "front", rules: int = 1) -> dict[str, Any]:
    refs = [{"name": one, "port": 80, **({} if weight is None else {"weight": weight})} for one, weight in backends]
    rule = {
        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x-debug"]}}],
        "timeouts": {"request": "30s"},
        "backendRefs": refs,
    }
    other = {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [{"name": "web", "port": 80}]}
    return {
        "apiVersion": HTTP_ROUTES.api_version,
        "kind": "HTTPRoute",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": [*[other] * (rules - 1), rule]},
    }


def weights(**parts: int) -> tuple[TrafficWeight, ...]:
    """`onprem_r1=700` and the like."""
    split = ((name.split("_"), weight) for name, weight in parts.items())
    return tuple(TrafficWeight(ClusterId(cluster), revision, weight) for (cluster, revision), weight in split)


def division(*, ready: float | None = 20.0, **parts: int) -> Division:
    return Division(
        REF, 0.0, (), weights(**parts), (), changed=True, sentence="", solver="milp", ready_per_second=ready
    )


def by_cluster(*names: str) -> list[dict[str, str]]:
    return [{"name": f"chat-{name}", "cluster": name} for name in names]


class Lead:
    """Of one who leads until told otherwise."""

    leads = True
    seconds_left = 10.0

    def check(self) -> None:
        if not self.leads:
            raise FencedError("leads no more")


class Counting:
    """Counts the writes that leave."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self.writes = 0
        self.before_patch: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    async def patch(self, resource: Resource, namespace: str, name: str, body: RawObject, **options: Any) -> RawObject:
        if self.before_patch is not None:
            change, self.before_patch = self.before_patch, None
            await change()
        self.writes += 1
        return await self._api.patch(resource, namespace, name, body, **options)


class Steered:
    """A service whose requests are steered, and the clusters that it is on."""

    def __init__(self, apis: Mapping[str, KubeApi]) -> None:
        self.apis = apis
        self.clock, self.lead, self.current = Hand(), Lead(), "r1"
        self.traffic_spec: dict[str, Any] = {}
        self.posts: list[tuple[str, dict[str, int]]] = []
        self.refusal: ExternalError | None = None
        self.counting = {name: Counting(api) for name, api in apis.items()}
        self.copies: list[Any] = []
        self.ready: dict[str, int] = {}
        fenced = {name: FencedApi(cast("KubeApi", api), self.lead) for name, api in self.counting.items()}
        member = SimpleNamespace(
            available=True, copies_for=lambda uid: self.copies, ready_pods=lambda uid: self.ready.get(uid, 0)
        )
        places = SimpleNamespace(of_copy=lambda entry: entry.revision)
        self.telemetry = Telemetry()
        self.traffic = Traffic(
            cast("Mirror", SimpleNamespace(members={"onprem": member})),
            fenced["hub"],
            {ClusterId("onprem"): fenced["onprem"]},
            self.clock,
            self.telemetry,
            places=cast("Places", places),
            current_revision=lambda entry: self.current,
            lead=self.lead,
            hook=self,
        )

    async def post(self, ref: Any, hostname: str, weights: Mapping[ClusterId, int]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.posts.append((hostname, {str(cluster): weight for cluster, weight in weights.items()}))

    async def apply(self, made: Division) -> None:
        workload = cast("Workload", SimpleNamespace(ref=REF, intent=None))
        await self.traffic.apply(HubEntry(workload, {"spec": {"traffic": self.traffic_spec}}), made)

    async def weights_of(self, name: str = "front", cluster: str = "hub", rule: int = 0) -> dict[str, int]:
        raw = await self.apis[cluster].get(HTTP_ROUTES, "default", name)
        return {ref["name"]: ref["weight"] for ref in raw["spec"]["rules"][rule]["backendRefs"]}

    async def knative(self, name: str, revision: str, ready: int) -> None:
        """A copy as a Knative Service, with so many ready pods."""
        body = {
            "apiVersion": KNATIVE_SERVICES.api_version,
            "kind": KNATIVE_SERVICES.kind,
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"template": {"spec": {"containers": [{"image": "vllm:1"}]}}},
        }
        uid = (await self.apis["onprem"].create(KNATIVE_SERVICES, "default", body))["metadata"]["uid"]
        copy = SimpleNamespace(name=name, uid=uid, deleting=False, origin=name, owner=name)
        self.copies.append(SimpleNamespace(revision=revision, resource=KNATIVE_SERVICES, copy=copy))
        self.ready[name] = ready


async def define(api: KubeApi, *names: str) -> None:
    for name in names:
        (file,) = (folder / f"{name}.yaml" for folder in DEFINITIONS if (folder / f"{name}.yaml").exists())
        document = yaml.safe_load(file.read_text())
        await api.create(CRDS, "", document)
        words = document["spec"]
        version = words["versions"][0]["name"]
        resource = Resource(words["group"], version, words["names"]["plural"], words["names"]["kind"])

        async def served(resource: Resource = resource) -> bool:
            try:
                await api.list(resource)
            except ExternalError:
                return False
            return True

        await until(served, f"{name} are served")


@asynccontextmanager
async def steered(variant: str, folder: Path, *definitions: str) -> AsyncIterator[Steered]:
    """With these definitions on both clusters."""
    async with AsyncExitStack() as stack:
        if variant in ("real", NEWER):
            assets = find_assets()
            if isinstance(assets, str):
                pytest.skip(assets)
            real = await stack.enter_async_context(real_clusters(assets, folder / "real", CLUSTERS))
            if variant == NEWER:
                real = await with_newer_definitions(assets, folder, real, stack)
            kubeconfigs = {name: one.kubeconfig for name, one in real.items()}
        else:
            clock = SharedClock.create(folder / "clock", start=1_790_000_000.0, speed=1.0)
            kubeconfigs = {name: (await emulated(name, clock, folder, stack))[0] for name in CLUSTERS}
        apis: dict[str, KubeApi] = {}
        for name, path in kubeconfigs.items():
            api = await HttpKubeApi.connect(name=name, kubeconfig=path, context=None)
            stack.push_async_callback(api.close)
            apis[name] = api
            await define(api, *definitions)
        yield Steered(apis)


REAL = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("real", NEWER)]


@pytest.fixture(params=["emulated", *REAL])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_weights_of_a_route_follow_and_nothing_else_of_it_changes(tmp_path: Path, variant: str) -> None:
    async with steered(variant, tmp_path, *GATEWAY) as world:
        made = route(("chat-onprem", 1), ("chat-eks", None), ("another", 7), rules=2)
        before = await world.apis["hub"].create(HTTP_ROUTES, "default", made)
        world.traffic_spec = {"routes": [{"name": "front", "rule": 1, "backends": by_cluster("onprem", "eks")}]}
        assert world.traffic.weights(REF) == ()
        await world.apply(division(onprem_r1=600, onprem_r0=100, eks_r1=300))
        assert await world.weights_of(rule=1) == {"chat-onprem": 700, "chat-eks": 300, "another": 7}
        assert world.traffic.weights(REF) == tuple(sorted(weights(onprem_r1=600, onprem_r0=100, eks_r1=300)))
        after = await world.apis["hub"].get(HTTP_ROUTES, "default", "front")
        (old, was), (new, is_) = before["spec"]["rules"], after["spec"]["rules"]
        assert old == new
        assert {**was, "backendRefs": []} == {**is_, "backendRefs": []}
        assert "filters" in is_
        assert {**before["spec"], "rules": []} == {**after["spec"], "rules": []}
        # The same again writes nothing, at once or a minute later.
        for seconds in (1.0, 61.0):
            world.clock.at += seconds
            await world.apply(division(onprem_r1=600, onprem_r0=100, eks_r1=300))
        assert world.counting["hub"].writes == 1


async def test_what_others_change_is_set_right_within_a_minute_and_a_race_is_lost_once(
    tmp_path: Path, variant: str
) -> None:
    async with steered(variant, tmp_path, "httproutes") as world:
        hub = world.apis["hub"]
        await hub.create(HTTP_ROUTES, "default", route(("chat-onprem", 1), ("chat-eks", 1)))
        world.traffic_spec = {"routes": [{"name": "front", "backends": by_cluster("onprem", "eks")}]}

        async def another() -> None:
            await hub.patch(HTTP_ROUTES, "default", "front", {"metadata": {"labels": {"touched": "yes"}}})

        world.counting["hub"].before_patch = another
        await world.apply(division(onprem_r1=1000))
        assert await world.weights_of() == {"chat-onprem": 1000, "chat-eks": 0}
        raw = await hub.get(HTTP_ROUTES, "default", "front")
        assert raw["metadata"]["labels"] == {"touched": "yes"}
        refs = [{**one, "weight": 9} for one in raw["spec"]["rules"][0]["backendRefs"]]
        rules = [{**raw["spec"]["rules"][0], "backendRefs": refs}]
        await hub.patch(HTTP_ROUTES, "default", "front", {"spec": {"rules": rules}})
        world.clock.at += 61.0
        await world.apply(division(onprem_r1=1000))
        assert await world.weights_of() == {"chat-onprem": 1000, "chat-eks": 0}


async def test_where_nothing_that_a_route_leads_to_is_ready_its_weights_stay(tmp_path: Path, variant: str) -> None:
    async with steered(variant, tmp_path, "httproutes") as world:
        await world.apis["hub"].create(HTTP_ROUTES, "default", route(("chat-onprem", 5), ("chat-gke", 6)))
        world.traffic_spec = {"routes": [{"name": "front", "backends": by_cluster("onprem", "gke")}]}
        await world.apply(division(eks_r1=1000))
        await world.apply(division())
        assert await world.weights_of() == {"chat-onprem": 5, "chat-gke": 6}


async def test_what_is_missing_is_said_in_one_line_with_the_remedy_and_the_rest_is_done(
    tmp_path: Path, variant: str
) -> None:
    async with steered(variant, tmp_path) as world:
        world.traffic_spec = {
            "routes": [{"name": "front", "backends": by_cluster("onprem")}],
            "dns": {"hostname": "chat.example"},
        }
        with pytest.raises(NotServedError, match="HTTPRoutes are not served in hub: install the Gateway API's CRDs"):
            await world.apply(division(onprem_r1=1000))
        assert world.posts == [("chat.example", {"onprem": 1000})]
        assert world.traffic.weights(REF) == ()
        await define(world.apis["hub"], "httproutes")
        with pytest.raises(NotFoundError, match="no HTTPRoute default/front in hub: make it"):
            await world.apply(division(onprem_r1=1000))
        await world.apis["hub"].create(HTTP_ROUTES, "default", route(("chat-eks", 1)))
        with pytest.raises(InvalidObjectError, match="rule 0 has no backendRef chat-onprem; add it"):
            await world.apply(division(onprem_r1=1000))
        world.traffic_spec["routes"][0]["rule"] = 3
        with pytest.raises(InvalidObjectError, match="has no rule 3, but 1 of them"):
            await world.apply(division(onprem_r1=1000))
        world.traffic_spec["routes"][0] |= {"cluster": "nowhere"}
        with pytest.raises(InvalidObjectError, match="no cluster 'nowhere'; there are hub, onprem"):
            await world.apply(division(onprem_r1=1000))
        assert len(world.posts) == 1


async def test_who_leads_no_more_writes_nothing(tmp_path: Path, variant: str) -> None:
    async with steered(variant, tmp_path, "httproutes") as world:
        await world.apis["hub"].create(HTTP_ROUTES, "default", route(("chat-onprem", 1)))
        world.lead.leads = False
        for spec in (
            {"routes": [{"name": "front", "backends": by_cluster("onprem")}]},
            {"dns": {"hostname": "chat.example"}},
        ):
            world.traffic_spec = spec
            with pytest.raises(FencedError):
                await world.apply(division(onprem_r1=1000))
        assert await world.weights_of() == {"chat-onprem": 1}
        assert world.posts == []


async def test_backends_may_stand_for_revisions_and_no_request_goes_to_the_wrong_one(
    tmp_path: Path, variant: str
) -> None:
    """Services are made to select another revision only while the route gives them nothing."""
    async with steered(variant, tmp_path, "httproutes") as world:
        api = world.apis["onprem"]
        for name in ("chat-new", "chat-old"):
            spec = {"selector": {"app": "chat"}, "ports": [{"port": 80}]}
            await api.create(SERVICES, "default", {"metadata": {"name": name}, "spec": spec})
        await api.create(HTTP_ROUTES, "default", route(("chat-new", 1), ("chat-old", 0)))
        backends = [
            {"name": "chat-new", "cluster": "onprem", "revision": "current"},
            {"name": "chat-old", "cluster": "onprem", "revision": "previous"},
        ]
        world.traffic_spec = {"routes": [{"name": "front", "cluster": "onprem", "backends": backends}]}

        async def selected() -> dict[str, str | None]:
            found = {}
            for name in ("chat-new", "chat-old"):
                raw = await api.get(SERVICES, "default", name)
                assert raw["spec"]["selector"]["app"] == "chat"
                found[name] = raw["spec"]["selector"].get(LABEL_REVISION)
            return found

        await world.apply(division(onprem_r1=1000))
        assert await selected() == {"chat-new": "r1", "chat-old": None}
        assert await world.weights_of(cluster="onprem") == {"chat-new": 1000, "chat-old": 0}
        world.current = "r2"
        seen = []

        async def before_the_weights() -> None:
            seen.append((await selected(), await world.weights_of(cluster="onprem")))
            world.counting["onprem"].before_patch = before_the_weights

        world.counting["onprem"].before_patch = before_the_weights
        await world.apply(division(onprem_r1=1000))
        world.counting["onprem"].before_patch = None
        assert seen == [
            ({"chat-new": "r1", "chat-old": None}, {"chat-new": 1000, "chat-old": 0}),
            ({"chat-new": "r1", "chat-old": "r1"}, {"chat-new": 1000, "chat-old": 0}),
            ({"chat-new": "r1", "chat-old": "r1"}, {"chat-new": 0, "chat-old": 1000}),
        ]
        assert await selected() == {"chat-new": "r2", "chat-old": "r1"}
        await world.apply(division(onprem_r1=950, onprem_r2=50))
        assert await world.weights_of(cluster="onprem") == {"chat-new": 50, "chat-old": 950}


async def test_a_rate_limit_follows_what_is_ready_in_its_own_unit(tmp_path: Path, variant: str) -> None:
    async with steered(variant, tmp_path, *GATEWAY) as world:
        limits = {"type": "Local", "local": {"rules": [{"limit": {"requests": 10, "unit": "Minute"}}]}}
        body = {
            "apiVersion": BACKEND_TRAFFIC_POLICIES.api_version,
            "kind": "BackendTrafficPolicy",
            "metadata": {"name": "front", "namespace": "default"},
            "spec": {"targetRefs": [TARGET], "rateLimit": limits},
        }
        await world.apis["hub"].create(BACKEND_TRAFFIC_POLICIES, "default", body)
        world.traffic_spec = {"rateLimits": [{"name": "front", "headroomPercent": 150}]}

        async def limit() -> int:
            raw = await world.apis["hub"].get(BACKEND_TRAFFIC_POLICIES, "default", "front")
            assert raw["spec"]["targetRefs"] == [TARGET]
            return int(raw["spec"]["rateLimit"]["local"]["rules"][0]["limit"]["requests"])

        await world.apply(division(ready=20.0, onprem_r1=1000))
        assert await limit() == 20 * 60 * 1.5
        world.clock.at += 61.0
        await world.apply(division(ready=20.5, onprem_r1=1000))
        assert await limit() == 20 * 60 * 1.5
        for ready in (None, 0.0):
            world.clock.at += 61.0
            await world.apply(division(ready=ready, onprem_r1=1000))
        assert await limit() == 20 * 60 * 1.5


async def test_a_knative_route_splits_among_revisions_and_goes_with_them(tmp_path: Path, variant: str) -> None:
    async with steered(variant, tmp_path, *KNATIVE) as world:
        api = world.apis["onprem"]
        await world.knative("chat-old-a", "r1", 3)
        await world.knative("chat-old-b", "r1", 1)
        await world.knative("chat-new", "r2", 1)
        world.traffic_spec = {"knativeRoute": "chat"}
        await world.apply(division(onprem_r1=760, onprem_r2=40, eks_r1=200))
        raw = await api.get(KNATIVE_ROUTES, "default", "chat")
        split = {one["configurationName"]: one["percent"] for one in raw["spec"]["traffic"]}
        assert split == {"chat-old-a": 71, "chat-old-b": 24, "chat-new": 5}
        assert {one["name"] for one in raw["metadata"]["ownerReferences"]} == set(split)
        # What is ready moves, with no new decision.
        world.ready["chat-old-b"] = 0
        await world.apply(division(onprem_r1=760, onprem_r2=40, eks_r1=200))
        raw = await api.get(KNATIVE_ROUTES, "default", "chat")
        assert {one["configurationName"] for one in raw["spec"]["traffic"]} == {"chat-old-a", "chat-new"}
        assert {one["name"] for one in raw["metadata"]["ownerReferences"]} == {"chat-old-a", "chat-new"}
        assert raw["metadata"]["ownerReferences"][0]["kind"] == "Service"
        await api.create(KNATIVE_ROUTES, "default", {**raw, "metadata": {"name": "theirs", "namespace": "default"}})
        world.traffic_spec = {"knativeRoute": "theirs"}
        with pytest.raises(AlreadyExistsError, match="Knative Route default/theirs in onprem is another's"):
            await world.apply(division(onprem_r1=760, onprem_r2=40, eks_r1=200))


async def test_a_member_without_knative_routes_is_said(tmp_path: Path, variant: str) -> None:
    async with steered(variant, tmp_path, "knativeservices") as world:
        await world.knative("chat", "r1", 1)
        world.traffic_spec = {"knativeRoute": "front"}
        with pytest.raises(NotServedError, match="Routes are not served in onprem: install Knative Serving"):
            await world.apply(division(onprem_r1=1000))


async def test_dns_weights_are_posted_when_they_change_and_now_and_then(tmp_path: Path) -> None:
    async with steered("emulated", tmp_path) as world:
        world.traffic_spec = {"dns": {"hostname": "chat.example"}}
        await world.apply(division(onprem_r1=600, onprem_r2=100, eks_r1=300, gke_r1=0))
        assert world.posts == [("chat.example", {"onprem": 700, "eks": 300})]
        for _ in range(5):
            world.clock.at += 61.0
            await world.apply(division(onprem_r1=650, onprem_r2=50, eks_r1=300))
        assert len(world.posts) == 1
        for _ in range(6):
            world.clock.at += 61.0
            await world.apply(division(onprem_r1=650, onprem_r2=50, eks_r1=300))
        assert len(world.posts) == 2
        world.refusal = ThrottledError("slower", retry_after_seconds=300.0)
        for _ in range(3):
            with pytest.raises(ThrottledError):
                await world.apply(division(onprem_r1=1000))
            world.refusal = None
        assert len(world.posts) == 2
        world.clock.at += 301.0
        await world.apply(division(onprem_r1=1000))
        assert world.posts[-1] == ("chat.example", {"onprem": 1000})
        world.refusal = ConflictError("later")
        with pytest.raises(ConflictError):
            await world.apply(division(eks_r1=1000))
        assert world.traffic.weights(REF) == ()
