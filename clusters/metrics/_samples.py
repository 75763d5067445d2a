"""From what a source answered to a `Reading`: labels by any of their spellings, values to the unit, ages. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from scheduler.model.ids import ClusterId, Instant
from scheduler.model.metrics import ABSENT, FAILED, MAX, MIN, OK, STALE, MetricQuery, Reading, Sample

MAX_SAMPLES: Final = 50_000
"""Of one reading; more is a query that should be narrower."""
FUTURE_SECONDS: Final = 300.0
"""A sample that is stamped further ahead than this is not believed."""
_MAX_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class Row:
    """One series as the source gave it, scaled to the query's unit."""

    labels: Mapping[str, str]
    value: float
    at: Instant


@dataclass(frozen=True, slots=True)
class Asked:
    """What all readings of one call share."""

    cluster: ClusterId
    source: str
    at: Instant

    def failed(self, query: MetricQuery, error: str, took_seconds: float) -> Reading:
        return self._reading(query, FAILED, (), took_seconds, short(error))

    def reading(self, query: MetricQuery, rows: Iterable[Row], took_seconds: float, note: str = "") -> Reading:
        """ok, stale or absent, by the age of the newest sample that can be used; failed when there are too many.

        Not used are values that are not finite or above the query's `most`, and times ahead of now or before 1970.
        """
        notes = [note] if note else []
        combined: dict[tuple[tuple[str, str], ...], Sample] = {}
        dropped = 0
        for row in rows:
            if not self._usable(query, row):
                dropped += 1
                continue
            labels = kept_labels(query, row.labels)
            sample = Sample(labels, row.value, row.at)
            twin = combined.get(labels)
            combined[labels] = sample if twin is None else _combined(query.combine, twin, sample)
            if len(combined) > MAX_SAMPLES:
                return self.failed(query, f"more than {MAX_SAMPLES} series; narrow the query", took_seconds)
        if dropped:
            notes.append(f"{dropped} samples dropped (not a number, or an impossible value or time)")
        samples = tuple(combined[labels] for labels in sorted(combined))
        fresh = tuple(sample for sample in samples if self.at - sample.at <= query.max_age_seconds)
        state = OK if fresh else STALE if samples else ABSENT
        return self._reading(query, state, fresh or samples, took_seconds, short("; ".join(notes)), dropped)

    def _usable(self, query: MetricQuery, row: Row) -> bool:
        if not (math.isfinite(row.value) and math.isfinite(row.at)):
            return False
        return (query.most is None or row.value <= query.most) and 0 < row.at <= self.at + FUTURE_SECONDS

    def _reading(
        self,
        query: MetricQuery,
        state: str,
        samples: tuple[Sample, ...],
        took_seconds: float,
        error: str,
        dropped: int = 0,
    ) -> Reading:
        return Reading(
            cluster=self.cluster,
            metric=query.name,
            unit=query.unit,
            state=state,
            samples=samples,
            source=self.source,
            asked_at=self.at,
            took_seconds=took_seconds,
            error=error,
            dropped=dropped,
        )


def kept_labels(query: MetricQuery, labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The labels that the query keeps, by its own names and in its order; those that are missing or empty left out."""
    kept = []
    for label, names in _names(query):
        value = next((labels[name] for name in names if labels.get(name)), "")
        if value:
            kept.append((label, value))
    return tuple(kept)


def wire_labels(query: MetricQuery) -> tuple[str, ...]:
    """Every name under which a label may come that the query keeps."""
    return tuple(dict.fromkeys(name for _, names in _names(query) for name in names))


def _names(query: MetricQuery) -> list[tuple[str, tuple[str, ...]]]:
    """Each kept label with its spellings; its own name is the last of them."""
    spellings = dict(query.spellings)
    return [(label, tuple(dict.fromkeys((*spellings.get(label, ()), label)))) for label in query.labels]


def short(text: str) -> str:
    """On one printable line, and not long: answers and errors come from outside."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 3] + "..."


def _combined(how: str, one: Sample, other: Sample) -> Sample:
    """As old as the newest of the two, as PromQL has it."""
    if how == MAX:
        value = max(one.value, other.value)
    elif how == MIN:
        value = min(one.value, other.value)
    else:
        value = one.value + other.value
    return Sample(one.labels, value, max(one.at, other.at))
