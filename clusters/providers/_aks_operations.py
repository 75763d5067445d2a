"""Long operations that we began on agent pools, remembered until it is known how they ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

_HEADER: Final = "Azure-AsyncOperation"
_MOST: Final = 1000


class BegunOperations:
    """The latest operation of each pool, by the URL at which ARM tells of it."""

    def __init__(self, endpoint: str) -> None:
        self._home = urlsplit(endpoint).netloc.lower()
        self._urls: dict[str, str] = {}
        self._errors: dict[str, Mapping[str, Any]] = {}

    def noting(self, pool: str) -> Callable[[Any], None]:
        """For azure-core's `raw_response_hook` of the call that begins an operation."""

        def note(response: Any) -> None:
            answer = response.http_response
            if answer.status_code >= 300:
                return
            self.forget(pool)
            url = str(answer.headers.get(_HEADER, ""))
            # The SDK fills in braces; and our token goes nowhere else.
            if urlsplit(url).netloc.lower() == self._home and not set("{}") & set(url) and len(self._urls) < _MOST:
                self._urls[pool] = url

        return note

    def url(self, pool: str) -> str | None:
        """Where to ask how it ended; None: nothing is to be asked, or it is known already."""
        return self._urls.get(pool)

    def error(self, pool: str) -> Mapping[str, Any] | None:
        """With what it ended; None: well, or not known."""
        return self._errors.get(pool)

    def learn(self, pool: str, answer: object) -> None:
        """Note what ARM says of it; one that still runs is asked for again."""
        if not isinstance(answer, Mapping) or answer.get("status") not in ("Succeeded", "Failed", "Canceled"):
            return
        error = answer.get("error")
        self.forget(pool)
        if answer["status"] != "Succeeded" and isinstance(error, Mapping):
            self._errors[pool] = error

    def forget(self, pool: str) -> None:
        self._urls.pop(pool, None)
        self._errors.pop(pool, None)
