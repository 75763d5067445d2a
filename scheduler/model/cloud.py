"""What a cloud tells of itself beside its node pools: its clusters, a way in, and what we may do there."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class CloudCluster:
    """A Kubernetes cluster that the configured account can see."""

    name: str
    region: str
    version: str | None
    """Kubernetes version of its control plane, such as "1.33"; None: not told."""
    endpoint: str | None
    """URL of its Kubernetes API; None while it is being created."""
    status: str
    """The cloud's own word, such as ACTIVE or RUNNING."""
    health: tuple[str, ...] = ()
    """Troubles that the cloud reports, a line each; empty: none."""


@dataclass(frozen=True, slots=True)
class ClusterLogin:
    """A short-lived way into a cluster's Kubernetes API."""

    server: str
    """https URL."""
    ca_pem: bytes
    """Certificates that vouch for the server; empty: the system's own."""
    token: str = field(repr=False)
    """Bearer token."""
    lifetime_seconds: float
    """How long from now the token is good for."""


@dataclass(frozen=True, slots=True)
class AccessCheck:
    """Whether the configured identity may do one thing that Overspill needs."""

    action: str
    """In the cloud's own words, such as autoscaling:TerminateInstanceInAutoScalingGroup."""
    allowed: bool | None
    """None: the cloud offers no way to tell without doing it."""
    detail: str = ""
    """What the cloud said."""
    remedy: str = ""
    """One line on how to mend it; empty when allowed."""
