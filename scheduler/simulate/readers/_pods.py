"""Pods of a job of which the log tells only GPUs."""

from __future__ import annotations

from typing import Final

from scheduler.model.resources import Resources
from scheduler.model.workload import PodSet

GPUS_A_POD: Final = 8
"""More than that is a gang of several pods, as on nodes of eight GPUs."""
CPU_MILLI_A_GPU: Final = 4000
MEMORY_BYTES_A_GPU: Final = 32 * 2**30


def gpu_pods(gpus: int, gpu_models: tuple[str, ...] = ()) -> tuple[PodSet, ...]:
    """A gang that holds `gpus` in pods of at most eight; cores and memory go with the GPUs."""
    full, rest = divmod(gpus, GPUS_A_POD)
    sizes = [(GPUS_A_POD, full, "main"), (rest, 1, "rest" if full else "main")]
    return tuple(
        PodSet(name, count, Resources(CPU_MILLI_A_GPU * size, MEMORY_BYTES_A_GPU * size, size, 1), (), (), gpu_models)
        for size, count, name in sizes
        if size and count
    )
