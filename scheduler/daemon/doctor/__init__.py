"""What `overspill doctor` looks at: everything that the daemon needs of the outside, asked without changing anything.

One module for each area. Areas are looked at at the same time, and each comes to its end: a member that hangs is told
as such and holds nobody up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import structlog

from clusters.clock import SharedClock, SystemClock
from clusters.kubernetes.client import HttpKubeApi
from clusters.kubernetes.connection import Limits
from scheduler.daemon.config.federation import Federation, Member
from scheduler.daemon.doctor.clouds import check_cloud
from scheduler.daemon.doctor.finding import FAIL, OK, WARN, Finding, Report, in_order
from scheduler.daemon.doctor.history import check_history
from scheduler.daemon.doctor.kubernetes import check_cluster
from scheduler.daemon.doctor.metrics import check_metrics
from scheduler.daemon.doctor.policies import check_policies
from scheduler.daemon.doctor.prices import check_prices
from scheduler.daemon.doctor.traffic import check_traffic
from scheduler.daemon.gathering.shards import shard_leases
from scheduler.daemon.main import lease_settings, open_member, open_provider
from scheduler.daemon.permissions import HUB, MEMBER
from scheduler.model.errors import OverspillError
from scheduler.model.ports import Clock, NodePoolProvider

__all__ = ["FAIL", "OK", "WARN", "Finding", "examine"]

log = structlog.get_logger(__name__)
_LIMITS: Final = Limits(connect_seconds=5.0, read_seconds=10.0, call_seconds=15.0, connections=16)
_AREA_SECONDS: Final = 240.0
"""Longest that one area may take, when everything it asks comes at the last moment."""
_OPEN_SECONDS: Final = 30.0
_PARTING_SECONDS: Final = 5.0


class _Closable(Protocol):
    async def close(self) -> None: ...


_Opened = TypeVar("_Opened", bound=_Closable)


async def examine(
    federation: Federation, policies: Sequence[Path], *, shadow: bool, limits: Limits = _LIMITS
) -> tuple[Finding, ...]:
    """All findings, what fails first. `limits`: of each call of a Kubernetes API.

    Raises: InvalidObjectError when the federation's clock cannot be used.
    """
    clock: Clock = SharedClock(federation.clock_file) if federation.clock_file is not None else SystemClock()
    async with _Parting() as parting:
        lease = lease_settings(federation)
        shards = tuple(one.name for one in shard_leases(federation.shards, lease))
        asked = _Asked(parting, clock, limits, shadow, lease.name, federation.dependents, shards)
        areas = [
            _area("hub", lambda report: _hub(federation, report, asked)),
            _area("history", lambda report: check_history(federation.history_url, report)),
            *(area for member in federation.members for area in _member_areas(member, asked)),
            _area("prices", lambda report: check_prices(federation, report, clock)),
            _area("metrics", lambda report: check_metrics(federation, report, clock)),
        ]
        if policies:
            areas.append(_area("policies", lambda report: _policies(policies, federation, report)))
        if not shadow:
            areas.append(_area("traffic", lambda report: _traffic(policies, federation, report, asked)))
        reports = await asyncio.gather(*areas)
    return in_order(finding for report in reports for finding in report.findings)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What all areas need."""

    parting: _Parting
    clock: Clock
    limits: Limits
    shadow: bool
    lease: str
    dependents: frozenset[str]
    shards: tuple[str, ...]

    async def open(self, member: Member) -> HttpKubeApi:
        provider = self.parting.later(open_provider(member, self.clock))
        return self.parting.later(await open_member(member, provider, self.limits))

    async def check(self, api: HttpKubeApi, report: Report, place: str) -> None:
        rest = {"dependents": self.dependents, "shards": self.shards}
        await check_cluster(api, report, place, shadow=self.shadow, lease=self.lease, **rest)


def _member_areas(member: Member, asked: _Asked) -> list[Coroutine[Any, Any, Report]]:
    """Its Kubernetes API and its cloud. Each has a provider of its own, so that one cannot hold up the other."""

    async def kubernetes(report: Report) -> None:
        mend = "correct the member's kubeconfig or login"
        api = await report.attempt("cannot be opened", asked.open(member), _OPEN_SECONDS, mend)
        if api is not None:
            await asked.check(api, report, MEMBER)

    async def cloud(report: Report) -> None:
        async def provider() -> NodePoolProvider:
            return asked.parting.later(open_provider(member, asked.clock))

        mend = "correct its settings or credentials"
        found = await report.attempt("cannot be used", provider(), _OPEN_SECONDS, mend)
        if found is not None:
            await check_cloud(member, found, report, asked.clock)

    return [_area(member.id, kubernetes), _area(f"{member.id} cloud", cloud)]


async def _hub(federation: Federation, report: Report, asked: _Asked) -> None:
    opening = _open_hub(federation, asked)
    api = await report.attempt("cannot be opened", opening, _OPEN_SECONDS, "correct spec.hub.kubeconfig")
    if api is not None:
        await asked.check(api, report, HUB)


async def _open_hub(federation: Federation, asked: _Asked) -> HttpKubeApi:
    hub, limits = federation.hub, asked.limits
    opening = HttpKubeApi.connect(name=hub.name, kubeconfig=hub.kubeconfig, context=hub.context, limits=limits)
    return asked.parting.later(await opening)


async def _traffic(policies: Sequence[Path], federation: Federation, report: Report, asked: _Asked) -> None:
    members = {str(member.id): member for member in federation.members}

    async def opened(cluster: str) -> HttpKubeApi:
        if cluster == HUB:
            return await _open_hub(federation, asked)
        return await asked.open(members[cluster])

    posts = federation.dns is not None
    await check_traffic(opened, tuple(members), policies, federation.names, report, posts_dns=posts)


async def _policies(paths: Sequence[Path], federation: Federation, report: Report) -> None:
    check_policies(paths, federation.names, report)


class _Parting:
    """Closes what was opened, each within its time."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> _Parting:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def later(self, opened: _Opened) -> _Opened:
        """Close it at the end."""

        async def close() -> None:
            with contextlib.suppress(TimeoutError, OverspillError):
                async with asyncio.timeout(_PARTING_SECONDS):
                    await opened.close()

        self._stack.push_async_callback(close)
        return opened


async def _area(name: str, check: Callable[[Report], Awaitable[None]]) -> Report:
    """Its report, whatever happens in it."""
    report = Report(name)
    try:
        await report.attempt("gave up", check(report), _AREA_SECONDS, "see what else is told of it")
    except Exception as error:  # the edge of one check: the others are told all the same
        log.debug("check_crashed", area=name, exc_info=error)
        report.fail(f"internal error: {type(error).__name__}", "OVERSPILL_DEBUG=1 shows where; please report it")
    return report
