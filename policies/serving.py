"""ServingSLO: as it is written, and as the division of services uses it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from policies.documents import Problem, Strict, refuse
from policies.schema import ApiVersion, MatchSpec, Metadata
from policies.values import Duration, DurationOrNever, PositiveDuration
from scheduler.model import serving_policy as model
from scheduler.model.policy import Match

_SCALING: Final = model.ScalingRule()
_ROLLOUT: Final = model.RolloutRule()
_DOMAINS: Final = model.DomainRule()
Replicas = Annotated[int, Field(ge=0, le=100_000)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class ObjectiveSpec(Strict):
    """What is promised. At least one of them."""

    p95_latency: PositiveDuration | None = None
    """95 % of requests are answered within it, the way from the client included, such as 800ms."""
    p95_first_token: PositiveDuration | None = None
    """95 % get their first token, or have a worker begin on them, within it."""
    max_error_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Most of all requests that may fail, such as 0.01. Held over canaries; capacity cannot buy it."""

    @model_validator(mode="after")
    def _any(self) -> ObjectiveSpec:
        if self.p95_latency is None and self.p95_first_token is None and self.max_error_ratio is None:
            raise refuse(Problem((), "promises nothing; give p95Latency, p95FirstToken or maxErrorRatio"))
        if (
            self.p95_latency is not None
            and self.p95_first_token is not None
            and self.p95_first_token > self.p95_latency
        ):
            raise refuse(Problem(("p95FirstToken",), "is later than p95Latency, the whole answer; write at most that"))
        return self


class DomainSpec(Strict):
    """Replicas stand in more than one place, so that the loss of one is survived."""

    key: Literal["cluster", "region", "provider"] = "cluster"
    """What a failure domain is. Default cluster."""
    min_replicas: Replicas = _DOMAINS.min_replicas
    """Least replicas in each of so many domains. Default 0."""
    domains: Annotated[int, Field(ge=1, le=1000)] = _DOMAINS.domains
    """In how many. Default 1."""


class LimitsSpec(Strict):
    """Hard limits on where the planned capacity lies; no division breaks one."""

    max_provider_share: Fraction = 1.0
    """Most of the capacity at one provider, 0 to 1. Default 1."""
    max_reclaimable_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Most of it on nodes that their cloud may take back (spot), 0 to 1. Default 1."""


class ScalingSpec(Strict):
    """How replicas follow demand."""

    min_replicas: Replicas = _SCALING.min_replicas
    """Of all clusters together. Default 1."""
    max_replicas: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Default: no limit."""
    confidence: Annotated[float, Field(ge=0.5, le=0.9999)] = _SCALING.confidence
    """In what part of all cases capacity that is asked for now is to suffice when it is ready. Default 0.95."""
    down_after: Duration = _SCALING.down_after_seconds
    """How long less must have been enough before any replica goes. Default 5m."""
    down_step: Fraction = _SCALING.down_step
    """Most that one step takes away, as a share of the replicas (one at least). Default 0.1."""
    zero_after: DurationOrNever = None
    """How long without a request before the last replica goes, where a request can wake it. Default never."""

    @model_validator(mode="after")
    def _ordered(self) -> ScalingSpec:
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise refuse(Problem(("maxReplicas",), "less than minReplicas; write at least that"))
        return self


class RolloutSpec(Strict):
    """How a new revision takes over, and when it is taken back."""

    steps: Annotated[list[Fraction], Field(min_length=1, max_length=20)] = Field(
        default_factory=lambda: list(_ROLLOUT.steps)
    )
    """Shares of a cluster's traffic, rising, the last one 1; cluster after cluster. [1] is blue/green. Default [0.05,
    0.25, 0.5, 1]."""
    step: PositiveDuration = _ROLLOUT.step_seconds
    """How long each step is judged, at least. Default 5m."""
    least_requests: Annotated[int, Field(ge=1, le=1_000_000)] = _ROLLOUT.least_requests
    """Of the new revision before a step is judged good. Default 30."""
    max_slower: Annotated[float, Field(ge=0, le=10)] = _ROLLOUT.max_slower
    """Latency beyond the old revision's at the same load: 0.2 is a fifth. Default 0.2."""
    max_error_ratio_rise: Annotated[float, Field(ge=0, le=1)] = _ROLLOUT.max_error_ratio_rise
    """Default 0.01."""
    max_dearer: Annotated[float, Field(ge=0, le=10)] = _ROLLOUT.max_dearer
    """Cost of a request beyond the old revision's. Default 0.2."""
    keep_old: Duration = _ROLLOUT.keep_old_seconds
    """How long the old revision's replicas stay after the last step. Default 10m."""

    @model_validator(mode="after")
    def _rising(self) -> RolloutSpec:
        if any(after <= before for before, after in pairwise(self.steps)) or self.steps[-1] != 1.0:
            raise refuse(Problem(("steps",), "must rise and end in 1; write for example [0.05, 0.25, 1]"))
        return self


class ServingSpec(Strict):
    precedence: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    """Among those that match, the highest wins; ties go to the first by name."""
    match: MatchSpec = Field(default_factory=MatchSpec)
    """Which services."""
    objective: ObjectiveSpec
    """What is promised."""
    failure_domains: DomainSpec = Field(default_factory=DomainSpec)
    """Where replicas must stand at least."""
    limits: LimitsSpec = Field(default_factory=LimitsSpec)
    """Hard limits on where capacity lies. Clusters, regions and price caps are a PlacementPolicy's constraints."""
    warm_up: Duration = 0.0
    """After a replica is ready, before it counts as full capacity. Default 0s."""
    scaling: ScalingSpec = Field(default_factory=ScalingSpec)
    """How replicas follow demand."""
    rollout: RolloutSpec = Field(default_factory=RolloutSpec)
    """How a new revision takes over."""

    @model_validator(mode="after")
    def _possible(self) -> ServingSpec:
        most, rule = self.scaling.max_replicas, self.failure_domains
        if most is not None and rule.min_replicas * rule.domains > most:
            raise refuse(Problem(("failureDomains",), f"need more than scaling.maxReplicas ({most}); allow more"))
        shares = self.limits.max_provider_share
        if rule.key == "provider" and rule.domains == 1 and shares < 1 and rule.min_replicas and most == 1:
            raise refuse(Problem(("limits", "maxProviderShare"), "cannot be kept by one replica; allow more replicas"))
        return self


class ServingSLODocument(Strict):
    """What a service promises its users, and within which limits it is divided over clusters."""

    api_version: ApiVersion
    kind: Literal["ServingSLO"]
    metadata: Metadata
    spec: ServingSpec


def compiled(document: ServingSLODocument) -> model.ServingSLO:
    """The policy as the division uses it."""
    spec = document.spec
    scaling, rollout = spec.scaling, spec.rollout
    return model.ServingSLO(
        name=document.metadata.name,
        precedence=spec.precedence,
        match=Match(
            queues=tuple(spec.match.queues),
            kinds=tuple(spec.match.kinds),
            labels=tuple(sorted(spec.match.labels.items())),
            expression=spec.match.expression,
        ),
        p95_latency_seconds=spec.objective.p95_latency,
        p95_first_token_seconds=spec.objective.p95_first_token,
        max_error_ratio=spec.objective.max_error_ratio,
        domains=model.DomainRule(
            spec.failure_domains.key, spec.failure_domains.min_replicas, spec.failure_domains.domains
        ),
        max_provider_share=spec.limits.max_provider_share,
        max_reclaimable_share=spec.limits.max_reclaimable_share,
        warm_up_seconds=spec.warm_up,
        scaling=model.ScalingRule(
            scaling.min_replicas, scaling.max_replicas, scaling.confidence, scaling.down_after, scaling.down_step,
            scaling.zero_after,
        ),
        rollout=model.RolloutRule(
            tuple(rollout.steps), rollout.step, rollout.least_requests, rollout.max_slower,
            rollout.max_error_ratio_rise, rollout.max_dearer, rollout.keep_old,
        ),
    )  # fmt: skip
