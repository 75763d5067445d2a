"""Label and field selectors: parsed once, remembered, and matched without allocation."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from clusters.sandbox.apiserver.failures import bad_request
from clusters.sandbox.apiserver.names import label_key_faults, label_value_faults

_SET: Final = re.compile(r"\s*([^\s,!=<>()]+)\s+(in|notin)\s*\(([^()]*)\)\s*(?:,|$)")
_COMPARE: Final = re.compile(r"\s*([^\s,!=<>()]+)\s*(==|=|!=|>|<)\s*([^\s,!=<>()]*)\s*(?:,|$)")
_EXISTS: Final = re.compile(r"\s*(!?)\s*([^\s,!=<>()]+)\s*(?:,|$)")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term. `operator`: in, notin, exists, absent, gt or lt."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
        if value is None or not re.fullmatch(r"-?\d+", value):
            return False
        bound = int(next(iter(self.values)))
        return int(value) > bound if self.operator == "gt" else int(value) < bound


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; none at all selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(requirement.holds(labels) for requirement in self.requirements)


@lru_cache(maxsize=4096)
def parse_labels(text: str) -> LabelSelector:
    """The selector that a `labelSelector` query parameter means. Raises: StatusError 400."""
    found: list[Requirement] = []
    position = 0
    while position < len(text) and text[position:].strip():
        if match := _SET.match(text, position):
            values = frozenset(part.strip() for part in match[3].split(","))
            found.append(_checked(Requirement(match[1], match[2], values), text))
        elif match := _COMPARE.match(text, position):
            operator = {"=": "in", "==": "in", "!=": "notin", ">": "gt", "<": "lt"}[match[2]]
            found.append(_checked(Requirement(match[1], operator, frozenset((match[3],))), text))
        elif match := _EXISTS.match(text, position):
            found.append(_checked(Requirement(match[2], "absent" if match[1] else "exists"), text))
        else:
            raise bad_request(
                f"unable to parse requirement: found {text[position:][:60]!r}, expected: a label selector"
            )
        position = match.end()
    return LabelSelector(tuple(found))


def _checked(requirement: Requirement, text: str) -> Requirement:
    faults = label_key_faults(requirement.key)
    for value in requirement.values:
        if requirement.operator in ("gt", "lt"):
            faults += (
                () if re.fullmatch(r"-?\d+", value) else ("for 'Gt', 'Lt' operators, the value must be an integer",)
            )
        else:
            faults += label_value_faults(value)
    if faults:
        raise bad_request(f"unable to parse requirement: {text[:100]!r}: {faults[0]}")
    return requirement


def from_object(selector: Mapping[str, Any] | None) -> LabelSelector | None:
    """The selector that a LabelSelector object means; None selects nothing (as an absent selector does)."""
    if selector is None:
        return None
    found = [Requirement(key, "in", frozenset((value,))) for key, value in (selector.get("matchLabels") or {}).items()]
    names = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
    found += [
        Requirement(
            str(term.get("key")), names.get(str(term.get("operator")), "absent"), frozenset(term.get("values") or ())
        )
        for term in selector.get("matchExpressions") or ()
    ]
    return LabelSelector(tuple(found))


FieldReader = Callable[[Mapping[str, Any]], str]


def read_path(path: str) -> FieldReader:
    """A reader of the dotted `path` as a string; "" when it is absent, "true"/"false" for booleans."""
    keys = tuple(path.split("."))

    def read(obj: Mapping[str, Any]) -> str:
        value: Any = obj
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            return ""
        return str(value).lower() if isinstance(value, bool) else str(value)

    return read


def read_path_or(path: str, default: str) -> FieldReader:
    read = read_path(path)
    return lambda obj: read(obj) or default


@dataclass(frozen=True, slots=True)
class FieldSelector:
    terms: tuple[tuple[FieldReader, bool, str], ...] = ()
    """(reader, equal, value)"""
    name: str | None = None
    """Set when it asks for one name, so that the store need not scan."""

    def matches(self, obj: Mapping[str, Any]) -> bool:
        return all((reader(obj) == value) is equal for reader, equal, value in self.terms)


@lru_cache(maxsize=4096)
def _split_fields(text: str) -> tuple[tuple[str, bool, str], ...]:
    terms = []
    for part in re.split(r"(?<!\\),", text):
        if not part.strip():
            continue
        match = re.fullmatch(r"\s*([^=!\s]+)\s*(==|=|!=)(.*)", part, re.DOTALL)
        if match is None:
            raise bad_request(f"invalid selector: {part[:60]!r}; can't understand {part[:60]!r}")
        value = re.sub(r"\\([\\,=])", r"\1", match[3].strip())
        terms.append((match[1], match[2] != "!=", value))
    return tuple(terms)


def parse_fields(text: str, readers: Mapping[str, FieldReader], what: str) -> FieldSelector:
    """The selector that a `fieldSelector` query parameter means for a kind with these selectable fields.

    Raises: StatusError 400 for a field by which the kind cannot be selected.
    """
    terms = []
    name = None
    for path, equal, value in _split_fields(text):
        reader = readers.get(path)
        if reader is None:
            known = ", ".join(f'"{known}"' for known in sorted(readers))
            raise bad_request(
                f'Unable to find "{what}" that match label selector "", field selector "{text}": '
                f'"{path}" is not a known field selector: only {known}'
            )
        if path == "metadata.name" and equal:
            name = value
        terms.append((reader, equal, value))
    return FieldSelector(tuple(terms), name)
