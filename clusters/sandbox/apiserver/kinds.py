"""The builtin kinds that the emulated API server serves, as one table; CRDs add rows of the same form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from clusters.sandbox.apiserver import names, schema, selectors
from clusters.sandbox.apiserver.schema import Type
from clusters.sandbox.apiserver.selectors import FieldReader
from clusters.sandbox.apiserver.store import StorageKey

VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where a kind keeps what its scale subresource shows."""

    replicas: str
    status_replicas: str
    selector: str


@dataclass(frozen=True, slots=True)
class Column:
    """One printer column. `read` makes the cell of an object; `priority` 1 shows it in wide output only."""

    name: str
    read: Callable[[Mapping[str, Any]], Any]
    type: str = "string"
    priority: int = 0
    format: str = ""
    description: str = ""


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind at one version."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    namespaced: bool
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    """Of status, scale, eviction, binding, log, finalize."""
    generation: bool = True
    """metadata.generation counts changes of the spec."""
    unconditional: bool = True
    """May be replaced without saying which version is replaced."""
    name_faults: Callable[[str], names.Faults] = names.subdomain_faults
    fields: Mapping[str, FieldReader] = field(default_factory=dict)
    scale: ScalePaths | None = None
    custom: Type | None = None
    """Compiled schema of a custom resource; None for builtin kinds."""
    columns: tuple[Column, ...] = ()
    """Printer columns of a custom resource."""
    document: Mapping[str, Any] | None = None
    """OpenAPI schema of a custom resource, as its CRD gives it."""

    @functools.cached_property
    def key(self) -> StorageKey:
        return (self.group, self.plural)

    @functools.cached_property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @functools.cached_property
    def type(self) -> Type:
        return self.custom or schema.type_of(self.group, self.version, self.kind)

    @functools.cached_property
    def readers(self) -> Mapping[str, FieldReader]:
        """What field selectors may name."""
        own = {"metadata.name": selectors.read_path("metadata.name")}
        if self.namespaced:
            own["metadata.namespace"] = selectors.read_path("metadata.namespace")
        return {**own, **self.fields}

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    @property
    def path(self) -> str:
        """As the real server names it in messages: "/v1, Resource=pods"."""
        return f"{self.group}/{self.version}, Resource={self.plural}"


def _paths(*paths: str) -> dict[str, FieldReader]:
    return {path: selectors.read_path(path) for path in paths}


_POD_FIELDS: Final = {
    **_paths(
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    "spec.hostNetwork": selectors.read_path_or("spec.hostNetwork", "false"),
}
_EVENT_FIELDS: Final = {
    **_paths(
        *(
            f"involvedObject.{name}"
            for name in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
        ),
        "reason",
        "reportingComponent",
        "type",
    ),
    "source": selectors.read_path("source.component"),
}
_WORKLOAD_SCALE: Final = ScalePaths("spec.replicas", "status.replicas", "spec.selector")
_SEGMENT: Final = names.path_segment_faults


def _row(
    group: str, version: str, kind: str, plural: str, *, namespaced: bool = True, short: str = "", **more: Any
) -> Kind:
    status = ("status",) if more.pop("status", False) else ()
    subresources = (*status, *more.pop("sub", ()))
    return Kind(
        group,
        version,
        kind,
        plural,
        kind.lower(),
        namespaced,
        tuple(short.split()),
        subresources=subresources,
        **more,
    )


_ALL: Final = ("all",)
BUILTIN: Final = (
    _row("", "v1", "Namespace", "namespaces", namespaced=False, short="ns", status=True, sub=("finalize",),
         generation=False, name_faults=names.label_faults, fields=_paths("status.phase")),
    _row("", "v1", "Node", "nodes", namespaced=False, short="no", status=True, generation=False,
         fields={"spec.unschedulable": selectors.read_path_or("spec.unschedulable", "false")}),
    _row("", "v1", "Pod", "pods", short="po", status=True, sub=("binding", "eviction", "log"), categories=_ALL,
         fields=_POD_FIELDS),
    _row("", "v1", "Event", "events", short="ev", generation=False, fields=_EVENT_FIELDS),
    _row("", "v1", "ConfigMap", "configmaps", short="cm", generation=False),
    _row("", "v1", "Secret", "secrets", generation=False, fields=_paths("type")),
    _row("", "v1", "Service", "services", short="svc", status=True, categories=_ALL, generation=False,
         name_faults=names.dns1035_faults, fields=_paths("spec.clusterIP", "spec.type")),
    _row("", "v1", "Endpoints", "endpoints", short="ep", generation=False),
    _row("", "v1", "ServiceAccount", "serviceaccounts", short="sa", generation=False),
    _row("", "v1", "PersistentVolume", "persistentvolumes", namespaced=False, short="pv", status=True,
         generation=False),
    _row("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", short="pvc", status=True, generation=False),
    _row("", "v1", "ResourceQuota", "resourcequotas", short="quota", status=True, generation=False),
    _row("", "v1", "LimitRange", "limitranges", short="limits", generation=False),
    _row("batch", "v1", "Job", "jobs", status=True, categories=_ALL,
         fields={"status.successful": selectors.read_path_or("status.succeeded", "0")}),
    _row("batch", "v1", "CronJob", "cronjobs", short="cj", status=True, categories=_ALL),
    _row("apps", "v1", "Deployment", "deployments", short="deploy", status=True, sub=("scale",), categories=_ALL,
         scale=_WORKLOAD_SCALE),
    _row("apps", "v1", "ReplicaSet", "replicasets", short="rs", status=True, sub=("scale",), categories=_ALL,
         scale=_WORKLOAD_SCALE, fields={"status.replicas": selectors.read_path_or("status.replicas", "0")}),
    _row("apps", "v1", "StatefulSet", "statefulsets", short="sts", status=True, sub=("scale",), categories=_ALL,
         scale=_WORKLOAD_SCALE),
    _row("apps", "v1", "DaemonSet", "daemonsets", short="ds", status=True, categories=_ALL),
    _row("apps", "v1", "ControllerRevision", "controllerrevisions", generation=False),
    _row("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", short="pdb", status=True, unconditional=False),
    _row("coordination.k8s.io", "v1", "Lease", "leases", generation=False, unconditional=False),
    _row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", namespaced=False, short="pc"),
    _row("storage.k8s.io", "v1", "StorageClass", "storageclasses", namespaced=False, short="sc", generation=False),
    _row("networking.k8s.io", "v1", "Ingress", "ingresses", short="ing", status=True),
    _row("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", short="netpol"),
    _row("rbac.authorization.k8s.io", "v1", "Role", "roles", generation=False, name_faults=_SEGMENT),
    _row("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", generation=False, name_faults=_SEGMENT),
    _row("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", namespaced=False, generation=False,
         name_faults=_SEGMENT),
    _row("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False,
         generation=False, name_faults=_SEGMENT),
    _row("events.k8s.io", "v1", "Event", "events", short="ev", generation=False),
    _row("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False,
         short="crd crds", status=True, categories=("api-extensions",), unconditional=False),
)  # fmt: skip

NAMESPACES: Final = ("", "namespaces")
PODS: Final = ("", "pods")
CRDS: Final = ("apiextensions.k8s.io", "customresourcedefinitions")
REVIEWS: Final = (
    ("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", False),
    ("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", False),
    ("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews", True),
    ("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews", False),
    ("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", False),
    ("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", False),
)
"""(group, version, kind, plural, namespaced): answered at once, never stored."""


class KindTable:
    """The kinds that one server serves: the builtin ones, shared, and its own CRDs'."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], Kind] = {(k.group, k.version, k.plural): k for k in BUILTIN}
        self._by_name: dict[tuple[str, str, str], Kind] = {(k.group, k.version, k.kind): k for k in BUILTIN}
        self.revision = 0
        """Grows with every change, so that documents made from the table can be remembered."""

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        return self._kinds.get((group, version, plural))

    def by_kind(self, api_version: str, kind: str) -> Kind | None:
        group, _, version = api_version.rpartition("/")
        return self._by_name.get((group, version, kind))

    def by_key(self, key: StorageKey) -> Kind | None:
        """Any version of the kind that is stored under `key`."""
        return next((kind for kind in self._kinds.values() if kind.key == key), None)

    def all(self) -> tuple[Kind, ...]:
        return tuple(self._kinds.values())

    def groups(self) -> dict[str, list[str]]:
        """Versions of each named group, newest first."""
        found: dict[str, list[str]] = {}
        for kind in self._kinds.values():
            if kind.group and kind.version not in found.setdefault(kind.group, []):
                found[kind.group].append(kind.version)
        for group, version, *_ in REVIEWS:
            found.setdefault(group, [version])
        return found

    def add(self, kind: Kind) -> None:
        self._kinds[(kind.group, kind.version, kind.plural)] = kind
        self._by_name[(kind.group, kind.version, kind.kind)] = kind
        self.revision += 1

    def drop(self, key: StorageKey) -> None:
        """Forget all versions of a custom resource."""
        self._kinds = {at: kind for at, kind in self._kinds.items() if kind.key != key}
        self._by_name = {at: kind for at, kind in self._by_name.items() if kind.key != key}
        self.revision += 1
