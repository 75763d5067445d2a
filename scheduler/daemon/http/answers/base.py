"""What all answers share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Exact = Annotated[str, Field(pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$", examples=["12.30"])]
"""An exact decimal number, as text."""
At = Annotated[float, Field(description="Seconds since the Unix epoch, UTC.")]


class Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Error(Answer):
    error: str
    """One line: what is wrong, and the remedy."""
