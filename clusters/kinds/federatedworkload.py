"""`FederatedWorkload`: serving, wrapped. Its `spec.template` is the whole object to run on a member, of any kind in
`clusters/kinds/templates/`; `spec.overrides` are what differs there; `spec.suspend` stops it where it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from clusters.kinds.services import status_patch
from clusters.kinds.templates import OVERSPILL, Served, Template, _dependents, _overrides, load_templates
from clusters.kubernetes.codec import explain, object_name, parse_time
from clusters.kubernetes.conditions import conditions, find, merged, placed_patch
from clusters.kubernetes.divisions import pack, parse_intent, unpack
from clusters.kubernetes.hubobjects import (
    MALFORMED,
    copy_metadata,
    origin,
    pod_priority,
    read_metadata,
    read_pod_set,
    refuse_malformed,
)
from scheduler.model.contract import (
    ANNOTATION_DIGEST,
    ANNOTATION_OVERRIDDEN,
    ANNOTATION_POOL,
    CONDITION_SERVING,
    FEDERATED_WORKLOADS,
    LABEL_PART,
    LABEL_REVISION,
    copy_name,
    part_name,
)
from scheduler.model.division import ReplicaTarget
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, Instant, PoolId, Uid, WorkloadRef
from scheduler.model.ports import MemberFacts, PartSeen, RawObject, Resource, Said, WorkloadKind
from scheduler.model.service_intent import ServiceIntent, StoredRevision
from scheduler.model.serving import ReplicaOwner
from scheduler.model.workload import Copy, CopyState, Dependent, Placement, PodSet, Workload

TEMPLATES: Final = load_templates()
_BY_KIND: Final = {(each.resource.api_version, each.resource.kind): each for each in TEMPLATES.values()}
_MIRRORED: Final = tuple(dict.fromkeys(kind for each in TEMPLATES.values() for kind in each.conditions))
_REVISION_DIGITS: Final = 10
_CONDITION_FIELDS: Final = ("status", "reason", "message")


class FederatedWorkload:
    name = "federatedworkload"
    hub_resource: Resource = FEDERATED_WORKLOADS
    member_resources: tuple[Resource, ...] = tuple(each.resource for each in TEMPLATES.values())

    @refuse_malformed
    def parse(self, obj: RawObject) -> Workload:
        meta = read_metadata(obj, self.name)
        invalid, priority, runs_as = meta.invalid, 0, ""
        intent = _intent(obj)
        pod_sets: tuple[PodSet, ...] = ()
        try:
            template, plugin = _template(obj)
            runs_as = plugin.resource.key
            _overrides.check(obj["spec"].get("overrides"))
            _dependents.named(obj["spec"].get("dependents"))
            _name(plugin, meta.ref)
            roles = plugin.pods(template)
            priority = pod_priority(meta.said, roles[0].spec)
            pod_sets = tuple(read_pod_set(role.name, role.count, role.spec, meta.said) for role in roles)
        except MALFORMED as error:
            invalid = invalid or explain(error)
        return Workload(
            ref=meta.ref,
            queue=meta.queue,
            priority=priority,
            created_at=meta.created_at,
            queued_at=meta.queued_at,
            pod_sets=pod_sets,
            labels=meta.labels,
            hints=meta.said.hints,
            progress_query=meta.said.progress_query,
            speed_query=meta.said.speed_query,
            runs_forever=True,
            suspended=_suspended(obj),
            deleting=meta.deleting,
            has_finalizer=meta.has_finalizer,
            placement=meta.placement,
            condition=meta.condition,
            invalid=invalid,
            runs_as=runs_as,
            intent=intent,
        )

    @refuse_malformed
    def make_copy(self, obj: RawObject, workload: Workload, placement: Placement, member: MemberFacts) -> RawObject:
        template, plugin = _template(obj)
        there = _there(obj, template, plugin, member)
        name = _name(plugin, workload.ref)
        metadata = copy_metadata(there.get("metadata") or {}, workload.ref, placement, member, name)
        metadata["annotations"] |= {each: text for each, text in _digests(obj, template, there).items() if text}
        return {
            "apiVersion": plugin.resource.api_version,
            "kind": plugin.resource.kind,
            "metadata": metadata,
            "spec": plugin.spec(there, workload.ref.uid, member),
        }

    @refuse_malformed
    def refresh_copy(
        self, obj: RawObject, workload: Workload, placement: Placement, member: MemberFacts, copy: RawObject
    ) -> RawObject | None:
        template, plugin = _template(obj)
        has = copy["metadata"].get("annotations") or {}
        digests = _digests(obj, template, _there(obj, template, plugin, member))
        if all(has.get(name) == text for name, text in digests.items()):
            return None
        wanted = self.make_copy(obj, workload, placement, member)
        patch, annotations = plugin.refresh(copy, wanted["spec"])
        said: dict[str, str | None] = {**wanted["metadata"]["annotations"], **digests, **annotations}
        return {"metadata": {"labels": wanted["metadata"]["labels"], "annotations": said}, "spec": patch}

    @refuse_malformed
    def parse_copy(self, obj: RawObject, cluster: ClusterId) -> Copy:
        uid, attempt, hub = origin(obj)
        meta, plugin = obj["metadata"], _plugin_of(obj)
        labels, pool = meta["labels"], (meta.get("annotations") or {}).get(ANNOTATION_POOL)
        served, suspended = plugin.served(obj), plugin.is_suspended(obj)
        running = CopyState.RUNNING if served.running else CopyState.PENDING
        return Copy(
            origin=uid,
            cluster=cluster,
            kind=self.name,
            namespace=meta["namespace"],
            name=meta["name"],
            uid=Uid(meta["uid"]),
            attempt=attempt,
            state=CopyState.SUSPENDED if suspended else running,
            suspended=suspended,
            deleting=meta.get("deletionTimestamp") is not None,
            created_at=parse_time(meta["creationTimestamp"]),
            started_at=parse_time(served.up_since) if served.up_since else None,
            finished_at=None,
            pods_wanted=0 if suspended else plugin.wanted_now(obj),
            origin_cluster=hub,
            part=_word(labels.get(LABEL_PART)),
            pool=PoolId(_word(pool)) if pool else None,
            revision=_word(labels.get(LABEL_REVISION)),
        )

    @refuse_malformed
    def dependents(self, obj: RawObject, copy: RawObject) -> tuple[Dependent, ...]:
        roles = _plugin_of(copy).pods(copy)
        found = (_dependents.referred_to(role.spec) for role in roles)
        return _dependents.together(*found, _dependents.named(obj["spec"].get("dependents")))

    @refuse_malformed
    def suspend_patch(self, obj: RawObject, *, suspend: bool) -> RawObject | None:
        plugin = _plugin_of(obj)
        return None if suspend == plugin.is_suspended(obj) else plugin.suspend_patch(obj, suspend=suspend)

    @refuse_malformed
    def mirror_status(self, obj: RawObject, copy: RawObject | None, ready_pods: int | None = None) -> RawObject | None:
        status = obj.get("status") or {}
        placement = read_metadata(obj, self.name).placement
        served = Served(0, 0, 0, 0) if copy is None else _plugin_of(copy).served(copy)
        counts = _counts(served, ready_pods)
        wanted: dict[str, Any] = {**counts, "url": served.url}
        here = {name: value for name, value in wanted.items() if value is not None}
        wanted["clusters"] = [{"name": placement.cluster, **here}] if copy is not None and placement else []
        if copy is not None and served.seen and _made_of(obj, copy):
            wanted["observedGeneration"] = obj["metadata"].get("generation", 0)
        changed = {name: value for name, value in wanted.items() if status.get(name) != value}
        listed = conditions(obj)
        undivided = [one for one in listed if one.get("type") != CONDITION_SERVING]
        updated = _mirrored_conditions(undivided, copy)
        if updated != listed:
            changed["conditions"] = updated
        return {"status": changed} if changed else None

    @refuse_malformed
    def condition_patch(
        self, obj: RawObject, *, reason: str, message: str, placed: bool, now: Instant
    ) -> RawObject | None:
        generation = obj["metadata"].get("generation")
        return placed_patch(obj, reason=reason, message=message, placed=placed, now=now, generation=generation)

    # -- divided over members ------------------------------------------------------------------------------------

    @refuse_malformed
    def revision(self, obj: RawObject) -> tuple[str, str]:
        template, plugin = _template(obj)
        overrides = obj["spec"].get("overrides") or []
        name = _digest([plugin.unscaled(template), overrides])[:_REVISION_DIGITS]
        return name, pack({"template": template, "overrides": overrides})

    @refuse_malformed
    def scale(self, obj: RawObject, parts: Sequence[PartSeen]) -> tuple[ReplicaOwner, tuple[int | None, int | None]]:
        template, plugin = _template(obj)
        said = plugin.scale(template)
        owners = {said.owner, *(plugin.owner(part.raw) for part in parts)} - {OVERSPILL}
        if not owners:
            return ReplicaOwner.OVERSPILL, (None, None)
        bounds = (said.least, said.most) if said.owner != OVERSPILL else (None, None)
        return ReplicaOwner(min(owners)), bounds

    @refuse_malformed
    def replicas(self, obj: RawObject) -> int:
        template, plugin = _template(obj)
        return plugin.scale(template).least

    @refuse_malformed
    def make_part(
        self,
        workload: Workload,
        target: ReplicaTarget,
        revision: StoredRevision,
        placement: Placement,
        member: MemberFacts,
    ) -> RawObject:
        content, ref = unpack(revision.content), workload.ref
        source = {"metadata": {"namespace": ref.namespace}, "spec": content}
        template, plugin = _template(source)
        there = _there(source, template, plugin, member)
        scaled = plugin.scaled(there, target.replicas, target.bounds)
        name = part_name(ref.name, ref.uid, placement.part, plugin.longest_name)
        labels = {LABEL_PART: placement.part, LABEL_REVISION: target.revision}
        metadata = copy_metadata(scaled.get("metadata") or {}, ref, placement, member, name)
        metadata["labels"] |= labels
        metadata["annotations"] |= {each: text for each, text in _digests(source, template, there).items() if text}
        metadata["annotations"][ANNOTATION_POOL] = target.pool.pool
        return {
            "apiVersion": plugin.resource.api_version,
            "kind": plugin.resource.kind,
            "metadata": metadata,
            "spec": plugin.spec(scaled, ref.uid, replace(member, pod_labels=tuple(sorted(labels.items())))),
        }

    @refuse_malformed
    def scale_part(self, copy: RawObject, target: ReplicaTarget) -> RawObject | None:
        return _plugin_of(copy).scale_patch(copy, target.replicas, target.bounds)

    @refuse_malformed
    def is_made_of_present(self, obj: RawObject, copy: RawObject) -> bool:
        return _made_of(obj, copy)

    def ready_replicas(self, part: PartSeen) -> int:
        served = _plugin_of(part.raw).served(part.raw)
        return part.ready_pods if served.ready is None else served.ready

    @refuse_malformed
    def service_status(
        self, obj: RawObject, parts: Sequence[PartSeen], said: Sequence[Said], now: Instant, *, retell: bool
    ) -> RawObject | None:
        # Of what runs, and not of the template, which may be broken by now.
        told = [(part, _plugin_of(part.raw).served(part.raw)) for part in parts]
        mirrored = _plugin_of(parts[0].raw).conditions if parts else _MIRRORED
        return status_patch(obj, mirrored, told, said, now, retell=retell)


def _intent(obj: RawObject) -> ServiceIntent | None:
    """None also for one that cannot be read: it is divided anew then, from what runs, which its labels tell."""
    try:
        return parse_intent(obj["metadata"].get("annotations") or {})
    except InvalidObjectError:
        return None


def _suspended(obj: RawObject) -> bool:
    spec = obj.get("spec")
    return isinstance(spec, Mapping) and spec.get("suspend") is True


def _template(obj: RawObject) -> tuple[Mapping[str, Any], Template]:
    """The wrapped object, and what knows its kind. Raises: InvalidObjectError when no member would take it."""
    spec = obj.get("spec")
    template = spec.get("template") if isinstance(spec, Mapping) else None
    if not isinstance(template, Mapping):
        raise InvalidObjectError("spec.template is missing; put a whole object there, such as an apps/v1 Deployment")
    plugin = _BY_KIND.get((_word(template.get("apiVersion")), _word(template.get("kind"))))
    if plugin is None:
        said = f"{template.get('apiVersion')} {template.get('kind')}"[:80]
        known = ", ".join(f"{api_version} {kind}" for api_version, kind in _BY_KIND)
        raise InvalidObjectError(f"spec.template is {said}; what can be federated is {known}")
    namespace = (template.get("metadata") or {}).get("namespace")
    if namespace not in (None, obj["metadata"]["namespace"]):
        raise InvalidObjectError(f"spec.template.metadata.namespace is {namespace}; leave it out or name its own")
    plugin.check(template)
    return template, plugin


def _plugin_of(copy: RawObject) -> Template:
    plugin = _BY_KIND.get((_word(copy.get("apiVersion")), _word(copy.get("kind"))))
    if plugin is None:
        raise InvalidObjectError(
            f"{object_name(copy)} is no copy of a FederatedWorkload, but a {_word(copy.get('kind'))}"
        )
    return plugin


def _word(value: object) -> str:
    return value[:253] if isinstance(value, str) else ""


def _name(plugin: Template, ref: WorkloadRef) -> str:
    """What the copy is called. Raises: InvalidObjectError when such an object cannot be called so."""
    name = copy_name(ref.name, ref.uid, plugin.longest_name)
    if plugin.resource.custom and not (name[0].isalpha() and "." not in name):
        raise InvalidObjectError(
            f"metadata.name {ref.name} cannot be part of a host name, as a {plugin.resource.kind}'s is; "
            "begin it with a letter and leave dots out"
        )
    return name


def _there(obj: RawObject, template: Mapping[str, Any], plugin: Template, member: MemberFacts) -> Mapping[str, Any]:
    """The template as it is on this member."""
    there = _overrides.applied(template, obj["spec"].get("overrides"), member.cluster, member.labels)
    if there is not template:
        try:
            plugin.check(there)
        except MALFORMED as error:
            raise InvalidObjectError(f"with its overrides for {member.cluster}: {explain(error)}") from error
    return there


def _digests(obj: RawObject, template: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, str | None]:
    """Annotations that tell what a copy was made of: on the hub, and (None: the same) as overridden for its member."""
    return {
        ANNOTATION_DIGEST: _source_digest(obj, template),
        ANNOTATION_OVERRIDDEN: None if there is template else _digest(there),
    }


def _source_digest(obj: RawObject, template: Mapping[str, Any]) -> str:
    overrides = obj["spec"].get("overrides")
    return _digest([template, overrides] if overrides else template)


def _digest(value: Any) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _made_of(obj: RawObject, copy: RawObject) -> bool:
    """Whether the copy is made of the hub's present template and overrides."""
    made_of = (copy["metadata"].get("annotations") or {}).get(ANNOTATION_DIGEST)
    return bool(made_of == _source_digest(obj, obj["spec"]["template"]))


def _counts(served: Served, ready_pods: int | None) -> dict[str, int | None]:
    ready = ready_pods if served.ready is None else served.ready
    return {
        "replicas": served.replicas,
        "readyReplicas": ready,
        "availableReplicas": served.available,
        "updatedReplicas": served.updated,
    }


def _mirrored_conditions(listed: list[Mapping[str, Any]], copy: RawObject | None) -> list[Mapping[str, Any]]:
    """The copy's conditions in place of the former ones; those of others untouched."""
    theirs = conditions(copy) if copy is not None else []
    told_of = _plugin_of(copy).conditions if copy is not None else ()
    kept = [
        one
        for one in listed
        if one.get("type") not in _MIRRORED or (one["type"] in told_of and find(theirs, one["type"]) is not None)
    ]
    updates = []
    for kind in told_of:
        if (told := find(theirs, kind)) is None:
            continue
        update = {"type": kind, **{name: told.get(name) or "" for name in _CONDITION_FIELDS}}
        update["reason"] = update["reason"] or "Unknown"
        before = find(kept, kind)
        if before is None or any((before.get(name) or "") != update[name] for name in _CONDITION_FIELDS):
            fallback = copy["metadata"]["creationTimestamp"] if copy is not None else None
            updates.append({**update, "lastTransitionTime": told.get("lastTransitionTime") or fallback})
    return merged(kept, updates)


KIND: WorkloadKind = FederatedWorkload()
