"""The SDK's clients of one AWS account and region, and how they are called: bounded, typed, one attempt each."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from pydantic import BaseModel, ConfigDict, Field

from clusters.providers._blocking import BlockingCalls
from clusters.providers._eks_errors import NO_CREDENTIALS, STALE_CREDENTIALS, translated
from clusters.providers._settings import NearbyPath, ProviderSettings
from scheduler.model.errors import AuthError, InvalidObjectError, OverspillError, TransientError

_PAGES: Final = 50
"""Of a hundred entries; more than any account's limits allow."""
_AT_ONCE: Final = ("eks", "autoscaling", "sts")
"""Services whose clients are made with the provider. EC2's and IAM's definitions are large, and are wanted later."""


class Endpoints(BaseModel):
    """Where the APIs are when not at AWS's own addresses (a VPC endpoint, a proxy, an emulation)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    eks: str | None = None
    autoscaling: str | None = None
    ec2: str | None = None
    sts: str | None = None
    iam: str | None = None


class Settings(ProviderSettings):
    """Credentials come from boto3's default chain; `profile` and `credentialsFile` narrow it."""

    type: Literal["eks"]
    cluster_name: str = Field(min_length=1)
    region: str = Field(min_length=1)
    endpoints: Endpoints = Endpoints()
    ca_file: NearbyPath | None = None
    profile: str | None = None
    credentials_file: NearbyPath | None = None
    cluster_autoscaler: bool = False
    """Whether a cluster-autoscaler runs in this cluster: no group tagged for its auto-discovery is resized then.
    EKS tags the Auto Scaling group of every managed node group so, asked or not: the tags alone do not tell."""


class Clients:
    """boto3's clients, each made when it is first wanted; safe in several threads."""

    def __init__(self, settings: Settings) -> None:
        """Raises: AuthError when the profile or the credentials file cannot be used; InvalidObjectError for settings
        that name no place."""
        self._settings = settings
        self._lock = threading.Lock()
        self._made: dict[str, Any] = {}
        self._core = _session(settings)
        try:
            for service in _AT_ONCE:
                self.get(service)
        except NO_CREDENTIALS as error:
            raise AuthError(f"eks: {error}", code=type(error).__name__) from error
        except (BotoCoreError, ValueError) as error:  # a region or an endpoint that is none
            raise InvalidObjectError(f"eks: {error}") from error

    def get(self, service: str) -> Any:
        """The client of `service`; "sts-regional" is the STS of the region at its public address."""
        with self._lock:  # making clients is not safe in several threads, using them is
            if service not in self._made:
                self._made[service] = self._make(service)
            return self._made[service]

    def credentials(self) -> Any:
        """botocore's credentials, which refresh themselves where their source can; None: there are none."""
        with self._lock:
            return self._core.get_credentials()

    def role_arn(self) -> str:
        """The role that the configuration says is taken on, path included; "" when it names none."""
        with self._lock:
            profile = self._core.get_scoped_config()
        return str(profile.get("role_arn") or os.environ.get("AWS_ROLE_ARN", ""))

    def renew(self) -> None:
        """Forget the credentials, and read them again when they are next wanted.

        botocore refreshes those of roles, SSO and processes by itself, but reads a credentials file only once; one that
        somebody else rotates would be stale forever.
        """
        fresh = _session(self._settings)
        with self._lock:
            left = list(self._made.values())
            self._made = {}
            self._core = fresh
        for client in left:
            client.close()

    def close(self) -> None:
        with self._lock:
            left = list(self._made.values())
            self._made = {}
        for client in left:
            client.close()

    def _make(self, service: str) -> Any:
        settings = self._settings
        regional = service == "sts-regional"
        config = Config(
            connect_timeout=settings.connect_timeout_seconds,
            read_timeout=settings.read_timeout_seconds,
            retries={"total_max_attempts": 1, "mode": "standard"},
            user_agent_extra="overspill",
            ignore_configured_endpoint_urls=regional,
        )
        session = boto3.Session(botocore_session=self._core, region_name=settings.region)
        return session.client(
            service.partition("-")[0],
            config=config,
            endpoint_url=None if regional else getattr(settings.endpoints, service),
            verify=str(settings.ca_file) if settings.ca_file else None,
        )


class AwsCalls:
    """One call of AWS after another, in the provider's own threads."""

    def __init__(self, settings: Settings) -> None:
        self.clients = Clients(settings)
        self.blocking = BlockingCalls(f"eks/{settings.cluster_name}", limit_seconds=settings.call_limit_seconds)

    async def ask(self, service: str, action: str, *, writes: bool = False, **arguments: Any) -> dict[str, Any]:
        """AWS's answer to `action` of `service`. Raises: ExternalError."""

        def call() -> dict[str, Any]:
            try:
                answer: dict[str, Any] = translated(
                    action,
                    lambda: getattr(self.clients.get(service), xform_name(action))(**arguments),
                    writes=writes,
                )
            except AuthError as error:
                if error.code in STALE_CREDENTIALS:
                    with contextlib.suppress(
                        OverspillError
                    ):  # a file that is being replaced: the next call looks again
                        self.clients.renew()
                raise
            return answer

        return await self.blocking.run(action, call, writes=writes)

    async def all(self, service: str, action: str, key: str, **arguments: Any) -> list[Any]:
        """What stands under `key` in all pages of the answer. Raises: ExternalError."""
        found: list[Any] = []
        token: dict[str, Any] = {}
        for _ in range(_PAGES):
            page = await self.ask(service, action, **arguments, **token)
            found += page[key]
            if not page.get("nextToken"):
                return found
            token = {"nextToken": page["nextToken"]}
        raise TransientError(f"eks: {action}: more than {_PAGES} pages", code="TooManyPages")

    async def close(self) -> None:
        await self.blocking.close()
        self.clients.close()


def _session(settings: Settings) -> botocore.session.Session:
    for name, url in settings.endpoints:
        if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname):
            raise InvalidObjectError(f"eks: endpoints.{name}: {url!r} is no http or https URL")
    core = botocore.session.Session(profile=settings.profile)
    if settings.credentials_file is not None:
        if not settings.credentials_file.is_file():
            raise AuthError(f"eks: {settings.credentials_file}: no such credentials file", code="NoCredentials")
        core.set_config_variable("credentials_file", str(settings.credentials_file))
    if settings.ca_file is not None and not settings.ca_file.is_file():
        raise InvalidObjectError(f"eks: caFile {settings.ca_file}: no such file")
    core.set_config_variable("sts_regional_endpoints", "regional")  # EKS takes tokens for no other STS
    core.register_component("data_loader", _definitions(os.environ.get("AWS_DATA_PATH", "")))
    return core


@functools.cache
def _definitions(data_path: str) -> botocore.loaders.Loader:
    """The SDK's service definitions, read once for all members: EC2's alone are many megabytes."""
    return botocore.loaders.create_loader(data_path or None)
