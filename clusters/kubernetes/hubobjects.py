"""What all kinds of hub objects have in common: reading metadata, writing their copies' metadata and pods. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Final, TypeVar, cast

from clusters.kubernetes.annotations import HintsRead, parse_hints, parse_placement
from clusters.kubernetes.codec import explain, object_name, parse_time, pod_requests, required, text, texts
from clusters.kubernetes.conditions import placed_condition
from scheduler.model.contract import (
    ANNOTATION_ATTEMPT,
    ANNOTATION_DIVISION,
    ANNOTATION_ORIGIN_CLUSTER,
    ANNOTATION_ORIGIN_NAME,
    ANNOTATION_ORIGIN_NAMESPACE,
    ANNOTATION_PLACEMENT,
    ANNOTATION_QUEUED_AT,
    ANNOTATION_REVISIONS,
    FINALIZER,
    GPU_MODEL_LABELS,
    LABEL_ORIGIN_UID,
    LABEL_PART,
    LABEL_QUEUE,
    copy_name,
)
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant, QueueId, Uid, WorkloadRef
from scheduler.model.ports import MemberFacts, RawObject, Resource, WorkloadKind
from scheduler.model.traits import inferred
from scheduler.model.workload import Hints, Placement, PodSet, Toleration

MALFORMED: Final = (KeyError, TypeError, AttributeError, ValueError, ArithmeticError, InvalidObjectError)
"""What reading a field that is missing or of the wrong type raises; turned into one line by `explain`."""
_NOT_COPIED: Final = frozenset(
    {
        ANNOTATION_PLACEMENT,
        ANNOTATION_QUEUED_AT,
        ANNOTATION_DIVISION,
        ANNOTATION_REVISIONS,
        "kubectl.kubernetes.io/last-applied-configuration",
    }
)


_Method = TypeVar("_Method", bound=Callable[..., Any])


def refuse_malformed(method: _Method) -> _Method:
    """Any malformed object given to this method of a kind raises InvalidObjectError with the object's name."""

    @wraps(method)
    def guarded(kind: WorkloadKind, obj: RawObject, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(kind, obj, *args, **kwargs)
        except MALFORMED as error:
            raise InvalidObjectError(f"{kind.name} {object_name(obj)}: {explain(error)}") from error

    return cast("_Method", guarded)


@dataclass(frozen=True, slots=True)
class HubMetadata:
    """The metadata of a hub object that opted in."""

    ref: WorkloadRef
    queue: QueueId
    created_at: Instant
    queued_at: Instant
    labels: tuple[tuple[str, str], ...]
    said: HintsRead
    deleting: bool
    has_finalizer: bool
    placement: Placement | None
    condition: tuple[str, str] | None
    invalid: str | None
    """Why it can never be placed, as far as its metadata tells."""


def read_metadata(obj: RawObject, kind: str) -> HubMetadata:
    """Raises: MALFORMED when it cannot be told what it is, or it did not opt in."""
    meta = obj["metadata"]
    labels, annotations = texts(meta, "labels"), dict(texts(meta, "annotations"))
    created_at = parse_time(meta["creationTimestamp"])
    said = parse_hints(annotations, created_at)
    queue = dict(labels)[LABEL_QUEUE]
    invalid = None if queue else f"label {LABEL_QUEUE} is empty; name a queue"
    placement = None
    if (said_placement := annotations.get(ANNOTATION_PLACEMENT)) is not None:
        try:
            placement = parse_placement(said_placement)
        except InvalidObjectError as error:
            invalid = str(error)
    return HubMetadata(
        ref=WorkloadRef(kind, required(meta, "namespace"), required(meta, "name"), Uid(required(meta, "uid"))),
        queue=QueueId(queue),
        created_at=created_at,
        queued_at=created_at if said.queued_at is None else said.queued_at,
        labels=labels,
        said=said,
        deleting=meta.get("deletionTimestamp") is not None,
        has_finalizer=FINALIZER in (meta.get("finalizers") or ()),
        placement=placement,
        condition=placed_condition(obj),
        invalid=invalid,
    )


def read_hints(meta: HubMetadata, pod_spec: Mapping[str, Any]) -> Hints:
    """What its user declares, and what the words of its model, its images and its name tell besides."""
    images = [text(each, "image") for each in pod_spec.get("containers") or ()]
    told = inferred([meta.said.hints.model or "", *images, meta.ref.name])
    return replace(meta.said.hints, traits=meta.said.hints.traits.or_else(told))


def read_pod_set(name: str, count: int, pod_spec: Mapping[str, Any], said: HintsRead) -> PodSet:
    """What `count` pods of this spec need. GPU models come from the user's annotation, the node
    selector and the required node affinity; a node selector on a GPU model label becomes the models alone.

    Raises: InvalidObjectError and what malformed JSON raises (MALFORMED).
    """
    selector = dict(texts(pod_spec, "nodeSelector"))
    wanted = [said.gpu_models] if said.gpu_models else []
    wanted += [(selector.pop(label),) for label in GPU_MODEL_LABELS if label in selector]
    if from_affinity := _affinity_models(pod_spec):
        wanted.append(from_affinity)
    models = wanted[0] if wanted else ()
    for others in wanted[1:]:
        models = tuple(model for model in models if model in others)
    if wanted and not models:
        raise InvalidObjectError("its GPU models exclude one another; make the annotation and the node selector agree")
    return PodSet(
        name=name,
        count=count,
        requests=pod_requests(pod_spec),
        node_selector=tuple(sorted(selector.items())),
        tolerations=tuple(
            sorted(
                Toleration(text(t, "key"), text(t, "operator") or "Equal", text(t, "value"), text(t, "effect"))
                for t in pod_spec.get("tolerations") or ()
            )
        ),
        gpu_models=models,
        topology=said.topology,
        excluded_nodes=said.excluded_nodes,
    )


def pod_priority(said: HintsRead, pod_spec: Mapping[str, Any]) -> int:
    """The annotation's, else the pods', else 0."""
    return said.priority if said.priority is not None else int(pod_spec.get("priority") or 0)


def whole_number(spec: Mapping[str, Any], name: str, default: int) -> int:
    """A count that is not negative. Raises: InvalidObjectError."""
    value = spec.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidObjectError(f"spec.{name} is {value!r}, which is not a whole number from 0")
    return value


def resource_of(kind: WorkloadKind, obj: RawObject) -> Resource:
    """Which of the kind's member resources a copy is. Raises: InvalidObjectError when it is none of them."""
    said = (obj.get("apiVersion"), obj.get("kind"))
    for resource in kind.member_resources:
        if (resource.api_version, resource.kind) == said:
            return resource
    raise InvalidObjectError(f"{kind.name} {object_name(obj)}: {str(said[0])[:80]} {str(said[1])[:80]} is none of its")


def copy_metadata(
    source: Mapping[str, Any], ref: WorkloadRef, placement: Placement, member: MemberFacts, name: str = ""
) -> dict[str, Any]:
    """Metadata of the copy: the source's labels and annotations without what is the hub's own, plus the origin.

    The queue label stays behind: on a hub that is a member of itself the copy must not be taken for a workload.
    `name` "": the usual one.
    """
    labels = {name: value for name, value in (source.get("labels") or {}).items() if name != LABEL_QUEUE}
    annotations = {name: text for name, text in (source.get("annotations") or {}).items() if name not in _NOT_COPIED}
    return {
        "name": name or copy_name(ref.name, ref.uid),
        "namespace": ref.namespace,
        "labels": {**labels, LABEL_ORIGIN_UID: ref.uid, **({LABEL_PART: placement.part} if placement.part else {})},
        "annotations": {
            **annotations,
            ANNOTATION_ORIGIN_CLUSTER: member.hub,
            ANNOTATION_ORIGIN_NAMESPACE: ref.namespace,
            ANNOTATION_ORIGIN_NAME: ref.name,
            ANNOTATION_ATTEMPT: str(placement.attempt),
        },
    }


def pinned_template(template: Mapping[str, Any], uid: Uid, member: MemberFacts) -> dict[str, Any]:
    """The pod template with the origin label, bound to the chosen pool's nodes and tolerating that pool's taints.

    A node selector of the user's own is never overwritten: the engine chose a pool that agrees with it.
    """
    meta, spec = template.get("metadata") or {}, template.get("spec") or {}
    pinned = dict(spec)
    if member.pool_selector:
        pinned["nodeSelector"] = {**dict(member.pool_selector), **(spec.get("nodeSelector") or {})}
    if member.excluded_nodes:
        pinned["affinity"] = _elsewhere(spec.get("affinity") or {}, member.excluded_nodes)
    tolerations = list(spec.get("tolerations") or ())
    for key, value, effect in member.pool_taints:
        if not any(_tolerates(toleration, key, value, effect) for toleration in tolerations):
            equal: dict[str, str] = {"key": key, "operator": "Equal", "value": value, "effect": effect}
            tolerations.append(equal if value else {"key": key, "operator": "Exists", "effect": effect})
    if tolerations:
        pinned["tolerations"] = tolerations
    return {
        **template,
        "metadata": {
            **meta,
            "labels": {**(meta.get("labels") or {}), **dict(member.pod_labels), LABEL_ORIGIN_UID: uid},
        },
        "spec": pinned,
    }


def _elsewhere(affinity: Mapping[str, Any], nodes: tuple[str, ...]) -> dict[str, Any]:
    """The affinity, and none of these nodes. Terms are alternatives, so each of them gets the condition; a field
    selector on a node's name takes one value (the API's validation)."""
    required_key = "requiredDuringSchedulingIgnoredDuringExecution"
    node = affinity.get("nodeAffinity") or {}
    terms: Iterable[Mapping[str, Any]] = (node.get(required_key) or {}).get("nodeSelectorTerms") or ({},)
    not_there = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in nodes]
    narrowed = [{**term, "matchFields": [*(term.get("matchFields") or ()), *not_there]} for term in terms]
    return {**affinity, "nodeAffinity": {**node, required_key: {"nodeSelectorTerms": narrowed}}}


def origin(obj: RawObject) -> tuple[Uid, int, str]:
    """(UID of the hub object, attempt, hub's name) of a copy. Raises: MALFORMED when it is none."""
    meta = obj["metadata"]
    annotations = meta.get("annotations") or {}
    uid = required(meta["labels"], LABEL_ORIGIN_UID)
    return Uid(uid), int(annotations.get(ANNOTATION_ATTEMPT, "0")), str(annotations.get(ANNOTATION_ORIGIN_CLUSTER, ""))


def _affinity_models(pod_spec: Mapping[str, Any]) -> tuple[str, ...]:
    """GPU models that required node affinity allows, when every one of its alternatives names some by `In`."""
    node = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms = (node.get("requiredDuringSchedulingIgnoredDuringExecution") or {}).get("nodeSelectorTerms") or ()
    found: list[str] = []
    for term in terms:
        named = _term_models(term.get("matchExpressions") or ())
        if not named:
            return ()
        found += named
    return tuple(sorted(set(found)))


def _term_models(expressions: Iterable[Mapping[str, Any]]) -> list[str]:
    for expression in expressions:
        if expression.get("key") in GPU_MODEL_LABELS and expression.get("operator") == "In":
            return [str(value) for value in expression.get("values") or ()]
    return []


def _tolerates(toleration: Mapping[str, Any], key: str, value: str, effect: str) -> bool:
    if toleration.get("effect") not in (None, "", effect):
        return False
    named = toleration.get("key") or ""
    if toleration.get("operator") == "Exists":
        return named in ("", key)
    return named == key and (toleration.get("value") or "") == value
