"""How long what authenticates with an API is good for: read off the credentials themselves, which are never shown."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

import orjson
from cryptography import x509

from scheduler.model.ids import Instant


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of one connection, as they are now."""

    kind: str
    """For people: token, token file, client certificate, exec plugin, service account, login by the cloud, none."""
    ends_at: Instant | None
    """Wall time; None: they do not tell."""
    renewed: bool
    """Whether they are renewed by themselves before that."""


def token_end(token: str) -> Instant | None:
    """The `exp` of a JSON Web Token (RFC 7519), which is not verified; None: no such token, or it has none."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):  # orjson's error is a ValueError
        return None
    end = claims.get("exp") if isinstance(claims, dict) else None
    return float(end) if isinstance(end, int | float) and not isinstance(end, bool) else None


def certificate_end(path: Path) -> Instant | None:
    """When the certificate of a PEM file expires; None when it cannot be read."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return None
