"""What GPUs are made of, from their vendors' data sheets: the prior of the throughput model. None: not found published.

Peak rates are dense (without sparsity) and per GPU as Kubernetes counts it: a K80 board shows up as two, so half of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class GpuFacts:
    fp32_tflops: float
    memory_gib: float
    memory_gb_per_s: float


GPUS: Final[Mapping[str, GpuFacts]] = {
    "K80": GpuFacts(4.37, 12, 240),
    "P100": GpuFacts(9.3, 16, 732),
    "V100": GpuFacts(15.7, 16, 900),
}


def facts_of(name: str) -> GpuFacts | None:
    """Of a GPU by any of its usual names, such as `v100`, `Tesla-V100-SXM2-16GB`; None for one not listed."""
    words = [word for word in re.split(r"[^A-Z0-9]+", name.upper()) if word]
    return next((GPUS[word] for word in words if word in GPUS), None)
