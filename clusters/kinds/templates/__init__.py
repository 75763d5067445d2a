"""What a FederatedWorkload may wrap, one module each, found by name: it exposes `TEMPLATE`, a pure `Template`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from clusters._plugins import plugin_names
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Uid
from scheduler.model.ports import MemberFacts, RawObject, Resource

Spec = Mapping[str, Any]
OVERSPILL: Final = "overspill"
HPA: Final = "hpa"
KEDA: Final = "keda"
KNATIVE: Final = "knative"


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of one role, such as main, predictor or transformer."""

    name: str
    count: int
    """That are to fit together when it is placed; at least 1, also of what scales to nothing."""
    spec: Spec


@dataclass(frozen=True, slots=True)
class Scale:
    """Replicas that are asked for, and who sets how many there are."""

    least: int
    """0: it may scale to nothing."""
    most: int | None
    """None: no bound."""
    owner: str = OVERSPILL
    """overspill, hpa, keda or knative; whoever it is, nobody else writes `replicas`."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the status of a copy says. None: it does not say."""

    replicas: int | None = None
    ready: int | None = None
    available: int | None = None
    updated: int | None = None
    running: bool = False
    up_since: str | None = None
    """RFC 3339."""
    url: str | None = None
    seen: bool = False
    """Whether its controller has seen the copy as it is now."""


class Template(Protocol):
    """One kind of object that can be wrapped; pure functions of JSON. Raises InvalidObjectError and what malformed JSON
    raises (clusters.kubernetes.hubobjects.MALFORMED)."""

    @property
    def name(self) -> str: ...

    @property
    def resource(self) -> Resource: ...

    @property
    def longest_name(self) -> int:
        """Of a copy, so that the names that are made of it are valid, too."""
        ...

    @property
    def conditions(self) -> tuple[str, ...]:
        """Condition types that are mirrored."""
        ...

    def check(self, template: Spec) -> None:
        """Refuse a template that no member would take, or that cannot be federated, naming the field."""
        ...

    def pods(self, template: Spec) -> tuple[Pods, ...]: ...

    def scale(self, template: Spec) -> Scale: ...

    def spec(self, template: Spec, uid: Uid, member: MemberFacts) -> dict[str, Any]:
        """The copy's spec: the template's, its pods labelled with their origin and pinned to the chosen pool."""
        ...

    def scaled(self, template: Spec, replicas: int, bounds: tuple[int, int] | None) -> Spec:
        """The template with so many replicas; where another owns them (`bounds`), with these bounds, as far as the kind
        has any. Of a part of a divided service."""
        ...

    def unscaled(self, template: Spec) -> Spec:
        """The template without what says how many replicas there are: what two revisions may differ in."""
        ...

    def scale_patch(self, copy: RawObject, replicas: int, bounds: tuple[int, int] | None) -> RawObject | None:
        """Merge patch that gives a live copy that scale; None: it has it, or another owns it."""
        ...

    def owner(self, copy: RawObject) -> str:
        """Who sets the replicas of a live copy: one of the words of `Scale.owner`."""
        ...

    def refresh(self, live: RawObject, wanted: Spec) -> tuple[dict[str, Any], dict[str, str]]:
        """Merge patch for the spec, and annotations to set, that bring a live copy up to the wanted spec, without
        resuming a suspended one and without touching what an autoscaler owns."""
        ...

    def is_suspended(self, copy: RawObject) -> bool: ...

    def suspend_patch(self, copy: RawObject, *, suspend: bool) -> RawObject: ...

    def wanted_now(self, copy: RawObject) -> int:
        """Pods that a copy which is not suspended should have at least."""
        ...

    def served(self, copy: RawObject) -> Served: ...


def load_templates() -> dict[str, Template]:
    """Every template in this package by its name, sorted. Raises: InvalidObjectError naming a module that is none."""
    found: dict[str, Template] = {}
    for name in plugin_names(__path__):
        try:
            template: Template | None = getattr(importlib.import_module(f"{__name__}.{name}"), "TEMPLATE", None)
        except ImportError as error:
            raise InvalidObjectError(f"template {name} cannot be imported: {error}") from error
        if template is None or template.name != name:
            raise InvalidObjectError(f"template {name}: {__name__}.{name} exposes no TEMPLATE of that name")
        found[name] = template
    return found
