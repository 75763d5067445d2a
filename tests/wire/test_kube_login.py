"""Logging in to a Kubernetes API by short-lived tokens, against a server whose tokens expire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from clusters.kubernetes.client import HttpKubeApi
from clusters.kubernetes.connection import Limits
from clusters.kubernetes.login import LoginConnection
from clusters.sandbox.apiserver import ApiServer
from scheduler.model.cloud import ClusterLogin
from scheduler.model.contract import NAMESPACES
from scheduler.model.errors import (
    AuthError,
    ExternalError,
    InvalidObjectError,
    OverspillError,
    ThrottledError,
    TransientError,
)
from tests.builders.apiserver import StillClock

LIFE = 900.0
"""As EKS gives: renewed after two thirds, at 600."""


@dataclass
class Cloud:
    """Issues tokens that a server accepts until they are over, by a time that the test sets."""

    server: ApiServer
    now: float = 1000.0
    lifetime: float = LIFE
    issued: list[str] = field(default_factory=list)
    expiry: dict[str, float] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    failure: OverspillError | None = None
    gate: asyncio.Event | None = None
    change: dict[str, object] = field(default_factory=dict)

    async def log_in(self) -> ClusterLogin:
        token = f"secret-{len(self.issued) + 1}"
        self.issued.append(token)
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.expiry[token] = self.now + self.lifetime
        login = ClusterLogin(self.server.secure_url, self.server.ca_pem, token, self.lifetime)
        return replace(login, **self.change)  # type: ignore[arg-type]

    def accepts(self, token: str) -> bool:
        self.used.append(token)
        return self.now < self.expiry.get(token, float("-inf"))


@asynccontextmanager
async def a_cloud() -> AsyncIterator[tuple[Cloud, HttpKubeApi]]:
    server = ApiServer("m", StillClock(), token="the-servers-own")
    await server.start()
    cloud = Cloud(server)
    server.accepts_token = cloud.accepts
    api = HttpKubeApi("m", LoginConnection("m", cloud.log_in, Limits(), monotonic=lambda: cloud.now), Limits())
    try:
        yield cloud, api
    finally:
        await api.close()
        await server.stop()


async def look(api: HttpKubeApi) -> str:
    return str((await api.get(NAMESPACES, "", "default"))["metadata"]["name"])


async def test_nothing_is_asked_before_the_first_call() -> None:
    async with a_cloud() as (cloud, api):
        assert cloud.issued == []
        assert await look(api) == "default"
        assert cloud.issued == ["secret-1"]


@pytest.mark.parametrize(
    ("lifetime", "later", "want"),
    [
        (900.0, 590.0, 1),
        (900.0, 610.0, 2),
        (3600.0, 3290.0, 1),
        (3600.0, 3310.0, 2),
        (60.0, 39.0, 1),
        (60.0, 41.0, 2),
    ],
)
async def test_it_is_renewed_well_before_the_end(lifetime: float, later: float, want: int) -> None:
    async with a_cloud() as (cloud, api):
        cloud.lifetime = lifetime
        await look(api)
        cloud.now += later
        await look(api)
        await look(api)
        assert len(cloud.issued) == want
        assert set(cloud.used) <= set(cloud.issued)


async def test_many_who_wait_are_served_by_one_login() -> None:
    async with a_cloud() as (cloud, api):
        assert await asyncio.gather(*(look(api) for _ in range(50))) == ["default"] * 50
        assert cloud.issued == ["secret-1"]
        cloud.now += LIFE + 1
        await asyncio.gather(*(look(api) for _ in range(50)))
        assert cloud.issued == ["secret-1", "secret-2"]


async def test_nobody_waits_while_the_old_token_is_good() -> None:
    async with a_cloud() as (cloud, api):
        await look(api)
        cloud.gate, cloud.now = asyncio.Event(), cloud.now + 610
        for _ in range(3):
            assert await look(api) == "default"
        assert cloud.used == ["secret-1"] * 4
        cloud.gate.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await look(api)
        assert cloud.used[-1] == "secret-2"
        assert len(cloud.issued) == 2


async def test_a_caller_that_gives_up_does_not_end_the_login_of_the_others() -> None:
    async with a_cloud() as (cloud, api):
        cloud.gate = asyncio.Event()
        hasty, patient = asyncio.ensure_future(look(api)), asyncio.ensure_future(look(api))
        while not cloud.issued:
            await asyncio.sleep(0)
        hasty.cancel()
        await asyncio.gather(hasty, return_exceptions=True)
        cloud.gate.set()
        assert await patient == "default"
        assert cloud.issued == ["secret-1"]


async def test_a_failing_renewal_keeps_the_token_as_long_as_it_is_good() -> None:
    async with a_cloud() as (cloud, api):
        await look(api)
        cloud.failure = ThrottledError("eks: slow down", code="Throttling")
        cloud.now += 610
        for _ in range(5):
            assert await look(api) == "default"
        assert len(cloud.issued) == 2, "once in ten seconds, not at each call"
        cloud.now += 11
        await look(api)
        assert len(cloud.issued) == 3
        cloud.now += LIFE
        with pytest.raises(ThrottledError, match="slow down"):
            await look(api)
        cloud.failure, cloud.now = None, cloud.now + 11
        assert await look(api) == "default"
        assert set(cloud.used) == {"secret-1", cloud.issued[-1]}


async def test_after_a_401_it_logs_in_anew_but_not_more_than_once_in_ten_seconds() -> None:
    async with a_cloud() as (cloud, api):
        await look(api)
        cloud.expiry.clear()  # revoked
        cloud.now += 5
        for _ in range(3):
            with pytest.raises(AuthError):
                await look(api)
        assert cloud.issued == ["secret-1"]
        cloud.now += 5
        assert await look(api) == "default"
        assert cloud.issued == ["secret-1", "secret-2"]
        cloud.now += 50
        await look(api)
        assert len(cloud.issued) == 2


async def test_after_a_401_nobody_uses_the_refused_token_while_a_new_one_is_on_its_way() -> None:
    async with a_cloud() as (cloud, api):
        await look(api)
        cloud.expiry.clear()
        cloud.now += 20
        with pytest.raises(AuthError):
            await look(api)
        cloud.used.clear()
        assert await asyncio.gather(*(look(api) for _ in range(10))) == ["default"] * 10
        assert set(cloud.used) == {"secret-2"}


@pytest.mark.parametrize(
    ("change", "want", "match"),
    [
        ({"server": "http://127.0.0.1:1"}, InvalidObjectError, "no https URL"),
        ({"server": "nonsense"}, InvalidObjectError, "no https URL"),
        ({"token": ""}, AuthError, "no token that lives"),
        ({"lifetime_seconds": 0.0}, AuthError, "no token that lives"),
        ({"ca_pem": b"no certificate"}, InvalidObjectError, "CA certificate"),
        ({"ca_pem": b"\xff"}, InvalidObjectError, "CA certificate"),
        ({"ca_pem": b""}, TransientError, "cannot connect"),
    ],
)
async def test_a_login_that_leads_nowhere_is_one_typed_line(
    change: dict[str, object], want: type[OverspillError], match: str
) -> None:
    async with a_cloud() as (cloud, api):
        cloud.change = change
        with pytest.raises(want, match=match) as caught:
            await look(api)
        assert str(caught.value).startswith("cluster m: ")
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("failure", [AuthError("no"), TransientError("no"), InvalidObjectError("no")])
async def test_a_login_that_fails_is_told_as_it_is_and_tried_again(failure: OverspillError) -> None:
    async with a_cloud() as (cloud, api):
        cloud.failure = failure
        for _ in range(3):
            with pytest.raises(type(failure), match="no"):
                await look(api)
        assert len(cloud.issued) == 1
        cloud.failure, cloud.now = None, cloud.now + 10
        assert await look(api) == "default"


async def test_a_server_that_moved_is_followed() -> None:
    other = ApiServer("m2", StillClock(), token="x")
    await other.start()
    try:
        async with a_cloud() as (cloud, api):
            await look(api)
            other.accepts_token = cloud.accepts
            cloud.change = {"server": other.secure_url}
            await cloud.server.stop()
            cloud.now += LIFE + 1
            assert await look(api) == "default"
    finally:
        await other.stop()


async def test_closing_ends_a_login_that_hangs() -> None:
    async with a_cloud() as (cloud, api):
        cloud.gate = asyncio.Event()
        waiting = asyncio.ensure_future(look(api))
        while not cloud.issued:
            await asyncio.sleep(0)
        await api.close()
        with pytest.raises((asyncio.CancelledError, ExternalError)):
            await waiting


async def test_it_is_opened_by_connect() -> None:
    async with a_cloud() as (cloud, _):
        api = await HttpKubeApi.connect(name="m", kubeconfig=None, context=None, log_in=cloud.log_in)
        assert cloud.issued == []
        assert await look(api) == "default"
        await api.close()
