"""What is watched of clusters: a reflector for each resource of each, and a small read of each member now and then."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, Protocol

import structlog

from clusters.clock import SystemClock
from clusters.kubernetes.reflector import Reflector
from scheduler.daemon.gathering.gatherers import Gatherers, Wish
from scheduler.daemon.gathering.shared import SHARED
from scheduler.daemon.state.member_mirror import NODE_EVENTS, NODES, PODS
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.state.sinks import HubSink, MemberSink, NodeEventSink
from scheduler.daemon.telemetry import Telemetry
from scheduler.model import contract
from scheduler.model.errors import ExternalError, TransientError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import Clock, KubeApi, Resource, WorkloadKind

log = structlog.get_logger(__name__)
_PINGS_UNANSWERED: Final = 2
"""In a row, and the member counts as unreachable."""
_PING_TIMEOUT_SECONDS: Final = 5.0
Loops = dict[str, Callable[[], Awaitable[None]]]


class Watched(Protocol):
    """What of `parts.Outside` is needed here."""

    @property
    def hub_api(self) -> KubeApi: ...
    @property
    def member_apis(self) -> Mapping[ClusterId, KubeApi]: ...
    @property
    def kinds(self) -> Mapping[str, WorkloadKind]: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def telemetry(self) -> Telemetry: ...
    @property
    def ping_seconds(self) -> float: ...


def watches(outside: Watched, mirror: Mirror, gatherers: Gatherers | None) -> Loops:
    """The loops by name. What other replicas gather for this one comes from them."""
    wall = SystemClock()
    loops: Loops = {f"ping:{cluster}": partial(_ping, outside, mirror, cluster) for cluster in outside.member_apis}
    for name, kind in outside.kinds.items():
        loops[f"watch:hub:{name}"] = Reflector(
            outside.hub_api,
            kind.hub_resource,
            HubSink(mirror, kind),
            wall=wall,
            jitter=random.random,
            on_failure=partial(_failed, outside.telemetry, "hub", name),
            label_selector=contract.LABEL_QUEUE,
        ).run
    for cluster, api in outside.member_apis.items():
        for wish in _wishes(outside, mirror, cluster, api):
            name = f"watch:{cluster}:{wish.name}"
            if gatherers is not None and wish.name in SHARED:
                loops[name] = gatherers.loop(wish)
                continue
            loops[name] = Reflector(
                api,
                wish.resource,
                wish.sink,
                wall=wall,
                jitter=random.random,
                on_failure=wish.on_failure,
                **wish.selection,
            ).run
    return loops


def _wishes(outside: Watched, mirror: Mirror, cluster: ClusterId, api: KubeApi) -> Iterator[Wish]:
    """What is watched of a member."""
    member = mirror.members[cluster]
    watched: dict[str, tuple[Resource, str, WorkloadKind | None]] = {
        NODES: (contract.NODES, "", None),
        PODS: (contract.PODS, "", None),
    }
    for kind in outside.kinds.values():
        for resource in kind.member_resources:
            watched[resource.key] = (resource, contract.LABEL_ORIGIN_UID, kind)
    for name, (resource, selector, copied) in watched.items():
        sink = MemberSink(mirror, member, name, copied)
        failed = partial(_failed, outside.telemetry, cluster, name)
        optional = copied is not None and len(copied.member_resources) > 1
        options: dict[str, Any] = {"label_selector": selector, "optional": optional}
        yield Wish(cluster, name, api, resource, sink, failed, options)
    about_nodes = {"namespace": contract.NODE_EVENTS_NAMESPACE, "field_selector": "involvedObject.kind=Node"}
    failed = partial(_failed, outside.telemetry, cluster, NODE_EVENTS)
    yield Wish(cluster, NODE_EVENTS, api, contract.EVENTS, NodeEventSink(mirror, member), failed, about_nodes)


def _failed(telemetry: Telemetry, cluster: str, resource: str, error: ExternalError) -> None:
    telemetry.watch_failures.labels(cluster, resource, type(error).__name__).inc()
    log.warning("watch_failed", cluster=cluster, resource=resource, error=str(error)[:300])


async def _ping(outside: Watched, mirror: Mirror, cluster: ClusterId) -> None:
    """How long a small read of the member takes, for policies that limit it and for people; and whether it answers
    at all, for a connection that is cut without a word keeps its watches waiting for minutes."""
    api, member, unanswered = outside.member_apis[cluster], mirror.members[cluster], 0
    while True:
        try:
            async with asyncio.timeout(_PING_TIMEOUT_SECONDS):
                answered = await round_trip(api)
        except (TransientError, TimeoutError) as error:
            unanswered += 1
            member.set_round_trip(None, outside.clock.now())
            if unanswered == _PINGS_UNANSWERED:
                mirror.set_reachable(member, "ping", False, str(error) or "a ping is not answered")
        else:
            member.set_round_trip(answered, outside.clock.now())
            if unanswered >= _PINGS_UNANSWERED:
                mirror.set_reachable(member, "ping", True, None)
            unanswered = 0
        await asyncio.sleep(outside.ping_seconds)


async def round_trip(api: KubeApi) -> float | None:
    """Seconds that a small read takes; None when it answers, but not to this (it is not permitted, say).

    Raises: TransientError when it does not answer.
    """
    clock = asyncio.get_running_loop().time
    began = clock()
    try:
        await api.get(contract.NAMESPACES, "", "default")
    except TransientError:
        raise
    except ExternalError:
        return None
    return round(clock() - began, 4)
