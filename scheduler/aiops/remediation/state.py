"""What the choice remembers from one round to the next: frozen, bounded, and a JSON value.

Losing it is safe: what was disrupted is also read off the nodes themselves (their marks, their age, machines that are
missing), and until it has lasted for a whole window, these count (see `guards`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from scheduler.model.ids import ClusterId, Instant, NodeName, PoolId, PoolRef, Uid
from scheduler.model.remediation import (
    EXCLUDE_NODE,
    MOVE_SERVING,
    NODE_ACTIONS,
    PAUSE_BURSTING,
    QUARANTINE_CLUSTER,
    QUARANTINE_POOL,
    SCALE_UP,
    Target,
)

VERSION: Final = 1
MAX_CASES: Final = 1000
MAX_DISRUPTIONS: Final = 5000
MAX_OUTCOMES: Final = 5000
MAX_BREAKERS: Final = 500
OUTCOMES_SECONDS: Final = 30 * 86400.0
"""How long an outcome counts for the order of actions."""
DISRUPTIONS_SECONDS: Final = 30 * 86400.0
ENLARGED_SECONDS: Final = 7200.0
"""How long a pool that was scaled up keeps its size while the signal lasts; then idle nodes go back as ever."""

READY: Final = "ready"
"""The next step is due, as soon as the guards let it pass."""
ACTING: Final = "acting"
VERIFYING: Final = "verifying"
HOLDING: Final = "holding"
"""All is done, and nothing but the signal's recovery is waited for."""
EXHAUSTED: Final = "exhausted"
"""Nothing that the policy knows has helped: a person is needed."""
RECOVERING: Final = "recovering"
"""The signal is gone; it must stay gone for a while."""
UNDOING: Final = "undoing"

UNDOABLE: Final = NODE_ACTIONS | {EXCLUDE_NODE, MOVE_SERVING, QUARANTINE_POOL, QUARANTINE_CLUSTER, PAUSE_BURSTING}


@dataclass(frozen=True, slots=True)
class Case:
    """An incident on which something has been done."""

    incident: str
    kind: str
    policy: str
    subject: str
    target: Target
    order: tuple[str, ...]
    """The actions, as they are to be tried."""
    phase: str
    step: int = 0
    attempt: int = 0
    """Actions given out so far: makes their ids unique."""
    tried: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()
    """What it has disrupted so far (`guards.disruption_key`)."""
    since: Instant | None = None
    """When it first disrupted anything; None: not yet."""
    due: Instant | None = None
    """Acting: when it has failed; verifying: when the signal should have recovered."""
    verify_seconds: float | None = None
    """Of the step in hand."""
    judged: bool = False
    """Whether the step in hand has had its outcome recorded."""
    well_since: Instant | None = None
    seen_at: Instant = 0.0
    """When the incident was last told of."""

    @property
    def action(self) -> str:
        """The step in hand; empty when there is none left."""
        return self.order[self.step] if self.step < len(self.order) else ""

    @property
    def action_id(self) -> str:
        return f"{self.incident}:{self.attempt}"

    @property
    def undoes(self) -> tuple[str, ...]:
        return tuple(action for action in self.tried if action in UNDOABLE)

    @property
    def holds_node(self) -> bool:
        """Whether it has taken, or is taking, its node away."""
        return self.target.node is not None and any(action in NODE_ACTIONS for action in self.tried)


@dataclass(frozen=True, slots=True)
class Disruption:
    """Something was disrupted, by whatever action."""

    key: str
    pool: str
    """cluster/pool; empty: of none."""
    at: Instant
    incident: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a signal recovered after an action."""

    signal: str
    policy: str
    action: str
    at: Instant
    helped: bool


@dataclass(frozen=True, slots=True)
class Breaker:
    """Keeps a policy from acting on a family of signals. Closed ones are not kept."""

    policy: str
    family: str
    cause: str
    """alike or failures."""
    since: Instant
    over_at: Instant
    """When its cause was last there."""
    pause_seconds: float
    trial: str = ""
    """The one incident that is acted on to see whether it may close."""
    good: int = 0
    """Trials that helped."""


@dataclass(frozen=True, slots=True)
class RemediationState:
    """`since`: how far back it remembers."""

    since: Instant
    cases: tuple[Case, ...] = ()
    disruptions: tuple[Disruption, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    breakers: tuple[Breaker, ...] = ()
    paused_since: Instant | None = None

    def case(self, incident: str) -> Case | None:
        return next((case for case in self.cases if case.incident == incident), None)

    @property
    def bursting_paused(self) -> bool:
        return any(PAUSE_BURSTING in case.tried for case in self.cases)

    @property
    def quarantined_pools(self) -> frozenset[PoolRef]:
        return frozenset(
            PoolRef(case.target.cluster, case.target.pool)
            for case in self.cases
            if QUARANTINE_POOL in case.tried and case.target.cluster is not None and case.target.pool is not None
        )

    @property
    def quarantined_clusters(self) -> frozenset[ClusterId]:
        return frozenset(
            case.target.cluster
            for case in self.cases
            if QUARANTINE_CLUSTER in case.tried and case.target.cluster is not None
        )

    def enlarged_pools(self, now: Instant) -> frozenset[PoolRef]:
        """Pools that a remedy has enlarged for a signal that lasts: they keep their size for a while."""
        return frozenset(
            PoolRef(case.target.cluster, case.target.pool)
            for case in self.cases
            if SCALE_UP in case.tried and case.target.cluster is not None and case.target.pool is not None
            if case.since is not None and now - case.since < ENLARGED_SECONDS
        )


def bounded(state: RemediationState, now: Instant) -> RemediationState:
    """Without what is too old to matter, and never more than the bounds: the newest are kept."""
    disruptions = sorted(
        (each for each in state.disruptions if each.at > now - DISRUPTIONS_SECONDS),
        key=lambda each: (each.at, each.key, each.incident),
    )
    outcomes = sorted(
        (each for each in state.outcomes if each.at > now - OUTCOMES_SECONDS),
        key=lambda each: (each.at, each.policy, each.signal, each.action, each.helped),
    )
    since = state.since
    if len(disruptions) > MAX_DISRUPTIONS:
        # What is forgotten must not be taken for not having been: memory begins after it.
        since = max(since, disruptions[-MAX_DISRUPTIONS - 1].at)
    return replace(
        state,
        since=since,
        cases=tuple(sorted(state.cases, key=lambda case: case.incident))[:MAX_CASES],
        disruptions=tuple(disruptions[-MAX_DISRUPTIONS:]),
        outcomes=tuple(outcomes[-MAX_OUTCOMES:]),
        breakers=tuple(sorted(state.breakers, key=lambda each: (each.policy, each.family)))[:MAX_BREAKERS],
    )


def to_json(state: RemediationState) -> dict[str, Any]:
    """Plain JSON values; `from_json` reads them."""
    return {"version": VERSION, **asdict(state)}


def from_json(value: object) -> RemediationState | None:
    """The state that `to_json` wrote; None for anything else, which is as good as having lost it."""
    try:
        if not isinstance(value, Mapping) or value["version"] != VERSION:
            return None
        paused = value["paused_since"]
        return RemediationState(
            since=float(value["since"]),
            cases=tuple(_case(each) for each in _items(value["cases"], MAX_CASES)),
            disruptions=tuple(
                Disruption(str(each["key"]), str(each["pool"]), float(each["at"]), str(each["incident"]))
                for each in _items(value["disruptions"], MAX_DISRUPTIONS)
            ),
            outcomes=tuple(
                Outcome(
                    str(each["signal"]), str(each["policy"]), str(each["action"]), float(each["at"]),
                    each["helped"] is True,
                )
                for each in _items(value["outcomes"], MAX_OUTCOMES)
            ),
            breakers=tuple(_breaker(each) for each in _items(value["breakers"], MAX_BREAKERS)),
            paused_since=None if paused is None else float(paused),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _items(value: object, most: int) -> Iterable[Mapping[str, Any]]:
    if not isinstance(value, list | tuple) or len(value) > most:
        raise ValueError("not a list, or too long")
    return value


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]


def _case(each: Mapping[str, Any]) -> Case:
    target = each["target"]
    return Case(
        incident=str(each["incident"]),
        kind=str(each["kind"]),
        policy=str(each["policy"]),
        subject=str(each["subject"]),
        target=Target(
            cluster=None if target["cluster"] is None else ClusterId(str(target["cluster"])),
            pool=None if target["pool"] is None else PoolId(str(target["pool"])),
            node=None if target["node"] is None else NodeName(str(target["node"])),
            node_uid=str(target["node_uid"]),
            workload=None if target["workload"] is None else Uid(str(target["workload"])),
            gpu=str(target["gpu"]),
        ),
        order=tuple(str(action) for action in each["order"]),
        phase=str(each["phase"]),
        step=max(0, int(each["step"])),
        attempt=int(each["attempt"]),
        tried=tuple(str(action) for action in each["tried"]),
        begun=tuple(str(key) for key in each["begun"]),
        since=_number(each["since"]),
        due=_number(each["due"]),
        verify_seconds=_number(each["verify_seconds"]),
        judged=each["judged"] is True,
        well_since=_number(each["well_since"]),
        seen_at=float(each["seen_at"]),
    )


def _breaker(each: Mapping[str, Any]) -> Breaker:
    return Breaker(
        policy=str(each["policy"]),
        family=str(each["family"]),
        cause=str(each["cause"]),
        since=float(each["since"]),
        over_at=float(each["over_at"]),
        pause_seconds=float(each["pause_seconds"]),
        trial=str(each["trial"]),
        good=int(each["good"]),
    )
