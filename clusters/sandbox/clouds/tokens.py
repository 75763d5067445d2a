"""Bearer tokens that an emulated identity service issues and its cloud's APIs demand."""

from __future__ import annotations

import hmac
import secrets
from typing import Final

from clusters.clock import SystemClock

LIFETIME_SECONDS: Final = 3600
_MOST: Final = 1000


class TokenIssuer:
    """Issues opaque tokens and knows them again. They live by the machine's clock, as the SDKs that hold them do."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self.lifetime_seconds = LIFETIME_SECONDS
        """Of the tokens issued from now on."""
        self._expiry: dict[str, float] = {}

    def issue(self) -> str:
        """A new token, good for `lifetime_seconds`. The oldest make room beyond a thousand."""
        while len(self._expiry) >= _MOST:
            del self._expiry[next(iter(self._expiry))]
        token = secrets.token_urlsafe(32)
        self._expiry[token] = self._clock.now() + self.lifetime_seconds
        return token

    def accepts(self, authorization: str) -> bool:
        """Whether an `Authorization` header carries a token that was issued here and has not expired."""
        scheme, _, token = authorization.partition(" ")
        known = self._expiry.get(token)
        return scheme.lower() == "bearer" and known is not None and self._clock.now() < known

    def revoke_all(self) -> None:
        """Every token issued so far is refused from now on."""
        self._expiry.clear()


def same_secret(given: str, right: str) -> bool:
    """Whether two secrets are equal, in a time that does not tell how much of them is."""
    return hmac.compare_digest(given.encode(), right.encode())
