"""A member's `/metrics`, in the text format of Prometheus: what DCGM, node, kube-state and vLLM exporters would say.

Values are pure functions of the object, the seed and the virtual time: nothing is kept between scrapes, counters only
grow, and two sandboxes with the same seed say the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from clusters.sandbox.emulation.dcgm import HOST_LABEL, Gpu, Spelling, given
from clusters.sandbox.emulation.objects import (
    STEPS_PER_SECOND,
    condition,
    condition_true,
    controller_of,
    number_annotation,
    parse_time,
    phase,
    pod_requests,
    resources,
)
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant
from scheduler.model.ports import RawObject
from scheduler.model.resources import Resources

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_PHASES: Final = ("Pending", "Running", "Succeeded", "Failed", "Unknown")
_POWER_WATTS: Final = {"H100-80GB": (70.0, 700.0), "A10G": (20.0, 300.0)}
_TTFT_BOUNDS: Final = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_TPOT_BOUNDS: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.5)
_E2E_BOUNDS: Final = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0)


@dataclass(slots=True)
class _Family:
    kind: str
    text: str
    lines: list[str] = field(default_factory=list)


NO_XIDS: Final[Mapping[str, int]] = MappingProxyType({})


class Page:
    """Samples gathered by family, so that each family is written once and whole."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}

    def add(
        self, name: str, kind: str, text: str, labels: Mapping[str, str], value: float, suffix: str = "",
        at: Instant | None = None,
    ) -> None:  # fmt: skip
        """`at`: told beside the value, where the time of the scrape is not exact enough."""
        family = self._families.setdefault(name, _Family(kind, text))
        inside = ",".join(f'{key}="{_escape(label)}"' for key, label in labels.items())
        tags = f"{{{inside}}}" if inside else ""
        time = "" if at is None else f" {round(at * 1000)}"
        family.lines.append(f"{name}{suffix}{tags} {value:.10g}{time}")

    def histogram(
        self, name: str, text: str, labels: Mapping[str, str], bounds: tuple[float, ...], count: int, median: float
    ) -> None:
        """A log-normal sample of `count` observations around `median`."""
        mean = median * math.exp(0.5 * 0.6**2)
        for bound in bounds:
            below = int(count * 0.5 * (1 + math.erf(math.log(bound / median) / (0.6 * math.sqrt(2)))))
            self.add(name, "histogram", text, {**labels, "le": f"{bound:g}"}, below, "_bucket")
        self.add(name, "histogram", text, {**labels, "le": "+Inf"}, count, "_bucket")
        self.add(name, "histogram", text, labels, count * mean, "_sum")
        self.add(name, "histogram", text, labels, count, "_count")

    def render(self) -> str:
        parts = []
        for name, family in self._families.items():
            parts.append(f"# HELP {name} {family.text}\n# TYPE {name} {family.kind}\n" + "\n".join(family.lines) + "\n")
        return "".join(parts)


def render(
    nodes: Iterable[RawObject], pods: Iterable[RawObject], now: Instant, seed: int, dcgm: Spelling = "4.8",
    xids: Mapping[str, int] = NO_XIDS, *, answers: Callable[[RawObject], bool] = lambda pod: False,
    more: Callable[[Page], None] = lambda page: None,
) -> str:  # fmt: skip
    """The whole page of one cluster; its GPUs in the words of that dcgm-exporter. `xids`: by node, the last error of
    its first GPU. `answers`: pods that have clients of their own, and tell of them by `more`."""
    page = Page()
    known = sorted(nodes, key=lambda node: str(node["metadata"]["name"]))
    listed = sorted(pods, key=lambda pod: (str(pod["metadata"].get("namespace")), str(pod["metadata"]["name"])))
    running: dict[str, list[RawObject]] = {}
    for pod in listed:
        if phase(pod) == "Running" and pod["spec"].get("nodeName"):
            running.setdefault(str(pod["spec"]["nodeName"]), []).append(pod)
    for node in known:
        if condition_true(node, "Ready"):
            here = running.get(str(node["metadata"]["name"]), [])
            _gpus(page, node, here, now, seed, dcgm, xids.get(str(node["metadata"]["name"]), 0))
            _machine(page, node, here, now, seed)
        _kube_node(page, node)
    for pod in listed:
        _kube_pod(page, pod)
        owner = controller_of(pod)
        serves = owner is not None and owner.get("kind") == "ReplicaSet" and condition_true(pod, "Ready")
        if serves and not answers(pod):
            _vllm(page, pod, now, seed)
        _steps(page, pod, now)
    more(page)
    return page.render()


def _gpus(
    page: Page, node: RawObject, pods: list[RawObject], now: Instant, seed: int, dcgm: Spelling, xid: int
) -> None:
    labels = node["metadata"].get("labels") or {}
    name, model = str(node["metadata"]["name"]), str(labels.get("nvidia.com/gpu.product", ""))
    memory_mib = float(labels.get("nvidia.com/gpu.memory", 0) or 0)
    idle_watts, full_watts = _POWER_WATTS.get(model, (55.0, 400.0))
    holders = [pod for pod in pods for _ in range(_gpu_count(pod))]
    born = node["metadata"].get("creationTimestamp")
    age = max(0.0, now - parse_time(str(born))) if born else 0.0
    for number in range(int((node.get("status") or {}).get("allocatable", {}).get("nvidia.com/gpu", 0))):
        pod = holders[number] if number < len(holders) else None
        key = f"{seed}/{name}/{number}"
        busy = 0.0 if pod is None else wave(f"{key}/{pod['metadata']['uid']}", now, 0.72, 0.99)
        used = 5.0 if pod is None else memory_mib * wave(f"{key}/memory/{pod['metadata']['uid']}", 0.0, 0.55, 0.92)
        tags = {
            "gpu": str(number),
            "UUID": f"GPU-{_uuid(key)}",
            "device": f"nvidia{number}",
            "modelName": model,
            HOST_LABEL[dcgm]: name,
            "container": "" if pod is None else str(pod["spec"]["containers"][0].get("name", "")),
            "namespace": "" if pod is None else str(pod["metadata"].get("namespace", "")),
            "pod": "" if pod is None else str(pod["metadata"]["name"]),
        }
        state = Gpu(
            sm_mhz=210.0 if pod is None else 1410.0,
            memory_mhz=1215.0 if pod is None else 1593.0,
            celsius=31.0 + 38.0 * busy + 2 * wave(key, now, 0, 1),
            memory_celsius=34.0 + 45.0 * busy,
            watts=idle_watts + (full_watts - idle_watts) * busy,
            millijoules=1000.0 * idle_watts * age,
            busy=busy,
            used_mib=round(used),
            free_mib=memory_mib - round(used),
            xid=float(xid) if number == 0 else 0.0,
            nvlink_mb_per_second=0.0 if pod is None or len(holders) < 2 else 120_000.0,
        )
        for family in given(state, dcgm):
            page.add(family.name, family.kind, family.text, tags, family.value)


def _machine(page: Page, node: RawObject, pods: list[RawObject], now: Instant, seed: int) -> None:
    name = str(node["metadata"]["name"])
    has = resources((node.get("status") or {}).get("allocatable") or {})
    asked = [_requests(pod) for pod in pods]
    load = sum(amount.cpu_milli for amount in asked) / 1000 * wave(f"{seed}/{name}/load", now, 0.6, 1.05)
    used = sum(amount.memory_bytes for amount in asked) * wave(f"{seed}/{name}/memory", now, 0.5, 0.9) + 2**31
    tags = {"instance": name}
    page.add("node_load1", "gauge", "1m load average.", tags, load + wave(f"{seed}/{name}/idle", now, 0.05, 0.4))
    total = float(has.memory_bytes)
    page.add("node_memory_MemTotal_bytes", "gauge", "Memory information field MemTotal_bytes.", tags, total)
    available = max(0.0, total - used)
    page.add("node_memory_MemAvailable_bytes", "gauge", "Memory information field MemAvailable_bytes.", tags, available)
    page.add("node_time_seconds", "gauge", "System time in seconds since epoch (1970).", tags, now)


def _kube_node(page: Page, node: RawObject) -> None:
    name = str(node["metadata"]["name"])
    ready = condition(node, "Ready")
    state = str(ready.get("status")) if ready else "Unknown"
    for status in ("true", "false", "unknown"):
        tags = {"node": name, "condition": "Ready", "status": status}
        text = "The condition of a cluster node."
        page.add("kube_node_status_condition", "gauge", text, tags, state.lower() == status)
    cordoned = bool((node.get("spec") or {}).get("unschedulable"))
    page.add("kube_node_spec_unschedulable", "gauge", "Whether a node can schedule new pods.", {"node": name}, cordoned)


def _kube_pod(page: Page, pod: RawObject) -> None:
    tags = {"namespace": str(pod["metadata"].get("namespace", "")), "pod": str(pod["metadata"]["name"])}
    now = phase(pod)
    for known in _PHASES:
        text = "The pods current phase."
        page.add("kube_pod_status_phase", "gauge", text, {**tags, "phase": known}, known == now)


def _steps(page: Page, pod: RawObject, now: Instant) -> None:
    speed = number_annotation(pod, STEPS_PER_SECOND)
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    started = next((((one.get("state") or {}).get("running") or {}).get("startedAt") for one in statuses), None)
    if speed is None or not started:
        return
    tags = {"namespace": str(pod["metadata"].get("namespace", "")), "pod": str(pod["metadata"]["name"])}
    done = int(speed * max(0.0, now - parse_time(str(started))))
    page.add("training_steps_total", "counter", "Steps done.", tags, done)


def _vllm(page: Page, pod: RawObject, now: Instant, seed: int) -> None:
    metadata = pod["metadata"]
    key = f"{seed}/{metadata['uid']}"
    labels = metadata.get("labels") or {}
    tags = {
        "model_name": str(labels.get("app", "model")),
        "namespace": str(metadata.get("namespace", "")),
        "pod": str(metadata["name"]),
    }
    ready = condition(pod, "Ready") or {}
    age = max(0.0, now - parse_time(str(ready["lastTransitionTime"]))) if ready.get("lastTransitionTime") else 0.0
    load = wave(f"{key}/load", now, 0.1, 0.95)
    requests = int(age * wave(f"{key}/rate", 0.0, 1.0, 6.0))
    median = wave(f"{key}/first-token", 0.0, 0.06, 0.3)
    for name, text, value in (
        ("vllm:num_requests_running", "Number of requests in model execution batches.", round(64 * load)),
        ("vllm:num_requests_waiting", "Number of requests waiting to be processed.", round(max(0, load - 0.8) * 60)),
        ("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", load),
    ):
        page.add(name, "gauge", text, tags, value)
    for name, text, each in (
        ("vllm:prompt_tokens_total", "Number of prefill tokens processed.", 512),
        ("vllm:generation_tokens_total", "Number of generation tokens processed.", 180),
    ):
        page.add(name, "counter", text, tags, requests * each)
    for name, text, bounds, count, middle in (
        ("vllm:time_to_first_token_seconds", "Time to first token.", _TTFT_BOUNDS, requests, median),
        ("vllm:time_per_output_token_seconds", "Time per output token.", _TPOT_BOUNDS, requests * 180, median / 6),
        ("vllm:e2e_request_latency_seconds", "End to end latency.", _E2E_BOUNDS, requests, median * 31),
    ):
        page.histogram(name, text, tags, bounds, count, middle)


def wave(key: str, now: Instant, low: float, high: float) -> float:
    """A value between `low` and `high` that moves smoothly with time, and differently for each key."""
    slow, fast, first, second = _shape(key)
    swing = 0.7 * math.sin(now / slow + first) + 0.3 * math.sin(now / fast + second)
    return low + (high - low) * (swing + 1) / 2


@lru_cache(maxsize=16384)
def _shape(key: str) -> tuple[float, float, float, float]:
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    parts = [int.from_bytes(digest[i : i + 4], "big") / 2**32 for i in range(0, 16, 4)]
    return 300 + 1500 * parts[0], 20 + 60 * parts[1], math.tau * parts[2], math.tau * parts[3]


def _uuid(key: str) -> str:
    digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:]))


def _gpu_count(pod: RawObject) -> int:
    return _requests(pod).gpus


def _requests(pod: RawObject) -> Resources:
    try:
        return pod_requests(pod["spec"])
    except InvalidObjectError:
        return Resources()


def _escape(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
