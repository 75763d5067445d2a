"""Shapes of what is sent to change something, and of the answers to that."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from scheduler.daemon.http.answers.base import Answer


class Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class SwitchesSent(Sent):
    """What is left out stays as it is."""

    paused: bool | None = None
    """true: nothing is remedied anywhere."""
    bursting_paused: bool | None = None
    """true: nothing is bought anywhere."""


class ApprovalSent(Sent):
    action: Annotated[str, Field(min_length=1, max_length=60)]
    """Which action may be taken."""


class Switched(Answer):
    paused: bool
    bursting_paused: bool
    error: str
    """Why the switches could not be read back; empty: they were."""
    by: str
    """Who threw them."""


class Webhook(Answer):
    alerts: int
