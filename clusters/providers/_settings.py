"""What all provider settings have in common: strict keys, time limits, paths beside the federation file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic.alias_generators import to_camel


def _beside_the_file(value: object, info: ValidationInfo) -> object:
    """Relative paths are relative to `context["base_dir"]`, the federation file's folder (without it: to ours)."""
    if not isinstance(value, str | Path):
        return value
    base = (info.context or {}).get("base_dir")
    return Path(base) / value if base is not None else Path(value)


NearbyPath = Annotated[Path, BeforeValidator(_beside_the_file)]


class ProviderSettings(BaseModel):
    """Base of every provider's settings. Times in seconds."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)

    type: str
    connect_timeout_seconds: float = Field(default=5.0, gt=0, le=60)
    read_timeout_seconds: float = Field(default=20.0, gt=0, le=120)

    @property
    def call_limit_seconds(self) -> float:
        """The outer limit of one SDK call: longer than the SDK's own, with a token fetched on the way."""
        return 2 * (self.connect_timeout_seconds + self.read_timeout_seconds) + 1.0
