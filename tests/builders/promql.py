"""PromQL of dashboards and rules, made into queries that a test can ask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_RANGES: Final = {"$__rate_interval": "1m", "$__range": "10m"}
_SELECTOR: Final = re.compile(r"\b(overspill[:_][a-z0-9_:]*[a-z0-9])(\{[^}]*\})?")


def filled(expression: str, variables: Mapping[str, str]) -> str:
    """With Grafana's variables replaced; what is not named stands for everything."""
    for name, value in _RANGES.items():
        expression = expression.replace(name, value)
    return re.sub(r"\$(\w+)", lambda found: variables.get(found[1], ".*"), expression)


def selectors(expression: str) -> set[str]:
    """The series that it asks for, each as a query of its own, without what they are held against."""
    return {f"{name}{labels or ''}" for name, labels in _SELECTOR.findall(expression)}
