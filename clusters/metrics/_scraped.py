"""What a query means on scraped pages: the same as its PromQL does on a server (see `_promql`). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from clusters.metrics._pages import LabelSet, Page
from clusters.metrics._rates import histogram_quantile, increase
from clusters.metrics._samples import Row, kept_labels
from clusters.metrics._selectors import Selector, parse_sum
from scheduler.model.ids import Instant
from scheduler.model.metrics import MAX, MIN, MetricQuery

_INSTANCE: Final = "instance"


@dataclass(frozen=True, slots=True)
class Point:
    """A series now and at the scrape before (None: it was not there)."""

    labels: Mapping[str, str]
    value: float
    at: Instant
    before: tuple[float, Instant] | None

    @property
    def per_second(self) -> float | None:
        """How fast the counter grew; None while there is nothing to compare with."""
        if self.before is None or self.at <= self.before[1]:
            return None
        return increase(self.before[0], self.value) / (self.at - self.before[1])


_Combined = dict[LabelSet, tuple[float, Instant]]


def points_of(page: Page, before: Page | None, instance: str) -> Mapping[str, list[Point]]:
    """By sample name. `instance` becomes a label where the page has none, as Prometheus does it."""
    points: dict[str, list[Point]] = {}
    for name, series in page.series.items():
        old = before.series.get(name, {}) if before is not None else {}
        points[name] = [
            Point({_INSTANCE: instance, **dict(labels)}, value, at, old.get(labels))
            for labels, (value, at) in series.items()
        ]
    return points


def counters_of(queries: Iterable[MetricQuery]) -> frozenset[str]:
    """Sample names of which the scrape before is needed."""
    names: set[str] = set()
    for query in queries:
        suffix = "_bucket" if query.quantile is not None else ""
        if query.rate or suffix:
            names.update(term.name + suffix for name, _ in query.families for term in parse_sum(name))
    return frozenset(names)


def rows_of(query: MetricQuery, points: Mapping[str, Sequence[Point]]) -> tuple[list[Row], bool]:
    """The query's rows, and whether there are counters whose rate is not known yet.

    Of several families the first that has a series with these labels counts.
    """
    found: _Combined = {}
    waits = False
    for name, factor in query.families:
        terms = parse_sum(name)
        if query.quantile is not None:
            values, pending = _quantiles(query, query.quantile, terms[0], points)
        else:
            values, pending = _sum(query, terms, points)
        waits |= pending
        for labels, (value, at) in values.items():
            found.setdefault(labels, (value * factor, at))
    return [Row(dict(labels), value, at) for labels, (value, at) in found.items()], waits and not found


def _sum(
    query: MetricQuery, terms: Sequence[Selector], points: Mapping[str, Sequence[Point]]
) -> tuple[_Combined, bool]:
    """Of what all terms have."""
    total, pending = _term(query, terms[0], points)
    for term in terms[1:]:
        more, waits = _term(query, term, points)
        pending |= waits
        total = {
            labels: (value + more[labels][0], max(at, more[labels][1]))
            for labels, (value, at) in total.items()
            if labels in more
        }
    return total, pending


def _term(query: MetricQuery, term: Selector, points: Mapping[str, Sequence[Point]]) -> tuple[_Combined, bool]:
    combined: _Combined = {}
    pending = False
    for point in points.get(term.name, ()):
        if not term.matches(point.labels):
            continue
        value = point.per_second if query.rate else point.value
        if value is None:
            pending = True
            continue
        labels = kept_labels(query, point.labels)
        twin = combined.get(labels)
        combined[labels] = (
            (value, point.at) if twin is None else (_one_of(query, twin[0], value), max(twin[1], point.at))
        )
    return combined, pending


def _one_of(query: MetricQuery, one: float, other: float) -> float:
    if query.combine == MAX:
        return max(one, other)
    return min(one, other) if query.combine == MIN else one + other


def _quantiles(
    query: MetricQuery, quantile: float, term: Selector, points: Mapping[str, Sequence[Point]]
) -> tuple[_Combined, bool]:
    """Of the observations between the two scrapes, buckets of the same kept labels added up."""
    buckets: dict[LabelSet, dict[float, float]] = {}
    newest: dict[LabelSet, Instant] = {}
    pending = False
    for point in points.get(f"{term.name}_bucket", ()):
        bound = _bound(point.labels.get("le", ""))
        if bound is None or not term.matches(point.labels):
            continue
        rate = point.per_second
        if rate is None:
            pending = True
            continue
        labels = kept_labels(query, point.labels)
        group = buckets.setdefault(labels, {})
        group[bound] = group.get(bound, 0.0) + rate
        newest[labels] = max(newest.get(labels, point.at), point.at)
    found: _Combined = {}
    for labels, group in buckets.items():
        value = histogram_quantile(quantile, group)
        if value is not None:
            found[labels] = (value, newest[labels])
    return found, pending


def _bound(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
