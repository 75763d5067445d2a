"""What the demo hands to the hub and to the daemon: Jobs, one served model with its route, and its own policy files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from scheduler.cli.demo.arrivals import Arrival
from scheduler.model.contract import (
    ANNOTATION_EXPECTED,
    ANNOTATION_REPLICA_SPEED,
    API_VERSION,
    HTTP_ROUTES,
    LABEL_QUEUE,
    MANAGED_BY,
)

NAMESPACE: Final = "default"
RUN_SECONDS: Final = "sandbox.overspill.dev/run-seconds"
"""On a pod template: how long the sandbox's kubelet lets the pod run."""
SERVICE_NAME: Final = "chat"
SERVICE_QUEUE: Final = "serving"
LEAST_REPLICAS: Final = 3
LOAD: Final = "sandbox.overspill.dev/load"
"""On a route: which clients the sandbox has behind it."""
SERVED_SECONDS: Final = 11400.0
"""For so long the service is under load: its spike is over by then, and what was bought for it given back."""
_SPEEDS: Final = {"A100-80GB": 2.0, "A10G": 1.0}
"""Requests per second that saturate a replica. Others are left out by the demo's policy."""
_IDLE_SECONDS: Final = 0.4
_DAY: Final = {
    "app": SERVICE_NAME,
    "basePerSecond": 2.0,
    "peakPerSecond": 4.5,
    "daySeconds": 14400.0,
    "spikes": [{"atSeconds": 1500.0, "seconds": 8400.0, "perSecond": 14.0}],
    "regions": {"eu": 0.7, "us": 0.3},
    "speeds": _SPEEDS,
    "idleP95Seconds": _IDLE_SECONDS,
    "sloSeconds": 2.0,
}
"""A day's curve in four hours, and a spike on its rising side."""
GPUS_PER_POD: Final = 8
"""A node of the emulated federation has as many."""
_CPUS_PER_GPU: Final = 4
_MEMORY_GIB_PER_GPU: Final = 32


def job(arrival: Arrival) -> dict[str, Any]:
    """The hub Job of one arrival. More than eight GPUs become a gang of pods with eight each."""
    pods = -(-arrival.gpus // GPUS_PER_POD)
    template = _pod_template(min(arrival.gpus, GPUS_PER_POD), "train")
    template["metadata"] = {"annotations": {RUN_SECONDS: f"{arrival.run_seconds:.3f}"}}
    template["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": arrival.name,
            "namespace": NAMESPACE,
            "labels": {LABEL_QUEUE: arrival.queue},
            "annotations": {ANNOTATION_EXPECTED: f"{max(1, round(arrival.hint_seconds))}s"},
        },
        "spec": {
            "managedBy": MANAGED_BY,
            "parallelism": pods,
            "completions": pods,
            "backoffLimit": 50,
            "template": template,
        },
    }


def route_definition() -> dict[str, Any]:
    """The Gateway API's HTTPRoute, for the emulated hub."""
    document: dict[str, Any] = yaml.safe_load((files("scheduler.cli.demo") / "httproutes.yaml").read_text("utf-8"))
    return document


def route(members: Iterable[str]) -> dict[str, Any]:
    """The one by which the service's clients come: on-prem, until the daemon says otherwise."""
    refs = [{"name": _backend(name), "port": 80, "weight": int(name == "onprem")} for name in members]
    load = {**_DAY, "backends": {_backend(name): name for name in members}}
    return {
        "apiVersion": HTTP_ROUTES.api_version,
        "kind": HTTP_ROUTES.kind,
        "metadata": {"name": SERVICE_NAME, "namespace": NAMESPACE, "annotations": {LOAD: json.dumps(load)}},
        "spec": {"rules": [{"backendRefs": refs}]},
    }


def _backend(member: str) -> str:
    return f"{SERVICE_NAME}-{member}"


def service(members: Iterable[str] = ()) -> dict[str, Any]:
    """A model server: a Deployment of three one-GPU replicas, wrapped for the federation. `members`: where its requests
    may be sent."""
    backends = [{"name": _backend(name), "cluster": name} for name in members]
    traffic = {"traffic": {"routes": [{"name": SERVICE_NAME, "backends": backends}]}} if backends else {}
    speeds = ", ".join(f"{model}={speed:g}@{1000 * _IDLE_SECONDS:g}ms" for model, speed in _SPEEDS.items())
    template = _pod_template(1, "server")
    template["metadata"] = {"labels": {"app": SERVICE_NAME}}
    return {
        "apiVersion": API_VERSION,
        "kind": "FederatedWorkload",
        "metadata": {
            "name": SERVICE_NAME,
            "namespace": NAMESPACE,
            "labels": {LABEL_QUEUE: SERVICE_QUEUE},
            "annotations": {ANNOTATION_REPLICA_SPEED: speeds},
        },
        "spec": {
            **traffic,
            "template": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "spec": {
                    "replicas": LEAST_REPLICAS,
                    "selector": {"matchLabels": {"app": SERVICE_NAME}},
                    "template": template,
                },
            },
        },
    }


def _pod_template(gpus: int, container: str) -> dict[str, Any]:
    return {
        "spec": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "containers": [
                {
                    "name": container,
                    "image": f"registry.example.com/{container}:1.0",
                    "resources": {
                        "requests": {
                            "cpu": str(gpus * _CPUS_PER_GPU),
                            "memory": f"{gpus * _MEMORY_GIB_PER_GPU}Gi",
                            "nvidia.com/gpu": str(gpus),
                        },
                        "limits": {"nvidia.com/gpu": str(gpus)},
                    },
                }
            ],
        }
    }


_QUEUE: Final = """\
apiVersion: overspill.dev/v1alpha1
kind: Queue
metadata:
  name: "{name}"
spec:
  cohort: trace
  quotas:
    - resource: gpu
      nominal: {nominal}
"""


def write_policies(folder: Path, arrivals: Iterable[Arrival], *, drawn: bool, gpus: int) -> None:
    """The demo's policy files into `folder` (made anew): the shipped ones for drawn jobs; for a trace, one Queue per
    virtual cluster, which share `gpus` (all that the federation could ever have) as quota and lend to one another."""
    folder.mkdir(parents=True)
    shipped = files("scheduler.cli.demo") / ("drawn_policies.yaml" if drawn else "trace_policies.yaml")
    (folder / "demo.yaml").write_text(shipped.read_text(encoding="utf-8"), encoding="utf-8")
    if drawn:
        return
    names = sorted({arrival.queue for arrival in arrivals})
    nominal = max(1, -(-gpus // len(names)))
    text = "---\n".join(_QUEUE.format(name=name, nominal=nominal) for name in names)
    (folder / "queues.yaml").write_text(text, encoding="utf-8")
