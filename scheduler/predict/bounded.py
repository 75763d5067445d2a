"""A mapping of bounded size: what has not been touched for longest makes room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `most` entries. Reading does not touch, so that a prediction changes nothing."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"most must be at least 1, not {most}")
        self.most = most
        self._entries: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        return self._entries.get(key)

    def touch(self, key: K, make: Callable[[], V]) -> V:
        """The entry, made if it is missing, as the newest."""
        found = self._entries.pop(key, None)
        self._entries[key] = found = make() if found is None else found
        self._trim()
        return found

    def put(self, key: K, value: V) -> None:
        """Set it, as the newest."""
        self._entries.pop(key, None)
        self._entries[key] = value
        self._trim()

    def pop(self, key: K) -> V | None:
        return self._entries.pop(key, None)

    def view(self) -> Mapping[K, V]:
        """As a mapping that changes with this one."""
        return MappingProxyType(self._entries)

    def items(self) -> Iterator[tuple[K, V]]:
        """The oldest first."""
        yield from self._entries.items()

    def values(self) -> Iterator[V]:
        """The oldest first."""
        yield from self._entries.values()

    def _trim(self) -> None:
        while len(self._entries) > self.most:
            del self._entries[next(iter(self._entries))]
