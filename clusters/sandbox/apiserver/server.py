"""The HTTP face: one aiohttp low-level server per emulated cluster, on two loopback ports, behind a bearer token.

One port speaks HTTPS: kubectl sends a token over nothing else. The other speaks plain HTTP, for programs on this
machine that would rather not pay for TLS.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import logging
from collections.abc import Callable
from typing import Any, Final

from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestHandler

from clusters.sandbox.apiserver import discovery, openapi
from clusters.sandbox.apiserver.authorization import ADMIN, Attributes, Authorizer, User, attributes_of, refusal
from clusters.sandbox.apiserver.certificates import authority
from clusters.sandbox.apiserver.failures import StatusError, bad_request, no_such_path, not_allowed
from clusters.sandbox.apiserver.kinds import REVIEWS
from clusters.sandbox.apiserver.local import LocalApi
from clusters.sandbox.apiserver.registry import Registry, Request
from clusters.sandbox.apiserver.resources import Place, ResourceHandler, parse_path
from clusters.sandbox.apiserver.reviews import answer_review
from clusters.sandbox.apiserver.store import Store
from clusters.sandbox.apiserver.wire import Wire, json_response, read_body
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ports import Clock

_log = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
_BODY_BYTES: Final = 3 * 1024 * 1024
_OPEN: Final = frozenset({"/healthz", "/readyz", "/livez", "/version"})
NAMESPACES: Final = ("default", "kube-system", "kube-public", "kube-node-lease")
_DRAIN_SECONDS: Final = 1.0


class ApiServer:
    """One emulated Kubernetes API. `local` is the same API in process; `store` tells whether it is quiet."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        *,
        token: str,
        port: int = 0,
        secure_port: int = 0,
        bookmark_seconds: float = 15.0,
    ) -> None:
        """`port` and `secure_port`: 0 takes any free one."""
        if not token:
            raise InvalidObjectError(f"sandbox cluster {name}: the API token is empty; give it one")
        self.name = name
        self.token = token
        self.store = Store()
        self.registry = Registry(self.store, clock)
        self.local = LocalApi(self.registry)
        self._ports = (port, secure_port)
        self._resources = ResourceHandler(self.registry, bookmark_seconds=bookmark_seconds)
        self._runner: web.ServerRunner | None = None
        self.url = ""
        """Where it speaks plain HTTP; "" until it is started."""
        self.secure_url = ""
        """Where it speaks HTTPS, with a certificate of `ca_pem`."""
        self.accepts_token: Callable[[str], bool] = lambda token: False
        """Whether a bearer token other than `token` is good here, too: its cloud says so."""
        self.cloud_user = ADMIN
        """Who comes with such a token."""
        self.audit: Callable[[User, Attributes], None] = lambda user, asked: None
        """Told of every request that was authenticated, before it is allowed or refused."""
        self._users = {token: ADMIN}
        self._authorizer = Authorizer(self.registry)
        for namespace in NAMESPACES:
            kind = self.registry.kind("", "v1", "namespaces")
            self.registry.create(kind, "", {"metadata": {"name": namespace}}, Request(manager="kube-apiserver"))

    @property
    def ca_pem(self) -> bytes:
        """The certificate (PEM) of the authority that vouches for `secure_url`."""
        return authority().ca_pem

    def enroll(self, token: str, user: User) -> None:
        """Let the token's holder in as that user, who may do what the stored roles and bindings say."""
        self._users[token] = user

    async def start(self) -> None:
        """Listen. Raises: OSError when the port is taken."""
        server = web.Server(
            self._handle, request_factory=_request, handler_cancellation=True, access_log=None, tcp_keepalive=True
        )
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=_DRAIN_SECONDS)
        await runner.setup()
        plain, secure = self._ports
        try:
            for port, context in ((plain, None), (secure, authority().context)):
                await web.TCPSite(runner, HOST, port, backlog=512, ssl_context=context).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        (_, plain, *_), (_, secure, *_) = runner.addresses
        self.url, self.secure_url = f"http://{HOST}:{plain}", f"https://{HOST}:{secure}"

    async def stop(self) -> None:
        """Close all watches and stop listening."""
        self.store.close_watchers()
        runner, self._runner = self._runner, None
        if runner is None:
            return
        server = runner.server
        transports = [connection.transport for connection in server.connections] if server else []
        await runner.cleanup()
        for transport in transports:
            if transport is not None:
                transport.abort()  # closing TLS politely may wait half a minute for a client that is gone
        await asyncio.sleep(0)

    # One request

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._route(request)
        except StatusError as error:
            return self._refusal(error)
        except RecursionError:
            return self._refusal(bad_request("the request body is nested too deeply"))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except web.HTTPRequestEntityTooLarge:
            text = f"Request entity too large: limit is {_BODY_BYTES}"
            return self._refusal(StatusError(413, "RequestEntityTooLarge", text))
        except Exception:  # noqa: BLE001  (the edge of the server: one bad request must not take it down)
            _log.exception("%s: %s %s failed", self.name, request.method, request.path)
            return self._refusal(StatusError(500, "InternalError", "Internal error occurred"))

    def _refusal(self, error: StatusError) -> web.Response:
        if not error.reason:
            return web.Response(status=error.code, text=f"{error.message}\n")
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else None
        return json_response(error.body(), error.code, headers)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path in _OPEN or path.startswith(("/healthz/", "/readyz/", "/livez/")):
            return _open_answer(path)
        user = self._authenticate(request)
        wire = Wire(request)
        place = parse_path(path)
        self._authorize(user, request.method, path, place, wire)
        if request.method in ("GET", "HEAD"):
            document = discovery.answer(self.registry.kinds, path, wire) or openapi.answer(
                self.registry.kinds, path, wire
            )
            if document is not None:
                return document
        if place is None:
            raise no_such_path()
        if any((place.group, place.version, place.plural) == (g, v, p) for g, v, _, p, _ in REVIEWS):
            if request.method != "POST":
                raise not_allowed()
            given = await read_body(wire, _BODY_BYTES)
            body = answer_review(place, given, user, self._authorizer, self._user_of)
            return json_response(body, 201)
        self.registry.kind(place.group, place.version, place.plural)  # an unknown path is that, whatever the body
        return await self._resources.handle(place, wire, await self._body(wire))

    async def _body(self, wire: Wire) -> object:
        if wire.request.method in ("GET", "HEAD"):
            return None
        return await read_body(wire, _BODY_BYTES)

    def _authenticate(self, request: web.BaseRequest) -> User:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        user = self._user_of(given.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        return user

    def _user_of(self, token: str) -> User | None:
        """Who holds it; None: nobody that is known here."""
        for known, user in self._users.items():
            if hmac.compare_digest(token.encode(), known.encode()):
                return user
        return self.cloud_user if self.accepts_token(token) else None

    def _authorize(self, user: User, method: str, path: str, place: Place | None, wire: Wire) -> None:
        if place is None:
            verb = "get" if method in ("GET", "HEAD") else method.lower()
            asked = Attributes(verb, path=path)
        else:
            asked = attributes_of(method, place, watch=wire.flag("watch"))
        self.audit(user, asked)
        if not self._authorizer.allows(user, asked):
            raise refusal(user, asked)


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """As aiohttp's own factory makes them, with this server's limit on bodies."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_BODY_BYTES)


def _open_answer(path: str) -> web.Response:
    if path == "/version":
        return json_response(discovery.VERSION_INFO)
    return web.Response(text="ok")


def kubeconfig(server: ApiServer) -> dict[str, Any]:
    """A kubeconfig document for `server` (JSON is YAML: kubectl reads it as it is). It holds the token.

    Its current context, the cluster's name, speaks HTTPS. The context `<name>-plain` speaks HTTP, which costs less and
    which the Python clients can use; kubectl cannot, as it sends no token there.
    """
    name, plain = server.name, f"{server.name}-plain"
    ca = base64.b64encode(server.ca_pem).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": server.secure_url, "certificate-authority-data": ca}},
            {"name": plain, "cluster": {"server": server.url}},
        ],
        "users": [{"name": name, "user": {"token": server.token}}],
        "contexts": [
            {"name": context, "context": {"cluster": context, "user": name, "namespace": "default"}}
            for context in (name, plain)
        ],
        "current-context": name,
    }
