"""What detectors and rules say: findings. A finding is about one thing at one moment; what belongs together is decided
in `scheduler.aiops.incidents`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.series import Floats
from scheduler.model.ids import Instant

CRITICAL: Final = "critical"
HIGH: Final = "high"
WARNING: Final = "warning"
INFO: Final = "info"
SEVERITIES: Final = (CRITICAL, HIGH, WARNING, INFO)
"""Most urgent first. Of `info` alone no incident is made."""

APPLICATION: Final = "application"
"""The workload's own doing: it follows the workload wherever it runs."""
HARDWARE: Final = "hardware"
"""One device or node."""
INFRASTRUCTURE: Final = "infrastructure"
"""What many nodes share: power, network, a zone, the monitoring itself."""
SYMPTOM: Final = "symptom"
"""May have its cause anywhere upstream: a rank that waits, a latency that rises."""
ORIGINS: Final = (HARDWARE, INFRASTRUCTURE, APPLICATION, SYMPTOM)
"""The likelier to be a cause, the earlier."""

ANOMALY: Final = "anomaly."
"""Kinds of what detectors find begin so, the metric follows. They support what is known, and change nothing of its
course."""

RESTART: Final = "restart-workload"
RESET: Final = "request-reset"
REBOOT: Final = "request-reboot"
REPLACE: Final = "replace-node"
NOTIFY: Final = "notify"


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """What a finding is about: the most specific of these that is not empty. The rest says where it is. Empty: not
    known, or not of that kind of thing."""

    cluster: str = ""
    pool: str = ""
    node: str = ""
    gpu: str = ""
    workload: str = ""
    """UID of the hub object."""
    path: str = ""
    """A network path, "from>to"."""

    @property
    def about(self) -> str:
        """gpu, node, workload, path, pool or cluster."""
        if self.gpu:
            return "gpu"
        if self.node:
            return "node"
        if self.workload:
            return "workload"
        return "path" if self.path else "pool" if self.pool else "cluster"

    def __str__(self) -> str:
        place = "/".join(part for part in (self.cluster, self.node or self.pool, self.gpu) if part)
        return " ".join(part for part in (place, self.path, self.workload) if part) or "everything"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something is wrong with `subject` at `at`, and what shows it."""

    at: Instant
    kind: str
    """Dotted, from general to particular: gpu.xid.79. Its first two parts are its family."""
    subject: Subject
    severity: str
    origin: str
    """application, hardware, infrastructure or symptom: what such a finding mostly comes of."""
    remedy: str = NOTIFY
    evidence: tuple[tuple[str, float], ...] = ()
    """Metric (by our name, unit at its end) and its value, sorted by name."""
    count: int = 1
    """How often it was reported."""


@dataclass(frozen=True, slots=True)
class Table:
    """Telemetry of one kind of thing at one moment, one row each."""

    at: Instant
    rows: int
    columns: Mapping[str, Floats]
    """Metric -> value of each row; NaN: not known. A metric that is not there is known of nobody."""
    groups: Mapping[str, NDArray[np.int64]]
    """"workload", "node", ...: number of the group of each row; negative: of none."""

    def of(self, metric: str) -> Floats:
        found = self.columns.get(metric)
        return np.full(self.rows, np.nan) if found is None else found

    def group(self, name: str) -> NDArray[np.int64]:
        found = self.groups.get(name)
        return np.full(self.rows, -1, dtype=np.int64) if found is None else found


@dataclass(frozen=True, slots=True)
class Hit:
    """One kind of finding on some rows of a table."""

    kind: str
    severity: str
    origin: str
    rows: NDArray[np.int64]
    evidence: Mapping[str, Floats]
    """One entry per hit row."""
    remedy: str = NOTIFY


def hit(
    kind: str, severity: str, origin: str, where: NDArray[np.bool_], evidence: Mapping[str, Floats], *,
    remedy: str = NOTIFY,
) -> tuple[Hit, ...]:  # fmt: skip
    """The hit on the rows `where`, with their share of the evidence (arrays over all rows); nothing where there is
    none."""
    rows = np.flatnonzero(where)
    if not len(rows):
        return ()
    return (Hit(kind, severity, origin, rows, {name: value[rows] for name, value in evidence.items()}, remedy),)


def findings(hits: Sequence[Hit], subjects: Sequence[Subject], at: Instant) -> tuple[Finding, ...]:
    """Hits as findings, sorted. What of the evidence is not known is left out."""
    found = []
    for one in hits:
        for number, row in enumerate(one.rows.tolist()):
            shown = ((name, float(values[number])) for name, values in sorted(one.evidence.items()))
            evidence = tuple((name, value) for name, value in shown if np.isfinite(value))
            found.append(Finding(at, one.kind, subjects[row], one.severity, one.origin, one.remedy, evidence))
    return tuple(sorted(found))


def family(kind: str) -> str:
    """The first two parts of a kind: gpu.xid of gpu.xid.79."""
    return ".".join(kind.split(".", 2)[:2])


def severity_rank(severity: str) -> int:
    """0 is the most urgent; an unknown word is the least."""
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
