"""Fits, or why it does not; and the histogram that turns many refusals into one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Reason:
    """Why an offering was refused. `code` is CamelCase and bounded (it becomes a metric label and a condition reason);
    `text` is a short phrase for people ("over the price cap"), equal for equal causes so that it can be counted."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a filter: no reasons means that it fits."""

    reasons: tuple[Reason, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.reasons


FITS = Verdict()


def refuse(code: str, text: str) -> Verdict:
    """A verdict with one reason."""
    return Verdict((Reason(code, text),))


def histogram(verdicts: Iterable[Verdict]) -> tuple[tuple[Reason, int], ...]:
    """How many offerings each first reason ruled out, most frequent first, ties by code then text."""
    counted = Counter(verdict.reasons[0] for verdict in verdicts if verdict.reasons)
    return tuple(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def sentence(refused: tuple[tuple[Reason, int], ...], offerings: int) -> str:
    """ "0/7 offerings: 4 over the price cap, 2 wrong GPU, 1 outside residency"."""
    if not offerings:
        return "0/0 offerings: no member cluster offers any capacity"
    return f"0/{offerings} offerings: " + ", ".join(f"{count} {reason.text}" for reason, count in refused)
