"""PromQL made from a query's families, and what its placeholders stand for. Pure.

An instant query answers with the time of its evaluation, not with that of the samples it found (up to five minutes
older). So each query asks for both at once: the values, and `timestamp()` of the series they come from, told apart by
a label of our own. Sources of one endpoint (dcgm-exporter before and after 4.9) are joined by `or`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from clusters.metrics._samples import wire_labels
from clusters.metrics._selectors import Selector, parse_sum, quoted
from scheduler.model.metrics import MetricQuery

PART: Final = "overspill_part"
"""The label that tells values from times."""
VALUE: Final = "value"
TIME: Final = "time"


def with_promql(query: MetricQuery) -> MetricQuery:
    """The same with the PromQL that its families amount to; unchanged when it has some, or has no families.

    Raises: InvalidObjectError for a family that cannot be read.
    """
    if query.promql or not query.families:
        return query
    parsed = [(parse_sum(name), factor) for name, factor in query.families]
    values = " or ".join(_value(query, terms, factor) for terms, factor in parsed)
    times = " or ".join(_time(query, terms[0]) for terms, _ in parsed)
    return replace(query, promql=f"{_marked(values, VALUE)} or {_marked(times, TIME)}")


def filled(promql: str, selector: Mapping[str, str], window_seconds: int) -> str:
    """With `$selector` and `$window` replaced."""
    matchers = ",".join(f"{label}={quoted(value)}" for label, value in sorted(selector.items()))
    return promql.replace("$selector", matchers).replace("$window", f"{window_seconds}s")


def _marked(expression: str, part: str) -> str:
    return f'label_replace({expression}, "{PART}", "{part}", "{PART}", "")'


def _value(query: MetricQuery, terms: tuple[Selector, ...], factor: float) -> str:
    by = ",".join(wire_labels(query))
    if query.quantile is not None:
        buckets = f"sum by ({','.join(filter(None, (by, 'le')))}) (rate({terms[0].promql('_bucket')}[$window]))"
        expression = f"histogram_quantile({query.quantile:g}, {buckets})"
    elif query.rate:
        parts = [f"{query.combine} by ({by}) (rate({term.promql()}[$window]))" for term in terms]
        expression = " + ".join(parts)
    else:
        expression = " + ".join(f"{query.combine} by ({by}) ({term.promql()})" for term in terms)
    return f"({expression}) * {factor!r}"


def _time(query: MetricQuery, term: Selector) -> str:
    """When the series was last sampled. `timestamp` is exact for a plain selector only."""
    suffix = "_count" if query.quantile is not None else ""
    return f"max by ({','.join(wire_labels(query))}) (timestamp({term.promql(suffix)}))"
