"""What the daemon knows of workloads beside the snapshot and the readings: whose a pod is, when a service was rolled
out, and what is forecast (`forecasts`)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from scheduler.aiops.workload_rows import PodKey, PodPlace, WorkloadFacts
from scheduler.daemon.config.live_policies import LivePolicies
from scheduler.daemon.incidents.forecasts import forecasts
from scheduler.daemon.state.mirror import Mirror
from scheduler.model.ids import Instant
from scheduler.model.ports import Predictor
from scheduler.model.snapshot import Snapshot

_MOST_ROLLOUTS: Final = 20_000
Digests = dict[str, tuple[int, Instant | None]]
"""By UID: of the pod template, and when it changed to that; None: it has been so ever since it was first seen."""


class Facts:
    """Belongs to the event loop. `queue_wait_objective_seconds`: of queues that name none; None: there is none."""

    def __init__(
        self, mirror: Mirror, policies: LivePolicies, predictor: Callable[[], Predictor],
        queue_wait_objective_seconds: float | None,
    ) -> None:  # fmt: skip
        self._mirror = mirror
        self._policies = policies
        self._predictor = predictor
        self._objective = queue_wait_objective_seconds
        self._rollouts: Digests = {}

    def gather(self, snapshot: Snapshot) -> Callable[[], WorkloadFacts]:
        """What is left to reckon, on frozen values: that may take its time in a thread."""
        pods: dict[PodKey, PodPlace] = {
            (cluster, pod.namespace, pod.name): PodPlace(pod.origin_uid, pod.node or "")
            for cluster, member in self._mirror.members.items()
            for pod in member.pods.values()
            if pod.origin_uid is not None and not pod.terminal
        }
        self._look_for_rollouts(snapshot.now)
        rolled_out = {uid: at for uid, (_, at) in self._rollouts.items() if at is not None}
        policies, predictor = self._policies.current, self._predictor()
        return lambda: WorkloadFacts(pods, rolled_out, forecasts(snapshot, policies, predictor, self._objective))

    def _look_for_rollouts(self, now: Instant) -> None:
        """Of what runs for ever: its pods' template is another than before."""
        found: Digests = {}
        for uid, entry in self._mirror.hub.items():
            if not entry.workload.runs_forever or entry.workload.finished or len(found) >= _MOST_ROLLOUTS:
                continue
            digest, known = digest_of(entry.raw), self._rollouts.get(uid)
            found[uid] = known if known is not None and known[0] == digest else (digest, now if known else None)
        self._rollouts = found

    def kept(self) -> dict[str, Any]:
        """JSON values."""
        return {uid: list(told) for uid, told in self._rollouts.items()}

    def take_up(self, told: Any) -> None:
        """What `kept` gave before a restart; anything else is passed over."""
        pairs = told.items() if isinstance(told, dict) else ()
        for uid, value in list(pairs)[:_MOST_ROLLOUTS]:
            match value:
                case [int(digest), float() | int() | None as at]:
                    self._rollouts.setdefault(uid, (digest, at))


def digest_of(raw: Mapping[str, Any]) -> int:
    """Of the innermost template, which is that of the pods: how many there are is no rollout."""
    inner: Any = raw.get("spec")
    while isinstance(inner, Mapping):
        below = inner.get("template", inner.get("spec"))
        if not isinstance(below, Mapping):
            break
        inner = below
    return zlib.crc32(orjson.dumps(inner, option=orjson.OPT_SORT_KEYS))
