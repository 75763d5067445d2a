"""An exporter's page, read into series: Prometheus' text format and OpenMetrics, by prometheus-client. Pure."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import Metric, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from clusters.metrics._selectors import parse_sum
from scheduler.model.errors import TransientError
from scheduler.model.ids import Instant
from scheduler.model.metrics import MetricQuery

_LONGEST_LINE: Final = 32 << 10
_SUFFIX: Final = re.compile(r"_(?:total|bucket|count|sum|created|info|gcount|gsum)$")
_SAMPLE_LINE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?=[{ \t])")
_QUOTED_NAME: Final = "{"
"""Names that are not of the old alphabet stand inside of the braces; none of ours does."""

LabelSet = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Page:
    """One scrape. `series`: by sample name (`x_total`, `x_bucket`), then by labels: value and its time."""

    at: Instant
    series: Mapping[str, Mapping[LabelSet, tuple[float, Instant]]]

    def only(self, names: frozenset[str]) -> Page:
        return Page(self.at, {name: found for name, found in self.series.items() if name in names})


def family_names(queries: Iterable[MetricQuery]) -> frozenset[str]:
    """Names, without suffixes, of all families that the queries ask for."""
    return frozenset(
        base_name(term.name) for query in queries for name, _ in query.families for term in parse_sum(name)
    )


def base_name(name: str) -> str:
    return _SUFFIX.sub("", name)


def parse_page(body: bytes, content_type: str, wanted: frozenset[str], at: Instant) -> Page:
    """The wanted families of a page (all lines are looked at, only those of wanted families are parsed).

    A sample's own time counts, else `at`. Raises: TransientError for what is no such page.
    """
    is_openmetrics = content_type.split(";")[0].strip().lower() == "application/openmetrics-text"
    try:
        lines = io.StringIO("".join(_wanted_lines(body.decode("utf-8"), wanted)))
        families: Iterable[Metric]
        if is_openmetrics:
            families = openmetrics_parser.text_fd_to_metric_families(lines)  # type: ignore[no-untyped-call]
        else:
            families = parser.text_fd_to_metric_families(lines)
        return Page(at, _collected(families, at))
    except TransientError:
        raise
    except Exception as error:  # the library's parsers raise whatever they stumble over
        kind = "OpenMetrics" if is_openmetrics else "Prometheus' text format"
        raise TransientError(f"not a page in {kind} ({type(error).__name__})", code="Garbage") from error


def _wanted_lines(text: str, wanted: frozenset[str]) -> Iterator[str]:
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if len(line) > _LONGEST_LINE:
            raise TransientError(f"line {number} of the page is longer than {_LONGEST_LINE} bytes", code="Garbage")
        if not line or line.startswith(_QUOTED_NAME):
            continue
        if line.startswith("#"):
            words = line.split(None, 3)
            if line == "# EOF" or (len(words) > 2 and base_name(words[2]) in wanted):
                yield line + "\n"
            continue
        name = _SAMPLE_LINE.match(line)
        if name is None:
            raise TransientError(f"line {number} of the page is no sample; check the URL", code="Garbage")
        if base_name(name[1]) in wanted:
            yield line + "\n"


def _collected(families: Iterable[Metric], at: Instant) -> dict[str, dict[LabelSet, tuple[float, Instant]]]:
    series: dict[str, dict[LabelSet, tuple[float, Instant]]] = {}
    for family in families:
        for sample in family.samples:
            taken = at if sample.timestamp is None else float(sample.timestamp)
            entry = (float(sample.value), taken)
            labels = tuple(sorted(sample.labels.items()))
            series.setdefault(sample.name, {})[labels] = entry
            if family.type == "counter" and sample.name.endswith("_total"):
                # The parsers add _total to counters that have it not; so do some exporters, by what they are asked for.
                series.setdefault(sample.name.removesuffix("_total"), {})[labels] = entry
    return series
