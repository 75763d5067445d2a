"""`FederatedWorkload`: serving, wrapped. Its `spec.template` is the whole object to run on a member, for now an
`apps/v1` Deployment; `spec.suspend` scales it to nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from clusters.kubernetes.codec import explain, parse_time
from clusters.kubernetes.conditions import conditions, find, merged, placed_patch
from clusters.kubernetes.hubobjects import (
    MALFORMED,
    copy_metadata,
    origin,
    pinned_template,
    pod_priority,
    read_metadata,
    read_pod_set,
    refuse_malformed,
    whole_number,
)
from scheduler.model.contract import ANNOTATION_DIGEST, ANNOTATION_REPLICAS, DEPLOYMENTS, FEDERATED_WORKLOADS
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, Instant, Uid
from scheduler.model.ports import MemberFacts, RawObject, Resource, WorkloadKind
from scheduler.model.workload import Copy, CopyState, Placement, PodSet, Workload

_COUNTS: Final = ("replicas", "readyReplicas", "availableReplicas", "updatedReplicas")
_MIRRORED: Final = ("Available", "Progressing", "ReplicaFailure")
_CONDITION_FIELDS: Final = ("status", "reason", "message")


class FederatedWorkload:
    name = "federatedworkload"
    hub_resource: Resource = FEDERATED_WORKLOADS
    member_resource: Resource = DEPLOYMENTS

    @refuse_malformed
    def parse(self, obj: RawObject) -> Workload:
        meta = read_metadata(obj, self.name)
        invalid, priority = meta.invalid, 0
        pod_sets: tuple[PodSet, ...] = ()
        try:
            spec = _deployment(obj)["spec"]
            pod_spec = spec["template"]["spec"]
            priority = pod_priority(meta.said, pod_spec)
            pod_sets = (read_pod_set("main", whole_number(spec, "replicas", 1), pod_spec, meta.said),)
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
        )

    @refuse_malformed
    def make_copy(self, obj: RawObject, workload: Workload, placement: Placement, member: MemberFacts) -> RawObject:
        template = _deployment(obj)
        metadata = copy_metadata(template.get("metadata") or {}, workload.ref, placement, member)
        metadata["annotations"][ANNOTATION_DIGEST] = _digest(template)
        spec = template["spec"]
        return {
            "apiVersion": DEPLOYMENTS.api_version,
            "kind": DEPLOYMENTS.kind,
            "metadata": metadata,
            "spec": {**spec, "template": pinned_template(spec["template"], workload.ref.uid, member)},
        }

    @refuse_malformed
    def refresh_copy(
        self, obj: RawObject, workload: Workload, placement: Placement, member: MemberFacts, copy: RawObject
    ) -> RawObject | None:
        has = copy["metadata"].get("annotations") or {}
        if has.get(ANNOTATION_DIGEST) == _digest(_deployment(obj)):
            return None
        wanted = self.make_copy(obj, workload, placement, member)
        annotations = dict(wanted["metadata"]["annotations"])
        # The selector cannot change; what the API server filled in is removed here and filled in again by it.
        spec = {name: value for name, value in wanted["spec"].items() if name != "selector"}
        live = {name: value for name, value in copy["spec"].items() if name != "selector"}
        patch = _replacing(live, spec)
        if "replicas" not in spec:
            patch.pop("replicas", None)  # not ours then, but an autoscaler's
        if ANNOTATION_REPLICAS in has and "replicas" in spec:
            patch.pop("replicas", None)
            annotations[ANNOTATION_REPLICAS] = str(spec["replicas"])
        return {"metadata": {"labels": wanted["metadata"]["labels"], "annotations": annotations}, "spec": patch}

    @refuse_malformed
    def parse_copy(self, obj: RawObject, cluster: ClusterId) -> Copy:
        uid, attempt, hub = origin(obj)
        meta, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
        suspended = ANNOTATION_REPLICAS in (meta.get("annotations") or {})
        available = find(conditions(obj), "Available") or {}
        up_since = available.get("lastTransitionTime") if available.get("status") == "True" else None
        running = CopyState.RUNNING if status.get("readyReplicas") else CopyState.PENDING
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
            started_at=parse_time(up_since) if up_since else None,
            finished_at=None,
            pods_wanted=0 if suspended else whole_number(spec, "replicas", 1),
            origin_cluster=hub,
        )

    @refuse_malformed
    def suspend_patch(self, obj: RawObject, *, suspend: bool) -> RawObject | None:
        kept = (obj["metadata"].get("annotations") or {}).get(ANNOTATION_REPLICAS)
        if suspend == (kept is not None):
            return None
        if suspend:
            replicas = whole_number(obj["spec"], "replicas", 1)
            return {"metadata": {"annotations": {ANNOTATION_REPLICAS: str(replicas)}}, "spec": {"replicas": 0}}
        return {"metadata": {"annotations": {ANNOTATION_REPLICAS: None}}, "spec": {"replicas": int(kept or 1)}}

    @refuse_malformed
    def mirror_status(self, obj: RawObject, copy: RawObject | None) -> RawObject | None:
        status = obj.get("status") or {}
        theirs = (copy or {}).get("status") or {}
        placement = read_metadata(obj, self.name).placement
        counts = {name: int(theirs.get(name) or 0) for name in _COUNTS}
        wanted: dict[str, Any] = dict(counts)
        wanted["clusters"] = [{"name": placement.cluster, **counts}] if copy is not None and placement else []
        if copy is not None and _up_to_date(obj, copy):
            wanted["observedGeneration"] = obj["metadata"].get("generation", 0)
        changed = {name: value for name, value in wanted.items() if status.get(name) != value}
        listed = conditions(obj)
        updated = _mirrored_conditions(listed, copy)
        if updated != listed:
            changed["conditions"] = updated
        return {"status": changed} if changed else None

    @refuse_malformed
    def condition_patch(
        self, obj: RawObject, *, reason: str, message: str, placed: bool, now: Instant
    ) -> RawObject | None:
        generation = obj["metadata"].get("generation")
        return placed_patch(obj, reason=reason, message=message, placed=placed, now=now, generation=generation)


def _suspended(obj: RawObject) -> bool:
    spec = obj.get("spec")
    return isinstance(spec, Mapping) and spec.get("suspend") is True


def _deployment(obj: RawObject) -> Mapping[str, Any]:
    """The wrapped Deployment. Raises: InvalidObjectError when it is none that a member would take."""
    spec = obj.get("spec")
    template = spec.get("template") if isinstance(spec, Mapping) else None
    if not isinstance(template, Mapping):
        raise InvalidObjectError("spec.template is missing; put a whole apps/v1 Deployment there")
    if (template.get("apiVersion"), template.get("kind")) != (DEPLOYMENTS.api_version, DEPLOYMENTS.kind):
        said = f"{template.get('apiVersion')} {template.get('kind')}"[:80]
        raise InvalidObjectError(f"spec.template is {said}; only apps/v1 Deployment can be federated for now")
    namespace = (template.get("metadata") or {}).get("namespace")
    if namespace not in (None, obj["metadata"]["namespace"]):
        raise InvalidObjectError(f"spec.template.metadata.namespace is {namespace}; leave it out or name its own")
    inner = template.get("spec")
    pods = inner.get("template") if isinstance(inner, Mapping) else None
    if (
        not isinstance(inner, Mapping)
        or not isinstance(pods, Mapping)
        or not (pods.get("spec") or {}).get("containers")
    ):
        raise InvalidObjectError("spec.template.spec.template.spec has no containers")
    wanted = (inner.get("selector") or {}).get("matchLabels") or {}
    labels = (pods.get("metadata") or {}).get("labels") or {}
    if not inner.get("selector") or any(labels.get(name) != value for name, value in wanted.items()):
        raise InvalidObjectError("spec.template.spec.selector is missing or does not match the labels of its pods")
    return template


def _digest(template: Mapping[str, Any]) -> str:
    return hashlib.sha256(orjson.dumps(template, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _up_to_date(obj: RawObject, copy: RawObject) -> bool:
    """Whether the copy is made of the hub's present template, and its controller has seen it."""
    meta, status = copy["metadata"], copy.get("status") or {}
    made_of = (meta.get("annotations") or {}).get(ANNOTATION_DIGEST)
    return made_of == _digest(obj["spec"]["template"]) and int(status.get("observedGeneration") or 0) >= int(
        meta.get("generation") or 0
    )


def _replacing(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Merge patch that turns `live` into exactly `wanted`: what is not wanted is removed, lists are replaced."""
    patch: dict[str, Any] = dict.fromkeys(live.keys() - wanted.keys())
    for name, value in wanted.items():
        before = live.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if inner := _replacing(before, value):
                patch[name] = inner
        elif before != value:
            patch[name] = value
    return patch


def _mirrored_conditions(listed: list[Mapping[str, Any]], copy: RawObject | None) -> list[Mapping[str, Any]]:
    """The Deployment's conditions in place of the former ones; those of others untouched."""
    theirs = conditions(copy) if copy is not None else []
    kept = [one for one in listed if one.get("type") not in _MIRRORED or find(theirs, one["type"]) is not None]
    updates = []
    for kind in _MIRRORED:
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
