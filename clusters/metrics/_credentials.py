"""How a Prometheus API is told who asks: bearer token, name and password, AWS signature, further headers.

Files are read anew for each request, so that a rotated token is used at once; nothing of them is kept, logged or
repeated in an error.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import botocore.session
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic.alias_generators import to_camel
from requests import PreparedRequest
from requests.auth import AuthBase, HTTPBasicAuth

from clusters.metrics._settings import NearbyPath
from scheduler.model.errors import AuthError

_LARGEST_FILE: Final = 64 << 10
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_SECRET: Final = re.compile(r"[\x20-\x7e]+")
_OURS: Final = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "authorization"})
_SIGNED_LATER: Final = frozenset({"connection", "user-agent", "accept-encoding", "accept"})
"""Headers that proxies change on the way: not signed."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)


class BasicAuth(_Part):
    """Name and password (HTTP Basic)."""

    username: str = Field(min_length=1, max_length=200)
    password_file: NearbyPath


class SigV4(_Part):
    """Requests signed for AWS, as Amazon Managed Service for Prometheus wants them."""

    region: str = Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")
    service: str = Field(default="aps", pattern=r"^[a-z0-9-]{1,40}$")
    profile: str | None = Field(default=None, max_length=100)
    """Of the AWS configuration files. Default: the usual chain (environment, service account, instance)."""


class Headers(_Part):
    """Further headers: values written out, or each in a file."""

    headers: dict[str, SecretStr] = Field(default_factory=dict, max_length=20)
    header_files: dict[str, NearbyPath] = Field(default_factory=dict, max_length=20)

    @field_validator("headers", "header_files")
    @classmethod
    def _names(cls, value: dict[str, object]) -> dict[str, object]:
        for name, content in value.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name[:40]!r} is no name of a header; write one such as X-Scope-OrgID")
            if name.lower() in _OURS:
                raise ValueError(
                    f"{name} is set by Overspill; use bearerTokenFile, basicAuth or sigv4 for Authorization"
                )
            if isinstance(content, SecretStr) and not _SECRET.fullmatch(content.get_secret_value()):
                raise ValueError(f"the value of {name} is empty or holds characters that no header may hold")
        return value


class BearerToken(AuthBase):
    """`Authorization: Bearer`, the token read from its file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {read_secret(self._path, 'bearer token')}"
        return request


class PasswordFile(AuthBase):
    """HTTP Basic, the password read from its file."""

    def __init__(self, settings: BasicAuth) -> None:
        self._settings = settings

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        password = read_secret(self._settings.password_file, "password")
        # As bytes: requests would encode text as Latin-1.
        HTTPBasicAuth(self._settings.username.encode(), password.encode())(request)
        return request


class AwsSignature(AuthBase):
    """AWS Signature Version 4 by botocore, over method, path, query, body and the headers that do not change."""

    def __init__(self, settings: SigV4) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._credentials: Credentials | None = None

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        if request.url is None or request.method is None:
            raise AuthError("AWS signature: nothing to sign", code="SigV4")
        path, mark, asked = request.url.partition("?")
        # A space must be %20 to be signed as AWS reads it; a + that is meant is %2B already.
        request.url = path + mark + asked.replace("+", "%20")
        kept = {name: value for name, value in request.headers.items() if name.lower() not in _SIGNED_LATER}
        unsigned = AWSRequest(method=request.method, url=request.url, data=request.body, headers=kept)
        try:
            frozen = self._resolved().get_frozen_credentials()
            SigV4Auth(frozen, self._settings.service, self._settings.region).add_auth(unsigned)
        except BotoCoreError as error:
            raise AuthError(f"AWS credentials: {type(error).__name__}", code=type(error).__name__) from error
        for name in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token"):
            if name in unsigned.headers:
                request.headers[name] = unsigned.headers[name]
        return request

    def _resolved(self) -> Credentials:
        """Looked for once; they renew themselves."""
        with self._lock:
            if self._credentials is None:
                session = botocore.session.Session(profile=self._settings.profile)
                # Beside a cloud the answer comes at once; elsewhere nobody waits for it.
                session.set_config_variable("metadata_service_timeout", 1)
                session.set_config_variable("metadata_service_num_attempts", 1)
                self._credentials = session.get_credentials()
            if self._credentials is None:
                raise AuthError(
                    "AWS credentials: none found; give the pod a role or name a profile", code="NoCredentials"
                )
            return self._credentials


def read_secret(path: Path, what: str) -> str:
    """The text in a file, without white space around it. Raises: AuthError that names the file and not its content."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise AuthError(f"{what} file {path}: cannot be read ({reason})", code="File") from error
    text = data.decode("utf-8", errors="replace").strip()
    if len(data) > _LARGEST_FILE or not _SECRET.fullmatch(text):
        raise AuthError(f"{what} file {path}: is empty, larger than 64 KiB or not plain text", code="File")
    return text


def header_values(headers: Headers) -> Mapping[str, str]:
    """All further headers. Raises: AuthError for a file that cannot be read."""
    written = {name: value.get_secret_value() for name, value in headers.headers.items()}
    return {**written, **{name: read_secret(path, name) for name, path in headers.header_files.items()}}
