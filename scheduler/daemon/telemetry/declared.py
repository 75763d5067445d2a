"""Metrics as declared families: a line for each, and everything that is known of it in that line.

A class lists its families as attributes; an instance has the real ones, on a registry of its own. Base units at the
end of names, `overspill_` before them. What bounds a label is told once for all families, in `LABELS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, overload

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
WAITS: Final = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0, 604800.0)
M = TypeVar("M", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class Family:
    """What is told of a metric."""

    kind: str
    """counter, gauge or histogram."""
    name: str
    """As it is scraped: of a counter with _total."""
    help: str
    labels: tuple[str, ...]

    @property
    def unit(self) -> str:
        """From the name: "" where it is a plain number."""
        stem = self.name.removesuffix("_total")
        for unit in ("gpu_seconds", "seconds", "usd", "ratio", "bytes"):
            if f"_{unit}" in stem:
                return unit.replace("_", "-")
        return ""


class Declared(Generic[M]):
    """A family as an attribute of its class; of an instance the metric itself."""

    def __init__(self, family: Family, make: Callable[[CollectorRegistry], M]) -> None:
        self.family = family
        self.make: Callable[[CollectorRegistry], M] = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._attribute = name

    @overload
    def __get__(self, instance: None, owner: type) -> Declared[M]: ...
    @overload
    def __get__(self, instance: Metrics, owner: type) -> M: ...
    def __get__(self, instance: Metrics | None, owner: type) -> Declared[M] | M:
        if instance is None:
            return self
        made: M = instance.made[self._attribute]
        return made


class Metrics:
    """All families of a class and of those that it is made of."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.made: dict[str, Any] = {name: one.make(self.registry) for name, one in declared(type(self))}

    def expose(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


def declared(theme: type[Metrics]) -> Iterator[tuple[str, Declared[Any]]]:
    """By attribute: the class's own and those of its bases, in their order."""
    for base in theme.__mro__:
        for name, one in vars(base).items():
            if isinstance(one, Declared):
                yield name, one


def counter(name: str, text: str, labels: Sequence[str] = ()) -> Declared[Counter]:
    family = Family("counter", f"{name}_total", text, tuple(labels))
    return Declared(family, lambda registry: Counter(name, text, labels, registry=registry))


def gauge(name: str, text: str, labels: Sequence[str] = ()) -> Declared[Gauge]:
    return Declared(
        Family("gauge", name, text, tuple(labels)), lambda registry: Gauge(name, text, labels, registry=registry)
    )


def histogram(name: str, text: str, labels: Sequence[str] = (), *, buckets: Sequence[float]) -> Declared[Histogram]:
    family = Family("histogram", name, text, tuple(labels))
    return Declared(family, lambda registry: Histogram(name, text, labels, buckets=buckets, registry=registry))
