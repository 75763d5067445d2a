"""What all settings of metrics sources have in common: strict keys, time limits, and where paths and URLs may lead."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from clusters.providers._settings import NearbyPath

__all__ = ["HttpUrl", "MetricsSettings", "NearbyPath"]

_LONGEST_URL: Final = 2000


def _checked_url(text: str) -> str:
    """An http(s) URL without user, query or fragment, and without a slash at its end."""
    parts = urlsplit(text)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"not a URL ({error}); write one such as https://prometheus.example:9090") from error
    if parts.scheme not in ("http", "https") or not host or any(char.isspace() for char in text):
        raise ValueError("not an http or https URL; write one such as https://prometheus.example:9090")
    if "@" in parts.netloc:
        raise ValueError("holds a user name; write credentials under basicAuth, in a file of their own")
    if parts.fragment:
        raise ValueError(f"holds a fragment; remove #{parts.fragment[:40]}")
    return text.rstrip("/")


HttpUrl = Annotated[str, Field(max_length=_LONGEST_URL), AfterValidator(_checked_url)]


class MetricsSettings(BaseModel):
    """Base of every source's settings. Times in seconds."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )

    type: str
    connect_timeout_seconds: float = Field(default=2.0, gt=0, le=30)
    read_timeout_seconds: float = Field(default=6.0, gt=0, le=60)
    """Longest silence of the server within an answer."""
    max_answer_bytes: int = Field(default=8 << 20, ge=1024, le=64 << 20)
    """A larger answer is a failed reading."""

    round_limit_seconds: float = Field(default=10.0, gt=0, le=120)
    """For all queries of one round together; what has not come by then is a failed reading."""

    @property
    def call_limit_seconds(self) -> float:
        """The outer limit of one call: longer than the connect and read timeouts together."""
        return self.connect_timeout_seconds + 1.5 * self.read_timeout_seconds + 1.0
