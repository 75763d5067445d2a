"""Who may look and who may throw switches, before a hub that is scripted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from clusters.kubernetes.reviews import Wanted
from scheduler.daemon.http.access import Access, Caller, DeniedError
from scheduler.model.errors import AuthError, TransientError

THROW = Wanted("patch", "", "configmaps", "kube-system", "overspill-x")
LOCAL = ("127.0.0.1", "127.0.0.1:8080")


class Hub:
    """Knows one token, of one who may what is in `may`."""

    name = "hub"

    def __init__(self, *may: str, fails: Exception | None = None, answer: Any = None) -> None:
        self.may = may
        self.fails = fails
        self.answer = answer
        self.asked: list[dict[str, Any]] = []

    async def exchange(self, method: str, path: str, body: bytes | None = None) -> tuple[bytes, Mapping[str, str]]:
        assert method == "POST"
        assert body is not None
        review = orjson.loads(body)
        self.asked.append(review)
        if self.fails is not None:
            raise self.fails
        if self.answer is not None:
            return orjson.dumps(self.answer), {}
        if review["kind"] == "TokenReview":
            known = review["spec"]["token"] == "good"
            user = {"username": "ann", "uid": "u1", "groups": ["ops"], "extra": {"scopes": ["a", "b"]}}
            status: dict[str, Any] = {"authenticated": known, **({"user": user} if known else {})}
        else:
            status = {"allowed": review["spec"]["resourceAttributes"]["verb"] in self.may}
        return orjson.dumps({**review, "status": status}), {}


def access(hub: Hub, token_file: Path | None = None, clock: list[float] | None = None) -> Access:
    times = clock or [0.0]
    return Access(hub, token_file, THROW, lambda: times[0])


def bearer(token: str, where: tuple[str, str] = LOCAL, *, forwarded: bool = False) -> Caller:
    return Caller(*where, f"Bearer {token}", forwarded)


@pytest.mark.parametrize(
    ("address", "host", "forwarded", "want_free"),
    [
        ("127.0.0.1", "127.0.0.1:8080", False, True),
        ("127.0.0.1", "localhost", False, True),
        ("127.9.9.9", "LOCALHOST:1", False, True),
        ("::1", "[::1]:8080", False, True),
        ("::ffff:127.0.0.1", "127.0.0.1", False, True),
        ("127.0.0.1", "127.0.0.1:8080", True, False),
        ("127.0.0.1", "evil.example", False, False),
        ("127.0.0.1", "127.0.0.1.evil.example", False, False),
        ("127.0.0.1", "", False, False),
        ("10.0.0.7", "127.0.0.1:8080", False, False),
        ("", "localhost", False, False),
        ("nonsense", "localhost", False, False),
    ],
)
async def test_looking_is_free_over_loopback_alone(address: str, host: str, forwarded: bool, want_free: bool) -> None:
    caller = Caller(address, host, "", forwarded)
    if want_free:
        assert await access(Hub()).reader(caller) == "local"
    else:
        with pytest.raises(DeniedError) as denied:
            await access(Hub()).reader(caller)
        assert denied.value.status == 401
    with pytest.raises(DeniedError):
        await access(Hub()).writer(caller)


@pytest.mark.parametrize(
    ("hub", "token", "want"),
    [
        (Hub("patch"), "good", "ann"),
        (Hub("list"), "good", 403),
        (Hub("patch"), "bad", 401),
        (Hub(fails=AuthError("no")), "good", 503),
        (Hub(fails=TransientError("away")), "good", 503),
        (Hub(answer=[]), "good", 503),
        (Hub(answer={"kind": "Status"}), "good", 503),
        (Hub(answer={"kind": "TokenReview", "status": {"authenticated": True}}), "good", 503),
        (Hub(answer={"kind": "TokenReview", "status": {"authenticated": "yes"}}), "good", 401),
        (Hub("patch"), "x" * 20_000, 401),
    ],
)
async def test_who_throws_switches_is_asked_of_the_hub(hub: Hub, token: str, want: str | int) -> None:
    if isinstance(want, str):
        assert await access(hub).writer(bearer(token)) == want
        assert hub.asked[1]["spec"] == {
            "user": "ann",
            "uid": "u1",
            "groups": ["ops"],
            "extra": {"scopes": ["a", "b"]},
            "resourceAttributes": {
                "verb": "patch",
                "resource": "configmaps",
                "namespace": "kube-system",
                "name": "overspill-x",
            },
        }
        return
    with pytest.raises(DeniedError) as denied:
        await access(hub).writer(bearer(token))
    assert denied.value.status == want
    assert token not in str(denied.value)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic Z29vZA==", "good"])
async def test_what_is_no_bearer_token_is_not_even_asked_about(header: str) -> None:
    hub = Hub("patch")
    with pytest.raises(DeniedError):
        await access(hub).writer(Caller(*LOCAL, header, False))
    assert not hub.asked


async def test_our_own_token_needs_no_hub_and_may_be_changed(tmp_path: Path) -> None:
    file, hub = tmp_path / "token", Hub(fails=TransientError("away"))
    file.write_text("first\n")
    ours = access(hub, file)
    assert await ours.writer(bearer("first")) == "token"
    file.write_text("second\n")
    assert await ours.writer(bearer("second")) == "token"
    with pytest.raises(DeniedError):
        await ours.writer(bearer("first"))
    file.unlink()
    with pytest.raises(DeniedError):
        await ours.writer(bearer("second"))


async def test_who_looks_is_remembered_for_a_while_and_who_writes_is_not() -> None:
    hub, clock = Hub("list"), [0.0]
    remembering, away = access(hub, clock=clock), bearer("good", ("10.0.0.7", "overspill:8080"))
    for _ in range(3):
        assert await remembering.reader(away) == "ann"
    assert len(hub.asked) == 2
    clock[0] = 61.0
    hub.may = ()
    for _ in range(2):
        with pytest.raises(DeniedError):
            await remembering.reader(away)
    assert len(hub.asked) == 4
    for _ in range(2):
        with pytest.raises(DeniedError):
            await remembering.writer(away)
    assert len(hub.asked) == 8


async def test_what_is_remembered_is_bounded() -> None:
    hub = Hub("list")
    remembering = access(hub)
    for number in range(1000):
        with pytest.raises(DeniedError):
            await remembering.reader(bearer(f"bad-{number}"))
    assert len(remembering._known) == 256
