"""The metrics that dcgm-exporter gives by default, in the words of its versions before and from 4.9.0.

Names, types and units: the exporter's etc/default-counters.csv up to 4.8.4; its release notes of 4.9.0; the fields of
DCGM 4.7.
Not among the defaults, and so not here: ECC counters, clock event reasons, NVLink errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Spelling = Literal["4.8", "4.9"]
"""The exporter's version, as far as its words go."""
SPELLINGS: Final[tuple[Spelling, ...]] = ("4.8", "4.9")
HOST_LABEL: Final[dict[Spelling, str]] = {"4.8": "Hostname", "4.9": "hostname"}

_MIB: Final = 1048576.0
_GAUGE: Final = "gauge"
_COUNTER: Final = "counter"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU now, in the units of the old spelling: MHz, °C, W, mJ, %, MiB, MB/s."""

    sm_mhz: float
    memory_mhz: float
    celsius: float
    memory_celsius: float
    watts: float
    millijoules: float
    busy: float
    """0 to 1."""
    used_mib: float
    free_mib: float
    nvlink_mb_per_second: float
    xid: float
    """The last error; 0: none so far."""


@dataclass(frozen=True, slots=True)
class Given:
    name: str
    kind: str
    text: str
    value: float


def given(gpu: Gpu, spelling: Spelling) -> list[Given]:
    """The exporter's families for one GPU."""
    rows = _rows(gpu)
    if spelling == "4.8":
        return [
            Given(old, kind, f"{text} ({unit})." if unit else f"{text}.", value)
            for old, _, kind, text, unit, value, _ in rows
        ]
    capacity = (gpu.used_mib + gpu.free_mib) * _MIB
    total = Given("DCGM_FI_DEV_FB_CAPACITY_BYTES", _GAUGE, "Framebuffer memory in total, in bytes.", capacity)
    return [
        *(
            Given(new, _GAUGE if "PER_SECOND" in new else kind, f"{text}.", value * factor)
            for _, new, kind, text, _, value, factor in rows
        ),
        total,
    ]


def _rows(gpu: Gpu) -> tuple[tuple[str, str, str, str, str, float, float], ...]:
    """Old name, new name, type, help, old unit, old value, and what makes it the new one."""
    percent = round(100 * gpu.busy)
    return (
        ("DCGM_FI_DEV_SM_CLOCK", "DCGM_FI_DEV_SM_CLOCK_HERTZ", _GAUGE, "SM clock frequency", "in MHz", gpu.sm_mhz, 1e6),
        ("DCGM_FI_DEV_MEM_CLOCK", "DCGM_FI_DEV_MEMORY_CLOCK_HERTZ", _GAUGE, "Memory clock frequency", "in MHz",
         gpu.memory_mhz, 1e6),
        ("DCGM_FI_DEV_MEMORY_TEMP", "DCGM_FI_DEV_MEMORY_TEMP_CELSIUS", _GAUGE, "Memory temperature", "in C",
         gpu.memory_celsius, 1),
        ("DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_GPU_TEMP_CELSIUS", _GAUGE, "GPU temperature", "in C", gpu.celsius, 1),
        ("DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_BOARD_POWER_WATTS", _GAUGE, "Power draw", "in W", gpu.watts, 1),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", _COUNTER,
         "Total energy consumption since boot", "in mJ", gpu.millijoules, 0.001),
        ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "DCGM_FI_DEV_PCIE_REPLAY_TOTAL", _COUNTER, "Total number of PCIe retries",
         "", 0.0, 1),
        ("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_GPU_UTIL_RATIO", _GAUGE, "GPU utilization", "in %", percent, 0.01),
        ("DCGM_FI_DEV_MEM_COPY_UTIL", "DCGM_FI_DEV_MEMORY_UTIL_RATIO", _GAUGE, "Memory utilization", "in %",
         round(60 * gpu.busy), 0.01),
        ("DCGM_FI_DEV_ENC_UTIL", "DCGM_FI_DEV_ENC_UTIL_RATIO", _GAUGE, "Encoder utilization", "in %", 0.0, 0.01),
        ("DCGM_FI_DEV_DEC_UTIL", "DCGM_FI_DEV_DEC_UTIL_RATIO", _GAUGE, "Decoder utilization", "in %", 0.0, 0.01),
        ("DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_XID_ERROR", _GAUGE, "Value of the last XID error encountered", "",
         gpu.xid, 1),
        ("DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_FREE_BYTES", _GAUGE, "Framebuffer memory free", "in MiB", gpu.free_mib,
         _MIB),
        ("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_USED_BYTES", _GAUGE, "Framebuffer memory used", "in MiB", gpu.used_mib,
         _MIB),
        ("DCGM_FI_DEV_FB_RESERVED", "DCGM_FI_DEV_FB_RESERVED_BYTES", _GAUGE, "Framebuffer memory reserved", "in MiB",
         0.0, _MIB),
        ("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "DCGM_FI_DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND", _COUNTER,
         "NVLink throughput over all lanes", "", gpu.nvlink_mb_per_second, 1_024_000),
        ("DCGM_FI_DEV_VGPU_LICENSE_STATUS", "DCGM_FI_DEV_VGPU_LICENSE_STATUS", _GAUGE, "vGPU License status", "", 0.0,
         1),
        ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "DCGM_FI_DEV_ROW_REMAP_UNCORRECTABLE_TOTAL", _COUNTER,
         "Number of remapped rows for uncorrectable errors", "", 0.0, 1),
        ("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "DCGM_FI_DEV_ROW_REMAP_CORRECTABLE_TOTAL", _COUNTER,
         "Number of remapped rows for correctable errors", "", 0.0, 1),
        ("DCGM_FI_DEV_ROW_REMAP_FAILURE", "DCGM_FI_DEV_ROW_REMAP_FAILED", _GAUGE,
         "Whether remapping of rows has failed", "", 0.0, 1),
        ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO", _GAUGE,
         "Ratio of time the graphics engine is active", "", gpu.busy, 1),
        ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_PROF_TENSOR_UTIL_RATIO", _GAUGE,
         "Ratio of cycles the tensor pipe is active", "", 0.5 * gpu.busy, 1),
        ("DCGM_FI_PROF_DRAM_ACTIVE", "DCGM_FI_PROF_DRAM_UTIL_RATIO", _GAUGE,
         "Ratio of cycles the memory interface is active", "", 0.6 * gpu.busy, 1),
    )  # fmt: skip
