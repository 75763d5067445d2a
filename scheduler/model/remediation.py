"""Remediation as policies say it and as nodes carry it: checked, with units, expressions compiled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from scheduler.model.ids import ClusterId, Instant, NodeName, PoolId, Uid

NOTIFY: Final = "notify"
CORDON: Final = "cordon"
DRAIN: Final = "drain"
RESTART: Final = "restart-workload"
EXCLUDE_NODE: Final = "exclude-node"
REPLACE: Final = "replace-node"
RESET: Final = "request-reset"
REBOOT: Final = "request-reboot"
QUARANTINE_POOL: Final = "quarantine-pool"
QUARANTINE_CLUSTER: Final = "quarantine-cluster"
MOVE_SERVING: Final = "move-serving"
SCALE_UP: Final = "scale-up"
PAUSE_BURSTING: Final = "pause-bursting"
ROLL_BACK: Final = "roll-back-policy"
UNDO: Final = "undo"
"""Not written in policies: takes back what can be taken back (opens the node again, lifts a quarantine or a pause)."""

NODE_ACTIONS: Final = frozenset({CORDON, DRAIN, REPLACE, RESET, REBOOT})
"""Take a node's capacity away, for a while or for good: these spend the pool's disruption budget."""
WORKLOAD_ACTIONS: Final = frozenset({RESTART, EXCLUDE_NODE, MOVE_SERVING})
"""Interrupt one workload: these spend the pool's rate."""
QUARANTINES: Final = frozenset({QUARANTINE_POOL, QUARANTINE_CLUSTER})
CONTAINING: Final = frozenset({NOTIFY, CORDON, DRAIN})
"""Not expected to mend anything, unless they come last: the next action follows as soon as they are done."""
ACTIONS: Final = (
    NOTIFY, CORDON, DRAIN, RESTART, EXCLUDE_NODE, REPLACE, RESET, REBOOT, QUARANTINE_POOL, QUARANTINE_CLUSTER,
    MOVE_SERVING, SCALE_UP, PAUSE_BURSTING, ROLL_BACK,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Signal:
    """What an incident is about, as expressions read it. Empty text: not known, or not of that kind of thing."""

    kind: str
    severity: str
    cluster: str = ""
    provider: str = ""
    region: str = ""
    pool: str = ""
    capacity_type: str = ""
    node: str = ""
    gpu: str = ""
    workload: str = ""
    """kind/namespace/name."""
    queue: str = ""
    gpus: int = 0
    """Of the node, else of the workload."""
    age_seconds: float = 0.0


class SignalExpression(Protocol):
    """A compiled boolean CEL expression over a signal."""

    @property
    def source(self) -> str: ...

    def matches(self, subject: Signal) -> bool:
        """Pure and total: an evaluation error counts as no match."""
        ...


@dataclass(frozen=True, slots=True)
class ActionRule:
    """One step of a policy."""

    action: str
    expression: SignalExpression | None = None
    """Only then; else the step is left out."""
    verify_seconds: float | None = None
    """How long the signal has to recover before the next step follows; None: the next step follows at once."""
    grace_seconds: float | None = None
    """Of a drain: given to each pod to write its checkpoint; None: as the pod itself says."""
    timeout_seconds: float = 1800.0
    """After which a step that has not come to its end has failed."""
    approval: bool = False
    """A person must say yes first."""
    nodes: int = 1
    """Of scale-up: how many more."""


@dataclass(frozen=True, slots=True)
class Limit:
    """So many, or that share of all rounded down, but never less than one. One of the two is given."""

    count: int | None = None
    percent: float | None = None

    def of(self, total: int) -> int:
        if self.count is not None:
            return self.count
        return max(1, int(total * (self.percent or 0.0) / 100.0))


@dataclass(frozen=True, slots=True)
class MaintenanceWindow:
    """Hours of the week, UTC. `days`: 0 is Monday, and the day is that of the beginning; empty: every day."""

    days: tuple[int, ...]
    from_seconds: int
    to_seconds: int
    """Of the day; not after `from_seconds`: it ends on the next day."""

    def holds(self, now: Instant) -> bool:
        # 1970-01-01 was a Thursday.
        day, second = divmod(int(now), 86400)
        weekday = (day + 3) % 7
        today, yesterday = self._on(weekday), self._on((weekday - 1) % 7)
        if self.from_seconds < self.to_seconds:
            return today and self.from_seconds <= second < self.to_seconds
        return (today and second >= self.from_seconds) or (yesterday and second < self.to_seconds)

    def _on(self, weekday: int) -> bool:
        return not self.days or weekday in self.days


@dataclass(frozen=True, slots=True)
class Guards:
    """What bounds a policy's actions. Always in force; these are the defaults."""

    dry_run: bool = True
    """Say what would be done, and do nothing."""
    max_unavailable: Limit = Limit(percent=10.0)
    """Nodes of a pool that may be away at once, whoever took them away, this policy's own included."""
    rate: int = 3
    """Disruptions in one pool within `rate_seconds`."""
    rate_seconds: float = 3600.0
    persist_seconds: float = 0.0
    """How long a signal must last before anything but notify is done."""
    healthy_seconds: float = 600.0
    """How long a signal must be gone before a node is opened again."""
    cool_down_seconds: float = 6 * 3600.0
    """From one disruption of a node or workload to the next one of the same."""
    alike: int = 4
    """So many things with the same family of signals within `alike_seconds`: suspect the monitor or the network."""
    alike_seconds: float = 600.0
    failures: int = 3
    """Actions that did not help within `failure_seconds` open the breaker."""
    failure_seconds: float = 3600.0
    pause_seconds: float = 1800.0
    """How long an open breaker stays open after its cause is gone; doubled each time its trial fails."""
    max_quarantined: Limit = Limit(percent=34.0)
    """Pools of the federation that may be quarantined at once; never all."""
    approval: bool = False
    """A person must say yes to each disruption."""
    windows: tuple[MaintenanceWindow, ...] = ()
    """Disruptions only within these; empty: at any time."""


@dataclass(frozen=True, slots=True)
class RemediationPolicy:
    """What is done about signals. The highest precedence that matches speaks for an incident."""

    name: str
    precedence: int = 0
    signals: tuple[str, ...] = ()
    """Kinds of incident, any of them; a last * stands for any ending. Empty: every kind."""
    severities: tuple[str, ...] = ()
    expression: SignalExpression | None = None
    actions: tuple[ActionRule, ...] = ()
    guards: Guards = Guards()


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """What a node itself says of its remediation: it outlives the daemon and its history."""

    by: str
    """The federation whose daemon did it."""
    incident: str
    signal: str
    action: str
    since: Instant
    """When the node was first disrupted for that incident."""


@dataclass(frozen=True, slots=True)
class Target:
    """What an action acts on; None: not of that kind."""

    cluster: ClusterId | None = None
    pool: PoolId | None = None
    node: NodeName | None = None
    node_uid: str = ""
    workload: Uid | None = None
    gpu: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to be done now. Given out again and again until it is settled: whoever does it does it once."""

    id: str
    incident: str
    signal: str
    policy: str
    action: str
    target: Target
    since: Instant
    """When the target was first disrupted for the incident."""
    reason: str
    grace_seconds: float | None = None
    nodes: int = 1
    undoes: tuple[str, ...] = ()
    """Of an undo: the actions that it takes back."""
