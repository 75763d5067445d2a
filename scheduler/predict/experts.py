"""Simple forecasts weighted by how they did: the exponentially weighted average forecaster (Cesa-Bianchi and Lugosi,
"Prediction, Learning, and Games", 2.2), losses discounted, so that the best of them is followed, whichever it is now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

DISCOUNT: Final = 0.98


def rate_of(experts: int, discount: float = DISCOUNT) -> float:
    """The learning rate of that book's theorem 2.2 for as many rounds as the discount remembers."""
    return math.sqrt(8.0 * math.log(experts) * (1.0 - discount))


class Experts:
    """Changed in place. `most_off`: what one forecast loses at most, so that a single spike decides nothing."""

    def __init__(self, names: Sequence[str], most_off: float) -> None:
        self.losses = dict.fromkeys(names, 0.0)
        self._most, self._rate = most_off, rate_of(len(names))

    def learn(self, said: Mapping[str, float], actual: float) -> None:
        """What each had said of a value that is known now; one that said nothing loses as much as the typical one."""
        if not said:
            return
        typical = sum(said.values()) / len(said)
        for name, loss in self.losses.items():
            off = min(self._most, abs(said.get(name, typical) - actual))
            self.losses[name] = DISCOUNT * loss + off

    def mixed(self, said: Mapping[str, float]) -> float | None:
        """Their weighted mean; None: nobody says anything."""
        if not said:
            return None
        least = min(self.losses[name] for name in said)
        weights = {name: math.exp(-self._rate * (self.losses[name] - least)) for name in said}
        return sum(weights[name] * said[name] for name in said) / sum(weights.values())
