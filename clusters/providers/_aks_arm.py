"""Azure Resource Manager as the AKS adapter calls it: who we are, where our token may go, whole but bounded answers.

The SDKs' retries are off, in ARM calls and in token fetches: the daemon's next pass is the only retry.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from azure.core.exceptions import ServiceResponseError
from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import RetryPolicy, SansIOHTTPPolicy
from azure.core.rest import HttpRequest
from azure.identity import ClientSecretCredential, DefaultAzureCredential, WorkloadIdentityCredential
from azure.mgmt.containerservice import ContainerServiceClient

from clusters.providers._aks_settings import Settings
from scheduler.model.errors import AuthError, TransientError

_MOST_PAGES: Final = 50
_MOST_ITEMS: Final = 5000


class RenewableCredential:
    """The credential of the settings, which can be made anew.

    Azure's own keep a token until it is about to expire, whatever the cloud thinks of it meanwhile. A new one also
    reads the client secret again, which may have been rotated.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        """Raises: what `make` raises."""
        self._make = make
        self._current = make()
        self._retired: Any = None
        self._lock = threading.Lock()

    def get_token(self, *scopes: str, **options: Any) -> Any:
        return self._current.get_token(*scopes, **options)

    def get_token_info(self, *scopes: str, options: Any = None) -> Any:
        return self._current.get_token_info(*scopes, options=options)

    def renew(self) -> None:
        """Forget the tokens. Where no credential can be made just now, the present one stays."""
        try:
            made = self._make()
        except (AuthError, ValueError):
            return
        with self._lock:
            # The present one may be in use by another thread: it is closed at the renewal after this one.
            ended, self._retired, self._current = self._retired, self._current, made
        if ended is not None:
            ended.close()

    def close(self) -> None:
        for one in (self._retired, self._current):
            if one is not None:
                one.close()


class OneHost(SansIOHTTPPolicy):  # type: ignore[type-arg]
    """Keeps the token at home: links in answers, to the next page or a long operation, may not lead elsewhere."""

    def __init__(self, endpoint: str) -> None:
        self._home = _origin(endpoint)

    def on_request(self, request: PipelineRequest[Any]) -> None:
        if _origin(request.http_request.url) != self._home:
            raise ServiceResponseError("the answer has a link to another host, which is not followed")


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()


def transport_of(settings: Settings) -> dict[str, Any]:
    """Time limits and the trusted CA, in azure-core's words."""
    transport: dict[str, Any] = {
        "connection_timeout": settings.connect_timeout_seconds,
        "read_timeout": settings.read_timeout_seconds,
    }
    if settings.ca_file is not None:
        transport["connection_verify"] = str(settings.ca_file)
    return transport


def credential_of(settings: Settings) -> Any:
    """Raises: AuthError, naming the file; ValueError for a malformed identity."""
    options: dict[str, Any] = {
        **transport_of(settings),
        "retry_total": 0,
        "disable_instance_discovery": settings.disable_instance_discovery,
    }
    if settings.authority is not None:
        options["authority"] = settings.authority
    if settings.client_secret_file is not None:
        try:
            secret = settings.client_secret_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            text = f"aks: clientSecretFile {settings.client_secret_file}: {error}"
            raise AuthError(text, code="NoCredentials") from error
        return ClientSecretCredential(settings.tenant_id or "", settings.client_id or "", secret, **options)
    if settings.federated_token_file is not None:
        return WorkloadIdentityCredential(
            tenant_id=settings.tenant_id,
            client_id=settings.client_id,
            token_file_path=str(settings.federated_token_file),
            **options,
        )
    return DefaultAzureCredential(exclude_interactive_browser_credential=True, **options)


def client_of(settings: Settings, credential: RenewableCredential) -> ContainerServiceClient:
    endpoint = settings.endpoint.rstrip("/")
    return ContainerServiceClient(
        credential,
        settings.subscription_id,
        base_url=endpoint,
        credential_scopes=[settings.scope],
        retry_policy=RetryPolicy.no_retries(),
        per_retry_policies=[OneHost(endpoint)],  # behind the policy that follows redirects
        **transport_of(settings),
    )


def whole(place: str, paged: Any) -> list[Any]:
    """All items of an SDK's paged list. Raises: TransientError when there is no end of it."""
    items: list[Any] = []
    for number, page in enumerate(paged.by_page()):
        _check_end(place, number, items)
        items.extend(page)
    return items


def get_json(client: ContainerServiceClient, url: str) -> Any:
    """GET by the client's own pipeline, for what the SDK has no method. Raises: AzureError; TransientError for an
    answer that is no JSON."""
    answer = client.send_request(HttpRequest("GET", url))
    answer.raise_for_status()
    try:
        return answer.json()
    except ValueError as error:
        raise TransientError("aks: the answer is no JSON; look at the endpoint setting", code="Malformed") from error


def get_list(client: ContainerServiceClient, place: str, path: str) -> list[Any]:
    """All items of ARM's list at `path`. Raises: as `get_json`; TransientError for one without end or without sense."""
    items: list[Any] = []
    link, number = path, 0
    while link:
        _check_end(place, number, items)
        body = get_json(client, link)
        found = body.get("value") if isinstance(body, dict) else None
        if not isinstance(found, list):
            raise TransientError(f"{place}: the answer is no list; look at the endpoint setting", code="Malformed")
        items.extend(found)
        link, number = str(body.get("nextLink") or ""), number + 1
    return items


def _check_end(place: str, pages: int, items: list[Any]) -> None:
    if pages >= _MOST_PAGES or len(items) > _MOST_ITEMS:
        text = f"{place}: no end after {pages} pages and {len(items)} items; look at the endpoint setting"
        raise TransientError(text, code="TooLong")
