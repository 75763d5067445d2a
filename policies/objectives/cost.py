"""Least money: the expected cost of the run in USD.

How long a run takes is often not known. Its cost for one hour then stands in, so that offerings compare by their
rates. Owned nodes cost what the federation file says: give them a price of "0" to count them as paid for.
"""

from __future__ import annotations

from scheduler.model.plan import Candidate


def score(candidate: Candidate) -> float | None:
    """USD of the run, or of its first hour when its duration is unknown; None when the price is unknown."""
    usd = candidate.expected_cost_usd if candidate.expected_cost_usd is not None else candidate.usd_per_hour
    return None if usd is None else float(usd)
