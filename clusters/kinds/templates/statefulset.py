"""`apps/v1` StatefulSets, such as vLLM with a volume for each replica. Suspended as Deployments are; volumes stay."""

from __future__ import annotations

from typing import Any, Final

from clusters.kinds.templates import Spec, Template
from clusters.kinds.templates._fields import covers
from clusters.kinds.templates._replicated import Replicated
from scheduler.model.contract import STATEFULSETS
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ports import RawObject

_COMPARED: Final = ("serviceName", "podManagementPolicy", "volumeClaimTemplates")


class StatefulSet(Replicated):
    name = "statefulset"
    resource = STATEFULSETS
    longest_name = 52
    """The label controller-revision-hash holds the name, a dash and ten characters."""
    fixed = ("selector", *_COMPARED)
    """Source: ValidateStatefulSetUpdate in pkg/apis/apps/validation of kubernetes/kubernetes."""

    def refresh(self, live: RawObject, wanted: Spec) -> tuple[dict[str, Any], dict[str, str]]:
        for name in _COMPARED:
            if name in wanted and not covers(live["spec"].get(name), wanted[name]):
                raise InvalidObjectError(
                    f"spec.template.spec.{name} cannot change while a copy exists; create a new FederatedWorkload"
                )
        return super().refresh(live, wanted)


TEMPLATE: Template = StatefulSet()
