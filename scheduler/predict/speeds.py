"""Speeds as they are learned from runs: alone and beside another on the same GPU, with a challenger for each refit.

Mutable, for one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from scheduler.model.traits import NO_TRAITS, Traits
from scheduler.predict.champion import Choice, choose
from scheduler.predict.learned import gpu_name
from scheduler.predict.sharing import Alone, Beside, SharingModel
from scheduler.predict.throughput import Configuration, Spread, ThroughputModel
from scheduler.predict.work import Efficiencies

_NEWEST: Final = 20
"""Speeds that a challenger is judged on."""
_FEWEST_SHARED: Final = 8
"""New speeds beside others, at the least, for a refit."""


class Speeds:
    def __init__(
        self,
        throughput: ThroughputModel | None = None,
        sharing: SharingModel | None = None,
        efficiencies: Efficiencies | None = None,
    ) -> None:
        self.throughput = ThroughputModel() if throughput is None else throughput
        self.sharing = SharingModel() if sharing is None else sharing
        """What runs keep of their speed beside another on the same GPU."""
        self.efficiencies = Efficiencies() if efficiencies is None else efficiencies
        """What part of a GPU's peak models reach that declare what they are."""
        self._behind = self.throughput.fork()
        """Without the newest speeds, which a challenger is judged on."""
        self._newest: deque[tuple[Configuration, float, Spread | None]] = deque(maxlen=_NEWEST)
        """With what was predicted before each was seen."""
        self._new = 0
        self._new_shared = 0

    def learn(self, one: Configuration, steps_per_second: float, traits: Traits = NO_TRAITS) -> None:
        """Of a run's own steps; what cannot be is refused by the model."""
        self.efficiencies.learn(traits, one, steps_per_second)
        span = self.throughput.predict(one)
        if len(self._newest) == _NEWEST:
            self._behind.observe(*self._newest[0])
        self._newest.append((one, steps_per_second, span))
        self.throughput.observe(one, steps_per_second, span)
        self._new += 1

    def learn_shared(self, own: Configuration, other: Configuration, steps_per_second: float) -> None:
        """Only where both were seen alone on such a GPU: a guess would teach its own error."""
        whole = [replace(one, share=1.0) for one in (own, other)]
        alone = [self.throughput.observed(one) for one in whole]
        if own.gpus != 1 or other.gpus != 1 or gpu_name(own) != gpu_name(other) or None in alone:
            return
        sides = [
            Alone(one.model, one.batch_size, seen.median)
            for one, seen in zip(whole, alone, strict=True)
            if seen is not None
        ]
        self.sharing.observe(Beside(sides[0], sides[1], gpu_name(own)), steps_per_second)
        self._new_shared += 1

    @property
    def wants_refit(self) -> bool:
        """Whether a twentieth is new, of speeds alone (20 at most) or beside others (eight at least)."""
        speeds = min(_NEWEST, max(1, len(self.throughput) // 20))
        return self._new >= speeds or self._new_shared >= max(_FEWEST_SHARED, len(self.sharing) // 20)

    def learn_anew(self) -> Choice | None:
        """What came of the challenger; None: no speed alone was new."""
        choice = self._refit() if self._new else None
        if self._new_shared:
            # A view that was given out keeps what it has.
            self.sharing = self.sharing.fork()
            self.sharing.refit()
            self._new_shared = 0
        return choice

    def _refit(self) -> Choice:
        judged = [(one, steps, said.median) for one, steps, said in self._newest if said is not None]
        challenger = self._behind.fork()
        challenger.refit()
        said = challenger.predict_many([one[0] for one in judged])
        both = [(one, span) for one, span in zip(judged, said, strict=True) if span is not None]
        choice = choose(
            np.log([one[2] for one, _ in both]) if both else None,
            np.log([span.median for _, span in both]),
            np.log([one[1] for one, _ in both]),
        )
        self._new = 0
        if choice.challenger_wins:
            # What it was judged on it may now learn from, too.
            self.throughput = self.throughput.fork()
            self.throughput.refit()
        return choice

    def state(self) -> dict[str, Any]:
        """As JSON values, to stand among those of `Learning`."""
        return {
            "throughput": self.throughput.state(),
            "sharing": self.sharing.state(),
            "efficiencies": self.efficiencies.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Speeds:
        """Raises: ValueError, KeyError, TypeError for what `state` did not write."""
        # Earlier versions had neither `sharing` nor `efficiencies`.
        sharing = SharingModel.from_state(state["sharing"]) if "sharing" in state else None
        efficiencies = Efficiencies.from_state(state.get("efficiencies", []))
        return cls(ThroughputModel.from_state(state["throughput"]), sharing, efficiencies)
