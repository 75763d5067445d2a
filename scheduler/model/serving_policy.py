"""`ServingSLO`: what a service promises, and within which limits its replicas are divided over clusters.

`policies/serving.py` makes these from YAML. Durations in seconds, shares and ratios 0 to 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.model.policy import Match

DOMAIN_KEYS = ("cluster", "region", "provider")
"""What a failure domain may be."""


@dataclass(frozen=True, slots=True)
class DomainRule:
    """At least `domains` failure domains hold at least `min_replicas` ready replicas each."""

    key: str = "cluster"
    """One of DOMAIN_KEYS."""
    min_replicas: int = 0
    domains: int = 1


@dataclass(frozen=True, slots=True)
class ScalingRule:
    """How replicas follow demand."""

    min_replicas: int = 1
    """Of all clusters together; held also without demand, unless the service is scaled to zero."""
    max_replicas: int | None = None
    confidence: float = 0.95
    """In what part of all cases the capacity is to suffice for the demand there is once it has become ready."""
    down_after_seconds: float = 300.0
    """How long less must have been enough before any is given back."""
    down_step: float = 0.1
    """Most that one step takes away, as a share of the replicas there are (one at least)."""
    zero_after_seconds: float | None = None
    """How long without a request before the last replica goes; None: never."""


@dataclass(frozen=True, slots=True)
class RolloutRule:
    """How a new revision takes over. Blue/green is `steps=(1.0,)`: all at once when it is ready, the old beside it."""

    steps: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    """Shares of one cluster's traffic at first, then, when that cluster is whole, of each further one."""
    step_seconds: float = 300.0
    """How long each step is judged, at least."""
    least_requests: int = 30
    """Of the new revision in a step before it is judged good."""
    max_slower: float = 0.2
    """Latency against the old revision at the same load: 0.2 is a fifth longer."""
    max_error_ratio_rise: float = 0.01
    max_dearer: float = 0.2
    """Cost of a request against the old revision's."""
    keep_old_seconds: float = 600.0
    """How long the old revision's replicas stay after the last step, to go back at once."""


@dataclass(frozen=True, slots=True)
class ServingSLO:
    """At least one of the three objectives is given; None: nothing is promised of it."""

    name: str
    precedence: int = 0
    """Among those that match, the highest wins; ties go to the first by name."""
    match: Match = field(default_factory=Match)
    p95_latency_seconds: float | None = None
    """Of whole requests, the way from the client included."""
    p95_first_token_seconds: float | None = None
    """Until the first token, or until a worker begins, the way from the client included."""
    max_error_ratio: float | None = None
    domains: DomainRule = DomainRule()
    max_provider_share: float = 1.0
    """Of the planned capacity."""
    max_reclaimable_share: float = 1.0
    """Of the planned capacity, on nodes that their cloud may take back (spot)."""
    warm_up_seconds: float = 0.0
    """After a replica is ready, before it counts as full capacity."""
    scaling: ScalingRule = ScalingRule()
    rollout: RolloutRule = RolloutRule()
