"""What all price sources' settings have in common: strict keys, ages, intervals, time limits."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from clusters.providers._settings import NearbyPath

__all__ = ["LIST_MAX_AGE_SECONDS", "SPOT_MAX_AGE_SECONDS", "NearbyPath", "PriceSettings"]

LIST_MAX_AGE_SECONDS: Final = 26 * 3600.0
"""List prices change rarely and are read daily; two hours of grace for a late read."""
SPOT_MAX_AGE_SECONDS: Final = 2 * 3600.0


class PriceSettings(BaseModel):
    """Base of every price source's settings. Times in seconds. A source overrides the defaults that suit it not."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)

    type: str
    """The module's name; a source narrows it to its own `Literal`."""
    max_age_seconds: float = Field(default=LIST_MAX_AGE_SECONDS, gt=0, allow_inf_nan=False)
    """A quote whose `as_of` is older than this is stale: shown, but unknown for planning."""
    refresh_seconds: float = Field(default=3600.0, ge=1, le=7 * 86400.0, allow_inf_nan=False)
    """How long after one reading the next begins."""
    limit_seconds: float = Field(default=120.0, gt=0, le=3600, allow_inf_nan=False)
    """The outer limit of one reading, all its calls and pages together."""
    connect_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    read_timeout_seconds: float = Field(default=20.0, gt=0, le=120)

    @property
    def call_limit_seconds(self) -> float:
        """The outer limit of one SDK call: longer than the SDK's own, with a token fetched on the way."""
        return 2 * (self.connect_timeout_seconds + self.read_timeout_seconds) + 1.0
