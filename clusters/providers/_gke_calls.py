"""The wire to Google's APIs: one identity, a gRPC channel to GKE and an HTTP session to the REST APIs.

The SDK's retries are off for every call; the daemon's next pass is the only retry. A token is fetched before the call
that needs it. A call whose token was refused is sent once more with a new one: nobody has looked at the first.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import google.auth
import google.auth.exceptions
import google.auth.identity_pool
import google.oauth2.credentials
import google.oauth2.service_account
import grpc
import requests
from google.auth.transport.grpc import secure_authorized_channel
from google.auth.transport.requests import AuthorizedSession, Request
from google.cloud.container_v1 import ClusterManagerClient
from google.cloud.container_v1.services.cluster_manager.transports import ClusterManagerGrpcTransport

from clusters.clock import SystemClock
from clusters.providers._blocking import BlockingCalls
from clusters.providers._gke_errors import RestError, auth_failure, status_of, translated
from scheduler.model.errors import AuthError
from scheduler.model.ports import Clock

T = TypeVar("T")

_SCOPES: Final = (
    "https://www.googleapis.com/auth/cloud-platform",
    # Kubernetes knows the bearer by its e-mail address with this one, by a number without.
    "https://www.googleapis.com/auth/userinfo.email",
)
_UNTOLD_LIFETIME_SECONDS: Final = 300.0
"""Of a token whose end is not told: short enough to be asked for again well within Google's usual hour."""
_MOST_BYTES: Final = 16 << 20


class _BoundedRequest(Request):
    """google-auth's HTTP transport, with our time limit in place of its two minutes, and our CA.

    The CA goes with each request: `REQUESTS_CA_BUNDLE` in the environment beats a session's own.
    """

    def __init__(self, session: requests.Session, seconds: float, verify: str | None) -> None:
        super().__init__(session=session)
        self._fixed = {"timeout": seconds, "verify": verify}

    def __call__(self, url: str, *args: Any, **kwargs: Any) -> Any:
        answer: Any = super().__call__(url, *args, **{**kwargs, **self._fixed})  # type: ignore[no-untyped-call]
        return answer


class GoogleCalls:
    """Calls to Google's APIs with one identity. Times in seconds; `wall` is the clock that tokens live by."""

    def __init__(
        self,
        name: str,
        credentials: Any,
        *,
        endpoint: str,
        ca_file: Path | None,
        limits: tuple[float, float],
        call_limit: float,
        wall: Clock | None = None,
    ) -> None:
        self.credentials = credentials
        self.seconds = limits[1]
        """Limit of one gRPC call."""
        self._limits = limits
        self._wall = wall or SystemClock()
        self._verify = str(ca_file) if ca_file else None
        self._token_session = requests.Session()
        self._request = _BoundedRequest(self._token_session, limits[1], self._verify)
        self._refreshing = threading.Lock()
        self._channel: grpc.Channel = secure_authorized_channel(  # type: ignore[no-untyped-call]
            credentials,
            self._request,
            endpoint,
            ssl_credentials=grpc.ssl_channel_credentials(root_certificates=ca_file.read_bytes() if ca_file else None),
            options=[("grpc.enable_retries", 0), ("grpc.max_receive_message_length", _MOST_BYTES)],
        )
        self.gke = ClusterManagerClient(transport=ClusterManagerGrpcTransport(channel=self._channel))
        self._session: Any = AuthorizedSession(  # type: ignore[no-untyped-call]
            credentials, auth_request=self._request, max_refresh_attempts=0
        )
        self._blocking = BlockingCalls(name, limit_seconds=call_limit)

    async def ask(self, action: str, function: Callable[[], T], *, writes: bool = False) -> T:
        """What `function` returns, called in a thread with a token at hand. Raises: ExternalError."""

        def call() -> T:
            used = self._authenticate(action)
            try:
                return translated(action, function, writes=writes)
            except AuthError as error:
                if status_of(error) != 401:
                    raise
            self._authenticate(action, refused=used)
            return translated(action, function, writes=writes)

        return await self._blocking.run(action, call, writes=writes)

    def rest(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """The parsed answer of a REST call; to be run by `ask`. Raises: RestError, requests' and google-auth's."""
        answer = self._session.request(
            method, url, json=body, timeout=self._limits, max_allowed_time=sum(self._limits), verify=self._verify
        )
        if not answer.ok:
            raise RestError.of(answer)
        parsed = answer.json()
        if not isinstance(parsed, dict):
            raise requests.exceptions.InvalidJSONError("the answer is no JSON object")
        return parsed

    async def fresh_token(self) -> tuple[str, float]:
        """A new access token, and for how many seconds from now it is good. Raises: AuthError, TransientError."""

        def fetch() -> tuple[str, float]:
            try:
                with self._refreshing:
                    self.credentials.refresh(self._request)
                    token, expiry = str(self.credentials.token), self.credentials.expiry
            except google.auth.exceptions.GoogleAuthError as error:
                raise auth_failure("log_in", error) from error
            if expiry is None:
                return token, _UNTOLD_LIFETIME_SECONDS
            # google-auth keeps the end as UTC without saying so.
            return token, expiry.replace(tzinfo=datetime.UTC).timestamp() - self._wall.now()

        return await self._blocking.run("log_in", fetch)

    async def close(self) -> None:
        await self._blocking.close()
        self._channel.close()
        self._session.close()
        self._token_session.close()

    def _authenticate(self, action: str, *, refused: str | None = None) -> str | None:
        """The token to call with, fetched where one is due or the present one is `refused`.

        Inside gRPC a token that cannot be had would look like an unreachable server.
        """
        try:
            with self._refreshing:
                stale = refused is not None and self.credentials.token == refused
                if stale or not self.credentials.valid:
                    self.credentials.refresh(self._request)
                token: str | None = self.credentials.token
                return token
        except google.auth.exceptions.GoogleAuthError as error:
            raise auth_failure(action, error) from error


def load_credentials(file: Path | None) -> Any:
    """Credentials of a file; None: application default ones. Raises: AuthError, naming the file."""
    try:
        if file is None:
            return google.auth.default(scopes=_SCOPES)[0]
        info = json.loads(file.read_text())
        kinds: dict[str, Callable[..., Any]] = {
            "service_account": google.oauth2.service_account.Credentials.from_service_account_info,
            "authorized_user": google.oauth2.credentials.Credentials.from_authorized_user_info,
            "external_account": google.auth.identity_pool.Credentials.from_info,
        }
        if info.get("type") in kinds:
            return kinds[info["type"]](info, scopes=_SCOPES)
    except (OSError, ValueError, AttributeError, google.auth.exceptions.GoogleAuthError) as error:
        raise AuthError(f"gke: {file or 'application default credentials'}: {error}", code="NoCredentials") from error
    raise AuthError(
        f"gke: {file}: type must be service_account, authorized_user or external_account", code="NoCredentials"
    )
