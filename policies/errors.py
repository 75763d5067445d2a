"""What is wrong in a file that people write: one line each, with the place and the remedy."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from scheduler.model.errors import InvalidObjectError

_SHOWN: Final = 60
"""Longest part of a user's text that a message repeats."""


@dataclass(frozen=True, slots=True, order=True)
class PolicyError:
    """One mistake. `line` and `column` count from 1; `message` is one line that names the key and the remedy."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class PolicyErrors(InvalidObjectError):  # noqa: N818  (it holds several)
    """Everything that is wrong in the files read, at least one, sorted by place. Its text has a line for each."""

    def __init__(self, errors: Iterable[PolicyError]) -> None:
        self.errors = tuple(sorted(set(errors)))
        super().__init__("\n".join(str(error) for error in self.errors))


def one_line(text: str) -> str:
    """`text` with everything that is not printable escaped, so that it stays on its line of a terminal or log."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def shown(value: object) -> str:
    """A user's value as a message repeats it: quoted, on one line, shortened."""
    text = one_line(str(value).lower() if isinstance(value, bool) else str(value))
    return f'"{text}"' if len(text) <= _SHOWN else f'"{text[:_SHOWN]}..."'


def nearest(word: str, known: Collection[str]) -> str | None:
    """The one of `known` that `word` was most likely meant to be: one that begins with it, else the fewest edits away;
    None when nothing is near. Ties go to the first in order of the alphabet."""
    if len(word) > _SHOWN:
        return None
    begun = sorted(name for name in known if len(word) > 2 and name.lower().startswith(word.lower()))
    if begun:
        return begun[0]
    ranked = sorted((_distance(word.lower(), name.lower()), name) for name in known)
    return ranked[0][1] if ranked and ranked[0][0] <= max(2, len(word) // 3) and ranked[0][0] < len(word) else None


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The remedy for an unknown word: the nearest right one, or the list of them."""
    names = sorted(known)
    near = nearest(word, names)
    if near is not None:
        return f'did you mean "{near}"?'
    return f"write one of {', '.join(names)}" if names else "remove it"


def _distance(left: str, right: str) -> int:
    """Edits (insert, delete, replace, swap neighbours) between two words: optimal string alignment distance."""
    before: list[int] = []
    previous = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        row = [i]
        for j, b in enumerate(right, start=1):
            cost = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, previous = previous, row
    return previous[-1]
