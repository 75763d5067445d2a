"""Champion and challenger: a refit replaces what is in use only if it is not worse on the newest runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_MARGIN: Final = 1.02
"""A challenger up to 2 % worse is taken: it knows more, and the newest runs are few."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`challenger_wins` and what it rests on; losses are mean absolute errors of log seconds."""

    challenger_wins: bool
    champion_loss: float | None
    challenger_loss: float | None


def choose(
    champion: NDArray[np.float64] | None, challenger: NDArray[np.float64], actual: NDArray[np.float64]
) -> Choice:
    """Medians of log seconds of both beside the outcomes, over runs that neither was fitted to.

    The first challenger wins by default; one that says anything that is not finite never does.
    """
    if not np.isfinite(challenger).all():
        return Choice(False, None, None)
    if champion is None or not len(actual):
        return Choice(True, None, None)
    mine, theirs = (float(np.mean(np.abs(said - actual))) for said in (champion, challenger))
    return Choice(theirs <= mine * _MARGIN, mine, theirs)
