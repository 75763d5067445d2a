"""How much wider than foretold the throughput model's intervals are made, by what is known and by GPU.

Learned in `throughput_margins`; kept beside the fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

Known = tuple[float, float, float]
"""Of a (model, GPU) pair seen, of a model seen elsewhere only, of one never seen."""


@dataclass(frozen=True, slots=True)
class Margins:
    """What standard deviations are multiplied by for 90 % intervals that hold."""

    any_gpu: Known = (1.0, 1.0, 1.0)
    by_gpu: Mapping[str, Known] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, gpu: str) -> Known:
        return self.by_gpu.get(gpu, self.any_gpu)

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return {"any": list(self.any_gpu), "by_gpu": {gpu: list(known) for gpu, known in sorted(self.by_gpu.items())}}

    @classmethod
    def from_state(cls, state: Any) -> Margins:
        """Raises: ValueError, KeyError, TypeError."""
        if isinstance(state, list):  # earlier versions had none by GPU
            return cls(_three(state))
        return cls(_three(state["any"]), {str(gpu): _three(known) for gpu, known in state["by_gpu"].items()})


def _three(values: Sequence[Any]) -> Known:
    few, some, none = (float(value) for value in values)
    if not all(math.isfinite(value) and value > 0 for value in (few, some, none)):
        raise ValueError("margins that cannot be")
    return few, some, none
