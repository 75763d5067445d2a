"""`serving.kserve.io/v1beta1` InferenceServices. Each component (predictor, transformer, explainer) is a pod spec with
bounds of its scale in it: minReplicas (by default 1; 0: scale to nothing) and maxReplicas (0 or absent: none).

Source of the fields: KServe's API reference, ComponentExtensionSpec and PredictorSpec of v1beta1. Suspended: by
KServe's own annotation serving.kserve.io/stop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from clusters.kinds.templates import HPA, KEDA, KNATIVE, Pods, Scale, Served, Spec, Template
from clusters.kinds.templates._fields import count_of, inner, replacing, without
from clusters.kinds.templates.knativeservice import read_ready
from clusters.kubernetes.hubobjects import pinned_template
from scheduler.model.contract import INFERENCE_SERVICES, LABEL_ORIGIN_UID
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Uid
from scheduler.model.ports import MemberFacts, RawObject

STOP: Final = "serving.kserve.io/stop"
_MODE: Final = "serving.kserve.io/deploymentMode"
_CLASS: Final = "serving.kserve.io/autoscalerClass"
_COMPONENTS: Final = ("predictor", "transformer", "explainer")
_SCALE: Final = ("minReplicas", "maxReplicas")
_MODELS: Final = (
    "model", "sklearn", "xgboost", "tensorflow", "pytorch", "triton", "onnx", "huggingface", "pmml", "lightgbm",
    "paddle",
)  # fmt: skip
"""Fields of a predictor that are a container, whose image its serving runtime fills in."""


class InferenceService:
    name = "inferenceservice"
    resource = INFERENCE_SERVICES
    longest_name = 40
    """A host name's first label is made of it, the component's name and the namespace."""
    conditions = (
        "Ready", "PredictorReady", "TransformerReady", "ExplainerReady", "IngressReady", "RoutesReady", "Stopped",
    )  # fmt: skip

    def check(self, template: Spec) -> None:
        inner(template, "spec", "predictor", at="spec.template")
        for name, component in _components(template["spec"]):
            at = f"spec.template.spec.{name}"
            if component.get("workerSpec") is not None:
                raise InvalidObjectError(f"{at}.workerSpec: a predictor over several nodes cannot be federated")
            if not _pod_spec(component)["containers"]:
                raise InvalidObjectError(f"{at} has neither a model nor containers")
            _bounds(name, component)

    def pods(self, template: Spec) -> tuple[Pods, ...]:
        return tuple(
            Pods(name, max(1, _bounds(name, component)[0]), _pod_spec(component))
            for name, component in _components(template["spec"])
        )

    def scale(self, template: Spec) -> Scale:
        least, most = _bounds("predictor", template["spec"]["predictor"])
        said = (template.get("metadata") or {}).get("annotations") or {}
        raw = said.get(_MODE) in ("RawDeployment", "Standard")
        return Scale(least, most, (KEDA if said.get(_CLASS) == KEDA else HPA) if raw else KNATIVE)

    def spec(self, template: Spec, uid: Uid, member: MemberFacts) -> dict[str, Any]:
        spec = dict(template["spec"])
        for name, component in _components(spec):
            pinned = pinned_template({"spec": component}, uid, member)["spec"]
            labels = {**(component.get("labels") or {}), **dict(member.pod_labels), LABEL_ORIGIN_UID: uid}
            spec[name] = {**pinned, "labels": labels}
        return spec

    def scaled(self, template: Spec, replicas: int, bounds: tuple[int, int] | None) -> Spec:
        least, most = _asked(replicas, bounds)
        return _with_predictor(template, {"minReplicas": least, "maxReplicas": most})

    def unscaled(self, template: Spec) -> Spec:
        return _with_predictor(template, {})

    def scale_patch(self, copy: RawObject, replicas: int, bounds: tuple[int, int] | None) -> RawObject | None:
        least, most = _asked(replicas, bounds)
        if _bounds("predictor", inner(copy["spec"], "predictor")) == (least, most):
            return None
        return {"spec": {"predictor": {"minReplicas": least, "maxReplicas": most}}}

    def owner(self, copy: RawObject) -> str:
        return self.scale(copy).owner

    def refresh(self, live: RawObject, wanted: Spec) -> tuple[dict[str, Any], dict[str, str]]:
        return replacing(live["spec"], wanted), {}

    def is_suspended(self, copy: RawObject) -> bool:
        return (copy["metadata"].get("annotations") or {}).get(STOP) == "true"

    def suspend_patch(self, copy: RawObject, *, suspend: bool) -> RawObject:
        return {"metadata": {"annotations": {STOP: "true" if suspend else None}}}

    def wanted_now(self, copy: RawObject) -> int:
        return sum(_bounds(name, component)[0] for name, component in _components(copy["spec"]))

    def served(self, copy: RawObject) -> Served:
        return read_ready(copy)


def _asked(replicas: int, bounds: tuple[int, int] | None) -> tuple[int, int]:
    """Least and most; a most of 0 would be none at all."""
    least, most = bounds or (replicas, replicas)
    return least, max(1, most)


def _with_predictor(template: Spec, bounds: Mapping[str, int]) -> Spec:
    """The template with these bounds in its predictor in place of its own."""
    spec = template["spec"]
    return {**template, "spec": {**spec, "predictor": {**without(spec["predictor"], _SCALE), **bounds}}}


def _components(spec: Spec) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in _COMPONENTS:
        if spec.get(name) is not None:
            yield name, inner(spec, name)


def _pod_spec(component: Mapping[str, Any]) -> dict[str, Any]:
    """The component as a pod spec: its model is a container, too."""
    models = [component[name] for name in _MODELS if isinstance(component.get(name), Mapping)]
    return {**component, "containers": [*models, *(component.get("containers") or ())]}


def _bounds(name: str, component: Mapping[str, Any]) -> tuple[int, int | None]:
    at = f"spec.template.spec.{name}"
    least = count_of(component.get("minReplicas"), f"{at}.minReplicas", 1)
    most = count_of(component.get("maxReplicas"), f"{at}.maxReplicas", 0) or None
    least = 1 if least is None else least
    if most is not None and most < least:
        raise InvalidObjectError(f"{at}.maxReplicas {most} is less than minReplicas {least}")
    return least, most


TEMPLATE: Template = InferenceService()
