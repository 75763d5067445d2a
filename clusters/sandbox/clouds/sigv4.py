"""Checks AWS Signature Version 4 on requests that came in.

Source: AWS General Reference, "Signature Version 4 signing process" (canonical request, string to sign, signing key).
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, quote, urlsplit

from multidict import CIMultiDictProxy

from clusters.clock import SystemClock

_HEADER: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,]+)/(\d{8})/([^/,]+)/([^/,]+)/aws4_request, *"
    r"SignedHeaders=([^,]+), *Signature=([0-9a-f]{64})"
)
_SKEW_SECONDS: Final = 900
_PRESIGNED_SECONDS: Final = 900
"""STS lets a presigned request in for 15 minutes from its date, whatever X-Amz-Expires says."""


@dataclass(frozen=True, slots=True)
class AccessKey:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    """Of temporary credentials, which are worth nothing without it."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a request was not let in: one of missing, unknown-key, expired, mismatch."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Scope:
    """What a credential was used for: the middle of `Credential=`."""

    access_key_id: str
    day: str
    region: str
    service: str


_MISMATCH: Final = Rejection(
    "mismatch", "The request signature we calculated does not match the signature you provided."
)
_UNKNOWN_KEY: Final = Rejection("unknown-key", "The security token included in the request is invalid.")


def claimed_scope(headers: CIMultiDictProxy[str]) -> Scope | None:
    """What the Authorization header says of itself, unchecked; None: there is none of Signature Version 4."""
    found = _HEADER.fullmatch(headers.get("Authorization", ""))
    return None if found is None else Scope(*found.groups()[:4])


def check_signature(
    key: AccessKey, method: str, raw_path: str, headers: CIMultiDictProxy[str], body: bytes
) -> Rejection | None:
    """None when the request was signed with `key` for what it says; the reason otherwise."""
    found = _HEADER.fullmatch(headers.get("Authorization", ""))
    stamp = headers.get("X-Amz-Date", "")
    if found is None or not re.fullmatch(r"\d{8}T\d{6}Z", stamp):
        return Rejection("missing", "Missing Authentication Token")
    scope, signed, signature = Scope(*found.groups()[:4]), found[5], found[6]
    token_given = headers.get("X-Amz-Security-Token", "")
    if scope.access_key_id != key.access_key_id or not _same(token_given, key.session_token):
        return _UNKNOWN_KEY
    late = _too_late(stamp, scope.day, _SKEW_SECONDS)
    if late is not None:
        return late
    names = signed.split(";")
    if "host" not in names or "x-amz-date" not in names or any(name not in headers for name in names):
        return Rejection("mismatch", "The headers 'host' and 'x-amz-date' must be signed")
    path, _, query = raw_path.partition("?")
    canonical = _canonical(method, path, parse_qsl(query, True), names, headers, body)
    return None if _same(signature, _signature(key, scope, stamp, canonical)) else _MISMATCH


def check_presigned(
    key: AccessKey, method: str, url: str, headers: Mapping[str, str], *, region: str, service: str
) -> Rejection | None:
    """None when `url`, sent with `headers` (lower-case names, without `host`), was presigned with `key` for this
    service of this region and is not too old; the reason otherwise."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, True)
    given = dict(pairs)
    stamp, signed = given.get("X-Amz-Date", ""), given.get("X-Amz-SignedHeaders", "")
    credential = given.get("X-Amz-Credential", "").split("/")
    if len(credential) != 5 or credential[4] != "aws4_request" or given.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256":
        return Rejection("missing", "Missing Authentication Token")
    scope = Scope(*credential[:4])
    token_given = given.get("X-Amz-Security-Token", "")
    if scope.access_key_id != key.access_key_id or not _same(token_given, key.session_token):
        return _UNKNOWN_KEY
    if (scope.region, scope.service) != (region, service):
        return Rejection("mismatch", f"Credential should be scoped to {service} in {region}")
    late = _too_late(stamp, scope.day, _PRESIGNED_SECONDS)
    if late is not None:
        return late
    carried = {**headers, "host": parts.netloc}
    names = signed.split(";")
    if "host" not in names or any(name not in carried for name in names):
        return Rejection("mismatch", "The header 'host' must be signed, and all signed headers be there")
    rest = [(name, value) for name, value in pairs if name != "X-Amz-Signature"]
    canonical = _canonical(method, parts.path or "/", rest, names, carried, b"")
    right = _same(given.get("X-Amz-Signature", ""), _signature(key, scope, stamp, canonical))
    return None if right else _MISMATCH


def _same(given: str, right: str) -> bool:
    """In a time that does not tell how much of the secret is right; headers may hold any bytes."""
    return hmac.compare_digest(given.encode(errors="surrogateescape"), right.encode())


def _too_late(stamp: str, day: str, most_seconds: float) -> Rejection | None:
    try:
        sent = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC).timestamp()
    except ValueError:
        return Rejection("mismatch", f"{stamp[:40]} is no date")
    if abs(SystemClock().now() - sent) > most_seconds or not stamp.startswith(day):
        return Rejection("expired", f"Signature expired: {stamp} is too far from the server's time")
    return None


def _canonical(
    method: str,
    path: str,
    query: Sequence[tuple[str, str]],
    names: Sequence[str],
    headers: Mapping[str, str],
    body: bytes,
) -> str:
    return "\n".join(
        (
            method,
            quote(path, safe="/~"),
            "&".join(sorted(f"{_encoded(name)}={_encoded(value)}" for name, value in query)),
            "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names),
            ";".join(names),
            hashlib.sha256(body).hexdigest(),
        )
    )


def _signature(key: AccessKey, scope: Scope, stamp: str, canonical: str) -> str:
    parts = (scope.day, scope.region, scope.service, "aws4_request")
    digest = hashlib.sha256(canonical.encode(errors="surrogateescape")).hexdigest()
    secret = f"AWS4{key.secret_access_key}".encode()
    for part in (*parts, "\n".join(("AWS4-HMAC-SHA256", stamp, "/".join(parts), digest))):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    return secret.hex()


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")
