"""RemediationPolicy: as it is written, and as the choice of a remedy uses it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Field, model_validator

from policies.documents import Problem, Strict, duplicates, refuse
from policies.schema import ApiVersion, Metadata
from policies.values import Duration, IncidentExpression, PositiveDuration, Share, SignalPattern, TimeOfDay
from scheduler.model import remediation as model

Severity = Literal["critical", "high", "warning", "info"]
ActionName = Literal[
    "notify",
    "cordon",
    "drain",
    "restart-workload",
    "exclude-node",
    "replace-node",
    "request-reset",
    "request-reboot",
    "quarantine-pool",
    "quarantine-cluster",
    "move-serving",
    "scale-up",
    "pause-bursting",
    "roll-back-policy",
]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_DAYS: Final[tuple[str, ...]] = get_args(Day)
_DEFAULTS: Final = model.Guards()
_DEFAULT_STEP: Final = model.ActionRule(model.NOTIFY)


class RemediationMatchSpec(Strict):
    """Which incidents the policy speaks for. All given parts must hold; nothing given matches every incident."""

    signals: list[SignalPattern] = Field(default_factory=list)
    """Kinds of incident, any of them, such as gpu.xid.79, or gpu.xid.* for all that begin so."""
    severities: list[Severity] = Field(default_factory=list)
    """Any of them."""
    expression: IncidentExpression | None = None
    """CEL over the incident that gives a bool, such as incident.capacity_type == 'owned'."""


class ActionSpec(Strict):
    """One step."""

    action: ActionName
    """What is done."""
    when: IncidentExpression | None = None
    """CEL over the incident; the step is left out where it does not hold."""
    verify_after: PositiveDuration | None = None
    """How long the signal has to recover before the next step is taken. Default: the next step follows at once, as
    after notify, cordon and drain it mostly should."""
    grace: Duration | None = None
    """Of drain and replace-node: how long each pod may take to write its checkpoint. Default: as the pod says."""
    timeout: PositiveDuration = _DEFAULT_STEP.timeout_seconds
    """When a step that has not come to its end counts as failed. Default 30m."""
    approval: bool = False
    """true: not before somebody says `overspill incidents approve`. Default false."""
    nodes: Annotated[int, Field(ge=1, le=1000)] = 1
    """Of scale-up: how many more. Default 1."""

    @model_validator(mode="after")
    def _of_this_action(self) -> ActionSpec:
        problems = []
        if self.grace is not None and self.action not in (model.DRAIN, model.REPLACE):
            problems.append(Problem(("grace",), f"is not used by {self.action}; only drain and replace-node use it"))
        if "nodes" in self.model_fields_set and self.action != model.SCALE_UP:
            problems.append(Problem(("nodes",), f"is not used by {self.action}; only scale-up uses it"))
        if self.grace is not None and self.grace >= self.timeout:
            problems.append(Problem(("timeout",), "must be longer than grace, or no drain comes to its end"))
        if problems:
            raise refuse(*problems)
        return self


class RateSpec(Strict):
    """How many disruptions one pool may have in any stretch of time."""

    disruptions: Annotated[int, Field(ge=0, le=10_000)] = _DEFAULTS.rate
    """Nodes taken away or workloads interrupted. Default 3."""
    within: PositiveDuration = _DEFAULTS.rate_seconds
    """Default 1h."""


class AlikeSpec(Strict):
    """When so many things show the same family of signals at once that the monitor or the network is suspected."""

    things: Annotated[int, Field(ge=1, le=100_000)] = _DEFAULTS.alike
    """Nodes, workloads or pools. Default 4."""
    within: PositiveDuration = _DEFAULTS.alike_seconds
    """Default 10m."""


class BreakerSpec(Strict):
    """When the policy stops because what it does does not help."""

    failures: Annotated[int, Field(ge=1, le=10_000)] = _DEFAULTS.failures
    """Actions after which the signal did not recover. Default 3."""
    within: PositiveDuration = _DEFAULTS.failure_seconds
    """Default 1h."""
    pause: PositiveDuration = _DEFAULTS.pause_seconds
    """From the end of what opened it to one trial; doubled each time the trial fails. Default 30m."""


class WindowSpec(Strict):
    """Hours, UTC, in which the policy may disrupt anything."""

    days: list[Day] = Field(default_factory=list)
    """On which it begins. Default: every day."""
    begin: TimeOfDay
    """Such as "22:00"."""
    end: TimeOfDay
    """Such as "06:00"; not after begin: on the next day."""


class GuardsSpec(Strict):
    """What bounds the policy; all are always on, and these are the defaults."""

    dry_run: bool = _DEFAULTS.dry_run
    """true: say what would be done, and do nothing. Default true."""
    max_unavailable: Share | None = None
    """Nodes of a pool that may be away at once, whoever took them away: 2, or 10% (at least one). Default 10%."""
    rate: RateSpec = Field(default_factory=RateSpec)
    persist: Duration = _DEFAULTS.persist_seconds
    """How long a signal must last before more than notify is done. Default 0s."""
    healthy_for: Duration = _DEFAULTS.healthy_seconds
    """How long a signal must be gone before what was done is taken back. Default 10m."""
    cool_down: PositiveDuration = _DEFAULTS.cool_down_seconds
    """From one disruption of a node or workload to the next of the same. Default 6h."""
    alike: AlikeSpec = Field(default_factory=AlikeSpec)
    breaker: BreakerSpec = Field(default_factory=BreakerSpec)
    max_quarantined: Share | None = None
    """Pools of the federation that may be quarantined at once, never all. Default 34%."""
    approval: bool = False
    """true: no disruption before somebody says `overspill incidents approve`. Default false."""
    windows: Annotated[list[WindowSpec], Field(max_length=100)] = Field(default_factory=list)
    """Disruptions only within these. Default: at any time."""

    @model_validator(mode="after")
    def _long_enough(self) -> GuardsSpec:
        # What was disrupted is known by one mark on the node itself: two within the rate's window would look like one.
        if self.cool_down < self.rate.within:
            raise refuse(Problem(("coolDown",), "must not be shorter than rate.within; write at least that"))
        return self


class RemediationSpec(Strict):
    match: RemediationMatchSpec = Field(default_factory=RemediationMatchSpec)
    """Which incidents."""
    precedence: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0
    """The policy with the highest that matches speaks for an incident; the first by name among equals. Default 0."""
    actions: Annotated[list[ActionSpec], Field(min_length=1, max_length=20)]
    """Steps, tried one after another until the signal recovers."""
    guards: GuardsSpec = Field(default_factory=GuardsSpec)

    @model_validator(mode="after")
    def _steps(self) -> RemediationSpec:
        problems = list(duplicates([step.action for step in self.actions], "action", "action", "actions"))
        problems += _pointless(self.actions)
        if problems:
            raise refuse(*problems)
        return self


class RemediationPolicyDocument(Strict):
    """What is done about incidents, and within which bounds."""

    api_version: ApiVersion
    kind: Literal["RemediationPolicy"]
    metadata: Metadata
    spec: RemediationSpec


def _pointless(steps: list[ActionSpec]) -> Iterator[Problem]:
    """What can have no effect after what comes before it."""
    after_drain = False
    for index, step in enumerate(steps):
        if step.action == model.CORDON and after_drain:
            yield Problem(("actions", index, "action"), "cordon does nothing after drain; put it before, or remove it")
        after_drain |= step.action in (model.DRAIN, model.REPLACE)


def compiled(document: RemediationPolicyDocument) -> model.RemediationPolicy:
    """The policy as the choice uses it."""
    spec = document.spec
    return model.RemediationPolicy(
        name=document.metadata.name,
        precedence=spec.precedence,
        signals=tuple(spec.match.signals),
        severities=tuple(spec.match.severities),
        expression=spec.match.expression,
        actions=tuple(_rule(step) for step in spec.actions),
        guards=_guards(spec.guards),
    )


def _rule(step: ActionSpec) -> model.ActionRule:
    return model.ActionRule(
        action=step.action,
        expression=step.when,
        verify_seconds=step.verify_after,
        grace_seconds=step.grace,
        timeout_seconds=step.timeout,
        approval=step.approval,
        nodes=step.nodes,
    )


def _guards(spec: GuardsSpec) -> model.Guards:
    values: dict[str, Any] = {
        "dry_run": spec.dry_run,
        "max_unavailable": spec.max_unavailable or _DEFAULTS.max_unavailable,
        "rate": spec.rate.disruptions,
        "rate_seconds": spec.rate.within,
        "persist_seconds": spec.persist,
        "healthy_seconds": spec.healthy_for,
        "cool_down_seconds": spec.cool_down,
        "alike": spec.alike.things,
        "alike_seconds": spec.alike.within,
        "failures": spec.breaker.failures,
        "failure_seconds": spec.breaker.within,
        "pause_seconds": spec.breaker.pause,
        "max_quarantined": spec.max_quarantined or _DEFAULTS.max_quarantined,
        "approval": spec.approval,
        "windows": tuple(
            model.MaintenanceWindow(tuple(sorted(_DAYS.index(day) for day in each.days)), each.begin, each.end)
            for each in spec.windows
        ),
    }
    return model.Guards(**values)
