"""The Kubernetes client against a small strict server: what it sends, what it makes of every kind of bad answer."""

from __future__ import annotations

import asyncio
import gzip
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from clusters.kubernetes.client import HttpKubeApi
from clusters.kubernetes.connection import Limits
from scheduler.model.contract import JOBS, NODES, PODS
from scheduler.model.errors import (
    AlreadyExistsError,
    AuthError,
    ConflictError,
    ExternalError,
    GoneError,
    InvalidObjectError,
    NotFoundError,
    NotServedError,
    OutcomeUnknownError,
    QuotaError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.ports import WatchEvent

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
SMALL = Limits(answer_bytes=100_000, event_bytes=10_000, page_items=2)
IMPATIENT = Limits(read_seconds=0.3, call_seconds=0.6, watch_seconds=0.1)
POD = {"kind": "Pod", "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "5"}}


def an_object(kind: str, name: str, version: str = "5") -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": "n", "uid": "u", "resourceVersion": version}}


@dataclass
class Server:
    """Refuses what the Kubernetes API refuses in a request's form; answers with whatever the test puts in `handler`."""

    handler: Handler | None = None
    seen: list[web.Request] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    url: str = ""

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        body = await request.read()
        self.bodies.append(json.loads(body) if body else None)
        wanted = {"POST": "application/json", "PUT": "application/json", "PATCH": "application/merge-patch+json"}
        if request.method in wanted and request.content_type != wanted[request.method]:
            return web.json_response({"kind": "Status", "reason": "UnsupportedMediaType"}, status=415)
        if request.method in wanted and request.query.get("fieldManager") != "overspill":
            return web.json_response({"kind": "Status", "message": "no field manager"}, status=400)
        if request.headers.get("Accept") != "application/json":
            return web.json_response({"kind": "Status", "reason": "NotAcceptable"}, status=406)
        assert self.handler is not None
        return await self.handler(request)

    def answers(self, payload: Any, status: int = 200, **headers: str) -> None:
        """One answer for every request."""

        async def handler(_: web.Request) -> web.StreamResponse:
            raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            return web.Response(body=raw, status=status, headers=headers, content_type="application/json")

        self.handler = handler

    def streams(self, *chunks: bytes | float, abort: bool = False) -> None:
        """Chunks of a watch; a number is a pause in seconds; `abort` cuts the connection instead of ending it."""

        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            await response.prepare(request)
            for chunk in chunks:
                if isinstance(chunk, bytes):
                    await response.write(chunk)
                else:
                    await asyncio.sleep(chunk)
            if abort:
                assert request.transport is not None
                request.transport.abort()
            return response

        self.handler = handler


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application(client_max_size=10**7)
    app.router.add_route("*", "/{path:.*}", made.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


def kubeconfig(folder: Path, url: str, user: dict[str, Any] | None = None) -> Path:
    path = folder / "kubeconfig.yaml"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "secret-token"} if user is None else user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config))
    return path


@pytest.fixture
async def api(server: Server, tmp_path: Path) -> AsyncIterator[HttpKubeApi]:
    made = await HttpKubeApi.connect(name="m1", kubeconfig=kubeconfig(tmp_path, server.url), context="x", limits=SMALL)
    yield made
    await made.close()


async def watched(api: HttpKubeApi, version: str = "5") -> list[WatchEvent]:
    async with aclosing(api.watch(PODS, resource_version=version, label_selector="a=b")) as stream:
        return [event async for event in stream]


async def test_reads_and_writes_go_where_they_should(api: HttpKubeApi, server: Server) -> None:
    server.answers(POD)
    assert await api.get(PODS, "n", "p") == POD
    server.answers(an_object("Node", "n1"))
    assert await api.get(NODES, "ignored", "n1") == an_object("Node", "n1")
    server.answers(an_object("Job", "j"))
    await api.create(JOBS, "n", {"spec": {"ä": 1}})
    await api.update(JOBS, "n", "j", POD, subresource="status")
    server.answers(an_object("Job", "a/b?c"))
    await api.patch(JOBS, "n", "a/b?c", {"spec": {"suspend": True}})
    await api.create_subresource(PODS, "n", "p", "eviction", {"kind": "Eviction"})
    server.answers({"kind": "Status", "status": "Success"})
    await api.delete(PODS, "n", "p", uid="u1", grace_period_seconds=0)
    assert [(request.method, request.raw_path.partition("?")[0]) for request in server.seen] == [
        ("GET", "/api/v1/namespaces/n/pods/p"),
        ("GET", "/api/v1/nodes/n1"),
        ("POST", "/apis/batch/v1/namespaces/n/jobs"),
        ("PUT", "/apis/batch/v1/namespaces/n/jobs/j/status"),
        ("PATCH", "/apis/batch/v1/namespaces/n/jobs/a%2Fb%3Fc"),
        ("POST", "/api/v1/namespaces/n/pods/p/eviction"),
        ("DELETE", "/api/v1/namespaces/n/pods/p"),
    ]
    assert {request.headers["Authorization"] for request in server.seen} == {"Bearer secret-token"}
    assert server.bodies[2] == {"spec": {"ä": 1}}
    assert server.bodies[6] == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Background",
        "preconditions": {"uid": "u1"},
        "gracePeriodSeconds": 0,
    }


def status(reason: str = "", message: str = "because", **details: Any) -> dict[str, Any]:
    return {"kind": "Status", "reason": reason, "message": message, "details": details}


@pytest.mark.parametrize(
    ("code", "answer", "want"),
    [
        (400, status("BadRequest"), RefusedError),
        (401, status("Unauthorized"), AuthError),
        (403, status("Forbidden"), AuthError),
        (403, status("Forbidden", "exceeded quota: gpus"), QuotaError),
        (403, status("Forbidden", 'admission webhook "x" denied the request: no'), RefusedError),
        (403, status("Forbidden", causes=[{"reason": "NamespaceTerminating"}]), TransientError),
        (404, status("NotFound"), NotFoundError),
        (409, status("AlreadyExists"), AlreadyExistsError),
        (409, status("Conflict"), ConflictError),
        (410, status("Expired"), GoneError),
        (413, b"", RefusedError),
        (422, status("Invalid", "spec.managedBy: field is immutable"), RefusedError),
        (429, status("TooManyRequests", retryAfterSeconds=3), ThrottledError),
        (500, b"<html>oops</html>", TransientError),
        (500, status("InternalError", "etcdserver: request timed out"), OutcomeUnknownError),
        (503, b"[1,2", TransientError),
        (504, status("Timeout"), OutcomeUnknownError),
        (302, b"", TransientError),
        (418, b"null", TransientError),
    ],
)
async def test_refusals_are_typed(
    api: HttpKubeApi, server: Server, code: int, answer: Any, want: type[ExternalError]
) -> None:
    server.answers(answer, code, Location="http://203.0.113.1/")
    with pytest.raises(ExternalError) as caught:
        await api.create(PODS, "n", {"metadata": {}})
    assert type(caught.value) is want
    assert str(caught.value).startswith(f"cluster m1: POST /api/v1/namespaces/n/pods: {code}")
    assert "secret-token" not in str(caught.value)
    if isinstance(answer, dict):
        assert answer["message"] in str(caught.value)


async def test_how_long_to_wait_is_told(api: HttpKubeApi, server: Server) -> None:
    server.answers(b"", 429, **{"Retry-After": "2"})
    with pytest.raises(ThrottledError) as caught:
        await api.get(PODS, "n", "p")
    assert caught.value.retry_after_seconds == 2.0
    server.answers(b"", 429, **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    with pytest.raises(ThrottledError) as caught:
        await api.get(PODS, "n", "p")
    assert caught.value.retry_after_seconds is None


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"[]", b"3", b"{}", b'{"metadata": 1}', b'{"metadata": {}', b"\xff\xfe", b'{"items": []}']
)
async def test_garbage_is_a_transient_error_that_names_the_place(api: HttpKubeApi, server: Server, body: bytes) -> None:
    server.answers(body)
    with pytest.raises(TransientError, match=r"^cluster m1: GET /api/v1/namespaces/n/pods/p: the answer"):
        await api.get(PODS, "n", "p")
    with pytest.raises(TransientError, match=r"^cluster m1: GET /api/v1/pods: the "):
        await api.list(PODS)


@pytest.mark.parametrize(
    "page",
    [
        {"metadata": {"resourceVersion": "5"}, "items": {}},
        {"metadata": {"resourceVersion": "5"}, "items": [1]},
        {"metadata": {"resourceVersion": 5}, "items": []},
        {"metadata": {"resourceVersion": "99999999999999999999"}, "items": []},
        {"metadata": {}, "items": []},
        {"metadata": {"resourceVersion": "5", "continue": 7}, "items": []},
        {"kind": "NodeList", "metadata": {"resourceVersion": "5"}, "items": []},
        {"kind": "Table", "metadata": {"resourceVersion": "5"}, "items": []},
        # One object that is doubtful makes the whole list doubtful: what it lacks would be taken for deleted.
        {"metadata": {"resourceVersion": "5"}, "items": [POD, {}]},
        {"metadata": {"resourceVersion": "5"}, "items": [POD, {"metadata": {"name": "q"}}]},
        {"metadata": {"resourceVersion": "5"}, "items": [POD, an_object("Node", "q")]},
        {"metadata": {"resourceVersion": "5"}, "items": [POD, an_object("Pod", "q", "6")]},
    ],
)
async def test_a_list_of_the_wrong_shape_is_refused(api: HttpKubeApi, server: Server, page: Any) -> None:
    server.answers({"kind": "PodList", **page})
    with pytest.raises(TransientError, match=r"^cluster m1: GET /api/v1/pods: the (list|answer is no PodList)"):
        await api.list(PODS)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        {"kind": "Status", "metadata": {}, "status": "Success"},
        an_object("Node", "p"),
        an_object("Pod", "another"),
        an_object("Pod", "p", "1" * 30),
        {"kind": "Pod", "metadata": {"name": "p", "namespace": "n", "resourceVersion": "5"}},
        {"kind": "Pod", "metadata": {"name": "p", "uid": "u", "resourceVersion": "5"}},
    ],
)
async def test_what_is_not_the_object_asked_for_is_not_taken_for_it(
    api: HttpKubeApi, server: Server, answer: Any
) -> None:
    server.answers(answer)
    with pytest.raises(TransientError, match=r"^cluster m1: GET /api/v1/namespaces/n/pods/p: the answer"):
        await api.get(PODS, "n", "p")
    # A write that was answered so may have happened or not.
    with pytest.raises(OutcomeUnknownError, match=r"^cluster m1: PATCH /api/v1/namespaces/n/pods/p: the answer"):
        await api.patch(PODS, "n", "p", {})


@pytest.mark.parametrize(
    "answer", [b"", b"<html>", {"kind": "Status"}, {"kind": "PodList", "metadata": {}}, an_object("Node", "p")]
)
async def test_a_deletion_that_is_not_confirmed_may_not_have_happened(
    api: HttpKubeApi, server: Server, answer: Any
) -> None:
    server.answers(POD)
    await api.delete(PODS, "n", "p")
    server.answers(answer)
    with pytest.raises(OutcomeUnknownError, match=r"^cluster m1: DELETE /api/v1/namespaces/n/pods/p: the answer"):
        await api.delete(PODS, "n", "p")


@pytest.mark.parametrize("body", [b"404 page not found\n", b"<html>default backend - 404</html>", b"", b"{}"])
async def test_a_404_that_is_not_the_apis_own_does_not_say_that_an_object_is_gone(
    api: HttpKubeApi, server: Server, body: bytes
) -> None:
    server.answers(body, 404)
    with pytest.raises(NotServedError):
        await api.get(PODS, "n", "p")
    with pytest.raises(NotServedError):
        await api.delete(PODS, "n", "p")


async def test_too_large_an_answer_is_cut_off(api: HttpKubeApi, server: Server) -> None:
    server.answers(b'{"metadata": {}, "x": "' + b"y" * 200_000 + b'"}')
    with pytest.raises(TransientError, match="larger than 100000 bytes"):
        await api.get(PODS, "n", "p")
    # A small packed answer that unpacks to a huge one is cut off as well.
    server.answers(
        gzip.compress(b'{"metadata": {}, "x": "' + b"y" * 10**7 + b'"}'), 200, **{"Content-Encoding": "gzip"}
    )
    with pytest.raises(TransientError, match="larger than 100000 bytes"):
        await api.list(PODS)


async def test_a_packed_list_is_read(api: HttpKubeApi, server: Server) -> None:
    item = {"metadata": POD["metadata"]}
    page = {"kind": "JobList", "metadata": {"resourceVersion": "5"}, "items": [item]}
    server.answers(gzip.compress(json.dumps(page).encode()), 200, **{"Content-Encoding": "gzip"})
    found = await api.list(JOBS, namespace="n")
    assert found.items == ({**item, "apiVersion": "batch/v1", "kind": "Job"},)
    assert server.seen[0].headers["Accept-Encoding"] == "gzip"


@pytest.fixture
async def impatient(server: Server, tmp_path: Path) -> AsyncIterator[HttpKubeApi]:
    path = kubeconfig(tmp_path, server.url)
    made = await HttpKubeApi.connect(name="m1", kubeconfig=path, context=None, limits=IMPATIENT)
    yield made
    await made.close()


async def test_a_silent_server_is_left(impatient: HttpKubeApi, server: Server) -> None:
    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    server.handler = never
    with pytest.raises(TransientError, match="no answer"):
        await impatient.get(PODS, "n", "p")
    with pytest.raises(OutcomeUnknownError, match="sent, but no answer came"):
        await impatient.patch(PODS, "n", "p", {})
    with pytest.raises(OutcomeUnknownError):
        await impatient.delete(PODS, "n", "p")


async def test_a_silent_watch_is_left(impatient: HttpKubeApi, server: Server) -> None:
    server.streams(30.0)
    with pytest.raises(TransientError, match="no answer"):
        await watched(impatient)


async def test_a_watch_that_hangs_ends_long_before_the_server_should_have_ended_it(
    server: Server, tmp_path: Path
) -> None:
    limits = Limits(silence_seconds=0.2, read_seconds=60.0)
    api = await HttpKubeApi.connect(name="m1", kubeconfig=kubeconfig(tmp_path, server.url), context="x", limits=limits)
    text = line("ADDED", "6")
    async with asyncio.timeout(10.0):
        server.streams(text, 30.0)
        assert len(await watched(api)) == 1, "it ends as if the server had ended it"
        server.streams(text[:7], 30.0)
        with pytest.raises(TransientError, match="no answer"):
            await watched(api)
    await api.close()


async def test_a_connection_cut_off_leaves_the_outcome_of_a_write_unknown(api: HttpKubeApi, server: Server) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.handler = cut
    with pytest.raises(OutcomeUnknownError):
        await api.create(PODS, "n", {})
    with pytest.raises(TransientError):
        await api.get(PODS, "n", "p")


async def test_a_refused_connection_is_transient_also_for_writes(tmp_path: Path) -> None:
    gone = await HttpKubeApi.connect(name="m2", kubeconfig=kubeconfig(tmp_path, "http://127.0.0.1:1"), context=None)
    with pytest.raises(TransientError, match=r"cluster m2: POST .*: cannot connect"):
        await gone.create(PODS, "n", {})
    with pytest.raises(TransientError, match=r"cluster m2: watch .*: cannot connect"):
        await watched(gone)
    await gone.close()


def pages(server: Server, *, expire_at: set[int]) -> None:
    """Five pods in pages; requests in `expire_at` (from 1) find their continue token expired."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if len(server.seen) in expire_at:
            return web.json_response(status("Expired"), status=410)
        begin, limit = int(request.query.get("continue", "0")), int(request.query.get("limit", "0")) or 99
        items = [an_object("Pod", f"p{number}") for number in range(5)][begin : begin + limit]
        token = str(begin + limit) if begin + limit < 5 else ""
        return web.json_response(
            {"kind": "PodList", "metadata": {"resourceVersion": "70", "continue": token}, "items": items}
        )

    server.handler = handler


@pytest.mark.parametrize(("expire_at", "requests"), [(set(), 3), ({2}, 5), ({2, 4}, 5)])
async def test_pages_are_followed_and_begun_again(
    api: HttpKubeApi, server: Server, expire_at: set[int], requests: int
) -> None:
    pages(server, expire_at=expire_at)
    found = await api.list(PODS, namespace="n", label_selector="a in (b,c)", field_selector="spec.nodeName=x")
    assert [item["metadata"]["name"] for item in found.items] == ["p0", "p1", "p2", "p3", "p4"]
    assert found.resource_version == "70"
    assert len(server.seen) == requests
    for request in server.seen:
        assert (request.query["labelSelector"], request.query["fieldSelector"]) == ("a in (b,c)", "spec.nodeName=x")


async def test_a_list_without_end_is_left(server: Server, tmp_path: Path) -> None:
    async def on_and_on(_: web.Request) -> web.StreamResponse:
        metadata = {"resourceVersion": "1", "continue": f"again-{len(server.seen)}"}
        return web.json_response({"kind": "PodList", "metadata": metadata, "items": [an_object("Pod", "p", "1")]})

    server.handler = on_and_on
    path = kubeconfig(tmp_path, server.url)
    endless = await HttpKubeApi.connect(name="m", kubeconfig=path, context=None, limits=Limits(list_pages=3))
    with pytest.raises(TransientError, match="does not end after 3 pages"):
        await endless.list(PODS)
    await endless.close()
    vast = await HttpKubeApi.connect(name="m", kubeconfig=path, context=None, limits=Limits(list_bytes=1000))
    with pytest.raises(TransientError, match="the list is larger than 1000 bytes"):
        await vast.list(PODS)
    await vast.close()


def line(kind: str, version: str) -> bytes:
    return json.dumps({"type": kind, "object": an_object("Pod", "p", version)}).encode() + b"\n"


async def test_a_watch_is_read_line_by_line_however_it_is_cut(api: HttpKubeApi, server: Server) -> None:
    text = line("ADDED", "6") + line("MODIFIED", "7") + b"\n" + line("BOOKMARK", "9") + line("DELETED", "10")
    server.streams(text[:7], 0.01, text[7:200], 0.01, text[200:])
    events = await watched(api)
    assert [(event.type, event.object["metadata"]["resourceVersion"]) for event in events] == [
        ("ADDED", "6"),
        ("MODIFIED", "7"),
        ("BOOKMARK", "9"),
        ("DELETED", "10"),
    ]
    query = dict(server.seen[0].query)
    assert 240 <= int(query.pop("timeoutSeconds")) <= 360
    assert query == {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": "5", "labelSelector": "a=b"}


ERROR_GONE = b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}\n'


@pytest.mark.parametrize(
    ("chunks", "abort", "want", "match"),
    [
        ([ERROR_GONE], False, GoneError, "too old"),
        ([b'{"type":"ERROR","object":{"code":500,"message":"boom"}}\n'], False, TransientError, "boom"),
        ([b'{"type":"ERROR","object":null}\n'], False, TransientError, "malformed watch event"),
        ([b"not json\n"], False, TransientError, "not JSON"),
        ([b"[]\n"], False, TransientError, "no JSON object"),
        ([b'{"type":"RENAMED","object":{}}\n'], False, TransientError, "malformed watch event"),
        ([b'{"type":"ADDED","object":[]}\n'], False, TransientError, "malformed watch event"),
        ([b'{"type":["ADDED"],"object":{}}\n'], False, TransientError, "malformed watch event"),
        ([b'{"type":"ADDED","object":{"kind":"Node"}}\n'], False, TransientError, "of kind 'Node', not Pod"),
        ([b'{"type":"DELETED","object":{"kind":"Pod"}}\n'], False, TransientError, "has no metadata"),
        ([b'{"type":"ADDED","obj'], False, TransientError, "in the middle of an event"),
        ([b'{"type":"ADDED","obj', 0.05], True, TransientError, "no answer"),
        ([b"x" * 20_000], False, TransientError, "larger than 10000 bytes"),
    ],
)
async def test_a_watch_that_goes_wrong_is_told(
    api: HttpKubeApi, server: Server, chunks: list[bytes | float], abort: bool, want: type[ExternalError], match: str
) -> None:
    server.streams(line("ADDED", "6"), *chunks, abort=abort)
    async with aclosing(api.watch(PODS, resource_version="5", namespace="n")) as stream:
        assert (await anext(stream)).type == "ADDED"
        with pytest.raises(want, match=match) as caught:
            await anext(stream)
    assert str(caught.value).startswith("cluster m1: watch /api/v1/namespaces/n/pods: ")


async def test_a_watch_is_refused_before_it_begins(api: HttpKubeApi, server: Server) -> None:
    server.answers(status("Expired"), 410)
    with pytest.raises(GoneError):
        await watched(api)
    server.answers(status("Forbidden"), 403)
    with pytest.raises(AuthError):
        await watched(api)


async def test_hundreds_of_writes_at_once(api: HttpKubeApi, server: Server) -> None:
    arrived, everyone = 0, asyncio.Event()

    async def together(_: web.Request) -> web.StreamResponse:
        nonlocal arrived
        arrived += 1
        if arrived == 200:
            everyone.set()
        await everyone.wait()
        return web.json_response(POD)

    server.handler = together
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for _ in range(200):
            group.create_task(api.create(PODS, "n", POD))
    assert arrived == 200


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", "kubeconfig"),
        ("- a list", "kubeconfig"),
        ("clusters: 5", "kubeconfig"),
        ("{", "kubeconfig"),
        (json.dumps({"clusters": [], "contexts": [], "users": [], "current-context": "x"}), "name x in"),
    ],
)
async def test_a_wrong_kubeconfig_is_one_line_naming_the_file(tmp_path: Path, text: str, want: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InvalidObjectError, match=want) as caught:
        await HttpKubeApi.connect(name="m", kubeconfig=path, context=None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_settings_that_cannot_work_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidObjectError, match="does not exist"):
        await HttpKubeApi.connect(name="m", kubeconfig=tmp_path / "none", context=None)
    with pytest.raises(InvalidObjectError, match="name other"):
        await HttpKubeApi.connect(name="m", kubeconfig=kubeconfig(tmp_path, "http://127.0.0.1:1"), context="other")
    with pytest.raises(InvalidObjectError, match="not an http"):
        await HttpKubeApi.connect(name="m", kubeconfig=kubeconfig(tmp_path, "ftp://127.0.0.1"), context=None)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InvalidObjectError, match="no pod of a cluster"):
        await HttpKubeApi.connect(name="m", kubeconfig=None, context=None)


def plugin(folder: Path, script: str) -> dict[str, Any]:
    """A user whose credentials come from this shell script."""
    path = folder / "plugin.sh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path)}}


async def test_an_exec_plugin_is_asked_again_after_a_401(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    credential_text = json.dumps(
        {**credential, "status": {"token": "TOKEN", "expirationTimestamp": "2199-01-01T00:00:00Z"}}
    )
    user = plugin(tmp_path, f"echo x >> {runs}\nn=$(wc -l < {runs})\necho '{credential_text}' | sed s/TOKEN/t$n/")

    async def only_the_second(request: web.Request) -> web.StreamResponse:
        good = request.headers["Authorization"] == "Bearer t2"
        return web.json_response(POD if good else status("Unauthorized"), status=200 if good else 401)

    server.handler = only_the_second
    made = await HttpKubeApi.connect(name="m", kubeconfig=kubeconfig(tmp_path, server.url, user), context=None)
    with pytest.raises(AuthError):
        await made.get(PODS, "n", "p")
    assert await made.get(PODS, "n", "p") == POD
    assert await made.get(PODS, "n", "p") == POD
    assert runs.read_text().count("x") == 2
    await made.close()


async def test_an_exec_plugin_that_gives_nothing_is_told_by_each_call(server: Server, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, server.url, plugin(tmp_path, "exit 3"))
    made = await HttpKubeApi.connect(name="m", kubeconfig=path, context=None)
    with pytest.raises(AuthError, match="exec plugin gave no credentials"):
        await made.get(PODS, "n", "p")
    assert server.seen == []
    await made.close()


async def test_the_round_trip_is_measured(api: HttpKubeApi, server: Server) -> None:
    server.answers({"major": "1"})
    assert 0 < await api.round_trip_seconds() < 1
    assert server.seen[0].path == "/version"
