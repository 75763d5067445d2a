"""Has requests follow ready capacity, through the objects that `spec.traffic` of a service names.

Looked at once a minute even when nothing was decided, so that what others change is set right. Of several objects each
is tried; the first error is raised when all were.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from scheduler.daemon.leading.fence import Lead, fenced
from scheduler.daemon.permissions import MEMBER, traffic_file
from scheduler.daemon.services import routes
from scheduler.daemon.services.dns_hook import Hook, by_cluster
from scheduler.daemon.services.replicas import Places
from scheduler.daemon.services.traffic_spec import HUB, Backend, RateLimit, Route, TrafficSpec, traffic_of
from scheduler.daemon.state.member_mirror import MemberMirror
from scheduler.daemon.state.mirror import HubEntry, Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.contract import (
    BACKEND_TRAFFIC_POLICIES,
    HTTP_ROUTES,
    KNATIVE_ROUTES,
    KNATIVE_SERVICES,
    LABEL_ORIGIN_UID,
    LABEL_REVISION,
    SERVICES,
)
from scheduler.model.division import Division
from scheduler.model.errors import (
    AlreadyExistsError,
    AuthError,
    ConflictError,
    ExternalError,
    InvalidObjectError,
    NotFoundError,
    NotServedError,
    OverspillError,
    ThrottledError,
)
from scheduler.model.ids import ClusterId, DecisionId, Instant, Uid, WorkloadRef
from scheduler.model.ports import Clock, KubeApi, RawObject, Resource
from scheduler.model.serving import TrafficWeight
from scheduler.predict.bounded import Recent

_AGAIN_SECONDS: Final = 60.0
_POST_AGAIN_SECONDS: Final = 600.0
_MOST_SERVICES: Final = 10_000
_FINE: Final = 1000
"""Parts of a weight, where several copies share it."""
_NOT_THERE: Final = (NotFoundError, NotServedError)
"""No request comes by what is not there."""
REMEDIES: Final = {
    HTTP_ROUTES.key: "install the Gateway API's CRDs",
    KNATIVE_ROUTES.key: "install Knative Serving",
    BACKEND_TRAFFIC_POLICIES.key: "install Envoy Gateway's CRDs",
}
"""Where a kind is not served."""


_Change = Callable[[RawObject], RawObject | None]
"""Gives a merge patch; None: there is nothing to change."""


@dataclass(frozen=True, slots=True)
class _Set:
    """What was set of a service, all of it, and when that was seen."""

    weights: tuple[TrafficWeight, ...]
    told: tuple[object, ...]
    """What else it follows from."""
    at: Instant


@dataclass(frozen=True, slots=True)
class _Step:
    """One object to be set."""

    run: Callable[[], Awaitable[None]]
    steers: bool = True
    """Whether it says where requests go."""


@dataclass(frozen=True, slots=True)
class _Posted:
    weights: Mapping[ClusterId, int]
    hostname: str
    at: Instant


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Of one service now."""

    ref: WorkloadRef
    spec: TrafficSpec
    weights: tuple[TrafficWeight, ...]
    current: str
    ready_per_second: float | None


class Traffic:
    """See `ports.TrafficKeeper`. Belongs to the event loop; its APIs are fenced."""

    def __init__(
        self,
        mirror: Mirror,
        hub_api: KubeApi,
        member_apis: Mapping[ClusterId, KubeApi],
        clock: Clock,
        telemetry: Telemetry,
        *,
        places: Places,
        current_revision: Callable[[HubEntry], str],
        lead: Lead,
        hook: Hook | None = None,
    ) -> None:
        """`hook` None: DNS weights are posted nowhere."""
        self._mirror = mirror
        self._apis: dict[str, KubeApi] = {HUB: hub_api, **{str(name): api for name, api in member_apis.items()}}
        self._clock = clock
        self._telemetry = telemetry
        self._places = places
        self._current_revision = current_revision
        self._lead = lead
        self._hook = hook
        self._set: Recent[Uid, _Set] = Recent(_MOST_SERVICES)
        self._posted: Recent[Uid, _Posted] = Recent(_MOST_SERVICES)
        self._post_after: Recent[Uid, Instant] = Recent(_MOST_SERVICES)
        self._astray: Recent[Uid, bool] = Recent(_MOST_SERVICES)
        """Whose requests go where they were sent before: what says so is there and could not be set."""
        self.on_set: Callable[[Division, DecisionId, Instant], None] = lambda division, decision, began: None
        """All that a decision says is set, begun then."""

    def weights(self, ref: WorkloadRef) -> tuple[TrafficWeight, ...]:
        """As they are set now; empty: that was not done yet, or not wholly."""
        found = self._set.get(ref.uid)
        return () if found is None else found.weights

    def astray(self, ref: WorkloadRef) -> bool:
        return ref.uid in self._astray

    async def apply(self, service: HubEntry, division: Division) -> None:
        """Have the weights set; idempotent. Empty ones change nothing: nothing is ready. Raises: typed errors, with the
        object that is wrong or missing and the remedy."""
        ref = service.workload.ref
        if not division.weights:
            self._astray.pop(ref.uid)
            return
        try:
            spec = traffic_of(service.raw)
        except InvalidObjectError:
            self._astray.put(ref.uid, True)
            raise
        current = self._current_revision(service)
        wanted = _Wanted(ref, spec, tuple(sorted(division.weights)), current, division.ready_per_second)
        told = (spec, current, self._ready_copies(wanted) if spec.knative_route else ())
        last, now = self._set.get(ref.uid), self._clock.now()
        same = last is not None and (last.weights, last.told) == (wanted.weights, told)
        if same and last is not None and now - last.at < _AGAIN_SECONDS:
            return
        if not same:
            self._set.pop(ref.uid)
        errors: list[OverspillError] = []
        astray = False
        for step in self._steps(wanted):
            try:
                await step.run()
            except (ExternalError, InvalidObjectError) as error:
                errors.append(error)
                astray = astray or (step.steers and not isinstance(error, _NOT_THERE))
        if astray:
            self._astray.put(ref.uid, True)
        else:
            self._astray.pop(ref.uid)
        if errors:
            self._telemetry.service_traffic.labels("failed").inc()
            raise errors[0]
        self._telemetry.service_traffic.labels("checked" if same else "set").inc()
        self._set.put(ref.uid, _Set(wanted.weights, told, now))
        if not same:
            intent = service.workload.intent
            self.on_set(division, DecisionId("") if intent is None else intent.decision, now)

    def _steps(self, wanted: _Wanted) -> list[_Step]:
        spec = wanted.spec
        steps = [_Step(partial(self._set_route, wanted, one)) for one in spec.routes]
        if spec.knative_route:
            there = (cluster for cluster, member in self._mirror.members.items() if member.available)
            steps += [_Step(partial(self._set_knative, wanted, cluster)) for cluster in there]
        if spec.hostname:
            steps.append(_Step(partial(self._post, wanted)))
        steps += [_Step(partial(self._set_limit, wanted, one), steers=False) for one in spec.rate_limits]
        return steps

    # -- Gateway API -------------------------------------------------------------------------------------------------

    async def _set_route(self, wanted: _Wanted, route: Route) -> None:
        """A Service that is to select another revision does so while it gets nothing: before the weights where it is
        the old one's, after them where it is the new one's."""
        weights = routes.wanted_weights(route, wanted.weights, wanted.current)
        if not any(weights):
            return
        for backend, weight in zip(route.backends, weights, strict=True):
            if weight:
                await self._select(wanted, backend)
        change = partial(routes.route_patch, route=route, wanted=weights)
        await self._patch(HTTP_ROUTES, wanted.ref.namespace, route.name, route.cluster, change)
        for backend, weight in zip(route.backends, weights, strict=True):
            if not weight:
                await self._select(wanted, backend)

    async def _select(self, wanted: _Wanted, backend: Backend) -> None:
        """Have the backend's Service on its cluster select one revision's pods, where that is asked for."""
        revision = routes.selected_revision(backend, wanted.weights, wanted.current)
        if revision is None:
            return

        def selecting(raw: RawObject) -> RawObject | None:
            selector = (raw.get("spec") or {}).get("selector") or {}
            if selector.get(LABEL_REVISION) == revision:
                return None
            version = {"resourceVersion": raw["metadata"]["resourceVersion"]}
            return {"metadata": version, "spec": {"selector": {LABEL_REVISION: revision}}}

        try:
            await self._patch(SERVICES, wanted.ref.namespace, backend.name, backend.cluster, selecting)
        except NotFoundError as error:
            # The route to it is there, and requests go by it.
            raise InvalidObjectError(str(error)) from error

    async def _set_limit(self, wanted: _Wanted, limit: RateLimit) -> None:
        ready = wanted.ready_per_second
        if not ready:
            return
        await self._patch(
            BACKEND_TRAFFIC_POLICIES,
            wanted.ref.namespace,
            limit.name,
            limit.cluster,
            lambda raw: routes.limit_patch(raw, limit, ready),
        )

    # -- Knative -----------------------------------------------------------------------------------------------------

    def _ready_copies(self, wanted: _Wanted) -> tuple[TrafficWeight, ...]:
        """Each Knative Service of the service by its name, with its share of its revision's weight there."""
        found = []
        for cluster, member in self._mirror.members.items():
            ready = _ready_by_copy(member, wanted.ref.uid, self._places)
            for one in wanted.weights:
                if one.cluster == cluster:
                    here = {name: count for (name, revision), count in ready.items() if revision == one.revision}
                    whole = max(1, sum(here.values()))
                    found += [
                        TrafficWeight(cluster, name, round(_FINE * one.weight * count / whole))
                        for name, count in here.items()
                    ]
        return tuple(sorted(found))

    async def _set_knative(self, wanted: _Wanted, cluster: ClusterId) -> None:
        parts = [one for one in self._ready_copies(wanted) if one.cluster == cluster and one.weight > 0]
        if not parts:
            return
        ref, name, api = wanted.ref, wanted.spec.knative_route, self._api(cluster)
        names = {one.revision for one in parts}
        owners = [
            {
                "apiVersion": KNATIVE_SERVICES.api_version,
                "kind": KNATIVE_SERVICES.kind,
                "name": entry.copy.name,
                "uid": entry.copy.uid,
            }
            for entry in self._mirror.members[cluster].copies_for(ref.uid)
            if entry.copy.name in names and entry.resource.key == KNATIVE_SERVICES.key
        ]
        body = routes.knative_route(name, ref.namespace, ref.uid, parts, owners)
        with _with_remedy(KNATIVE_ROUTES, ref.namespace, name, cluster):
            try:
                there = await api.get(KNATIVE_ROUTES, ref.namespace, name)
            except NotFoundError:
                await api.create(KNATIVE_ROUTES, ref.namespace, body)
                return
        if (there["metadata"].get("labels") or {}).get(LABEL_ORIGIN_UID) != ref.uid:
            text = f"Knative Route {ref.namespace}/{name} in {cluster} is another's; name another one in spec.traffic"
            raise AlreadyExistsError(text)
        patch = routes.knative_patch(there, body)
        if patch is not None:
            with _with_remedy(KNATIVE_ROUTES, ref.namespace, name, cluster):
                await api.patch(KNATIVE_ROUTES, ref.namespace, name, patch)

    # -- DNS ---------------------------------------------------------------------------------------------------------

    async def _post(self, wanted: _Wanted) -> None:
        if self._hook is None:
            raise InvalidObjectError("spec.traffic.dns: the federation file has no dnsWeights; add it, or take dns out")
        uid, now, hook = wanted.ref.uid, self._clock.now(), self._hook
        weights, last = by_cluster(wanted.weights), self._posted.get(uid)
        same = last is not None and (last.weights, last.hostname) == (weights, wanted.spec.hostname)
        if same and last is not None and now - last.at < _POST_AGAIN_SECONDS:
            return
        if now < (self._post_after.get(uid) or 0.0):
            raise ThrottledError("dnsWeights: asked to wait; it is posted later")
        try:
            await fenced(self._lead, lambda: hook.post(wanted.ref, wanted.spec.hostname, weights))
        except ThrottledError as error:
            self._post_after.put(uid, now + (error.retry_after_seconds or _AGAIN_SECONDS))
            raise
        self._posted.put(uid, _Posted(weights, wanted.spec.hostname, now))

    # -- objects -----------------------------------------------------------------------------------------------------

    async def _patch(self, resource: Resource, namespace: str, name: str, cluster: str, change: _Change) -> None:
        """Read, changed and written; once more where somebody else was quicker."""
        api = self._api(cluster)
        with _with_remedy(resource, namespace, name, cluster):
            for last in (False, True):
                patch = change(await api.get(resource, namespace, name))
                if patch is None:
                    return
                try:
                    await api.patch(resource, namespace, name, patch)
                except ConflictError:
                    if last:
                        raise
                else:
                    return

    def _api(self, cluster: str) -> KubeApi:
        api = self._apis.get(cluster)
        if api is None:
            raise InvalidObjectError(f"spec.traffic: no cluster {cluster[:63]!r}; there are {', '.join(self._apis)}")
        return api


@contextmanager
def _with_remedy(resource: Resource, namespace: str, name: str, cluster: str) -> Iterator[None]:
    """What goes wrong with that object is told with the remedy. Raises: NotServedError, NotFoundError, AuthError, and
    others as they are."""
    try:
        yield
    except NotServedError as error:
        remedy = REMEDIES.get(resource.key, "see its API server")
        text = f"{resource.kind}s are not served in {cluster}: {remedy}, or take {name} out of spec.traffic"
        raise NotServedError(text, code=error.code) from error
    except NotFoundError as error:
        text = f"no {resource.kind} {namespace}/{name} in {cluster}: make it, or take it out of spec.traffic"
        raise NotFoundError(text, code=error.code) from error
    except AuthError as error:
        file = traffic_file(HUB if cluster == HUB else MEMBER)
        text = (
            f"{resource.kind} {namespace}/{name} in {cluster} may not be set: apply deploy/rbac/{file} there ({error})"
        )
        raise AuthError(text, code=error.code) from error


def _ready_by_copy(member: MemberMirror, uid: Uid, places: Places) -> dict[tuple[str, str], int]:
    """Ready pods of each Knative Service, by its name and revision."""
    found: dict[tuple[str, str], int] = {}
    for entry in member.copies_for(uid):
        revision = places.of_copy(entry)
        if entry.resource.key == KNATIVE_SERVICES.key and revision and not entry.copy.deleting:
            ready = member.ready_pods(entry.copy.owner)
            if ready:
                found[entry.copy.name, revision] = ready
    return found
