"""What can be made to go wrong in an emulated cloud API, in words that fit every vendor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KINDS: Final = ("throttled", "capacity", "quota", "denied", "unmapped", "lost-answer")


@dataclass(frozen=True, slots=True)
class Fault:
    """The next answer of one sort. `kind`: one of `KINDS`; `lost-answer` does what was asked and never says so."""

    kind: str
    writes: bool = True
    """Whether it waits for a call that changes something, or for one that reads."""
    code: str = ""
    """For `unmapped`: the error code that is sent."""
    retry_after_seconds: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault {self.kind!r} is not known; known: {', '.join(KINDS)}")


class Faults:
    """A script of faults, each of which strikes once, in order."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def take(self, *, writes: bool) -> Fault | None:
        """The first fault that waits for such a call, removed; None: answer as usual."""
        for fault in self._waiting:
            if fault.writes == writes:
                self._waiting.remove(fault)
                return fault
        return None
