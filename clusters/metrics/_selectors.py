"""Names of metric families as queries write them: `NAME`, `NAME{label="value",other!="value"}`, and sums `A + B`.

The subset of PromQL that means the same for a Prometheus API and for a page that is scraped. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from scheduler.model.errors import InvalidObjectError

METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_MATCHER: Final = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(!?=)\s*"((?:[^"\\\n]|\\["\\n])*)"\s*(?:,|(?=\}))')
_ESCAPES: Final = {'\\"': '"', "\\\\": "\\", "\\n": "\n"}
_MOST_TERMS: Final = 8


@dataclass(frozen=True, slots=True)
class Selector:
    """Series of one family. `matchers`: (label, whether it must be equal, value); a missing label counts as ""."""

    name: str
    matchers: tuple[tuple[str, bool, str], ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all((labels.get(label, "") == value) == equal for label, equal, value in self.matchers)

    def promql(self, suffix: str = "") -> str:
        """With the place for the source's own matchers; `suffix` such as _bucket."""
        inside = [f"{label}{'=' if equal else '!='}{quoted(value)}" for label, equal, value in self.matchers]
        return f"{self.name}{suffix}{{{','.join([*inside, '$selector'])}}}"


def quoted(text: str) -> str:
    """As a PromQL string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


@lru_cache(maxsize=4096)
def parse_sum(text: str) -> tuple[Selector, ...]:
    """The families of `A + B`; mostly one. Raises: InvalidObjectError with the remedy."""
    terms: list[Selector] = []
    rest = text.strip()
    while True:
        selector, rest = _parse_one(rest, text)
        terms.append(selector)
        if not rest:
            return tuple(terms)
        if not rest.startswith("+") or len(terms) == _MOST_TERMS:
            raise _bad(text)
        rest = rest[1:].lstrip()


def _parse_one(rest: str, whole: str) -> tuple[Selector, str]:
    name = METRIC_NAME.match(rest)
    if name is None:
        raise _bad(whole)
    rest = rest[name.end() :].lstrip()
    if not rest.startswith("{"):
        return Selector(name[0]), rest
    matchers: list[tuple[str, bool, str]] = []
    position = 1
    while not (rest[position:].lstrip().startswith("}")):
        found = _MATCHER.match(rest, position)
        if found is None:
            raise _bad(whole)
        value = re.sub(r'\\["\\n]', lambda escape: _ESCAPES[escape[0]], found[3])
        matchers.append((found[1], found[2] == "=", value))
        position = found.end()
    return Selector(name[0], tuple(matchers)), rest[position:].lstrip()[1:].lstrip()


def _bad(text: str) -> InvalidObjectError:
    return InvalidObjectError(
        f'{text[:80]!r} names no metric family; write NAME or NAME{{label="value"}}, several added with +'
    )
