"""What the demo hands to the hub and to the daemon: Jobs, one served model, and its own policy files."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from scheduler.cli.demo.arrivals import Arrival
from scheduler.model.contract import ANNOTATION_EXPECTED, API_VERSION, LABEL_QUEUE, MANAGED_BY

NAMESPACE: Final = "default"
RUN_SECONDS: Final = "sandbox.overspill.dev/run-seconds"
"""On a pod template: how long the sandbox's kubelet lets the pod run."""
SERVICE_NAME: Final = "chat"
SERVICE_QUEUE: Final = "serving"
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


def service() -> dict[str, Any]:
    """A model server: a Deployment of two one-GPU replicas, wrapped for the federation."""
    template = _pod_template(1, "server")
    template["metadata"] = {"labels": {"app": SERVICE_NAME}}
    return {
        "apiVersion": API_VERSION,
        "kind": "FederatedWorkload",
        "metadata": {"name": SERVICE_NAME, "namespace": NAMESPACE, "labels": {LABEL_QUEUE: SERVICE_QUEUE}},
        "spec": {
            "template": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "spec": {
                    "replicas": 2,
                    "selector": {"matchLabels": {"app": SERVICE_NAME}},
                    "template": template,
                },
            }
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
