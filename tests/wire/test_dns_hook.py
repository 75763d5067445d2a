"""DNS weights over HTTP: what is sent, to whom, and what each answer is taken for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from clusters.sandbox.clouds.certificates import make_server_certificate
from policies.errors import PolicyErrors
from scheduler.daemon.config.federation import DnsHook, load_federation
from scheduler.daemon.services import dns_hook
from scheduler.daemon.services.dns_hook import DnsPoster
from scheduler.model.errors import (
    AuthError,
    ConflictError,
    InvalidObjectError,
    NotServedError,
    OutcomeUnknownError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.ids import ClusterId
from tests.builders.measured import REF

SECRET = "dns-secret"
WEIGHTS = {ClusterId("onprem"): 700, ClusterId("eks"): 300}


class Hook:
    """The site's own: answers as it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.status, self.headers, self.text = 204, dict[str, str](), ""
        self.hangs = False

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.headers.get("Authorization", ""), await request.json()))
        if self.hangs:
            await asyncio.Event().wait()
        return web.Response(status=self.status, headers=self.headers, text=self.text)


@asynccontextmanager
async def hook(folder: Path, tls: bool = False) -> AsyncIterator[tuple[Hook, DnsPoster]]:
    there = Hook()
    app = web.Application()
    app.router.add_post("/weights", there.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    certificate = make_server_certificate(folder, "dns") if tls else None
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=certificate.tls_context() if certificate else None).start()
    (folder / "token").write_text(SECRET)
    url = f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}/weights"
    settings = DnsHook(url, folder / "token", certificate.ca_file if certificate else None)
    try:
        yield there, DnsPoster(settings, "test")
    finally:
        await runner.cleanup()


async def test_the_whole_is_said_with_the_token_of_the_moment(tmp_path: Path) -> None:
    async with hook(tmp_path) as (there, poster):
        await poster.post(REF, "chat.example", WEIGHTS)
        (tmp_path / "token").write_text("rotated")
        await poster.post(REF, "chat.example", WEIGHTS)
        assert [token for token, _ in there.asked] == [f"Bearer {SECRET}", "Bearer rotated"]
        assert there.asked[0][1] == {
            "version": 1,
            "federation": "test",
            "namespace": "default",
            "service": "chat",
            "hostname": "chat.example",
            "weights": [{"cluster": "eks", "weight": 300}, {"cluster": "onprem", "weight": 700}],
        }


@pytest.mark.parametrize(
    ("status", "want_error"),
    [
        (301, RefusedError),
        (400, RefusedError),
        (401, AuthError),
        (403, AuthError),
        (404, NotServedError),
        (408, TransientError),
        (409, ConflictError),
        (422, RefusedError),
        (429, ThrottledError),
        (500, TransientError),
        (503, TransientError),
    ],
)
async def test_each_refusal_has_its_type_and_the_hooks_own_words(
    tmp_path: Path, status: int, want_error: type[Exception]
) -> None:
    async with hook(tmp_path) as (there, poster):
        there.status, there.text = status, "no\nsuch \x1b[31mzone" + "!" * 9000
        there.headers = {"Retry-After": "30", "Location": "http://127.0.0.1:1/"}
        with pytest.raises(want_error) as told:
            await poster.post(REF, "chat.example", WEIGHTS)
        text = str(told.value)
        assert "no such" in text
        assert text.isprintable()
        assert len(text) < 400
        assert SECRET not in text
        if isinstance(told.value, ThrottledError):
            assert told.value.retry_after_seconds == 30.0
        assert len(there.asked) == 1


async def test_a_hook_that_hangs_leaves_the_outcome_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns_hook, "_WHOLE_SECONDS", 0.2)
    async with hook(tmp_path) as (there, poster):
        there.hangs = True
        with pytest.raises(OutcomeUnknownError):
            await poster.post(REF, "chat.example", WEIGHTS)


async def test_a_hook_that_is_away_was_told_nothing(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        (tmp_path / "token").write_text(SECRET)
        with pytest.raises(TransientError, match="cannot connect"):
            await DnsPoster(DnsHook(url, tmp_path / "token"), "test").post(REF, "chat.example", WEIGHTS)


async def test_a_token_that_cannot_be_read_is_not_sent(tmp_path: Path) -> None:
    async with hook(tmp_path) as (there, poster):
        (tmp_path / "token").unlink()
        with pytest.raises(AuthError, match="the token cannot be read"):
            await poster.post(REF, "chat.example", WEIGHTS)
        assert there.asked == []


async def test_over_tls_its_authorities_are_the_ones_that_are_named(tmp_path: Path) -> None:
    async with hook(tmp_path, tls=True) as (there, poster):
        await poster.post(REF, "chat.example", WEIGHTS)
        assert len(there.asked) == 1
        stranger = DnsPoster(DnsHook(poster._hook.url, tmp_path / "token"), "test")
        with pytest.raises(TransientError):
            await stranger.post(REF, "chat.example", WEIGHTS)
        assert len(there.asked) == 1
    (tmp_path / "none.pem").write_text("no certificate")
    with pytest.raises(InvalidObjectError, match="caFile"):
        DnsPoster(DnsHook("https://127.0.0.1/", tmp_path / "token", tmp_path / "none.pem"), "test")


FEDERATION = """
apiVersion: overspill.dev/v1alpha1
kind: Federation
metadata: {{name: test}}
spec:
  hub: {{kubeconfig: hub.yaml}}
  dnsWeights: {{url: "{url}", tokenFile: token}}
  members:
    - name: onprem
      region: eu
      kubeconfig: onprem.yaml
      provider: {{type: onprem}}
      network: {{clientLatency: {{eu: 20ms, us: 95ms}}}}
"""


@pytest.mark.parametrize(
    ("url", "want_text"),
    [
        ("https://dns.example/weights", ""),
        ("http://127.0.0.1:8053/", ""),
        ("http://localhost/", ""),
        ("http://[::1]:80/", ""),
        ("http://dns.example/weights", "write https"),
        ("ftp://dns.example/", "not a URL"),
        ("https://user:word@dns.example/", "holds a user"),
        ("https://dns.example:port/", "not a URL"),
    ],
)
def test_the_federation_file_names_the_hook_and_ways_from_clients(tmp_path: Path, url: str, want_text: str) -> None:
    file = tmp_path / "federation.yaml"
    file.write_text(FEDERATION.format(url=url))
    if want_text:
        with pytest.raises(PolicyErrors, match=want_text):
            load_federation(file)
        return
    found = load_federation(file)
    assert found.dns == DnsHook(url, tmp_path / "token")
    assert found.members[0].client_latency == (("eu", 0.02), ("us", 0.095))
