"""`serving.knative.dev/v1` Services. Knative's autoscaler owns the replicas; bounds are annotations of the revision
template (Knative documentation, "Configuring scale bounds": min-scale, by default 0, and max-scale, 0 or absent: none).

Knative cannot stop a Service. Suspended: it may scale to nothing, and to no more than one pod when a request wakes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from clusters.kinds.templates import KNATIVE, Pods, Scale, Served, Spec, Template
from clusters.kinds.templates._fields import count_of, has_containers, inner, replacing, without
from clusters.kubernetes.conditions import conditions, find
from clusters.kubernetes.hubobjects import pinned_template
from scheduler.model.contract import ANNOTATION_REPLICAS, KNATIVE_SERVICES
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Uid
from scheduler.model.ports import MemberFacts, RawObject

_LEAST: Final = ("autoscaling.knative.dev/min-scale", "autoscaling.knative.dev/minScale")
_MOST: Final = ("autoscaling.knative.dev/max-scale", "autoscaling.knative.dev/maxScale")
"""The present and the former spelling; both are read."""
_AT: Final = "spec.template.spec.template"


class KnativeService:
    name = "knativeservice"
    resource = KNATIVE_SERVICES
    longest_name = 50
    """Revisions are called after it, and are part of host names."""
    conditions = ("Ready", "ConfigurationsReady", "RoutesReady")

    def check(self, template: Spec) -> None:
        revision = inner(template, "spec", "template", at="spec.template")
        has_containers(revision.get("spec"), f"{_AT}.spec")
        if (revision.get("metadata") or {}).get("name"):
            raise InvalidObjectError(f"{_AT}.metadata.name: leave it out, so that Knative names its revisions itself")
        self.scale(template)

    def pods(self, template: Spec) -> tuple[Pods, ...]:
        return (Pods("main", max(1, self.scale(template).least), template["spec"]["template"]["spec"]),)

    def scale(self, template: Spec) -> Scale:
        said = _annotations(template["spec"])
        least = count_of(_first(said, _LEAST), f"{_AT}.metadata.annotations[{_LEAST[0]}]", 0) or 0
        most = count_of(_first(said, _MOST), f"{_AT}.metadata.annotations[{_MOST[0]}]", 0) or None
        if most is not None and most < least:
            raise InvalidObjectError(f"{_AT}.metadata.annotations: max-scale {most} is less than min-scale {least}")
        return Scale(least, most, KNATIVE)

    def spec(self, template: Spec, uid: Uid, member: MemberFacts) -> dict[str, Any]:
        spec = template["spec"]
        return {**spec, "template": pinned_template(spec["template"], uid, member)}

    def scaled(self, template: Spec, replicas: int, bounds: tuple[int, int] | None) -> Spec:
        least, most = _asked(replicas, bounds)
        return _with_annotations(template, {_LEAST[0]: str(least), _MOST[0]: str(most)})

    def unscaled(self, template: Spec) -> Spec:
        return _with_annotations(template, {})

    def scale_patch(self, copy: RawObject, replicas: int, bounds: tuple[int, int] | None) -> RawObject | None:
        least, most = _asked(replicas, bounds)
        now = self.scale(copy)
        if (now.least, now.most) == (least, most):
            return None
        said = {_LEAST[0]: str(least), _LEAST[1]: None, _MOST[0]: str(most), _MOST[1]: None}
        return {"spec": {"template": {"metadata": {"annotations": said}}}}

    def owner(self, copy: RawObject) -> str:
        return KNATIVE

    def refresh(self, live: RawObject, wanted: Spec) -> tuple[dict[str, Any], dict[str, str]]:
        if not self.is_suspended(live):
            return replacing(live["spec"], wanted), {}
        revision = wanted["template"]
        meta = revision.get("metadata") or {}
        asleep = {name: text for name, text in _asleep().items() if text is not None}
        kept = {**(meta.get("annotations") or {})}
        slept = {**{name: text for name, text in kept.items() if name not in (*_LEAST, *_MOST)}, **asleep}
        spec = {**wanted, "template": {**revision, "metadata": {**meta, "annotations": slept}}}
        return replacing(live["spec"], spec), {ANNOTATION_REPLICAS: _bounds(kept)}

    def is_suspended(self, copy: RawObject) -> bool:
        return ANNOTATION_REPLICAS in (copy["metadata"].get("annotations") or {})

    def suspend_patch(self, copy: RawObject, *, suspend: bool) -> RawObject:
        if suspend:
            kept: str | None = _bounds(_annotations(copy["spec"]))
            bounds = _asleep()
        else:
            least, _, most = str(copy["metadata"]["annotations"][ANNOTATION_REPLICAS]).partition(",")
            kept, bounds = None, {_LEAST[0]: least or None, _MOST[0]: most or None}
        return {
            "metadata": {"annotations": {ANNOTATION_REPLICAS: kept}},
            "spec": {"template": {"metadata": {"annotations": bounds}}},
        }

    def wanted_now(self, copy: RawObject) -> int:
        return self.scale(copy).least

    def served(self, copy: RawObject) -> Served:
        return read_ready(copy)


def read_ready(copy: RawObject) -> Served:
    """Of what has a Ready condition, a url and an observed generation, but no count of replicas."""
    meta, status = copy["metadata"], copy.get("status") or {}
    ready = find(conditions(copy), "Ready") or {}
    up = ready.get("status") == "True"
    url = status.get("url")
    return Served(
        running=up,
        up_since=ready.get("lastTransitionTime") if up else None,
        url=url[:2048] if isinstance(url, str) and url else None,
        seen=int(status.get("observedGeneration") or 0) >= int(meta.get("generation") or 0),
    )


def _asked(replicas: int, bounds: tuple[int, int] | None) -> tuple[int, int]:
    """Least and most; a most of 0 would be none at all."""
    least, most = bounds or (replicas, replicas)
    return least, max(1, most)


def _with_annotations(template: Spec, bounds: Mapping[str, str]) -> Spec:
    """The template with these bounds of its scale in place of its own."""
    spec = template["spec"]
    revision = spec["template"]
    meta = revision.get("metadata") or {}
    said = {**without(meta.get("annotations") or {}, (*_LEAST, *_MOST)), **bounds}
    return {**template, "spec": {**spec, "template": {**revision, "metadata": {**meta, "annotations": said}}}}


def _annotations(spec: Spec) -> Mapping[str, Any]:
    return (spec["template"].get("metadata") or {}).get("annotations") or {}


def _first(said: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((said[name] for name in names if name in said), None)


def _bounds(said: Mapping[str, Any]) -> str:
    """ "min,max" as they are said, each empty when it is not."""
    return ",".join(str(_first(said, names) or "") for names in (_LEAST, _MOST))


def _asleep() -> dict[str, str | None]:
    return {_LEAST[0]: "0", _LEAST[1]: None, _MOST[0]: "1", _MOST[1]: None}


TEMPLATE: Template = KnativeService()
