"""What sharing the gathering saves the leader: CPU to take up a member's pods and their changes, read from the member
itself and read from the replica that holds its shard; and what that costs the replica.

Run: python -m tests.bench.shards [--pods 5000] [--json].

A member of `pods` pods, each of the size that a real API server gives one (4 to 5 KB: environment, volumes, probes, the
status of containers and conditions). One list, then for every pod four updates as a kubelet makes them while it starts
(conditions and container statuses; the phase changes once, the node is bound once). CPU is the process's, medians of
three; reading is from bytes, as they come over HTTP, TLS and the socket not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import orjson

from clusters.kubernetes.codec import parse_pod
from scheduler.cli.output import print_json
from scheduler.daemon.gathering.shared import Published
from scheduler.daemon.state.member_mirror import PODS
from scheduler.model.ports import WatchEvent

TIMES = 3


def a_pod(number: int, stage: int) -> dict[str, Any]:
    """Stages: 0 pending, 1 bound, 2 initialized, 3 containers created, 4 running."""
    name = f"worker-{number:06d}"
    env = [{"name": f"VARIABLE_{each}", "value": f"a value of some length {each}"} for each in range(20)]
    condition = {"lastProbeTime": None, "lastTransitionTime": "2026-01-01T00:00:00Z", "status": str(stage > 2)}
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled", "PodReadyToStartContainers")
    resources = {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "4", "memory": "16Gi"}}
    mounts = [{"mountPath": f"/mnt/volume-{each}", "name": f"volume-{each}"} for each in range(6)]
    image = "registry.example.com/team/trainer:2026.01"
    container = {"name": "main", "image": image, "env": env, "resources": resources, "volumeMounts": mounts}
    claims = [{"name": f"volume-{each}", "persistentVolumeClaim": {"claimName": f"c-{each}"}} for each in range(6)]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "worker", "uid": "u", "controller": True}
    state = {"name": "main", "imageID": "sha256:" + "0" * 64, "state": {"waiting": {"reason": str(stage)}}}
    return {
        "metadata": {
            "name": name, "namespace": "team", "uid": f"uid-{number}", "resourceVersion": str(10 * number + stage),
            "creationTimestamp": "2026-01-01T00:00:00Z", "generateName": "worker-",
            "labels": {f"example.com/label-{each}": f"value-{each}" for each in range(8)},
            "annotations": {f"example.com/annotation-{each}": "x" * 60 for each in range(6)},
            "ownerReferences": [owner],
        },
        "spec": {
            "containers": [container], "nodeName": f"node-{number // 8}" if stage else None, "volumes": claims,
            "tolerations": [{"key": f"k{each}", "operator": "Exists", "effect": "NoSchedule"} for each in range(4)],
        },
        "status": {
            "phase": "Running" if stage == 4 else "Pending",
            "conditions": [condition | {"type": kind, "message": f"stage {stage}"} for kind in kinds],
            "containerStatuses": [state],
        },
    }  # fmt: skip


def cpu(work: Callable[[], Any]) -> float:
    """Seconds, the median of three."""
    taken = []
    for _ in range(TIMES):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return statistics.median(taken)


def measured(pods: int) -> dict[str, Any]:
    listing = orjson.dumps({"items": [a_pod(number, 0) for number in range(pods)]})
    updates = [
        orjson.dumps({"type": "MODIFIED", "object": a_pod(number, stage)})
        for stage in range(1, 5)
        for number in range(pods)
    ]
    told, changes = publish(listing, updates)
    direct, shared = cpu(lambda: _take(listing, updates)), cpu(lambda: _take(told, changes))
    return {
        "pods": pods,
        "bytes_direct": len(listing) + sum(map(len, updates)),
        "bytes_shared": len(told) + sum(map(len, changes)),
        "events_direct": len(updates),
        "events_shared": len(changes),
        "leader_cpu_direct_seconds": direct,
        "leader_cpu_shared_seconds": shared,
        "leader_cpu_ratio": shared / direct,
        "holder_cpu_seconds": cpu(lambda: publish(listing, updates)),
    }


def publish(listing: bytes, updates: list[bytes]) -> tuple[bytes, list[bytes]]:
    """What the holder of the shard tells of them: the list, and an event a line."""
    published, lines = Published(PODS), []
    published.on_replace(tuple(orjson.loads(listing)["items"]))
    told, known = published.listing(), published._version
    for update in updates:
        published.on_event(WatchEvent("MODIFIED", orjson.loads(update)["object"]))
        if published._version > known:
            known, kind, raw = published._ring[-1]
            lines.append(orjson.dumps({"type": kind, "object": raw}))
    return told, lines


def _take(listing: bytes, lines: list[bytes]) -> None:
    for raw in orjson.loads(listing)["items"]:
        parse_pod(raw)
    for line in lines:
        parse_pod(orjson.loads(line)["object"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pods", type=int, default=5000)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = measured(chosen.pods)
    if chosen.json:
        print_json(found)
        return
    for name, value in found.items():
        print(f"{name:28} {value:.3f}" if isinstance(value, float) else f"{name:28} {value}")


if __name__ == "__main__":
    main()
