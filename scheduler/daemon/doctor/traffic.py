"""What services name in `spec.traffic`: is it defined, there, of the right form, and may it be set."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clusters.kinds.federatedworkload import KIND
from clusters.kubernetes.client import HttpKubeApi
from clusters.kubernetes.probing import serves
from policies.errors import PolicyErrors
from policies.loader import FederationNames
from policies.reload import PolicyFolder
from scheduler.daemon.doctor.finding import Report
from scheduler.daemon.doctor.kubernetes import ask_permissions
from scheduler.daemon.permissions import HUB as HUB_ROLES
from scheduler.daemon.permissions import MEMBER, granted_traffic, traffic_file
from scheduler.daemon.services.routes import limit_patch, route_patch
from scheduler.daemon.services.traffic import REMEDIES
from scheduler.daemon.services.traffic_spec import HUB, STEERED, RateLimit, Route, TrafficSpec, traffic_of
from scheduler.engine.serving.matching import slo_of
from scheduler.model.contract import (
    BACKEND_TRAFFIC_POLICIES,
    FEDERATED_WORKLOADS,
    HTTP_ROUTES,
    KNATIVE_ROUTES,
    KNATIVE_SERVICES,
    SERVICES,
)
from scheduler.model.errors import AuthError, InvalidObjectError, NotFoundError, NotServedError
from scheduler.model.policy import PolicySet
from scheduler.model.ports import RawObject, Resource

_LIST_SECONDS: Final = 30.0
_CLUSTER_SECONDS: Final = 60.0
_TAKE_OUT: Final = "or take it out of spec.traffic"

Opened = Callable[[str], Awaitable[HttpKubeApi]]
"""The API of the hub ("hub") or of a member. Raises: typed errors."""


@dataclass(frozen=True, slots=True)
class Needed:
    """One object that a service names."""

    service: str
    resource: Resource
    namespace: str
    name: str
    limit: RateLimit | None = None
    route: Route | None = None

    @property
    def optional(self) -> bool:
        """It is made where it is not there."""
        return self.resource == KNATIVE_ROUTES

    def problem(self, raw: RawObject) -> str | None:
        """What is wrong with its form: the patch that would be made of it cannot."""
        try:
            if self.route is not None:
                route_patch(raw, self.route, [0] * len(self.route.backends))
            if self.limit is not None:
                limit_patch(raw, self.limit, 1.0)
        except InvalidObjectError as error:
            return str(error)
        return None


async def check_traffic(
    opened: Opened,
    members: Sequence[str],
    paths: Sequence[Path],
    names: FederationNames,
    report: Report,
    *,
    posts_dns: bool,
) -> None:
    """Findings of a cluster's objects are told under its own name. `posts_dns`: the federation file has dnsWeights."""
    mend = "see the findings of the hub"
    listed = await report.attempt("services cannot be listed", _services(opened), _LIST_SECONDS, mend, required=False)
    steered = [raw for raw in listed or () if (raw.get("spec") or {}).get(STEERED) is not None]
    if not steered:
        if listed is not None:
            report.ok("no service names anything in spec.traffic")
        return
    current = _policies(paths, names)
    by_cluster: dict[str, list[Needed]] = {}
    for raw in steered:
        _service(report, raw, members, by_cluster, current, posts_dns=posts_dns)
    reports = await asyncio.gather(*(_on_cluster(opened, name, by_cluster[name]) for name in sorted(by_cluster)))
    report.findings += (finding for one in reports for finding in one.findings)


async def _services(opened: Opened) -> Sequence[RawObject]:
    api = await opened(HUB)
    try:
        return (await api.list(FEDERATED_WORKLOADS)).items
    except NotServedError:
        return ()


def _policies(paths: Sequence[Path], names: FederationNames) -> PolicySet | None:
    """None: none are given, or they are wrong, which is told elsewhere."""
    try:
        return PolicyFolder(paths, names).current if paths else None
    except PolicyErrors:
        return None


def _service(
    report: Report,
    raw: RawObject,
    members: Sequence[str],
    by_cluster: dict[str, list[Needed]],
    current: PolicySet | None,
    *,
    posts_dns: bool,
) -> None:
    meta = raw["metadata"]
    service = f"{meta['namespace']}/{meta['name']}"
    try:
        spec = traffic_of(raw)
    except InvalidObjectError as error:
        report.fail(f"{service}: {error}", "correct spec.traffic")
        return
    if current is not None and slo_of(KIND.parse(raw), current) is None:
        what = f"{service} has spec.traffic, but no ServingSLO matches it: nothing is set for it"
        report.warn(what, "write a ServingSLO that matches it, or take spec.traffic out")
    if spec.hostname and not posts_dns:
        report.fail(
            f"{service}: spec.traffic.dns, but the federation file has no dnsWeights", "add it, or take dns out"
        )
    for cluster, one in _needed(service, meta["namespace"], spec, members):
        if cluster in (HUB, *members):
            by_cluster.setdefault(cluster, []).append(one)
        else:
            what = f"{service}: spec.traffic names a cluster {cluster[:63]!r}"
            report.fail(what, f"there are {', '.join((HUB, *members))}")


def _needed(service: str, namespace: str, spec: TrafficSpec, members: Sequence[str]) -> list[tuple[str, Needed]]:
    """With the cluster of each."""
    found: list[tuple[str, Needed]] = []
    for route in spec.routes:
        found.append((route.cluster, Needed(service, HTTP_ROUTES, namespace, route.name, route=route)))
        selected = (one for one in route.backends if one.revision)
        found += [(str(one.cluster), Needed(service, SERVICES, namespace, one.name)) for one in selected]
    for limit in spec.rate_limits:
        found.append((limit.cluster, Needed(service, BACKEND_TRAFFIC_POLICIES, namespace, limit.name, limit=limit)))
    if spec.knative_route:
        found += [(one, Needed(service, KNATIVE_ROUTES, namespace, spec.knative_route)) for one in members]
    return found


async def _on_cluster(opened: Opened, cluster: str, needed: Sequence[Needed]) -> Report:
    report = Report(cluster)
    looking = _look(opened, report, cluster, needed)
    await report.attempt("spec.traffic", looking, _CLUSTER_SECONDS, "see what else is told of it", required=False)
    return report


async def _look(opened: Opened, report: Report, cluster: str, needed: Sequence[Needed]) -> None:
    api = await opened(cluster)
    named: dict[Resource, list[Needed]] = {}
    for one in needed:
        named.setdefault(one.resource, []).append(one)
    missing = [resource for resource in named if not await serves(api, resource)]
    for resource in missing:
        _not_served(report, resource, [one.service for one in named[resource]])
    sound = [await _is_sound(api, one, report) for one in needed if one.resource not in missing]
    if any(sound):
        report.ok(f"{sum(sound)} objects that services name in spec.traffic are there")
    place = HUB_ROLES if cluster == HUB else MEMBER
    groups = {(resource.group, resource.plural) for resource in named if resource not in missing}
    wanted = [one for one in granted_traffic(place) if (one.group, one.resource) in groups]
    if wanted:
        await ask_permissions(api, report, dict.fromkeys(wanted, traffic_file(place)))


async def _is_sound(api: HttpKubeApi, one: Needed, report: Report) -> bool:
    """Whether it is there and of the right form. Raises: typed errors, when there is no answer."""
    try:
        raw = await api.get(one.resource, one.namespace, one.name)
    except NotFoundError:
        if not one.optional:
            told = f"{one.resource.kind} {one.namespace}/{one.name} of {one.service}"
            report.fail(f"no {told}", f"make it, {_TAKE_OUT}")
        return False
    except AuthError:
        return False  # What may not be done is told with the permissions.
    wrong = one.problem(raw)
    if wrong is not None:
        report.fail(f"{one.service}: {wrong}", "correct it, or what spec.traffic says of it")
    return wrong is None


def _not_served(report: Report, resource: Resource, services: Sequence[str]) -> None:
    remedy = f"{REMEDIES.get(resource.key, 'see its API server')}, {_TAKE_OUT}"
    what = f"{resource.kind}s of {resource.group} are not served; {', '.join(dict.fromkeys(services))} name them"
    if resource == KNATIVE_ROUTES:
        report.warn(f"{what}, and {KNATIVE_SERVICES.kind}s cannot run here either", remedy)
    else:
        report.fail(what, remedy)
