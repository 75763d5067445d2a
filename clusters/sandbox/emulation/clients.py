"""Where the sandbox's clients find replicas: routes of the hub, pods of the members; and the metrics that all tell."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import structlog

from clusters.sandbox.emulation.exporters import Page
from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.objects import condition, condition_true, key_of, parse_time
from clusters.sandbox.emulation.requests import BOUNDS, LOAD, Answering, ServiceLoad, read_plan
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock, RawObject

_log = structlog.get_logger(__name__)
_GPU_MODEL: Final = "nvidia.com/gpu.product"
SLOWER: Final = "sandbox.overspill.dev/slower"
"""On a pod: how much longer than others it takes for an answer, such as 1.3: a revision that is 30 % slower."""


class Clients:
    """All services under load. `routes`: the hub's HTTPRoutes; members are made known by `watch`."""

    def __init__(self, routes: Informer, clock: Clock) -> None:
        self._clock = clock
        self._loads: dict[str, ServiceLoad] = {}
        """By the route's namespace/name."""
        self._members: dict[str, tuple[Informer, Informer]] = {}
        routes.handle(self._on_route)

    def watch(self, cluster: str, pods: Informer, nodes: Informer) -> None:
        """A member whose pods may answer. The first one's page has the gateway's metrics, too."""
        self._members[cluster] = pods, nodes
        pods.handle(partial(self._on_pod, cluster))

    def answers(self, pod: RawObject) -> bool:
        """Whether the pod's requests are emulated here."""
        app = (pod["metadata"].get("labels") or {}).get("app")
        return any(load.plan.app == app for load in self._loads.values())

    def as_json(self) -> dict[str, Any]:
        """By route, minute by minute."""
        now = self._clock.now()
        for load in self._loads.values():
            load.advance(now)
        return {
            key: {
                "began": load.began,
                "slo_seconds": load.plan.slo_seconds,
                "minutes": [one.as_json() for one in load.minutes],
            }
            for key, load in self._loads.items()
        }

    # -- what happens ----------------------------------------------------------------------------------------------

    def _on_route(self, kind: str, old: RawObject | None, route: RawObject) -> None:
        key, text = key_of(route), (route["metadata"].get("annotations") or {}).get(LOAD)
        now = self._clock.now()
        if kind == "DELETED" or not text:
            self._loads.pop(key, None)
            return
        load = self._loads.get(key)
        if load is None:
            try:
                load = ServiceLoad(read_plan(text), now)
            except InvalidObjectError as error:
                _log.warning("no load", route=key, error=str(error))
                return
            self._loads[key] = load
            for cluster, (pods, _) in self._members.items():
                for pod in pods.objects.values():
                    self._take(load, cluster, pod)
        load.advance(now)
        refs = [ref for rule in route["spec"].get("rules") or () for ref in rule.get("backendRefs") or ()]
        load.weigh({str(ref["name"]): int(ref.get("weight", 1)) for ref in refs})

    def _on_pod(self, cluster: str, kind: str, old: RawObject | None, pod: RawObject) -> None:
        for load in self._loads.values():
            if (pod["metadata"].get("labels") or {}).get("app") == load.plan.app:
                load.advance(self._clock.now())
                if kind == "DELETED":
                    load.gone(cluster, str(pod["metadata"]["uid"]))
                else:
                    self._take(load, cluster, pod)

    def _take(self, load: ServiceLoad, cluster: str, pod: RawObject) -> None:
        """A pod that ends is no endpoint any more."""
        meta = pod["metadata"]
        if (meta.get("labels") or {}).get("app") != load.plan.app:
            return
        if not condition_true(pod, "Ready") or meta.get("deletionTimestamp"):
            load.gone(cluster, str(meta["uid"]))
            return
        since = (condition(pod, "Ready") or {}).get("lastTransitionTime")
        ready_at = parse_time(str(since)) if since else self._clock.now()
        speed = load.plan.speeds.get(self._model(cluster, pod), load.plan.speeds.get(""))
        if speed is not None:
            slower = _slower(pod)
            replica = Answering(str(meta["namespace"]), str(meta["name"]), speed / slower, ready_at, slower)
            load.ready(cluster, str(meta["uid"]), replica)

    def _model(self, cluster: str, pod: RawObject) -> str:
        node = self._members[cluster][1].get(str(pod["spec"].get("nodeName") or ""))
        return "" if node is None else str((node["metadata"].get("labels") or {}).get(_GPU_MODEL, ""))

    # -- metrics ---------------------------------------------------------------------------------------------------

    def tell(self, cluster: str, page: Page) -> None:
        """What replicas there say of themselves, in vLLM's words, and on the first member what the gateway counts.

        With its time: where time runs fast, that of the scrape is seconds off, and so would be all rates.
        """
        now = self._clock.now()
        for key, load in self._loads.items():
            load.advance(now)
            replicas = load.replicas(cluster)
            for one in replicas:
                _replica(page, load, one, load.waiting(cluster) / len(replicas), now)
            if cluster == next(iter(self._members), None):
                _gateway(page, key, load, now)


def _slower(pod: RawObject) -> float:
    """What its annotation says, from 0.1 to 10; 1 for anything else."""
    try:
        told = float((pod["metadata"].get("annotations") or {}).get(SLOWER, 1.0))
    except ValueError:
        return 1.0
    return told if 0.1 <= told <= 10.0 else 1.0


def _replica(page: Page, load: ServiceLoad, one: Answering, waiting: float, at: Instant) -> None:
    tags = {"model_name": load.plan.app, "namespace": one.namespace, "pod": one.name}
    name, text = "vllm:e2e_request_latency_seconds", "End to end latency."
    for bound, count in zip(BOUNDS, one.buckets, strict=True):
        page.add(name, "histogram", text, {**tags, "le": f"{bound:g}"}, count, "_bucket", at)
    page.add(name, "histogram", text, {**tags, "le": "+Inf"}, one.answered, "_bucket", at)
    page.add(name, "histogram", text, tags, one.latency_seconds, "_sum", at)
    page.add(name, "histogram", text, tags, one.answered, "_count", at)
    told = "Number of requests waiting to be processed."
    page.add("vllm:num_requests_waiting", "gauge", told, tags, round(waiting), at=at)


def _gateway(page: Page, key: str, load: ServiceLoad, at: Instant) -> None:
    namespace, _, name = key.partition("/")
    for region, count in load.asked.items():
        tags: Mapping[str, str] = {"backend_namespace": namespace, "backend": name, "client_region": region}
        page.add("overspill_client_requests_total", "counter", "Requests of clients.", tags, count, at=at)
