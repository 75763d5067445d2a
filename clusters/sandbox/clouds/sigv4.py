"""Checks AWS Signature Version 4 on requests that came in.

Source: AWS General Reference, "Signature Version 4 signing process" (canonical request, string to sign, signing key).
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from multidict import CIMultiDictProxy

from clusters.clock import SystemClock

_HEADER: Final = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/,]+)/(\d{8})/([^/,]+)/([^/,]+)/aws4_request, *"
    r"SignedHeaders=([^,]+), *Signature=([0-9a-f]{64})"
)
_SKEW_SECONDS: Final = 900


@dataclass(frozen=True, slots=True)
class AccessKey:
    access_key_id: str
    secret_access_key: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a request was not let in: one of missing, unknown-key, expired, mismatch."""

    reason: str
    text: str


def check_signature(
    key: AccessKey, method: str, raw_path: str, headers: CIMultiDictProxy[str], body: bytes
) -> Rejection | None:
    """None when the request was signed with `key` for what it says; the reason otherwise."""
    found = _HEADER.fullmatch(headers.get("Authorization", ""))
    stamp = headers.get("X-Amz-Date", "")
    if found is None or not re.fullmatch(r"\d{8}T\d{6}Z", stamp):
        return Rejection("missing", "Missing Authentication Token")
    access_key_id, day, region, service, signed, signature = found.groups()
    if access_key_id != key.access_key_id:
        return Rejection("unknown-key", "The security token included in the request is invalid.")
    try:
        sent = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC).timestamp()
    except ValueError:
        return Rejection("mismatch", f"{stamp} is no date")
    if abs(SystemClock().now() - sent) > _SKEW_SECONDS or not stamp.startswith(day):
        return Rejection("expired", f"Signature expired: {stamp} is too far from the server's time")
    names = signed.split(";")
    if "host" not in names or "x-amz-date" not in names or any(name not in headers for name in names):
        return Rejection("mismatch", "The headers 'host' and 'x-amz-date' must be signed")
    path, _, query = raw_path.partition("?")
    canonical = "\n".join(
        (
            method,
            quote(path, safe="/~"),
            "&".join(sorted(f"{_encoded(name)}={_encoded(value)}" for name, value in parse_qsl(query, True))),
            "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names),
            signed,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{day}/{region}/{service}/aws4_request"
    to_sign = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    secret = f"AWS4{key.secret_access_key}".encode()
    for part in (day, region, service, "aws4_request", to_sign):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    if not hmac.compare_digest(secret.hex(), signature):
        return Rejection("mismatch", "The request signature we calculated does not match the signature you provided.")
    return None


def _encoded(text: str) -> str:
    return quote(unquote(text), safe="-_.~")
