"""Typed failures of the outside world. "Does not fit" is a `Verdict`, not an error.

One taxonomy serves clouds and Kubernetes. An SDK code that no adapter knows becomes `TransientError` with that code in
its text: never `CapacityError`.
"""

from __future__ import annotations

from scheduler.model.secrecy import hide


class OverspillError(Exception):
    """Every expected failure; its text is one clear line for a person. What has the form of a credential is taken out:
    the text often repeats what the outside said."""

    def __init__(self, message: str = "") -> None:
        super().__init__(hide(message))


class InvalidObjectError(OverspillError):
    """An object, file or answer that cannot be understood; the text names the place and the remedy."""


class ExternalError(OverspillError):
    """A call to the outside failed. `code` is the remote side's own word for it."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class CapacityError(ExternalError):
    """The cloud has no such machine just now."""


class QuotaError(ExternalError):
    """The account's limit is reached; waiting does not help."""


class AuthError(ExternalError):
    """Not authenticated, or not permitted."""


class ThrottledError(ExternalError):
    """Too many requests; try again after `retry_after_seconds` (None: not said)."""

    def __init__(self, message: str, *, code: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds


class NotFoundError(ExternalError):
    """No such object."""


class NotServedError(ExternalError):
    """The API does not know the path: the kind is not installed there, or something else than the API answers. Says
    nothing of whether an object exists."""


class AlreadyExistsError(ExternalError):
    """An object of that name is there already."""


class ConflictError(ExternalError):
    """Someone else changed the object first (stale resourceVersion, field owner, UID precondition)."""


class GoneError(ExternalError):
    """That resourceVersion is too old to watch from; list again."""


class RefusedError(ExternalError):
    """The remote side validated the request and will not have it (HTTP 400, 422); sending it again is no use."""


class OutcomeUnknownError(ExternalError):
    """The request was sent and no answer came: read the state back before trying again."""


class TransientError(ExternalError):
    """Failed for now: connection refused, 5xx, an unmapped code."""


class FencedError(OverspillError):
    """This process is no longer the leader; nothing was written."""
