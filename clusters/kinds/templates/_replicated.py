"""What Deployments and StatefulSets have in common: `replicas`, a selector, and one pod template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from clusters.kinds.templates import HPA, OVERSPILL, Pods, Scale, Served, Spec
from clusters.kinds.templates._fields import has_containers, inner, replacing, without
from clusters.kubernetes.conditions import conditions, find
from clusters.kubernetes.hubobjects import pinned_template, whole_number
from scheduler.model.contract import ANNOTATION_REPLICAS
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Uid
from scheduler.model.ports import MemberFacts, RawObject, Resource


class Replicated:
    """`spec.replicas` is Overspill's to set, unless the template leaves it out, or an autoscaler has set it on the
    member: an HPA (KEDA makes one) does so through the scale subresource, as the copy's managed fields tell."""

    name: ClassVar[str]
    resource: ClassVar[Resource]
    longest_name: ClassVar[int]
    conditions: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ("selector",)
    """Spec fields that the API server lets nobody change."""

    def check(self, template: Spec) -> None:
        spec = inner(template, "spec", at="spec.template")
        pods = inner(spec, "template")
        has_containers(pods.get("spec"), "spec.template.spec.template.spec")
        wanted = (spec.get("selector") or {}).get("matchLabels") or {}
        labels = (pods.get("metadata") or {}).get("labels") or {}
        if not spec.get("selector") or any(labels.get(name) != value for name, value in wanted.items()):
            raise InvalidObjectError("spec.template.spec.selector is missing or does not match the labels of its pods")

    def pods(self, template: Spec) -> tuple[Pods, ...]:
        spec = template["spec"]
        return (Pods("main", whole_number(spec, "replicas", 1), spec["template"]["spec"]),)

    def scale(self, template: Spec) -> Scale:
        spec = template["spec"]
        replicas = whole_number(spec, "replicas", 1)
        return Scale(replicas, replicas) if "replicas" in spec else Scale(1, None, HPA)

    def spec(self, template: Spec, uid: Uid, member: MemberFacts) -> dict[str, Any]:
        spec = template["spec"]
        made = {**spec, "template": pinned_template(spec["template"], uid, member)}
        if member.pod_labels:
            # Parts stand beside one another in one namespace: each selects its own pods.
            selector = spec["selector"]
            labels = {**(selector.get("matchLabels") or {}), **dict(member.pod_labels)}
            made["selector"] = {**selector, "matchLabels": labels}
        return made

    def scaled(self, template: Spec, replicas: int, bounds: tuple[int, int] | None) -> Spec:
        spec = template["spec"]
        # Left out, or owned by an autoscaler: one to begin with, and the autoscaler goes on from there.
        count = {"replicas": replicas} if "replicas" in spec or bounds is None else {}
        return {**template, "spec": {**without(spec, ("replicas",)), **count}}

    def unscaled(self, template: Spec) -> Spec:
        return {**template, "spec": without(template["spec"], ("replicas",))}

    def scale_patch(self, copy: RawObject, replicas: int, bounds: tuple[int, int] | None) -> RawObject | None:
        if bounds is not None or scaled_by_another(copy) or self.wanted_now(copy) == replicas:
            return None
        return {"spec": {"replicas": replicas}}

    def owner(self, copy: RawObject) -> str:
        return HPA if scaled_by_another(copy) else OVERSPILL

    def refresh(self, live: RawObject, wanted: Spec) -> tuple[dict[str, Any], dict[str, str]]:
        # What the API server filled in is removed here and filled in again by it.
        patch = replacing(without(live["spec"], self.fixed), without(wanted, self.fixed))
        if "replicas" not in wanted or scaled_by_another(live):
            patch.pop("replicas", None)
        elif self.is_suspended(live):
            patch.pop("replicas", None)
            return patch, {ANNOTATION_REPLICAS: str(wanted["replicas"])}
        return patch, {}

    def is_suspended(self, copy: RawObject) -> bool:
        return ANNOTATION_REPLICAS in (copy["metadata"].get("annotations") or {})

    def suspend_patch(self, copy: RawObject, *, suspend: bool) -> RawObject:
        if suspend:
            replicas = whole_number(copy["spec"], "replicas", 1)
            return {"metadata": {"annotations": {ANNOTATION_REPLICAS: str(replicas)}}, "spec": {"replicas": 0}}
        kept = copy["metadata"]["annotations"][ANNOTATION_REPLICAS]
        return {"metadata": {"annotations": {ANNOTATION_REPLICAS: None}}, "spec": {"replicas": int(kept or 1)}}

    def wanted_now(self, copy: RawObject) -> int:
        return whole_number(copy["spec"], "replicas", 1)

    def served(self, copy: RawObject) -> Served:
        meta, status = copy["metadata"], copy.get("status") or {}
        available = find(conditions(copy), "Available") or {}
        return Served(
            replicas=int(status.get("replicas") or 0),
            ready=int(status.get("readyReplicas") or 0),
            available=int(status.get("availableReplicas") or 0),
            updated=int(status.get("updatedReplicas") or 0),
            running=bool(status.get("readyReplicas")),
            up_since=available.get("lastTransitionTime") if available.get("status") == "True" else None,
            seen=int(status.get("observedGeneration") or 0) >= int(meta.get("generation") or 0),
        )


def scaled_by_another(copy: RawObject) -> bool:
    """Whether somebody else than a person with kubectl set `replicas` last, through the scale subresource.

    Source: Kubernetes documentation, "Server-Side Apply", which names subresources in managedFields; the HPA controller
    writes through `scale`.
    """
    for entry in copy["metadata"].get("managedFields") or ():
        if entry.get("subresource") == "scale" and not str(entry.get("manager") or "").startswith("kubectl"):
            spec = (entry.get("fieldsV1") or {}).get("f:spec")
            if isinstance(spec, Mapping) and "f:replicas" in spec:
                return True
    return False
