"""A Google service account of the sandbox: its key file, and the OAuth endpoint that takes what the key signed.

Source: RFC 7523 (JWT bearer grant), as Google's "OAuth 2.0 for server to server applications" applies it.
"""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from clusters.clock import SystemClock
from clusters.sandbox.clouds.certificates import write_private
from clusters.sandbox.clouds.tokens import LIFETIME_SECONDS, TokenIssuer

_GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_PUBLIC_AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""What google-auth signs for, whatever endpoint it sends it to."""
_SKEW_SECONDS: Final = 300


class ServiceAccount:
    """One account with one key. Its tokens open the sandbox's Google APIs."""

    def __init__(self, project: str) -> None:
        self.tokens = TokenIssuer()
        self.email = f"overspill@{project}.iam.gserviceaccount.com"
        self._project = project
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._disabled = False
        self._token_uri = ""

    def write_key(self, path: Path, *, token_uri: str) -> None:
        """The key file as Google's console hands it out."""
        self._token_uri = token_uri
        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        content = {
            "type": "service_account",
            "project_id": self._project,
            "private_key_id": secrets.token_hex(20),
            "private_key": pem.decode(),
            "client_email": self.email,
            "client_id": "100000000000000000000",
            "token_uri": token_uri,
            "universe_domain": "googleapis.com",
        }
        write_private(path, json.dumps(content, indent=2).encode())

    def revoke(self) -> None:
        """The key and all tokens are refused from now on."""
        self._disabled = True
        self.tokens.revoke_all()

    async def token(self, request: web.Request) -> web.Response:
        """POST /token."""
        form = await request.post()
        if form.get("grant_type") != _GRANT:
            return _refusal("unsupported_grant_type", "Invalid grant_type")
        complaint = self._complaint(str(form.get("assertion", "")))
        if complaint:
            return _refusal("invalid_grant", complaint)
        return web.json_response(
            {"access_token": self.tokens.issue(), "expires_in": LIFETIME_SECONDS, "token_type": "Bearer"}
        )

    def _complaint(self, assertion: str) -> str:
        """What is wrong with the signed claims; "" when nothing is."""
        signed, _, signature = assertion.rpartition(".")
        try:
            header, claims = (json.loads(_decoded(part)) for part in signed.split("."))
            self._key.public_key().verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (ValueError, InvalidSignature):
            return "Invalid JWT Signature."
        if not isinstance(header, dict) or not isinstance(claims, dict) or header.get("alg") != "RS256":
            return "Invalid JWT: RS256 is wanted."
        if self._disabled or claims.get("iss") != self.email:
            return "Invalid grant: account not found"
        if claims.get("aud") not in (_PUBLIC_AUDIENCE, self._token_uri):
            return "Invalid JWT: wrong audience."
        return "" if self._timely(claims) else "Invalid JWT: Token must be a short-lived token (60 minutes)."

    @staticmethod
    def _timely(claims: dict[str, Any]) -> bool:
        issued, expires, now = claims.get("iat"), claims.get("exp"), SystemClock().now()
        if not isinstance(issued, int | float) or not isinstance(expires, int | float):
            return False
        return issued - _SKEW_SECONDS <= now < expires <= issued + LIFETIME_SECONDS + _SKEW_SECONDS


def _refusal(code: str, text: str) -> web.Response:
    return web.json_response({"error": code, "error_description": text}, status=400)


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
