"""Answers of a Prometheus API, read exactly. Pure.

Format: Prometheus, "HTTP API", instant queries. Values are text, so that NaN and infinity can be told.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from scheduler.model.errors import RefusedError, TransientError

_NUMBER: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_WORDS: Final = {"NaN": math.nan, "+Inf": math.inf, "-Inf": -math.inf, "Inf": math.inf}
_REFUSALS: Final = frozenset({"bad_data", "execution"})
"""Error types that a repetition does not mend."""
_MAX_WARNINGS: Final = 5
_LONGEST: Final = 20_000
"""Of a text of the server's; a reading shortens it further, once secrets are out of it."""


@dataclass(frozen=True, slots=True)
class Series:
    """`at`: when the query was evaluated, by the server's clock; the value may be NaN or infinite."""

    labels: Mapping[str, str]
    value: float
    at: float


@dataclass(frozen=True, slots=True)
class Answer:
    series: tuple[Series, ...]
    warnings: tuple[str, ...]
    """What the server says is not as it should be, such as a Thanos store that did not answer."""
    histograms: int = 0
    """Native histograms among the results: no plain values, left out."""


def parse_answer(body: bytes) -> Answer:
    """What an instant query gave: a vector, or a scalar as one series without labels.

    Raises: RefusedError for a query that the server will not have; TransientError for any other failure, and for what
    is no such answer.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _garbage("not JSON") from error
    if not isinstance(document, dict):
        raise _garbage("no JSON object")
    if document.get("status") != "success":
        raise answer_error(document)
    data = document.get("data")
    if not isinstance(data, dict):
        raise _garbage("no data")
    kind, result = data.get("resultType"), data.get("result")
    warnings = _texts(document.get("warnings"))[:_MAX_WARNINGS]
    if kind == "scalar":
        at, value = _pair(result)
        return Answer((Series({}, value, at),), warnings)
    if kind != "vector":
        raise RefusedError(
            f"answers {str(kind)[:20]!r}; the query must give an instant vector or a scalar", code="type"
        )
    if not isinstance(result, list):
        raise _garbage("a vector that is no list")
    series = tuple(_series(item) for item in result if not _is_histogram(item))
    return Answer(series, warnings, len(result) - len(series))


def answer_error(document: Mapping[str, Any]) -> RefusedError | TransientError:
    """The error that a JSON answer tells, with the server's own words."""
    kind, text = (
        str(document.get("errorType") or "unknown")[:40],
        str(document.get("error") or "no reason given")[:_LONGEST],
    )
    if document.get("status") != "error":
        return _garbage("no status")
    kind_of_error = RefusedError if kind in _REFUSALS else TransientError
    return kind_of_error(f"query failed: {kind}: {text}", code=kind)


def error_of_body(body: bytes) -> str:
    """What the body of a refused request says: Prometheus' own error text, else ""."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if isinstance(document, dict) and document.get("status") == "error":
        return str(answer_error(document))
    return ""


def _is_histogram(item: object) -> bool:
    return isinstance(item, dict) and "histogram" in item and "value" not in item


def _series(item: object) -> Series:
    if not isinstance(item, dict) or not isinstance(item.get("metric"), dict):
        raise _garbage("a series without labels")
    labels = item["metric"]
    if not all(isinstance(value, str) for value in labels.values()):
        raise _garbage("a label that is no text")
    at, value = _pair(item.get("value"))
    return Series(labels, value, at)


def _pair(value: object) -> tuple[float, float]:
    match value:
        case [int() | float() as at, str() as text] if not isinstance(at, bool):
            return float(at), _number(text)
    raise _garbage("a sample that is not [time, value]")


def _number(text: str) -> float:
    if text in _WORDS:
        return _WORDS[text]
    if not _NUMBER.fullmatch(text):
        raise _garbage("a value that is no number")
    return float(text)


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item)[:_LONGEST] for item in value) if isinstance(value, list) else ()


def _garbage(what: str) -> TransientError:
    return TransientError(
        f"does not answer as a Prometheus API does ({what}); check the URL and its path", code="Garbage"
    )
