"""The writes on the hub and on members, one by one: idempotent, each with its precondition, read back into the mirror.

What is to be written is decided elsewhere (`scheduler.engine.lifecycle`); when, by the reconciler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from clusters.kubernetes.annotations import format_placement, parse_places
from clusters.kubernetes.codec import format_time
from clusters.kubernetes.divisions import format_intent
from clusters.kubernetes.hubobjects import resource_of
from scheduler.daemon.placing.dependents import Dependents
from scheduler.daemon.state.member_mirror import CopyEntry, MemberMirror
from scheduler.daemon.state.mirror import HubEntry, Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.engine.serving.parts import placement_of
from scheduler.engine.serving.slots import Slot
from scheduler.engine.settlement import queued_again_at
from scheduler.model.contract import (
    ANNOTATION_DIVISION,
    ANNOTATION_EXCLUDED_NODES,
    ANNOTATION_ORIGIN_NAME,
    ANNOTATION_ORIGIN_NAMESPACE,
    ANNOTATION_PLACEMENT,
    ANNOTATION_QUEUED_AT,
    ANNOTATION_REVISIONS,
    FINALIZER,
    LABEL_ORIGIN_UID,
    NAMESPACES,
)
from scheduler.model.division import ReplicaTarget
from scheduler.model.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidObjectError,
    NotFoundError,
    NotServedError,
    RefusedError,
    TransientError,
)
from scheduler.model.ids import ClusterId, Uid
from scheduler.model.ports import Clock, DivisibleKind, KubeApi, MemberFacts, RawObject, Resource, WorkloadKind
from scheduler.model.service_intent import ServiceIntent
from scheduler.model.workload import Placement, Workload

log = structlog.get_logger(__name__)


class Writes:
    """The only place that changes workloads on the hub or on members. Raises the typed errors of the model."""

    def __init__(
        self,
        mirror: Mirror,
        hub_api: KubeApi,
        member_apis: Mapping[ClusterId, KubeApi],
        clock: Clock,
        telemetry: Telemetry,
        fence: Callable[[], None],
    ) -> None:
        self._mirror = mirror
        self._hub_api = hub_api
        self._member_apis = member_apis
        self._clock = clock
        self._telemetry = telemetry
        self.dependents = Dependents(
            mirror,
            hub_api,
            member_apis,
            kinds=mirror.federation.dependents,
            fence=fence,
            facts=self.member_facts,
        )
        self.uncertain: set[Uid] = set()
        """Workloads with a write of unknown outcome, or seen to be stale: looked at directly before the next step."""

    async def create_copy(self, hub: HubEntry, placement: Placement) -> None:
        """Create the copy that the written placement asks for, or take up the one that is there from before a crash."""
        workload = hub.workload
        kind = self._mirror.kinds[workload.ref.kind]
        member = self._facts_needed(placement, hub.raw)
        if placement.moved_from is not None:
            await self._look_where_it_was(workload, placement)
        await self._create(hub, kind.make_copy(hub.raw, workload, placement, member), placement.cluster)
        self._telemetry.queue_wait.labels(workload.queue).observe(max(0.0, self._clock.now() - workload.queued_at))

    async def create_part(self, hub: HubEntry, kind: DivisibleKind, target: ReplicaTarget) -> None:
        """Create the part that the written division asks for, or take up the one that is there from before a crash."""
        body = self.part_body(hub, kind, target)
        await self._create(hub, body, target.pool.cluster)

    def part_body(self, hub: HubEntry, kind: DivisibleKind, target: ReplicaTarget) -> RawObject:
        """What it would be. Raises: InvalidObjectError where it can be none."""
        intent = hub.workload.intent
        revision = intent.revision(target.revision) if intent is not None else None
        if intent is None or revision is None:
            raise InvalidObjectError(f"revision {target.revision} is not known any more; it is only kept where it runs")
        placement = placement_of(intent, Slot(target.pool, target.revision), self._mirror.pool(target.pool))
        member = self._facts_needed(placement, hub.raw)
        return kind.make_part(hub.workload, target, revision, placement, member)

    def _facts_needed(self, placement: Placement, raw: RawObject) -> MemberFacts:
        member = self.member_facts(placement, raw)
        if member is None:
            raise InvalidObjectError(
                f"placement names pool {placement.pool_ref}, which the federation file does not have"
            )
        return member

    async def _create(self, hub: HubEntry, body: RawObject, cluster: ClusterId) -> None:
        workload = hub.workload
        kind = self._mirror.kinds[workload.ref.kind]
        api, resource = self._member_apis[cluster], resource_of(kind, body)
        namespace = workload.ref.namespace
        await self.dependents.bring(hub, body, cluster)
        try:
            made = await api.create(resource, namespace, body)
        except AlreadyExistsError:
            made = await self._adopt(api, resource, namespace, str(body["metadata"]["name"]), workload)
        except NotFoundError:
            await self._ensure_namespace(api, namespace)
            made = await api.create(resource, namespace, body)
        except NotServedError as error:
            raise RefusedError(f"it does not serve {resource.key}; install its definition there") from error
        self._mirror.members[cluster].apply_copy(kind, made)

    async def _look_where_it_was(self, workload: Workload, placement: Placement) -> None:
        """Raises ConflictError while the copy that this one replaces is there: asked of the API itself."""
        kind, uid = self._mirror.kinds[workload.ref.kind], workload.ref.uid
        for cluster in sorted({placement.cluster, placement.moved_from or placement.cluster}):
            await self._look_for_copies(cluster, kind, uid, workload.ref.namespace)
        if any(entry.copy.attempt != placement.attempt for entry in self._mirror.copies(uid)):
            raise ConflictError("the copy that is moved is not gone yet")

    async def _adopt(
        self, api: KubeApi, resource: Resource, namespace: str, name: str, workload: Workload
    ) -> RawObject:
        """A copy of that name is there: ours from before a crash, or somebody else's."""
        there = await api.get(resource, namespace, name)
        labels = there["metadata"].get("labels") or {}
        if labels.get(LABEL_ORIGIN_UID) != workload.ref.uid:
            raise RefusedError(
                f"{resource.plural} {namespace}/{name} exists on the member and is not ours: "
                "delete it there, or rename the workload"
            )
        return there

    async def _ensure_namespace(self, api: KubeApi, namespace: str) -> None:
        try:
            await api.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        except AlreadyExistsError:
            return

    async def delete_copy(self, uid: Uid, entry: CopyEntry, why: str) -> None:
        """Ask for the copy's deletion; of an orphan only when the hub itself says that its origin is gone."""
        if uid not in self._mirror.hub and await self._hub_has(entry):
            raise ConflictError("the hub object of a seeming orphan exists; waiting for the watch to show it")
        copy, member = entry.copy, self._mirror.members[entry.copy.cluster]
        log.info("delete_copy", cluster=copy.cluster, copy=f"{copy.namespace}/{copy.name}", why=why)
        try:
            await self._member_apis[copy.cluster].delete(entry.resource, copy.namespace, copy.name, uid=copy.uid)
        except NotFoundError:
            member.drop_copy(entry.key, copy.uid)
        except NotServedError:
            if not entry.resource.custom:
                raise
            # With a definition its objects go, too: Kubernetes documentation, "Extend the Kubernetes API with
            # CustomResourceDefinitions", on deleting one.
            member.drop_copy(entry.key, copy.uid)
        else:
            member.mark_deleting(entry.key, copy.uid)

    async def _hub_has(self, entry: CopyEntry) -> bool:
        """Whether the hub object of this copy really exists: asked of the API itself before an orphan is deleted."""
        annotations = entry.raw["metadata"].get("annotations") or {}
        kind = self._mirror.kinds[entry.copy.kind]
        if kind.name not in self._mirror.hub_served or not self._mirror.hub_synced:
            raise TransientError("the hub is not synced; an orphan is deleted only on its word")
        name = annotations.get(ANNOTATION_ORIGIN_NAME, "")
        namespace = annotations.get(ANNOTATION_ORIGIN_NAMESPACE, "")
        try:
            there = await self._hub_api.get(kind.hub_resource, namespace, name)
        except NotFoundError:
            return False
        return bool(there["metadata"]["uid"] == entry.copy.origin)

    async def patch_copy(self, entry: CopyEntry, patch: RawObject | None) -> None:
        """Patch that very object (its UID is the precondition); None changes nothing."""
        if patch is None:
            return
        copy = entry.copy
        kind = self._mirror.kinds[entry.copy.kind]
        body = _with_metadata(patch, {"uid": copy.uid})
        api = self._member_apis[copy.cluster]
        changed = await api.patch(entry.resource, copy.namespace, copy.name, body)
        self._mirror.members[copy.cluster].apply_copy(kind, changed)

    async def bring_dependents(self, hub: HubEntry, entry: CopyEntry) -> None:
        """Have what the copy will need there before it is changed."""
        placement = hub.workload.placement
        member = self.member_facts(placement, hub.raw) if placement is not None else None
        if placement is not None and member is not None:
            body = self._mirror.kinds[entry.copy.kind].make_copy(hub.raw, hub.workload, placement, member)
            await self.dependents.bring(hub, body, entry.copy.cluster)

    async def write_placement(self, hub: HubEntry, placement: Placement) -> None:
        """Write the intent, and with it the finalizer that keeps the hub object until its copy is gone."""
        annotations = {ANNOTATION_PLACEMENT: format_placement(placement)}
        finalizers = [*_without_ours(hub.raw), FINALIZER]
        await self.patch_hub(hub, {"metadata": {"annotations": annotations, "finalizers": finalizers}})

    async def write_intent(self, hub: HubEntry, intent: ServiceIntent) -> None:
        """Write how the service is divided, and with it the finalizer. What it was placed as ends with that."""
        annotations = {**format_intent(intent), ANNOTATION_PLACEMENT: None}
        finalizers = [*_without_ours(hub.raw), FINALIZER]
        await self.patch_hub(hub, {"metadata": {"annotations": annotations, "finalizers": finalizers}})

    async def end_division(self, hub: HubEntry, placement: Placement | None) -> None:
        """From a service to a workload that is placed as a whole: there (None: into its queue)."""
        said = None if placement is None else format_placement(placement)
        annotations = {ANNOTATION_DIVISION: None, ANNOTATION_REVISIONS: None, ANNOTATION_PLACEMENT: said}
        finalizers = [*_without_ours(hub.raw), *([] if placement is None else [FINALIZER])]
        await self.patch_hub(hub, {"metadata": {"annotations": annotations, "finalizers": finalizers}})

    async def clear_placement(self, hub: HubEntry, placement: Placement, *, lost: bool) -> None:
        """Back into the queue, once it is certain that no copy is left (or the member is given up)."""
        if not lost:
            await self.look(hub.workload.ref.uid)
            if any(entry.copy.cluster == placement.cluster for entry in self._mirror.copies(hub.workload.ref.uid)):
                return
        since = queued_again_at(placement, hub.workload.queued_at, self._clock.now())
        annotations = {ANNOTATION_PLACEMENT: None, ANNOTATION_QUEUED_AT: format_time(since, micro=True)}
        body = {"metadata": {"annotations": annotations, "finalizers": _without_ours(hub.raw)}}
        await self.patch_hub(hub, body)
        log.info("released", workload=str(hub.workload.ref), cluster=placement.cluster, reason=placement.reason)

    async def remove_finalizer(self, hub: HubEntry) -> None:
        """Let the hub object go."""
        try:
            await self.patch_hub(hub, {"metadata": {"finalizers": _without_ours(hub.raw)}})
        except NotFoundError:
            self._mirror.drop_hub(hub.workload.ref.uid)

    async def look(self, uid: Uid) -> None:
        """Read the hub object and its possible copies directly, past the watches."""
        hub = self._mirror.hub.get(uid)
        if hub is not None:
            ref = hub.workload.ref
            kind = self._mirror.kinds[ref.kind]
            try:
                self._mirror.apply_hub(kind, await self._hub_api.get(kind.hub_resource, ref.namespace, ref.name))
            except NotFoundError:
                self._mirror.drop_hub(uid)
            placement = hub.workload.placement
            if placement is not None:
                await self._look_for_copies(placement.cluster, kind, uid, ref.namespace)
            for cluster in sorted(self._clusters_of(hub.workload)):
                await self._look_for_copies(cluster, kind, uid, ref.namespace)
        self.uncertain.discard(uid)

    def _clusters_of(self, workload: Workload) -> set[ClusterId]:
        """Where parts of it may be that can be looked at; the others are looked at when they come back."""
        if workload.intent is None:
            return set()
        there = {entry.copy.cluster for entry in self._mirror.copies(workload.ref.uid)}
        return (there | {target.pool.cluster for target in workload.intent.targets}) & self._mirror.available()

    async def _look_for_copies(self, cluster: ClusterId, kind: WorkloadKind, uid: Uid, namespace: str) -> None:
        api, member = self._member_apis.get(cluster), self._mirror.members.get(cluster)
        if api is None or member is None:
            # Taken out of the federation file: whatever is there is nobody's to see any more.
            return
        selector = f"{LABEL_ORIGIN_UID}={uid}"
        seen = set()
        for resource in self._to_look_for(kind, uid, member):
            try:
                found = await api.list(resource, namespace=namespace, label_selector=selector)
            except NotServedError:
                if not resource.custom:
                    raise
                continue
            for raw in found.items:
                member.apply_copy(kind, raw)
                seen.add(str(raw["metadata"]["uid"]))
        for entry in member.copies_for(uid):
            if entry.copy.kind == kind.name and entry.copy.uid not in seen:
                member.drop_copy(entry.key, entry.copy.uid)

    def _to_look_for(self, kind: WorkloadKind, uid: Uid, member: MemberMirror) -> tuple[Resource, ...]:
        """What copies of the workload can be: what its hub object says now and whatever is known there; all that its
        kind has when its hub object does not say."""
        hub = self._mirror.hub.get(uid)
        runs_as = hub.workload.runs_as if hub is not None else ""
        known = {entry.resource.key for entry in member.copies_for(uid)} | {runs_as}
        return tuple(each for each in kind.member_resources if not runs_as or each.key in known)

    async def patch_hub(self, hub: HubEntry, patch: RawObject, *, subresource: str = "") -> None:
        """Patch the hub object on condition that it is still the version that the step was decided on."""
        ref = hub.workload.ref
        kind = self._mirror.kinds[ref.kind]
        version = {"resourceVersion": hub.raw["metadata"]["resourceVersion"], "uid": ref.uid}
        try:
            changed = await self._hub_api.patch(
                kind.hub_resource, ref.namespace, ref.name, _with_metadata(patch, version), subresource=subresource
            )
        except ConflictError:
            self.uncertain.add(ref.uid)
            raise
        if changed["metadata"].get("deletionTimestamp") and not changed["metadata"].get("finalizers"):
            self._mirror.drop_hub(ref.uid)
        else:
            self._mirror.apply_hub(kind, changed)

    def member_facts(self, placement: Placement, raw: RawObject) -> MemberFacts | None:
        """What a copy must know of its pool; None when the federation file has no such member or pool any more."""
        member = self._mirror.members.get(placement.cluster)
        for pool in member.member.pools if member is not None else ():
            if pool.ref.pool == placement.pool:
                taints = tuple((taint.key, taint.value, taint.effect) for taint in pool.taints)
                held_to = () if placement.domain is None else (placement.domain,)
                said = (raw["metadata"].get("annotations") or {}).get(ANNOTATION_EXCLUDED_NODES)
                excluded = tuple(node for cluster, node in parse_places(said) if cluster == placement.cluster)
                excluded += tuple(node for node in placement.kept_off if node not in excluded)
                hub = self._mirror.federation.hub.name
                labels = member.member.labels if member is not None else ()
                return MemberFacts(placement.cluster, hub, (*pool.selector, *held_to), taints, excluded, labels)
        return None


def _with_metadata(patch: RawObject, metadata: Mapping[str, object]) -> dict[str, Any]:
    return {**patch, "metadata": {**(patch.get("metadata") or {}), **metadata}}


def _without_ours(raw: RawObject) -> list[str]:
    return [name for name in raw["metadata"].get("finalizers") or [] if name != FINALIZER]
