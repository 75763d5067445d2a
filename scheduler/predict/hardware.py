"""What GPUs are made of, from their makers' data sheets: the prior of the throughput model. None: not known here.

Peak rates are dense (without sparsity), in TFLOPS, and per GPU as Kubernetes counts it: a K80 board shows up as two, so
it is half a board. `fp16_tflops` is that of tensor cores with FP32 accumulation where the GPU has them. `link` is what
one GPU exchanges with its neighbours in one node, both directions together: NVLink where it has it, else PCIe.
The sheets were read as public pages quote them; what no page told stays None. Bandwidth between nodes belongs to the
machine, not to the GPU, and is learned from what runs there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final


@dataclass(frozen=True, slots=True)
class GpuFacts:
    fp32_tflops: float | None
    tf32_tflops: float | None
    fp16_tflops: float | None
    memory_gb: float
    memory_gb_per_s: float | None
    link_gb_per_s: float | None
    source: str


_A100 = "NVIDIA A100 data sheet (1758950, r4)"
_H100 = "NVIDIA H100 data sheet, tensor rates halved (printed with sparsity)"
GPUS: Final[Mapping[str, GpuFacts]] = {
    # name: FP32, TF32, FP16, memory, its bandwidth, link, source
    "K80": GpuFacts(4.37, None, None, 12, 240, 32, "NVIDIA Tesla K80 board specification, with boost; halved"),
    "P100": GpuFacts(9.3, None, 18.7, 16, 732, 32, "NVIDIA Tesla P100 PCIe data sheet"),
    "P100-SXM2": GpuFacts(10.6, None, 21.2, 16, 732, 160, "NVIDIA Tesla P100 data sheet, NVLink model"),
    "V100": GpuFacts(15.7, None, 125, 16, 900, 300, "NVIDIA Tesla V100 data sheet, SXM2"),
    "V100-PCIE": GpuFacts(14.0, None, None, 16, 900, 32, "NVIDIA Tesla V100 data sheet, PCIe"),
    "T4": GpuFacts(8.1, None, 65, 16, 320, 32, "NVIDIA T4 data sheet"),
    "A10": GpuFacts(31.2, None, 125, 24, 600, 64, "NVIDIA A10 data sheet"),
    # Amazon's own variant: more CUDA cores' worth of clock, fewer tensor operations.
    "A10G": GpuFacts(31.5, None, None, 24, 600, 64, "Google instance mapper; bandwidth: Baseten, A10 vs A10G"),
    "A30": GpuFacts(10.3, None, None, 24, 933, None, "NVIDIA A30 data sheet"),
    "A40": GpuFacts(37.4, 74.8, 149.7, 48, 696, 112.5, "NVIDIA A40 data sheet"),
    "A100": GpuFacts(19.5, 156, 312, 40, 1555, 600, _A100),
    "A100-40GB": GpuFacts(19.5, 156, 312, 40, 1555, 600, _A100),
    "A100-80GB": GpuFacts(19.5, 156, 312, 80, 2039, 600, _A100),
    "L4": GpuFacts(30.3, 60, 121, 24, 300, 64, "NVIDIA L4 data sheet, tensor rates halved"),
    "L40": GpuFacts(90.5, 90.5, 181.05, 48, 864, 64, "NVIDIA L40 data sheet"),
    "L40S": GpuFacts(91.6, 183, 362.05, 48, 864, 64, "NVIDIA L40S data sheet"),
    "H100": GpuFacts(67, 494.7, 989.4, 80, 3350, 900, _H100 + ", SXM"),
    "H100-PCIE": GpuFacts(51, 378, 756.5, 80, 2000, 600, _H100 + ", PCIe"),
    "H200": GpuFacts(67, 494.7, 989.4, 141, 4800, 900, "NVIDIA H200 data sheet, SXM, tensor rates halved"),
    "B200": GpuFacts(80, 1100, 2250, 180, 8000, 1800, "NVIDIA Blackwell data sheet, HGX at 1,000 W"),
    "RTX-3090": GpuFacts(35.6, None, None, 24, 936, 64, "NVIDIA Ampere GA102 white paper"),
    "RTX-4090": GpuFacts(82.6, 82.6, 165.2, 24, 1008, 64, "NVIDIA Ada white paper"),
    "RTX-A4000": GpuFacts(19.2, None, None, 16, 448, 64, "NVIDIA RTX A4000 data sheet"),
    "RTX-A6000": GpuFacts(38.7, None, None, 48, 768, None, "NVIDIA RTX A6000 data sheet"),
    "RTX-6000-ADA": GpuFacts(91.1, None, None, 48, None, None, "NVIDIA RTX 6000 Ada data sheet"),
}
_NOISE: Final = frozenset({"NVIDIA", "TESLA", "GEFORCE", "GENERATION", "SXM", "SXM3", "SXM4", "SXM5", "HBM3"})


@lru_cache(maxsize=1024)
def facts_of(name: str) -> GpuFacts | None:
    """Of a GPU by any of its usual names, such as `v100`, `Tesla-V100-SXM2-16GB`, `nvidia-a100-80gb`; None for one not
    listed. Of several that fit, the one that says most."""
    words = [word for word in re.split(r"[^A-Z0-9]+", name.upper()) if word and word not in _NOISE]
    if any(word.startswith("RTX") and word != "RTX" for word in words):
        words = [part for word in words for part in ("RTX", word.removeprefix("RTX")) if part]
    known = set(words)
    fitting = [one for one in GPUS if set(one.split("-")) <= known]
    return GPUS[max(fitting, key=lambda one: (one.count("-"), one))] if fitting else None
