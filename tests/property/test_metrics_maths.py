"""What must always hold: quantiles, rates, parsers of answers and pages, selectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clusters.metrics._answers import Answer, parse_answer
from clusters.metrics._pages import Page, base_name, parse_page
from clusters.metrics._rates import histogram_quantile, increase
from clusters.metrics._samples import Asked, Row
from clusters.metrics._selectors import Selector, parse_sum
from scheduler.model.errors import InvalidObjectError, OverspillError, RefusedError, TransientError
from scheduler.model.metrics import ABSENT, FAILED, OK, STALE
from tests.builders.metrics_world import EAST, NOW, query

T = TypeVar("T")


def _outcome(action: Callable[[], T]) -> T | OverspillError:
    """What comes back, or the typed error; anything else fails the test."""
    try:
        return action()
    except (RefusedError, TransientError, InvalidObjectError) as error:
        return error


_BOUNDS = st.lists(st.floats(0.001, 1000), min_size=1, max_size=8, unique=True).map(sorted)
_COUNTS = st.floats(0, 1e6)


@st.composite
def _histograms(draw: st.DrawFn) -> dict[float, float]:
    bounds = [*draw(_BOUNDS), math.inf]
    grown = 0.0
    buckets = {}
    for bound in bounds:
        grown += draw(_COUNTS)
        buckets[bound] = grown
    return buckets


@settings(deadline=None)
@given(_histograms(), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_quantile_lies_within_the_buckets_and_grows_with_its_share(
    buckets: dict[float, float], one: float, other: float
) -> None:
    low, high = (histogram_quantile(q, buckets) for q in sorted((one, other)))
    if buckets[math.inf] == 0:
        assert low is None
        return
    assert low is not None
    assert high is not None
    largest = max(bound for bound in buckets if bound < math.inf)
    assert 0 <= low <= high + 1e-9 * abs(high)
    assert high <= largest * (1 + 1e-12)


@settings(deadline=None)
@given(_histograms(), st.floats(0.01, 0.99), st.floats(0.001, 1000))
def test_a_quantile_does_not_depend_on_how_much_was_observed(
    buckets: dict[float, float], share: float, times: float
) -> None:
    before = histogram_quantile(share, buckets)
    after = histogram_quantile(share, {bound: count * times for bound, count in buckets.items()})
    assert (before is None) == (after is None) or buckets[math.inf] * times == 0
    if before is not None and after is not None and buckets[math.inf] > 1e-3:
        # At a bucket's very edge rounding may choose the neighbour; its edge is the same.
        assert after == pytest.approx(before, rel=1e-6, abs=1e-9) or _near_an_edge(buckets, share)


def _near_an_edge(buckets: dict[float, float], share: float) -> bool:
    rank = share * buckets[math.inf]
    return any(math.isclose(count, rank, rel_tol=1e-9) for count in buckets.values())


@pytest.mark.parametrize(
    ("buckets", "share", "want"),
    [  # the first five by Prometheus' own promql/testdata/histograms.test
        ({0.1: 5, 0.2: 7, 1.0: 10, math.inf: 12}, 0.5, 0.15),
        ({0.1: 5, 0.2: 7, 1.0: 10, math.inf: 12}, 0.01, 0.0024),
        ({0.1: 5, 0.2: 7, 1.0: 10, math.inf: 12}, 0.99, 1.0),
        ({-0.2: 1, 0.0: 3, 0.3: 5, math.inf: 5}, 0.1, -0.2),
        ({-0.2: 1, 0.0: 3, 0.3: 5, math.inf: 5}, 0.8, 0.15),
        ({1.0: 5, 2.0: 4, math.inf: 10}, 0.5, 1.0),  # a bucket that shrinks: a scrape in the middle of a count
        ({1.0: 5, 2.0: 5}, 0.5, None),  # no +Inf
        ({math.inf: 5}, 0.5, None),
        ({1.0: 0, math.inf: 0}, 0.5, None),
        ({1.0: math.nan, math.inf: math.nan}, 0.5, None),
        ({}, 0.5, None),
    ],
)
def test_quantiles_as_promql_gives_them(buckets: dict[float, float], share: float, want: float | None) -> None:
    assert histogram_quantile(share, buckets) == (want if want is None else pytest.approx(want))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e12), min_size=2, max_size=20), st.integers(0, 20))
def test_an_increase_is_never_negative_and_resets_count_from_zero(steps: list[float], reset_at: int) -> None:
    counter, total = 0.0, 0.0
    for number, step in enumerate(steps):
        before = counter
        counter = step if number == reset_at else counter + step
        grown = increase(before, counter)
        assert grown >= 0
        assert grown == pytest.approx(counter - before if counter >= before else step, abs=1e-3)
        total += grown
    assert total <= sum(steps) + 1e-3 * len(steps)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from(["NaN", "1", "+Inf"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["metric", "value", "result", "resultType", "status", "data"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.binary(max_size=60) | _JSON.map(orjson.dumps))
@example(orjson.dumps({"status": "success", "data": {"resultType": "vector", "result": [None]}}))
@example(orjson.dumps({"status": "success", "data": {"resultType": "scalar", "result": [True, "1"]}}))
@example(b'{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"1e999"]}]}}')
def test_no_answer_can_crash_the_reading(body: bytes) -> None:
    answer = _outcome(lambda: parse_answer(body))
    if isinstance(answer, Answer):
        assert all(isinstance(series.value, float) for series in answer.series)
    else:
        assert str(answer)


@settings(deadline=None)
@given(_JSON)
def test_no_result_can_crash_the_reading(result: Any) -> None:
    for kind in ("vector", "scalar"):
        body = orjson.dumps({"status": "success", "data": {"resultType": kind, "result": result}})
        answer = _outcome(partial(parse_answer, body))
        assert isinstance(answer, Answer) or "Prometheus API" in str(answer)


_NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@settings(deadline=None)
@given(st.lists(_NUMBERS, max_size=8))
def test_every_number_that_a_server_writes_is_read_exactly(numbers: list[float]) -> None:
    words = ["NaN" if math.isnan(n) else ("+Inf" if n > 0 else "-Inf") if math.isinf(n) else repr(n) for n in numbers]
    rows = [{"metric": {"n": str(i)}, "value": [NOW, word]} for i, word in enumerate(words)]
    body = orjson.dumps({"status": "success", "data": {"resultType": "vector", "result": rows}})
    read = [series.value for series in parse_answer(body).series]
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(read, numbers, strict=True))


_PAGES = st.text(alphabet='ax_{}="\\,\n #1.eE+-NTYPHLIBO \tµ', max_size=80) | st.text(max_size=40)


@settings(deadline=None)
@given(_PAGES, st.sampled_from(["text/plain", "application/openmetrics-text; version=1.0.0"]))
@example("a{", "text/plain")
@example('# TYPE a histogram\na_bucket{le="x"} 1\n# EOF', "application/openmetrics-text")
def test_no_page_can_crash_the_reading(text: str, content_type: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    page = _outcome(lambda: parse_page(body, content_type, frozenset({"a", "x"}), NOW))
    if isinstance(page, Page):
        assert {base_name(name) for name in page.series} <= {"a", "x"}
    else:
        assert isinstance(page, TransientError)
        assert page.code == "Garbage"


_LABELS = st.dictionaries(st.sampled_from(["node", "pod", "le_"]), st.text(max_size=8), max_size=3)


@settings(deadline=None)
@given(_LABELS, st.floats(allow_nan=False, allow_infinity=False))
def test_labels_and_values_of_a_page_come_back(labels: dict[str, str], value: float) -> None:
    escaped = {k: v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for k, v in labels.items()}
    # Characters that end a line for Python but not for the format are kept out of this: exporters do not write them.
    if any(len(v.splitlines()) > 1 or v.strip() != v for v in labels.values()):
        return
    inside = ",".join(f'{k}="{v}"' for k, v in escaped.items())
    page = parse_page(f"x{{{inside}}} {value!r}\n".encode(), "text/plain", frozenset({"x"}), NOW)
    assert page.series["x"] == {tuple(sorted(labels.items())): (value, NOW)}


_NAMES = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,10}", fullmatch=True)
_MATCHERS = st.tuples(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,5}", fullmatch=True), st.booleans(), st.text(max_size=8))


@settings(deadline=None)
@given(st.lists(st.builds(Selector, _NAMES, st.lists(_MATCHERS, max_size=3).map(tuple)), min_size=1, max_size=4))
def test_a_selector_is_read_as_it_is_written(terms: list[Selector]) -> None:
    written = " + ".join(term.promql().replace(",$selector", "").replace("{$selector}", "") for term in terms)
    if "$selector" in written:
        return
    assert parse_sum(written) == tuple(terms)


@settings(deadline=None)
@given(st.text(max_size=30))
def test_a_selector_that_is_none_is_one_clear_line(text: str) -> None:
    found = _outcome(lambda: parse_sum(text))
    assert isinstance(found, tuple) or "\n" not in str(found)


_ROWS = st.lists(
    st.builds(
        Row,
        st.fixed_dictionaries({}, optional={"node": st.sampled_from(["a", "b", ""]), "pod": st.text(max_size=3)}),
        st.floats(),
        st.floats(allow_nan=True),
    ),
    max_size=8,
)


@settings(deadline=None)
@given(_ROWS, st.sampled_from(["max", "min", "sum"]))
def test_a_reading_is_sound_whatever_came(rows: list[Row], combine: str) -> None:
    asked = Asked(EAST, "test", NOW)
    reading = asked.reading(query(combine=combine), rows, 0.1)
    assert reading.state in (OK, STALE, ABSENT)
    labels = [sample.labels for sample in reading.samples]
    assert labels == sorted(set(labels))
    assert all(math.isfinite(sample.at) and sample.at <= NOW + 300 for sample in reading.samples)
    assert (reading.state == ABSENT) == (not reading.samples)
    if reading.state == OK:
        assert all(NOW - sample.at <= 120 for sample in reading.samples)
    if reading.state == STALE:
        assert all(NOW - sample.at > 120 for sample in reading.samples)
    again = asked.reading(query(combine=combine), list(reversed(rows)), 0.1)
    assert [sample.labels for sample in again.samples] == labels
    assert asked.failed(query(), "x", 0.0).state == FAILED
