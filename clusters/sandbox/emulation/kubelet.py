"""The emulated kubelets of one cluster: pods that are bound to a node start, run and end there, on virtual time.

What a pod does is in its annotations (`sandbox.overspill.dev/run-seconds`, `exit-code`, `startup-seconds`); a Job's pod
that says nothing runs 600 s, any other for ever. With `checkpoint-seconds` a Job's pod that is told to go has saved its
work up to the last checkpoint, and the next one goes on from there. A status is written with the virtual times at which
things happened, even when it is written later; states that follow on each other before the write are written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.objects import (
    CHECKPOINT_SECONDS,
    EXIT_CODE,
    RUN_SECONDS,
    STARTUP_SECONDS,
    condition,
    controller_of,
    format_time,
    is_deleting,
    is_terminal,
    key_of,
    number_annotation,
    parse_time,
    phase,
    split_key,
)
from clusters.sandbox.emulation.timers import Timer, Timers
from clusters.sandbox.emulation.work import WorkQueue
from scheduler.model.contract import PODS
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock, KubeApi, RawObject

_JOB_RUN_SECONDS: Final = 600.0
_SLOW_START_SECONDS: Final = 3.0
"""A start that takes longer than this is shown as ContainerCreating first."""
_LONGEST_GRACE_SECONDS: Final = 2.0
"""Containers of the emulation end this soon after they are told to."""
_FIRST_RESTART_SECONDS: Final = 10.0
_LAST_RESTART_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long things take on a node, in virtual seconds."""

    image_pull_seconds: float = 20.0
    """First time an image comes to a node."""
    startup_seconds: float = 2.0


@dataclass(slots=True, eq=False)
class _Run:
    """One pod on its node. `state`: starting, running, waiting (to be restarted) or ended."""

    key: str
    uid: str
    node: str
    number: int
    bound_at: Instant
    state: str = "starting"
    timer: Timer | None = None
    started_at: Instant | None = None
    begun_seconds: float = 0.0
    """Of its work, what earlier pods had saved."""
    ended_at: Instant | None = None
    exit_code: int = 0
    restarts: int = 0
    reason: str = ""
    message: str = ""
    stopping: bool = False
    gone: bool = False
    """Its grace period is over: the API object is to be removed."""
    dirty: bool = False


class Kubelets:
    """All nodes' kubelets of one cluster."""

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        timers: Timers,
        pods: Informer,
        nodes: Informer,
        *,
        pace: Pace | None = None,
        workers: int = 8,
    ) -> None:
        self._api = api
        self._clock = clock
        self._timers = timers
        self._pods = pods
        self._nodes = nodes
        self._pace = pace or Pace()
        self._runs: dict[str, _Run] = {}
        self._by_node: dict[str, dict[str, _Run]] = {}
        self._images: dict[str, set[str]] = {}
        self._saved: dict[str, float] = {}
        """By the Job's UID, seconds of work that its checkpoint holds."""
        self._silent: dict[str, set[str]] = {}
        self._dead: set[str] = set()
        self._count = 0
        self.queue = WorkQueue("kubelet", self._write, workers=workers)
        pods.handle(self._on_pod)
        nodes.handle(self._on_node)

    # Faults and machines

    def silence(self, node: str) -> None:
        """The node's kubelet stops talking to the API; its containers go on."""
        self._silent.setdefault(node, set())

    def restore(self, node: str) -> None:
        """The kubelet talks again and reports what happened meanwhile."""
        if node in self._dead:
            self._dead.discard(node)
            for run in tuple(self._by_node.get(node, {}).values()):
                if run.state != "ended":  # it lost power: nothing survived that
                    self._end(run, self._clock.now(), 137, "Error", "")
        for key in sorted(self._silent.pop(node, ())):
            self.queue.add(key)
        for pod in self._pods.objects.values():  # bound, or told to stop, while nobody listened
            if pod["spec"].get("nodeName") == node:
                self._on_pod("MODIFIED", None, pod)

    def kill(self, node: str) -> None:
        """The machine is gone for good, or lost power: its containers end unreported."""
        self._dead.add(node)
        for run in self._by_node.get(node, {}).values():
            _cancel(run)
        self._images.pop(node, None)

    def shut_down(self, node: str, at: Instant) -> None:
        """The machine is being stopped: its containers end and the kubelet still reports that."""
        for run in tuple(self._by_node.get(node, {}).values()):
            if run.state != "ended":
                self._end(run, at, 143, "Terminated", "Pod was terminated in response to imminent node shutdown.")

    def active(self, node: str) -> int:
        """How many pods of the node have not ended."""
        return sum(run.state != "ended" for run in self._by_node.get(node, {}).values())

    # What the cluster tells

    def _on_node(self, kind: str, old: RawObject | None, node: RawObject) -> None:
        name = str(node["metadata"]["name"])
        if kind == "DELETED":
            self.kill(name)
            self._silent.pop(name, None)
        elif kind == "ADDED":
            self._dead.discard(name)
            for pod in self._pods.objects.values():
                if pod["spec"].get("nodeName") == name:
                    self._on_pod("ADDED", None, pod)

    def _on_pod(self, kind: str, old: RawObject | None, pod: RawObject) -> None:
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName")
        if kind == "DELETED":
            if (run := self._runs.pop(uid, None)) is not None:
                _cancel(run)
                run.state = "ended"
                self._by_node.get(run.node, {}).pop(uid, None)
            return
        if not node or node in self._dead or node not in self._nodes.objects:
            return
        run = self._runs.get(uid)
        if run is None:
            if is_terminal(pod) and not is_deleting(pod):
                return
            run = self._adopt(pod, node)
        if is_deleting(pod) and not run.stopping and node not in self._silent:
            self._stop(run, pod)

    def _adopt(self, pod: RawObject, node: str) -> _Run:
        self._count += 1
        now = self._clock.now()
        begun = (pod.get("status") or {}).get("startTime")  # set when an earlier run of this emulation took it on
        run = _Run(key_of(pod), pod["metadata"]["uid"], node, self._count, parse_time(begun) if begun else now)
        self._runs[run.uid] = run
        self._by_node.setdefault(node, {})[run.uid] = run
        status = list((pod.get("status") or {}).get("containerStatuses") or ())
        running = (status[0].get("state") or {}).get("running") if status else None
        if is_terminal(pod):
            run.state = "ended"
        elif phase(pod) == "Running" and running and running.get("startedAt"):
            # Started by an earlier run of this emulation: go on where it stood.
            run.restarts = int(status[0].get("restartCount") or 0)
            self._start(run, pod, parse_time(running["startedAt"]), write=False)
        else:
            self._begin(run, pod, now)
        return run

    # A pod's life

    def _begin(self, run: _Run, pod: RawObject, now: Instant) -> None:
        startup = number_annotation(pod, STARTUP_SECONDS)
        delay = self._pace.startup_seconds if startup is None else startup
        have = self._images.setdefault(run.node, set())
        missing = {str(c.get("image")) for c in pod["spec"].get("containers") or ()} - have
        if missing:
            delay += self._pace.image_pull_seconds
        due = now + delay
        if delay > _SLOW_START_SECONDS:
            self._changed(run)

        def ready(at: Instant) -> None:
            have.update(missing)
            self._start(run, pod, at)

        run.timer = self._timers.at(due, ready)

    def _start(self, run: _Run, pod: RawObject, at: Instant, *, write: bool = True) -> None:
        run.state, run.started_at, run.ended_at = "running", at, None
        if write:
            self._changed(run)
        seconds = number_annotation(pod, RUN_SECONDS)
        owner = controller_of(pod)
        if seconds is None and owner is not None and owner.get("kind") == "Job":
            seconds = _JOB_RUN_SECONDS
        if seconds is not None and _saves(pod) and owner is not None:
            run.begun_seconds = min(self._saved.get(owner["uid"], 0.0), seconds)
            seconds -= run.begun_seconds
        if seconds is not None:
            code = int(number_annotation(pod, EXIT_CODE) or 0)
            run.timer = self._timers.at(at + seconds, lambda due: self._exit(run, pod, due, code))

    def _exit(self, run: _Run, pod: RawObject, at: Instant, code: int) -> None:
        policy = pod["spec"].get("restartPolicy", "Always")
        if policy == "Never" or (policy == "OnFailure" and code == 0):
            self._end(run, at, code, "Completed" if code == 0 else "Error", "")
            return
        run.state, run.ended_at, run.exit_code = "waiting", at, code
        run.restarts += 1
        pause = min(_LAST_RESTART_SECONDS, _FIRST_RESTART_SECONDS * 2.0 ** min(run.restarts - 1, 6))
        run.timer = self._timers.at(at + pause, lambda due: self._start(run, pod, due))
        self._changed(run)

    def _end(self, run: _Run, at: Instant, code: int, reason: str, message: str) -> None:
        _cancel(run)
        run.state, run.ended_at, run.exit_code = "ended", at, code
        run.reason, run.message = reason, message
        self._changed(run)

    def _stop(self, run: _Run, pod: RawObject) -> None:
        """Told to go: end after the grace period and then let the object be removed."""
        run.stopping = True
        _cancel(run)
        owner, every = controller_of(pod), _saves(pod)
        if every and owner is not None and run.state == "running" and run.started_at is not None:
            ran = self._clock.now() - run.started_at
            kept = run.begun_seconds + ran // every * every
            self._saved[owner["uid"]] = max(kept, self._saved.get(owner["uid"], 0.0))
        grace = float(pod["metadata"].get("deletionGracePeriodSeconds") or 0)

        def gone(_: Instant) -> None:
            run.gone = True
            self._changed(run)

        now = self._clock.now()
        run.timer = self._timers.at(now + min(grace, _LONGEST_GRACE_SECONDS), gone)

    # Reporting

    def _changed(self, run: _Run) -> None:
        run.dirty = True
        if run.node in self._silent:
            self._silent[run.node].add(run.uid)
        else:
            self.queue.add(run.uid)

    async def _write(self, uid: str) -> None:
        run = self._runs.get(uid)
        if run is None or not run.dirty or run.node in self._silent or run.node in self._dead:
            return
        namespace, name = split_key(run.key)
        if run.gone:
            await self._api.delete(PODS, namespace, name, uid=uid, grace_period_seconds=0)
            run.dirty = False
            return
        pod = self._pods.get(run.key)
        if pod is None or pod["metadata"]["uid"] != uid:
            return
        run.dirty = False
        try:
            body = {"metadata": {"uid": uid}, "status": _status(run, pod)}
            written = await self._api.patch(PODS, namespace, name, body, subresource="status")
        except BaseException:
            run.dirty = True
            raise
        self._pods.observe(written)


def _saves(pod: RawObject) -> float:
    """Seconds between its checkpoints; 0: it makes none."""
    return max(number_annotation(pod, CHECKPOINT_SECONDS) or 0.0, 0.0)


def _cancel(run: _Run) -> None:
    if run.timer is not None:
        run.timer.cancel()
        run.timer = None


def _status(run: _Run, pod: RawObject) -> dict[str, Any]:
    """The pod's status as its kubelet reports it (a merge patch: lists are whole)."""
    ready = run.state == "running"
    began = format_time(run.bound_at)
    phases = {"starting": "Pending", "running": "Running", "waiting": "Running"}
    pod_phase = phases.get(run.state) or ("Succeeded" if run.exit_code == 0 else "Failed")
    changed = format_time(run.ended_at or run.started_at or run.bound_at)
    status: dict[str, Any] = {
        "phase": pod_phase,
        "startTime": began,
        "hostIP": _address(f"{run.node}"),
        "conditions": _conditions(run, pod, ready=ready, began=began, changed=changed),
        "containerStatuses": [_container(run, c, ready) for c in pod["spec"].get("containers") or ()],
    }
    if run.started_at is not None:
        address = f"10.{64 + run.number // 65536 % 64}.{run.number // 256 % 256}.{run.number % 256}"
        status |= {"podIP": address, "podIPs": [{"ip": address}]}
    if run.reason == "Terminated":
        status |= {"reason": run.reason, "message": run.message}
    return status


def _conditions(run: _Run, pod: RawObject, *, ready: bool, began: str, changed: str) -> list[dict[str, Any]]:
    scheduled = condition(pod, "PodScheduled")
    bound = scheduled.get("lastTransitionTime", began) if scheduled and scheduled.get("status") == "True" else began
    why = (
        {"reason": "PodCompleted"} if run.state == "ended" and run.exit_code == 0 else {"reason": "ContainersNotReady"}
    )
    truth: Mapping[str, Any] = {"status": "True"} if ready else {"status": "False", **why}
    conditions = [
        {"type": "Initialized", "status": "True", "lastTransitionTime": began},
        {"type": "Ready", **truth, "lastTransitionTime": changed},
        {"type": "ContainersReady", **truth, "lastTransitionTime": changed},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": bound},
    ]
    if run.reason == "Terminated":
        disrupted = {"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}
        conditions.append({**disrupted, "message": run.message, "lastTransitionTime": changed})
    return conditions


def _container(run: _Run, container: Mapping[str, Any], ready: bool) -> dict[str, Any]:
    begun = format_time(run.started_at) if run.started_at is not None else None
    ended = format_time(run.ended_at) if run.ended_at is not None else None
    terminated = {
        "exitCode": run.exit_code,
        "reason": "Completed" if run.exit_code == 0 else "Error",
        "startedAt": begun or ended,
        "finishedAt": ended,
    }
    state: dict[str, Any]
    match run.state:
        case "starting":
            state = {"waiting": {"reason": "ContainerCreating"}}
        case "running":
            state = {"running": {"startedAt": begun}}
        case "waiting":
            state = {"waiting": {"reason": "CrashLoopBackOff" if run.exit_code else "Completed"}}
        case _:
            state = {"terminated": terminated}
    status: dict[str, Any] = {
        "name": container.get("name"),
        "image": container.get("image"),
        "imageID": f"sandbox://{container.get('image')}",
        "ready": ready,
        "started": ready,
        "restartCount": run.restarts,
        "state": state,
    }
    if run.state == "waiting":
        status["lastState"] = {"terminated": terminated}
    return status


def _address(node: str) -> str:
    """A stable private address for a node name."""
    number = sum((position + 1) * byte for position, byte in enumerate(node.encode()))
    return f"10.0.{number // 250 % 250}.{number % 250 + 1}"
