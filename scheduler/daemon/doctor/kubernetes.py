"""One cluster's Kubernetes API: is it there, old enough, on our time, and does it let us do what we need."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from clusters.clock import SystemClock
from clusters.kubernetes.client import HttpKubeApi
from clusters.kubernetes.probing import Probe, may, probe
from scheduler.daemon.doctor.finding import Report
from scheduler.daemon.permissions import (
    EXAMPLE_LEASE,
    HUB,
    SHARDS_FILE,
    Permission,
    dependents_file,
    granted,
    granted_dependents,
    granted_shards,
    role_file,
)
from scheduler.model.contract import EVENTS, FEDERATED_WORKLOADS
from scheduler.model.errors import NotServedError

_PROBE_SECONDS: Final = 20.0
_REVIEW_SECONDS: Final = 20.0
_SKEW_WARN_SECONDS: Final = 5.0
_SKEW_FAIL_SECONDS: Final = 30.0
_SOON_SECONDS: Final = 7 * 24 * 3600.0
_MANAGED_JOBS: Final = (1, 32)
"""From here on a hub keeps `spec.managedBy` of Jobs (before, it drops it)."""
_OLDEST_MEMBER: Final = (1, 24)
"""`spec.suspend` of Jobs is general from here on."""
_REVIEWS_AT_ONCE: Final = 8
_DOES_WITHOUT: Final = frozenset({EVENTS.plural})
"""Without Events nobody is told, and some clouds' reclaims are noticed late; all else goes on."""


async def check_cluster(
    api: HttpKubeApi,
    report: Report,
    place: str,
    *,
    shadow: bool,
    lease: str,
    dependents: Iterable[str] = (),
    shards: Iterable[str] = (),
) -> None:
    """`place`: hub or member, as in deploy/rbac. `dependents`: kinds of objects that follow workloads; `shards`: the
    Leases of shards."""
    reach = f"kubectl --context {api.name} get --raw /version; correct server, network or credentials of the kubeconfig"
    found = await report.attempt("does not answer", probe(api), _PROBE_SECONDS, reach)
    if found is None:
        return
    _version(report, found, place, shadow=shadow)
    _clock(report, found)
    renew = "log in anew, or renew what the kubeconfig names"
    await report.attempt("credentials", _credentials(api, report), _PROBE_SECONDS, renew)
    if place == HUB:
        look = "look at the API server's own log"
        await report.attempt("definitions", _definitions(api, report), _PROBE_SECONDS, look, required=False)
    wanted = dict.fromkeys(granted(place, shadow=shadow, lease=lease), role_file(place, shadow=shadow))
    if not shadow:
        wanted |= dict.fromkeys(granted_dependents(place, dependents), dependents_file(place))
        wanted |= dict.fromkeys(granted_shards(shards) if place == HUB else (), SHARDS_FILE)
    asking = ask_permissions(api, report, wanted, lease)
    await report.attempt("permissions cannot be asked", asking, _REVIEW_SECONDS, "see the credentials of this cluster")


def _version(report: Report, found: Probe, place: str, *, shadow: bool) -> None:
    took = f"answers in {found.round_trip_seconds * 1000:.0f} ms, Kubernetes {found.version_text}"
    if found.version is None:
        report.warn(f"{took}: its version is not understood", "nothing, if it is a Kubernetes API")
    elif place == HUB and found.version < _MANAGED_JOBS:
        tell = report.warn if shadow else report.fail
        tell(f"{took}: it drops spec.managedBy of Jobs", "upgrade the hub to Kubernetes 1.32 or later")
    elif found.version < _OLDEST_MEMBER:
        report.warn(f"{took}: it may not know spec.suspend of Jobs", "upgrade it to Kubernetes 1.24 or later")
    else:
        report.ok(took)


def _clock(report: Report, found: Probe) -> None:
    skew = found.clock_skew_seconds
    if skew is None:
        report.warn("clock: it does not tell its time", "nothing, if something between strips the Date header")
        return
    said = f"clock: {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} ours"
    if abs(skew) > _SKEW_FAIL_SECONDS:
        report.fail(said, "have both machines keep time by NTP: tokens and Leases live by it")
    elif abs(skew) > _SKEW_WARN_SECONDS:
        report.warn(said, "have both machines keep time by NTP")
    else:
        report.ok("clock: agrees with ours")


async def _credentials(api: HttpKubeApi, report: Report) -> None:
    found = await api.credentials()
    if found.kind == "none":
        report.warn("credentials: none are sent", "name a user with credentials in the kubeconfig's context")
        return
    if found.ends_at is None:
        report.ok(f"credentials: {found.kind}, its end is not told")
        return
    left = found.ends_at - SystemClock().now()
    if found.renewed:
        report.ok(f"credentials: {found.kind}, good for {_span(left)}, then renewed")
    elif left <= 0:
        report.fail(f"credentials: {found.kind} expired {_span(-left)} ago", "put a new one into the kubeconfig")
    elif left < _SOON_SECONDS:
        remedy = "renew it in time, or name an exec plugin or `login: provider`, which renew theirs"
        report.warn(f"credentials: {found.kind} expires in {_span(left)}", remedy)
    else:
        report.ok(f"credentials: {found.kind}, good for {_span(left)}")


async def _definitions(api: HttpKubeApi, report: Report) -> None:
    try:
        await api.list(FEDERATED_WORKLOADS, namespace="default")
    except NotServedError:
        what = "FederatedWorkload is not defined: only Jobs can be placed"
        report.warn(what, f"kubectl --context {api.name} apply -f deploy/crds/")
    else:
        report.ok("FederatedWorkload is defined")


async def ask_permissions(
    api: HttpKubeApi, report: Report, wanted: Mapping[Permission, str], lease: str = EXAMPLE_LEASE
) -> None:
    """`wanted`: each with the file that grants it. `lease`: the name of the federation's own."""
    places = asyncio.Semaphore(_REVIEWS_AT_ONCE)

    async def ask(one: Permission) -> bool:
        async with places:
            resource, _, subresource = one.resource.partition("/")
            return await may(
                api, one.verb, one.group, resource, subresource=subresource, namespace=one.namespace, name=one.name
            )

    allowed = await asyncio.gather(*(ask(one) for one in wanted))
    for (one, file), yes in zip(wanted.items(), allowed, strict=True):
        if not yes:
            tell = report.warn if one.resource in _DOES_WITHOUT else report.fail
            hint = f" with {lease} for overspill-example" if one.name.startswith(lease) else ""
            tell(f"may not {one}", f"kubectl --context {api.name} apply -f deploy/rbac/{file}{hint}")
    if all(allowed):
        files = " and ".join(dict.fromkeys(wanted.values()))
        report.ok(f"may do all {len(wanted)} things of deploy/rbac/{files}")


def _span(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
