"""Who may look and who may throw switches, over the emulated hub's TokenReview and SubjectAccessReview."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from clusters.sandbox.apiserver.authorization import User
from scheduler.daemon.http.server import HttpServer
from scheduler.daemon.http.stream import LISTENERS_AT_MOST
from scheduler.daemon.parts import Daemon
from scheduler.daemon.permissions import permissions_of
from scheduler.model.contract import CONFIG_MAPS, NODES
from tests.builders import rbac
from tests.loop import test_behaviours_remedies as remedies
from tests.loop.harness import POLICIES, World, a_world, until

SWITCHES = "/api/v1/switches"
ASKING = """---
apiVersion: overspill.dev/v1alpha1
kind: RemediationPolicy
metadata: {name: asking}
spec:
  match: {signals: ["gpu.*"]}
  actions: [{action: cordon, approval: true}]
  guards: {dryRun: false, maxUnavailable: 100%, rate: {disruptions: 9, within: 1m}, coolDown: 5m,
           healthyFor: 1m}
"""
ROLES: list[dict[str, Any]] = [
    {
        "apiVersion": f"{rbac.RBAC}/v1",
        "kind": "Role",
        "metadata": {"name": "switch", "namespace": "kube-system"},
        "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [rbac.LEASE], "verbs": ["patch"]},
        ],
    },
    {
        "apiVersion": f"{rbac.RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "switch", "namespace": "kube-system"},
        "roleRef": {"apiGroup": rbac.RBAC, "kind": "Role", "name": "switch"},
        "subjects": [{"kind": "Group", "name": "oncall"}],
    },
    {
        "apiVersion": f"{rbac.RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "look"},
        "rules": [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list"]}],
    },
    {
        "apiVersion": f"{rbac.RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "look"},
        "roleRef": {"apiGroup": rbac.RBAC, "kind": "ClusterRole", "name": "look"},
        "subjects": [{"kind": "User", "name": "bob"}],
    },
]
"""The group oncall may throw switches; bob may list Jobs everywhere."""


@asynccontextmanager
async def served(
    folder: Path, *, shadow: bool = False, page: bool = True, policies: str = POLICIES + ASKING
) -> AsyncIterator[tuple[World, Daemon, str, aiohttp.ClientSession, rbac.Asked]]:
    """A daemon under the roles of deploy/rbac, and hub users that may this and that."""
    async with a_world(folder, policies=policies) as world:
        asked = await rbac.restrict(world.sandbox, shadow=shadow)
        await rbac.apply(world.hub, ROLES + (rbac.page_manifests() if page else []))
        hub = world.sandbox.servers["hub"]
        hub.enroll("ann-token", User("ann", ("oncall",)))
        hub.enroll("bob-token", User("bob"))
        async with world.daemon(shadow=shadow) as (daemon, _), aiohttp.ClientSession() as http:
            server = HttpServer("127.0.0.1", 0, daemon.served)
            url = await server.start()
            try:
                yield world, daemon, url, http, asked
            finally:
                await server.stop()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_who_may_patch_the_switches_may_throw_them_and_nobody_else(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, daemon, url, http, asked):

        async def post(path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
            async with http.post(f"{url}{path}", json=body, headers=headers) as answer:
                assert answer.content_type == "application/json"
                told: dict[str, Any] = await answer.json()
                return answer.status, told

        async def switches() -> dict[str, Any]:
            found: dict[str, Any] = (await world.hub.get(CONFIG_MAPS, "kube-system", rbac.LEASE)).get("data") or {}
            return found

        ann, on = bearer("ann-token"), {"paused": True}
        for headers, want in (({}, 401), (bearer("nobodys"), 401), (bearer("bob-token"), 403)):
            status, told = await post(SWITCHES, on, **headers)
            assert (status, set(told)) == (want, {"error"})
        assert await switches() == {}
        wrong: tuple[Any, ...] = ({}, {"paused": "true"}, {"paused": 1}, {"pausd": True}, [], None, {"paused": None})
        for body in wrong:
            assert (await post(SWITCHES, body, **ann))[0] == 400, body
        assert (await post(SWITCHES, {"paused": True, "bursting_paused": "x" * 5000}, **ann))[0] == 400
        async with http.post(f"{url}{SWITCHES}", data=b'{"paused": true}', headers=ann) as answer:
            assert answer.status == 400, "a form of another site cannot send application/json"
        assert await switches() == {}
        await until(lambda: daemon.leader.is_leader, "it leads")
        assert await post(SWITCHES, on, **ann) == (
            200,
            {"paused": True, "bursting_paused": False, "error": "", "by": "ann"},
        )
        assert await switches() == {"paused": "true"}
        assert (await post(SWITCHES, {"paused": False, "bursting_paused": True}, **ann))[0] == 200
        assert await switches() == {"paused": "false", "bursting-paused": "true"}
        name = (await world.member("onprem").list(NODES)).items[0]["metadata"]["name"]
        remedies.Told(daemon).open("i1", "gpu.xid.79", "onprem", name)
        await until(lambda: "ApprovalNeeded" in remedies.codes(daemon)(), "it asks", 60)
        assert (await post("/api/v1/incidents/nothing/approve", {"action": "cordon"}, **ann))[0] == 404
        assert (await post("/api/v1/incidents/i1/approve", {"action": "explode"}, **ann))[0] == 400
        assert (await post("/api/v1/incidents/i1/approve", {"action": "cordon"}, **bearer("bob-token")))[0] == 403
        assert (await post("/api/v1/incidents/i1/approve", {"action": "cordon"}, **ann))[0] == 200

        async def closed() -> bool:
            return remedies.is_held(await remedies.node(world, "onprem", name))

        await until(closed, "what was approved is done", 60)
        grants = permissions_of(rbac.page_manifests())
        hub = permissions_of(rbac.manifests("hub")) | grants
        assert [one for one in asked.of["hub"] if not any(rbac.permits(grant, one) for grant in hub)] == []
        assert [str(one) for one in grants if not any(rbac.permits(one, seen) for seen in asked.of["hub"])] == []


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"X-Forwarded-For": "10.0.0.9"}, {"Forwarded": "for=10.0.0.9"}, {"Via": "1"}]
)
async def test_who_comes_from_elsewhere_needs_a_token_to_look(tmp_path: Path, headers: dict[str, str]) -> None:
    async with served(tmp_path) as (_, _, url, http, _):

        async def get(path: str, **more: str) -> int:
            async with http.get(f"{url}{path}", headers=headers | more) as answer:
                if answer.status == 401:
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
                return answer.status

        for path in ("status", "workloads", "explain?workload=x", "incidents", "events", "openapi.json"):
            assert await get(f"/api/v1/{path}") == 401, path
        for path in ("/", "/page.js", "/healthz", "/metrics"):
            assert await get(path) == 200, path
        assert await get("/api/v1/status", **bearer("bob-token")) == 200
        assert await get("/api/v1/status", **bearer("ann-token")) == 403
        assert await get("/api/v1/status", **bearer("nobodys")) == 401


async def test_shadow_mode_writes_nothing_whoever_asks(tmp_path: Path) -> None:
    async with (
        served(tmp_path, shadow=True) as (_, _, url, http, asked),
        http.post(f"{url}{SWITCHES}", json={"paused": True}, headers=bearer("ann-token")) as answer,
    ):
        assert answer.status == 409
        assert not [one for one in asked.of["hub"] if one.verb == "patch"]


async def test_without_the_role_it_says_what_is_missing(tmp_path: Path) -> None:
    async with (
        served(tmp_path, page=False) as (_, _, url, http, _),
        http.post(f"{url}{SWITCHES}", json={"paused": True}, headers=bearer("ann-token")) as answer,
    ):
        assert answer.status == 503
        assert "docs/page.md" in (await answer.json())["error"]


async def test_a_token_of_our_own_needs_no_hub_user(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("our-own")
    async with a_world(tmp_path) as world, world.outside() as outside, aiohttp.ClientSession() as http:
        federation = replace(outside.federation, api_token_file=file)
        daemon = Daemon(replace(outside, federation=federation), shadow=False)
        server = HttpServer("127.0.0.1", 0, daemon.served)
        url = await server.start()
        try:
            async with http.post(f"{url}{SWITCHES}", json={"paused": True}, headers=bearer("our-own")) as answer:
                assert (answer.status, (await answer.json())["by"]) == (200, "token")
        finally:
            await server.stop()


async def test_events_come_as_they_happen_and_no_more_listen_than_may(tmp_path: Path) -> None:
    async with served(tmp_path, policies=POLICIES) as (world, daemon, url, http, _):

        async def events(last: str = "") -> list[str]:
            """Ids of the events until one is about the job late."""
            seen = []
            async with http.get(f"{url}/api/v1/events", headers={"Last-Event-ID": last}) as answer:
                async for line in answer.content:
                    if line.startswith(b"id: "):
                        seen.append(line[4:].decode().strip())
                    if b'"late"' in line:
                        return seen
            return seen

        await world.submit("early")
        await until(lambda: world.is_done("early"), "the first is done")
        listening = asyncio.ensure_future(events())
        await until(lambda: daemon.stream.listeners == 1, "one listens")
        await world.submit("late")
        seen = await asyncio.wait_for(listening, 30)
        assert len(seen) == len(set(seen)) >= 2
        assert (await events(seen[0]))[0] == seen[1], "it goes on where it was"
        await until(lambda: daemon.stream.listeners == 0, "they are gone")
        daemon.stream.listeners = LISTENERS_AT_MOST
        async with http.get(f"{url}/api/v1/events") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
        daemon.stream.listeners = 0
