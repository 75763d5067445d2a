"""Soonest finished: the expected time from now until the run ends."""

from __future__ import annotations

from scheduler.model.plan import Candidate


def score(candidate: Candidate) -> float | None:
    """Seconds until it ends, or until it starts when its duration is unknown; None when even the start is unknown."""
    if candidate.expected_start_seconds is None:
        return None
    return candidate.expected_start_seconds + (candidate.expected_seconds or 0.0)
