"""What loop tests of divided services have in common: a federation, SLOs, measurements that are played."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scheduler.cli import crds
from scheduler.daemon.parts import Daemon
from scheduler.daemon.services.ports import ServiceObservation, Unmeasured
from scheduler.model.contract import (
    ANNOTATION_REPLICA_SPEED,
    CONDITION_SERVING,
    DEPLOYMENTS,
    FEDERATED_WORKLOADS,
    LABEL_ORIGIN_UID,
    LABEL_PART,
    LABEL_QUEUE,
    LABEL_REVISION,
)
from scheduler.model.ids import Instant, WorkloadRef
from scheduler.model.ports import RawObject
from scheduler.model.serving import CanaryVerdict, ClientDemand
from tests.loop.harness import POLICIES, Clusters, World, a_world, until
from tests.loop.test_behaviours_serving import deployment

SLO = """
---
apiVersion: overspill.dev/v1alpha1
kind: ServingSLO
metadata:
  name: chat
spec:
  match:
    labels:
      app: chat
  objective:
    p95Latency: 2s
  limits:
    maxReclaimableShare: 0
  scaling:
    minReplicas: 2
    maxReplicas: 20
    downAfter: 1m
    downStep: 1
  rollout:
    steps: [0.5, 1]
    step: 1m
    leastRequests: 10
    keepOld: 1m
"""
SPEED = "*=2@400ms"
"""Of a replica: two requests a second at most, so that 1.6 a second are within the SLO."""


@dataclass
class Played(Unmeasured):
    """Demand as the test says, measured just now."""

    per_second: float | None = None
    clock: Any = None
    verdicts: dict[str, CanaryVerdict] = field(default_factory=dict)
    """By revision; "": of all others."""
    last_request_at: Instant | None = None

    def of(self, ref: WorkloadRef) -> ServiceObservation:
        if self.per_second is None:
            return ServiceObservation()
        now: Instant = self.clock.now()
        # A little different each time: a measurement that never changes is not believed.
        rate = self.per_second * (1.0 + 1e-6 * (now % 1000.0))
        return ServiceObservation((ClientDemand("eu", rate, now),), last_request_at=self.last_request_at)

    def play_to(self, daemon: Daemon) -> None:
        """In place of what it would measure."""
        self.clock = daemon.outside.clock
        daemon.services.sights.readings = self
        daemon.services.sights.canary = self
        daemon.services.keeper.book = self
        # What the sandbox's exporters tell of replicas is another story.
        daemon.measuring.measures.on_told = lambda told: None

    def verdict(self, ref: WorkloadRef, revision: str) -> CanaryVerdict | None:
        found = self.verdicts.get(revision) or self.verdicts.get("")
        return None if found is None else replace(found, revision=revision)


@asynccontextmanager
async def divided(world: World, played: Played | None = None, **options: Any) -> AsyncIterator[Daemon]:
    """A daemon that measures what is played (None: nothing)."""
    async with world.daemon(**options) as (daemon, _):
        if played is not None:
            played.play_to(daemon)
        yield daemon


@asynccontextmanager
async def a_serving_world(folder: Path, policies: str = POLICIES + SLO, **options: Any) -> AsyncIterator[World]:
    async with a_world(folder, policies=policies, **options) as world:
        await crds.install(world.hub)
        yield world


async def submit(
    world: Clusters,
    template: dict[str, Any] | None = None,
    *,
    labels: dict[str, str] | None = None,
    spec: dict[str, Any] | None = None,
    speed: str = SPEED,
) -> str:
    body = {
        "apiVersion": FEDERATED_WORKLOADS.api_version,
        "kind": FEDERATED_WORKLOADS.kind,
        "metadata": {
            "name": "chat",
            "namespace": "default",
            "labels": {LABEL_QUEUE: "research", **({"app": "chat"} if labels is None else labels)},
            "annotations": {ANNOTATION_REPLICA_SPEED: speed} if speed else {},
        },
        "spec": {"template": template or deployment(replicas=1), **(spec or {})},
    }
    return str((await world.hub.create(FEDERATED_WORKLOADS, "default", body))["metadata"]["uid"])


async def hub_object(world: Clusters) -> RawObject:
    return await world.hub.get(FEDERATED_WORKLOADS, "default", "chat")


async def patch(world: Clusters, body: dict[str, Any]) -> None:
    await world.hub.patch(FEDERATED_WORKLOADS, "default", "chat", body)


async def status(world: Clusters) -> dict[str, Any]:
    return dict((await hub_object(world)).get("status") or {})


async def condition(world: Clusters, kind: str = CONDITION_SERVING) -> dict[str, str]:
    listed = (await status(world)).get("conditions") or []
    return next((one for one in listed if one["type"] == kind), {})


async def serving(world: Clusters, reason: str) -> bool:
    return (await condition(world)).get("reason") == reason


async def copies(world: Clusters, uid: str, members: Sequence[str] = ()) -> list[tuple[str, RawObject]]:
    found = []
    for member in members or world.members:
        listed = await world.member(member).list(DEPLOYMENTS, label_selector=f"{LABEL_ORIGIN_UID}={uid}")
        found += [(member, raw) for raw in listed.items]
    return found


async def ready_on(world: Clusters, uid: str) -> dict[str, int]:
    """Ready replicas by member."""
    found: dict[str, int] = {}
    for member, raw in await copies(world, uid):
        found[member] = found.get(member, 0) + int((raw.get("status") or {}).get("readyReplicas") or 0)
    return {member: count for member, count in found.items() if count}


async def revisions(world: Clusters, uid: str) -> dict[str, int]:
    """Ready replicas by revision; "": of copies that are of no part."""
    found: dict[str, int] = {}
    for _, raw in await copies(world, uid):
        name = raw["metadata"]["labels"].get(LABEL_REVISION, "")
        found[name] = found.get(name, 0) + int((raw.get("status") or {}).get("readyReplicas") or 0)
    return found


def is_part(raw: RawObject) -> bool:
    return LABEL_PART in raw["metadata"]["labels"]


async def until_ready(world: Clusters, uid: str, want: dict[str, int], what: str, seconds: float = 60.0) -> None:
    async def there() -> bool:
        return await ready_on(world, uid) == want

    try:
        await until(there, what, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}: {await ready_on(world, uid)}, {await condition(world)}") from error
