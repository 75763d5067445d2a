"""Requests that cannot be steered: what is missing, forbidden or contested is said with its remedy, nothing that
requests may still go to is given up, and once it is mended all goes on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.cli import crds
from scheduler.cli.demo.manifests import route_definition
from scheduler.daemon.deployed import documents
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import BACKEND_TRAFFIC_POLICIES, CONDITION_TRAFFIC, CRDS, HTTP_ROUTES
from scheduler.model.errors import ConflictError, ExternalError, TransientError
from scheduler.model.ports import KubeApi, RawObject, Resource
from tests.builders import rbac
from tests.loop.harness import POLICIES, World, a_world, until
from tests.loop.services import (
    SLO,
    Played,
    a_serving_world,
    condition,
    divided,
    patch,
    ready_on,
    serving,
    submit,
    until_ready,
)

MEMBERS = ("onprem", "eks")
ROUTE = {"name": "chat", "backends": [{"name": f"chat-{name}", "cluster": name} for name in MEMBERS]}
TRAFFIC = {"routes": [ROUTE]}
LIMITS = Path(__file__).parents[1] / "crds" / "backendtrafficpolicies.yaml"
KEPT_SECONDS = 300.0
"""Five times what a service that needs less waits until it gives something up."""


def route(*names: str) -> RawObject:
    refs = [{"name": f"chat-{name}", "port": 80, "weight": 1} for name in names or MEMBERS]
    return {
        "apiVersion": HTTP_ROUTES.api_version,
        "kind": HTTP_ROUTES.kind,
        "metadata": {"name": "chat", "namespace": "default"},
        "spec": {"rules": [{"backendRefs": refs}]},
    }


@dataclass
class Contested:
    """The hub's API, on which somebody else is always quicker, or which is out of order."""

    api: KubeApi
    of: Resource = HTTP_ROUTES
    error: ExternalError | None = None
    asked: int = field(default=0, init=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.api, name)

    async def patch(self, resource: Resource, namespace: str, name: str, body: RawObject, **options: Any) -> RawObject:
        if resource == self.of and self.error is not None:
            self.asked += 1
            raise self.error
        return await self.api.patch(resource, namespace, name, body, **options)


async def weights(world: World) -> dict[str, int]:
    raw = await world.hub.get(HTTP_ROUTES, "default", "chat")
    return {one["name"]: one["weight"] for one in raw["spec"]["rules"][0]["backendRefs"]}


async def untold(world: World, words: str) -> None:
    async def told() -> bool:
        said = await condition(world, CONDITION_TRAFFIC)
        return (said.get("status"), said.get("reason")) == ("False", "TrafficNotSet") and words in said["message"]

    try:
        await until(told, f"it says {words!r}")
    except AssertionError as error:
        raise AssertionError(f"{error}: {await condition(world, CONDITION_TRAFFIC)}") from error


async def steered(world: World) -> None:
    async def told() -> bool:
        said = await condition(world, CONDITION_TRAFFIC)
        return (said.get("status"), said.get("reason")) == ("True", "WeightsSet")

    await until(told, "requests follow")


async def kept(world: World, uid: str, daemon: Daemon, want: dict[str, int]) -> None:
    """Nothing is given up, though less is needed, for so long that it would have been."""
    began, looks = world.sandbox.clock.now(), daemon.services.keeper.looks
    await until(lambda: world.sandbox.clock.now() > began + KEPT_SECONDS, "time passes")
    assert daemon.services.keeper.looks > looks
    assert await ready_on(world, uid) == want


async def less_is_needed(world: World, uid: str, played: Played, daemon: Daemon) -> None:
    """And five replicas are kept, until what steers requests is mended."""
    played.per_second = 2.0
    await kept(world, uid, daemon, {"onprem": 5})


async def _not_there(world: World) -> None:
    await world.hub.create(CRDS, "", route_definition())


async def _lacks_a_backend(world: World) -> None:
    await _not_there(world)
    await world.hub.create(HTTP_ROUTES, "default", route("eks"))


async def _names_it(world: World) -> None:
    refs = route()["spec"]["rules"][0]["backendRefs"]
    await world.hub.patch(HTTP_ROUTES, "default", "chat", {"spec": {"rules": [{"backendRefs": refs}]}})


async def _nothing(world: World) -> None:
    return


async def _all_of_it(world: World) -> None:
    await _not_there(world)
    await world.hub.create(HTTP_ROUTES, "default", route())


async def _the_route(world: World) -> None:
    await world.hub.create(HTTP_ROUTES, "default", route())


@pytest.mark.parametrize(
    ("before", "want", "mended"),
    [
        (_nothing, "HTTPRoutes are not served in hub: install the Gateway API's CRDs", _all_of_it),
        (_not_there, "no HTTPRoute default/chat in hub: make it, or take it out of spec.traffic", _the_route),
    ],
    ids=["no definition", "no route"],
)
async def test_what_is_not_there_is_said_and_serving_goes_on(
    tmp_path: Path, before: Callable[[World], Awaitable[None]], want: str, mended: Callable[[World], Awaitable[None]]
) -> None:
    played = Played(6.0)
    async with a_serving_world(tmp_path) as world:
        await before(world)
        async with divided(world, played) as daemon:
            uid = await submit(world, spec={"traffic": TRAFFIC})
            await until_ready(world, uid, {"onprem": 5}, "five carry it")
            await untold(world, want)
            assert await serving(world, "Serving"), "that is another matter than its serving"
            played.per_second = 2.0
            await until_ready(world, uid, {"onprem": 2}, "no request comes by what is not there")
            await mended(world)
            await steered(world)
            assert await weights(world) == {"chat-onprem": 1000, "chat-eks": 0}
            await until(daemon.is_idle, "at rest")


async def test_a_route_that_lacks_a_backend_is_said_and_nothing_is_given_up(tmp_path: Path) -> None:
    played = Played(6.0)
    async with a_serving_world(tmp_path) as world:
        await _lacks_a_backend(world)
        async with divided(world, played) as daemon:
            uid = await submit(world, spec={"traffic": TRAFFIC})
            await until_ready(world, uid, {"onprem": 5}, "five carry it")
            await untold(world, "rule 0 has no backendRef chat-onprem; add it, weight 0 will do")
            await less_is_needed(world, uid, played, daemon)
            await _names_it(world)
            await steered(world)
            await until_ready(world, uid, {"onprem": 2}, "what is not needed goes")


async def test_what_may_not_be_patched_is_said_and_nothing_is_given_up(tmp_path: Path) -> None:
    """Under the daemon's own roles, without those for traffic."""
    played = Played(6.0)
    async with a_serving_world(tmp_path) as world:
        await _all_of_it(world)
        await rbac.restrict(world.sandbox)
        async with divided(world, played) as daemon:
            uid = await submit(world, spec={"traffic": TRAFFIC})
            await until_ready(world, uid, {"onprem": 5}, "five carry it")
            await untold(world, "deploy/rbac/hub-traffic.yaml")
            await less_is_needed(world, uid, played, daemon)
            assert await weights(world) == {"chat-onprem": 1, "chat-eks": 1}
            await rbac.apply(world.hub, documents("rbac", "hub-traffic.yaml"))
            await steered(world)
            await until_ready(world, uid, {"onprem": 2}, "what is not needed goes")


@pytest.mark.parametrize(
    "error", [ConflictError("object was modified"), TransientError("503")], ids=["conflict", "503"]
)
async def test_while_it_is_contested_or_out_of_order_nothing_is_given_up(tmp_path: Path, error: ExternalError) -> None:
    played, contested = Played(6.0), []

    def wrap(name: str, api: KubeApi) -> KubeApi:
        if name != "hub":
            return api
        contested.append(Contested(api, error=error))
        return contested[0]

    async with a_serving_world(tmp_path) as world:
        await _all_of_it(world)
        async with divided(world, played, wrap=wrap) as daemon:
            uid = await submit(world, spec={"traffic": TRAFFIC})
            await until_ready(world, uid, {"onprem": 5}, "five carry it")
            await untold(world, str(error))
            await less_is_needed(world, uid, played, daemon)
            assert contested[0].asked < 100, "it is tried again with growing pauses"
            contested[0].error = None
            await steered(world)
            await until_ready(world, uid, {"onprem": 2}, "what is not needed goes")
            assert await weights(world) == {"chat-onprem": 1000, "chat-eks": 0}


async def test_a_limit_that_cannot_be_set_is_said_and_holds_nothing(tmp_path: Path) -> None:
    """Requests go where they should; how many are let through is another matter."""
    played, contested = Played(6.0), []

    def wrap(name: str, api: KubeApi) -> KubeApi:
        if name != "hub":
            return api
        contested.append(Contested(api, BACKEND_TRAFFIC_POLICIES, TransientError("limits are out of order")))
        return contested[0]

    limit = {"local": {"rules": [{"limit": {"requests": 1, "unit": "Second"}}]}}
    target = {"group": HTTP_ROUTES.group, "kind": "HTTPRoute", "name": "chat"}
    made = {
        "apiVersion": BACKEND_TRAFFIC_POLICIES.api_version,
        "kind": BACKEND_TRAFFIC_POLICIES.kind,
        "metadata": {"name": "chat", "namespace": "default"},
        "spec": {"targetRefs": [target], "rateLimit": limit},
    }
    async with a_serving_world(tmp_path) as world:
        await _all_of_it(world)
        await world.hub.create(CRDS, "", yaml.safe_load(LIMITS.read_text("utf-8")))
        await world.hub.create(BACKEND_TRAFFIC_POLICIES, "default", made)
        async with divided(world, played, wrap=wrap):
            uid = await submit(world, spec={"traffic": {**TRAFFIC, "rateLimits": [{"name": "chat"}]}})
            await until_ready(world, uid, {"onprem": 5}, "five carry it")
            await untold(world, "limits are out of order")
            played.per_second = 2.0
            await until_ready(world, uid, {"onprem": 2}, "what is not needed goes")
            contested[0].error = None
            await steered(world)


async def _define_loosely(world: World) -> None:
    """A FederatedWorkload of which `spec.traffic` may say whatever it likes, as an older definition has it."""
    (definition,) = crds.load()
    spec = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["traffic"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    await world.hub.create(CRDS, "", definition)


async def test_a_traffic_that_cannot_be_read_is_said_and_nothing_is_given_up(tmp_path: Path) -> None:
    played = Played(6.0)
    async with a_world(tmp_path, policies=POLICIES + SLO) as world:
        await _define_loosely(world)
        await _all_of_it(world)
        async with divided(world, played) as daemon:
            uid = await submit(world, spec={"traffic": TRAFFIC})
            await until_ready(world, uid, {"onprem": 5}, "five carry it")
            await steered(world)
            twice = {**ROUTE, "backends": [*ROUTE["backends"], ROUTE["backends"][0]]}
            await patch(world, {"spec": {"traffic": {"routes": [twice]}}})
            await untold(world, "names a backendRef twice; name each once")
            await less_is_needed(world, uid, played, daemon)
            await patch(world, {"spec": {"traffic": TRAFFIC}})
            await steered(world)
            await until_ready(world, uid, {"onprem": 2}, "what is not needed goes")
