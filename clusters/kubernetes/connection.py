"""How to reach one Kubernetes API: kubeconfig or in-cluster settings, TLS, proxy, sockets, and fresh credentials.

All of it is the official client's own code (`kubernetes.aio.config`, its `Configuration` and REST session). What is
added here: settings for many requests at once, silent peers noticed by TCP, credentials renewed before and after they
expire, and failures as one line that names the cluster and the file. Logging in by a cloud is in login.py.
"""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import aiohttp
import yaml
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config
from kubernetes.aio.config.kube_config import KubeConfigLoader, KubeConfigMerger

from clusters.kubernetes.credentials import Credentials, certificate_end, token_end
from scheduler.model.errors import AuthError, InvalidObjectError, TransientError

_LOAD_SECONDS: Final = 30.0
"""Longest that an exec plugin or an identity provider may take."""
_RENEW_SECONDS: Final = 300.0
"""Credentials without a known end of life (token files, OIDC) are read again this often."""
REJECTED_PAUSE_SECONDS: Final = 10.0
"""Shortest time between two attempts to renew, so that a refusing API does not make us run the plugin in a loop."""
_EXPIRY_MARGIN: Final = timedelta(minutes=2)
_BAD_SETTINGS: Final = (ConfigException, KeyError, TypeError, ValueError, AttributeError, OSError, yaml.YAMLError)
"""What the official loader raises for a kubeconfig that it does not understand."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one API connection. Times in seconds of the wall clock, sizes in bytes."""

    connect_seconds: float = 5.0
    read_seconds: float = 20.0
    """Longest silence within an answer."""
    call_seconds: float = 30.0
    """A whole call, waiting for a free connection included."""
    watch_seconds: float = 300.0
    """How long the server is asked to keep a watch open; +-20 % at random, so that watches do not end together."""
    silence_seconds: float = 150.0
    """A watch that brings neither event nor bookmark for so long is asked for anew: API servers send a bookmark about
    every minute, and a watch that hangs looks like one in which nothing happens."""
    connections: int = 512
    answer_bytes: int = 128 * 2**20
    event_bytes: int = 8 * 2**20
    page_items: int = 500
    list_pages: int = 4000
    list_bytes: int = 512 * 2**20
    """All pages of one list together."""


class Way(Protocol):
    """A way to one API, as the client uses it: `authorization` comes before each request, then the rest is there."""

    base_url: str
    session: aiohttp.ClientSession
    request_options: dict[str, Any]

    async def authorization(self) -> str: ...

    def rejected(self) -> None: ...

    def credentials(self) -> Credentials:
        """Those that `authorization` gives now."""
        ...

    async def close(self) -> None: ...


class Session(RESTClientObject):
    """The official REST object, whose session is opened by us: no netrc, no environment lookup on each request."""

    @classmethod
    def prepared(cls, configuration: Configuration, limits: Limits) -> Session:
        """For `configuration`, with our limits and the environment's proxy. Raises: OSError, ValueError for TLS files
        that cannot be used."""
        configuration.connection_pool_maxsize = limits.connections
        # Python 3.13 asks of authorities what those of many clusters lack (EKS among them); other clients do not.
        configuration.disable_strict_ssl_verification = True
        configuration.client_session_kwargs = {
            "trust_env": False,
            "cookie_jar": aiohttp.DummyCookieJar(),
            "timeout": aiohttp.ClientTimeout(
                total=None, connect=None, sock_connect=limits.connect_seconds, sock_read=limits.read_seconds
            ),
        }
        if configuration.proxy is None:
            configuration.proxy = _proxy_from_environment(configuration.host)
        return cls(configuration)

    @property
    def request_options(self) -> dict[str, Any]:
        """What each request of the session is made with."""
        options: dict[str, Any] = {"allow_redirects": False}
        if self.configuration.proxy:
            options["proxy"] = self.configuration.proxy
        if self.configuration.tls_server_name:
            options["server_hostname"] = self.configuration.tls_server_name
        return options

    def open(self) -> aiohttp.ClientSession:
        self.pool_manager = self._create_pool_manager()
        return self.pool_manager

    def _create_connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector(
            limit=self.maxsize,
            ssl=self.ssl_context,
            ttl_dns_cache=30,
            enable_cleanup_closed=False,
            socket_factory=_keepalive_socket,
        )


def _keepalive_socket(address: tuple[Any, ...]) -> socket.socket:
    """A TCP socket that notices a peer gone without a word within about a minute (watches are silent for long)."""
    family, kind, protocol = address[0], address[1], address[2]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


class Connection:
    """An open session to one API, and what authenticates with it.

    `loader` is the official KubeConfigLoader, which renews credentials; None in a pod, whose token file is read anew by
    the configuration itself.
    """

    def __init__(self, name: str, configuration: Configuration, loader: Any, limits: Limits) -> None:
        self._name = name
        self._configuration = configuration
        self._loader = loader
        self.base_url: str = configuration.host.rstrip("/")
        self._rest = Session.prepared(configuration, limits)
        self.session = self._rest.open()
        self.request_options = self._rest.request_options
        self._certificate = (configuration.cert_file, configuration.key_file)
        self._renewing = asyncio.Lock()
        self._renew_at = 0.0
        self._tried_at = float("-inf")
        self._plan_renewal()

    async def authorization(self) -> str:
        """The value of the Authorization header; empty when the API is reached without one (client certificate).

        Raises: AuthError when there are no usable credentials now.
        """
        if self._loader is not None and time.monotonic() >= self._renew_at:
            await self._renew()
        try:
            value = await self._configuration.get_api_key_with_prefix("BearerToken")
        except (ConfigException, OSError) as error:
            raise AuthError(f"cluster {self._name}: the service account's token cannot be read ({error})") from error
        if not value and self._wants_plugin() and not self._certificate[0]:
            self._renew_at = 0.0
            raise AuthError(f"cluster {self._name}: the kubeconfig's exec plugin gave no credentials; run it by hand")
        return value or ""

    def rejected(self) -> None:
        """The API said 401: renew before the next call (not more than once in ten seconds)."""
        if self._loader is not None:
            if hasattr(self._loader, "exec_plugin_expiry"):
                self._loader.exec_plugin_expiry = datetime(1970, 1, 2, tzinfo=UTC)
            self._renew_at = 0.0

    def credentials(self) -> Credentials:
        """See `Way`."""
        # The configuration keeps a bearer token as the whole value of the header.
        token = str(self._configuration.api_key.get("BearerToken") or "").rpartition(" ")[2]
        if self._loader is None:
            return Credentials("service account", token_end(token), renewed=True)
        if self._wants_plugin():
            expiry = getattr(self._loader, "exec_plugin_expiry", None)
            ends_at = expiry.timestamp() if isinstance(expiry, datetime) else token_end(token)
            return Credentials("exec plugin", ends_at, renewed=True)
        if token:
            file = "tokenFile" in (getattr(self._loader, "_user", None) or {})
            return Credentials("token file" if file else "token", token_end(token), renewed=file)
        if self._certificate[0]:
            return Credentials("client certificate", certificate_end(Path(self._certificate[0])), renewed=False)
        return Credentials("none", None, renewed=False)

    async def close(self) -> None:
        await self._rest.close()

    def _wants_plugin(self) -> bool:
        user = getattr(self._loader, "_user", None)
        return user is not None and "exec" in user

    async def _renew(self) -> None:
        async with self._renewing:
            if time.monotonic() < max(self._renew_at, self._tried_at + REJECTED_PAUSE_SECONDS):
                return
            self._tried_at = time.monotonic()
            try:
                async with asyncio.timeout(_LOAD_SECONDS):
                    await self._loader.load_and_set(self._configuration)
            except (*_BAD_SETTINGS, aiohttp.ClientError) as error:
                raise AuthError(f"cluster {self._name}: credentials cannot be renewed ({short(error)})") from error
            certificate = (self._configuration.cert_file, self._configuration.key_file)
            if certificate != self._certificate and certificate[0]:
                self._rest.ssl_context.load_cert_chain(certificate[0], keyfile=certificate[1])
                self._certificate = certificate
            self._plan_renewal()

    def _plan_renewal(self) -> None:
        """When to load credentials again: shortly before the plugin's end of life, else every few minutes."""
        wait = _RENEW_SECONDS
        expiry = getattr(self._loader, "exec_plugin_expiry", None)
        if isinstance(expiry, datetime):
            # The loader itself renews from five minutes before the end of life; the wall clock is what plugins speak.
            left = (expiry - _EXPIRY_MARGIN).timestamp() - time.time()  # noqa: TID251
            wait = max(REJECTED_PAUSE_SECONDS, left)
        elif self._wants_plugin():
            wait = float("inf")
        self._renew_at = time.monotonic() + wait


async def open_connection(name: str, kubeconfig: Path | None, context: str | None, limits: Limits) -> Connection:
    """A connection by `kubeconfig` and `context` (None: its current one), or in-cluster when `kubeconfig` is None.

    Does not call the API, so a silent cluster can be opened. Raises: InvalidObjectError naming the file when the
    settings are wrong; TransientError when an identity provider does not answer.
    """
    configuration = Configuration()
    configuration.retries = None
    if kubeconfig is None:
        try:
            load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        except (ConfigException, OSError) as error:
            raise InvalidObjectError(
                f"cluster {name}: no kubeconfig is named and this is no pod of a cluster ({error}); name a kubeconfig"
            ) from error
        return _opened(name, "the pod's service account", configuration, None, limits)
    if not kubeconfig.is_file():  # noqa: ASYNC240  (a local file, read once at start)
        raise InvalidObjectError(f"cluster {name}: kubeconfig {kubeconfig} does not exist")
    try:
        merged = KubeConfigMerger(str(kubeconfig)).config  # type: ignore[no-untyped-call]
        loader: Any = KubeConfigLoader(merged, context, config_base_path=None)  # type: ignore[no-untyped-call]
        async with asyncio.timeout(_LOAD_SECONDS):
            await loader.load_and_set(configuration)
    except TimeoutError as error:
        raise TransientError(f"cluster {name}: no credentials within {_LOAD_SECONDS:.0f} s ({kubeconfig})") from error
    except aiohttp.ClientError as error:
        raise TransientError(f"cluster {name}: the identity provider failed ({short(error)})") from error
    except _BAD_SETTINGS as error:
        raise InvalidObjectError(f"cluster {name}: kubeconfig {kubeconfig}: {short(error)}") from error
    return _opened(name, f"kubeconfig {kubeconfig}", configuration, loader, limits)


def _opened(name: str, place: str, configuration: Configuration, loader: Any, limits: Limits) -> Connection:
    parts = urlsplit(configuration.host)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidObjectError(f"cluster {name}: {place}: server {configuration.host!r} is not an http(s) URL")
    try:
        return Connection(name, configuration, loader, limits)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError: an unreadable CA or client certificate
        raise InvalidObjectError(f"cluster {name}: {place}: TLS files cannot be used ({short(error)})") from error


def _proxy_from_environment(url: str) -> str | None:
    """What HTTPS_PROXY, HTTP_PROXY and NO_PROXY say for this server, as kubectl honours them."""
    parts = urlsplit(url)
    if not parts.hostname or urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
