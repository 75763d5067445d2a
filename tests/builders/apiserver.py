"""An emulated API server without HTTP, and small objects to put into it."""

from __future__ import annotations

from typing import Any

from clusters.sandbox.apiserver.local import LocalApi
from clusters.sandbox.apiserver.registry import Registry, Request
from clusters.sandbox.apiserver.store import Store

Json = dict[str, Any]
START = 1_700_000_000.0
"""2023-11-14T22:13:20Z"""


class StillClock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class World:
    """A registry with the namespace `default`, its in-process client and its clock."""

    def __init__(self, *, log_length: int = 1000) -> None:
        self.clock = StillClock()
        self.store = Store(log_length=log_length)
        self.registry = Registry(self.store, self.clock)
        self.api = LocalApi(self.registry)
        for name in ("default", "kube-system"):
            kind = self.registry.kind("", "v1", "namespaces")
            self.registry.create(kind, "", {"metadata": {"name": name}}, Request())

    def apply(self, path: tuple[str, str, str], body: Json, manager: str, *, force: bool = False) -> Json:
        """Server-side apply of an object in `default`."""
        kind = self.registry.kind(*path)
        request = Request(manager=manager, force=force)
        namespace = "default" if kind.namespaced else ""
        name = body["metadata"]["name"]
        return self.registry.patch(kind, namespace, name, body, "application/apply-patch+yaml", request).obj


def pod_spec(**more: Any) -> Json:
    return {"restartPolicy": "Never", "containers": [{"name": "main", "image": "example.com/app:1"}], **more}


def pod(name: str = "p", **spec: Any) -> Json:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod_spec(**spec)}


def job(name: str = "j", **spec: Any) -> Json:
    body = {"template": {"spec": pod_spec()}, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": body}


def deployment(name: str = "web", replicas: int = 1) -> Json:
    labels = {"app": name}
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod_spec(restartPolicy="Always")},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def config_map(name: str = "c", **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def widget_crd() -> Json:
    """A CRD with defaults, pruning, checks, a status and a scale."""
    spec = {
        "type": "object",
        "required": ["size"],
        "x-kubernetes-validations": [{"rule": "!has(self.replicas) || self.replicas <= self.size * 10"}],
        "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 9},
            "colour": {"type": "string", "enum": ["red", "green"], "default": "red"},
            "replicas": {"type": "integer", "default": 1},
            "parts": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string"}, "weight": {"type": "integer"}},
                },
            },
            "shape": {
                "type": "string",
                "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "shape is immutable"}],
            },
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    status = {"type": "object", "properties": {"phase": {"type": "string"}, "replicas": {"type": "integer"}}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec, "status": status}}},
        "subresources": {
            "status": {},
            "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
        },
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [version],
        },
    }
