"""What all price sources' settings have in common: strict keys, ages, time limits."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from clusters.providers._settings import NearbyPath

__all__ = ["NearbyPath", "PriceSettings"]


class PriceSettings(BaseModel):
    """Base of every price source's settings. Times in seconds."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)

    type: str
    max_age_seconds: float = Field(default=7 * 86400.0, gt=0)
    refresh_seconds: float = Field(default=3600.0, gt=0)
    connect_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    read_timeout_seconds: float = Field(default=20.0, gt=0, le=120)
