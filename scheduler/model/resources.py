"""Exact resource vectors, and Kubernetes quantities parsed into them. Integers in base units throughout."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from scheduler.model.errors import InvalidObjectError

_SUFFIX: Final = {
    "": Fraction(1), "n": Fraction(1, 10**9), "u": Fraction(1, 10**6), "m": Fraction(1, 1000),
    "k": Fraction(10**3), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12),
    "P": Fraction(10**15), "E": Fraction(10**18), "Ki": Fraction(2**10), "Mi": Fraction(2**20),
    "Gi": Fraction(2**30), "Ti": Fraction(2**40), "Pi": Fraction(2**50), "Ei": Fraction(2**60),
}  # fmt: skip
_QUANTITY: Final = re.compile(r"([+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30}))(?:[eE]([+-]?\d{1,2})|([A-Za-z]{0,2}))")


def parse_quantity(text: str | int | float) -> Fraction:
    """The exact value of a Kubernetes quantity ("250m", "16Gi", "1e3", 4).

    Source: the resource.Quantity grammar of the Kubernetes API reference.
    Raises: InvalidObjectError, naming the text, when it is no quantity.
    """
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None or (match[3] or "") not in _SUFFIX:
        raise InvalidObjectError(f"{str(text)[:40]!r} is not a Kubernetes quantity; write for example 500m, 4 or 16Gi")
    number = Fraction(Decimal(match[1]))
    return number * Fraction(10) ** int(match[2]) if match[2] else number * _SUFFIX[match[3] or ""]


def quantity_units(text: str | int | float, *, milli: bool = False) -> int:
    """The quantity in whole units (or thousandths with `milli`), rounded up as Kubernetes does."""
    value = parse_quantity(text) * (1000 if milli else 1)
    return -((-value.numerator) // value.denominator)


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of each resource, of a pod, a node or a quota.

    Units: thousandths of a core, bytes, whole GPUs, pods. `extended` holds any other resource by its Kubernetes
    name, sorted, in whole units; a resource that is absent is zero.
    """

    cpu_milli: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    pods: int = 0
    extended: tuple[tuple[str, int], ...] = ()

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.cpu_milli + other.cpu_milli,
            self.memory_bytes + other.memory_bytes,
            self.gpus + other.gpus,
            self.pods + other.pods,
            _combine(self.extended, other.extended, 1) if self.extended or other.extended else (),
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            self.cpu_milli - other.cpu_milli,
            self.memory_bytes - other.memory_bytes,
            self.gpus - other.gpus,
            self.pods - other.pods,
            _combine(self.extended, other.extended, -1) if self.extended or other.extended else (),
        )

    def times(self, count: int) -> Resources:
        """`count` times this amount."""
        return Resources(
            self.cpu_milli * count,
            self.memory_bytes * count,
            self.gpus * count,
            self.pods * count,
            tuple((name, amount * count) for name, amount in self.extended if count),
        )

    def fits_in(self, room: Resources) -> bool:
        """Whether every amount asked for is there. Asking for none of a resource always fits."""
        return (
            (self.gpus <= room.gpus or not self.gpus)
            and (self.cpu_milli <= room.cpu_milli or not self.cpu_milli)
            and (self.memory_bytes <= room.memory_bytes or not self.memory_bytes)
            and (self.pods <= room.pods or not self.pods)
            and (not self.extended or not self._extended_shortfall(room))
        )

    def shortfall(self, room: Resources) -> tuple[str, ...]:
        """Names of the resources of which `room` has too little, in a fixed order; empty when it fits."""
        short = [
            name
            for name, asked, there in (
                ("gpu", self.gpus, room.gpus),
                ("cpu", self.cpu_milli, room.cpu_milli),
                ("memory", self.memory_bytes, room.memory_bytes),
                ("pods", self.pods, room.pods),
            )
            if asked and asked > there
        ]
        return (*short, *self._extended_shortfall(room))

    def amount(self, name: str) -> int:
        """The amount of a resource, named as in quotas: cpu (milli), memory (bytes), gpu, pods, or an extended name."""
        match name:
            case "cpu":
                return self.cpu_milli
            case "memory":
                return self.memory_bytes
            case "gpu":
                return self.gpus
            case "pods":
                return self.pods
        return dict(self.extended).get(name, 0)

    def _extended_shortfall(self, room: Resources) -> tuple[str, ...]:
        there = dict(room.extended)
        return tuple(name for name, asked in self.extended if asked > 0 and asked > there.get(name, 0))


def total(amounts: Iterable[Resources]) -> Resources:
    """The same as adding them one by one, cheaper."""
    cpu = memory = gpus = pods = 0
    extended: dict[str, int] = defaultdict(int)
    for each in amounts:
        cpu += each.cpu_milli
        memory += each.memory_bytes
        gpus += each.gpus
        pods += each.pods
        for name, amount in each.extended:
            extended[name] += amount
    return Resources(cpu, memory, gpus, pods, tuple(sorted((name, sum_) for name, sum_ in extended.items() if sum_)))


def _combine(
    left: tuple[tuple[str, int], ...], right: tuple[tuple[str, int], ...], sign: int
) -> tuple[tuple[str, int], ...]:
    total = dict(left)
    for name, amount in right:
        total[name] = total.get(name, 0) + sign * amount
    return tuple(sorted((name, amount) for name, amount in total.items() if amount))
