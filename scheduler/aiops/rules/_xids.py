"""NVIDIA's Xid codes: whose fault they mostly are and what helps.

Source: NVIDIA, "Analyzing Xid Errors with the Xid Catalog" (docs.nvidia.com/deploy/xid-errors), columns "Resolution
Bucket (Immediate Action)" and "Trigger Conditions"; the bucket stands in each row here ("": none is given). Workflows:
45 follows other codes (alone: the application was killed); 48 needs a reset or a reboot, 74 and 144 to 150 a reset or
reboot of the link's two ends. Where the bucket says IGNORE, the severity is mostly info: evidence, but no incident.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from scheduler.aiops.findings import (
    APPLICATION,
    CRITICAL,
    HARDWARE,
    HIGH,
    INFO,
    NOTIFY,
    REBOOT,
    RESET,
    RESTART,
    WARNING,
)


@dataclass(frozen=True, slots=True)
class Xid:
    code: int
    means: str
    bucket: str
    """NVIDIA's word for the immediate action."""
    severity: str
    origin: str
    remedy: str


def _rows(
    codes: tuple[int, ...], means: str, bucket: str, severity: str, origin: str, remedy: str = NOTIFY
) -> tuple[Xid, ...]:
    return tuple(Xid(code, means, bucket, severity, origin, remedy) for code in codes)


_TABLE: Final = (
    # The application's own fault, mostly. One alone is its user's affair; on many nodes at once it is a crash.
    *_rows((8, 11, 25), "bad command stream", "RESTART_APP", INFO, APPLICATION, RESTART),
    *_rows((13,), "graphics engine exception (out of bounds, illegal instruction)", "RESTART_APP", INFO, APPLICATION,
           RESTART),
    *_rows((31,), "memory page fault (illegal address)", "RESTART_APP", INFO, APPLICATION, RESTART),
    *_rows((43,), "the application stopped by a fault of its own", "IGNORE", INFO, APPLICATION),
    *_rows((45,), "cleanup after the application ended or another error", "WORKFLOW_XID_45", INFO, APPLICATION),
    *_rows((69, 80), "engine class error, corrupted data sent", "RESTART_APP", INFO, APPLICATION, RESTART),
    *_rows((137,), "illegal NVLink peer access", "IGNORE", INFO, APPLICATION),
    # Engines: restart what ran there; told more than once they are the hardware's.
    *_rows((39, 40, 41, 70, 71, 72, 75, 76, 77, 85, *range(126, 136)), "copy engine error", "RESTART_APP", WARNING,
           HARDWARE, RESTART),
    *_rows((32,), "bad command stream over PCIe", "RESTART_APP", WARNING, HARDWARE, RESTART),
    *_rows((60, 68, 82, 83, 84, 86, 88, 89, *range(96, 106), 139), "video engine error", "RESTART_APP", WARNING,
           HARDWARE, RESTART),
    # Memory.
    *_rows((48,), "double bit ECC error", "WORKFLOW_XID_48", CRITICAL, HARDWARE, RESET),
    *_rows((63,), "memory row remapped or about to be", "IGNORE", INFO, HARDWARE),
    *_rows((64,), "memory row could not be remapped", "RESET_GPU", HIGH, HARDWARE, RESET),
    *_rows((92,), "many single bit ECC errors", "IGNORE", WARNING, HARDWARE),
    *_rows((94,), "contained memory error: one application is hit", "RESTART_APP", HIGH, HARDWARE, RESTART),
    *_rows((95,), "uncontained memory error: all applications are hit", "RESET_GPU", CRITICAL, HARDWARE, RESET),
    *_rows((140,), "ECC error that was not recovered", "RESET_GPU", CRITICAL, HARDWARE, RESET),
    *_rows((156,), "memory resource retired", "RESET_GPU", HIGH, HARDWARE, RESET),
    *_rows((157,), "memory resource could not be retired", "IGNORE", WARNING, HARDWARE),
    # 171 and 172 say more about a 48.
    *_rows((171, 172), "uncorrectable DRAM or SRAM error", "", INFO, HARDWARE, RESET),
    # The device.
    *_rows((46, 109, 158), "engine timeout", "RESET_GPU", CRITICAL, HARDWARE, RESET),
    *_rows((54,), "auxiliary power is not connected", "CHECK_MECHANICALS", CRITICAL, HARDWARE),
    *_rows((62,), "micro-controller halted", "RESET_GPU", CRITICAL, HARDWARE, RESET),
    *_rows((79,), "the GPU has fallen off the bus", "RESTART_BM", CRITICAL, HARDWARE, REBOOT),
    *_rows((110,), "security fault", "RESET_GPU", CRITICAL, HARDWARE, RESET),
    *_rows((119, 120), "no answer from the GPU's system processor", "RESET_GPU", CRITICAL, HARDWARE, RESET),
    *_rows((143,), "the GPU could not be initialised", "RESET_GPU", CRITICAL, HARDWARE, RESET),
    *_rows((151,), "key rotation error", "RESTART_VM", HIGH, HARDWARE, REBOOT),
    *_rows((167,), "PCIe fatal timeout", "", CRITICAL, HARDWARE, REBOOT),
    # Links. The other end may be at fault.
    *_rows((74,), "NVLink error", "WORKFLOW_NVLINK_ERR", HIGH, HARDWARE, RESET),
    *_rows((136,), "link training failed", "RESET_GPU", HIGH, HARDWARE, RESET),
    *_rows(tuple(range(144, 151)), "NVLink error", "WORKFLOW_NVLINK5_ERR", HIGH, HARDWARE, RESET),
    *_rows((155,), "NVLink went down", "RESET_GPU", HIGH, HARDWARE, RESET),
    *_rows((121,), "corrected errors of the link to the CPU", "IGNORE", INFO, HARDWARE),
    # Software, or informational.
    *_rows((14, 106, 107), "test message", "IGNORE", INFO, APPLICATION),
    *_rows((37, 38, 44, 66, 67, 93, 108, 141, 160, 161), "reported by the driver, no action", "IGNORE", INFO, HARDWARE),
    *_rows((78,), "a virtual GPU did not start", "UPDATE_SWFW", WARNING, HARDWARE),
    # Says that the recovery action has changed: its number is in the kernel log alone.
    *_rows((154,), "recovery action changed", "XID_154", INFO, HARDWARE),
)  # fmt: skip

XIDS: Final = {row.code: row for row in _TABLE}


def xid(code: int) -> Xid:
    """What the catalogue says; a code that it does not use is a warning without a remedy."""
    return XIDS.get(code) or Xid(code, "not in the catalogue", "CONTACT_SUPPORT", WARNING, HARDWARE, NOTIFY)
