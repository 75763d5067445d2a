"""Whatever happens to a Job's copies, the hub's API server takes every status that is mirrored back, and it settles.

Two emulated API servers, as strict as the real one about Jobs: copies progress, end, get lost and are made anew, the
user suspends and resumes, in any order. No mirrored status may be refused, and a second look must change nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from clusters.kinds.job import KIND
from clusters.kubernetes.codec import format_time
from clusters.sandbox.apiserver.local import LocalApi
from clusters.sandbox.apiserver.registry import Registry
from clusters.sandbox.apiserver.store import Store
from scheduler.model.contract import JOBS, MANAGED_BY, NAMESPACES
from scheduler.model.errors import RefusedError
from scheduler.model.ids import ClusterId, PoolId
from scheduler.model.ports import MemberFacts
from scheduler.model.workload import Placement, PlacementState

MEMBER = MemberFacts(ClusterId("m"), "hub", (("pool", "p"),))


class Ticking:
    """A clock that a rule moves."""

    def __init__(self) -> None:
        self.time = 1_767_225_600.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class MirroredJob(RuleBasedStateMachine):
    @initialize(
        indexed=st.booleans(), parallelism=st.integers(1, 3), completions=st.integers(1, 4), elastic=st.booleans()
    )
    def submit(self, indexed: bool, parallelism: int, completions: int, elastic: bool) -> None:
        self.runner = asyncio.Runner()
        self.clock = Ticking()
        self.hub, self.member = (LocalApi(Registry(Store(), self.clock)) for _ in range(2))
        for api in (self.hub, self.member):
            self.run(api.create(NAMESPACES, "", {"metadata": {"name": "n"}}))
        spec: dict[str, Any] = {
            "managedBy": MANAGED_BY,
            "parallelism": completions if elastic else parallelism,
            "completions": completions,
            "completionMode": "Indexed" if indexed else "NonIndexed",
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
        }
        meta = {"name": "j", "labels": {"overspill.dev/queue": "q"}}
        self.run(self.hub.create(JOBS, "n", {"metadata": meta, "spec": spec}))
        self.attempt = 0
        self.copy = ""

    def run(self, call: Any) -> Any:
        return self.runner.run(call)

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.close()

    def hub_job(self) -> Any:
        return self.run(self.hub.get(JOBS, "n", "j"))

    def copied(self) -> Any:
        return None if not self.copy else self.run(self.member.get(JOBS, "n", self.copy))

    def settle(self) -> None:
        """Mirror; the hub must take it, and nothing is left to say."""
        patch = KIND.mirror_status(self.hub_job(), self.copied())
        if patch is not None:
            self.run(self.hub.patch(JOBS, "n", "j", patch, subresource="status"))
        assert KIND.mirror_status(self.hub_job(), self.copied()) is None

    def advance(self, **changes: Any) -> None:
        """What the member's controller writes; what the member refuses did not happen."""
        status = dict(self.copied().get("status") or {})
        status.update(changes)
        try:
            self.run(self.member.patch(JOBS, "n", self.copy, {"status": status}, subresource="status"))
        except RefusedError:
            return
        self.settle()

    @rule(seconds=st.integers(1, 100))
    def pass_time(self, seconds: int) -> None:
        self.clock.time += seconds

    def place(self) -> None:
        self.attempt += 1
        hub = self.hub_job()
        placement = Placement(
            ClusterId("m"), PoolId("p"), "owned", False, PlacementState.STARTED, self.attempt, self.clock.now(), "d"
        )
        made = self.run(self.member.create(JOBS, "n", KIND.make_copy(hub, KIND.parse(hub), placement, MEMBER)))
        self.copy = made["metadata"]["name"]
        assert KIND.parse_copy(made, ClusterId("m")).attempt == self.attempt
        assert KIND.refresh_copy(hub, KIND.parse(hub), placement, MEMBER, made) is None
        self.settle()

    @precondition(lambda self: bool(self.copy))
    @rule()
    def lose(self) -> None:
        self.run(self.member.delete(JOBS, "n", self.copy, propagation="Background"))
        self.copy = ""
        self.settle()

    @rule(steps=st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=3), lost=st.booleans())
    def work(self, steps: list[tuple[int, int, int, int]], lost: bool) -> None:
        """A stretch of work on a copy, made if there is none, lost at its end or not."""
        if not self.copy and not KIND.parse(self.hub_job()).finished:
            self.place()
        job = self.copied()
        if job is None or job["spec"].get("suspend") or KIND.parse_copy(job, ClusterId("m")).finished:
            return
        indexed = job["spec"].get("completionMode") == "Indexed"
        for active, ready, succeeded, failed in steps:
            done = min(succeeded, job["spec"]["completions"])
            indexes = {"completedIndexes": ",".join(str(index) for index in range(min(done, 2)))} if indexed else {}
            before = self.copied().get("status") or {}
            self.advance(
                startTime=before.get("startTime") or format_time(self.clock.now()),
                active=active,
                ready=min(active, ready),
                succeeded=max(done, before.get("succeeded") or 0),
                failed=max(failed, before.get("failed") or 0),
                **indexes,
            )
        if lost:
            self.lose()

    @precondition(lambda self: bool(self.copy))
    @rule(failing=st.booleans())
    def nearly_end(self, failing: bool) -> None:
        kind = "FailureTarget" if failing else "SuccessCriteriaMet"
        self.advance(conditions=[{"type": kind, "status": "True", "reason": "R", "message": "m"}])

    @precondition(lambda self: bool(self.copy))
    @rule(failing=st.booleans())
    def end(self, failing: bool) -> None:
        criterion, kind = ("FailureTarget", "Failed") if failing else ("SuccessCriteriaMet", "Complete")
        now = format_time(self.clock.now())
        started = (self.copied().get("status") or {}).get("startTime") or now
        conditions = [
            {"type": one, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": now}
            for one in (criterion, kind)
        ]
        done = {} if failing else {"completionTime": now}
        self.advance(conditions=conditions, active=0, ready=0, startTime=started, **done)

    @rule(suspend=st.booleans(), prompt=st.booleans())
    def suspend(self, suspend: bool, prompt: bool) -> None:
        self.run(self.hub.patch(JOBS, "n", "j", {"spec": {"suspend": suspend}}))
        self.settle()
        made = self.copied()
        if made is None:
            return
        patch = KIND.suspend_patch(made, suspend=suspend)
        if patch is None or not prompt:
            return
        self.run(self.member.patch(JOBS, "n", self.copy, patch))
        state = {"type": "Suspended", "status": str(suspend), "reason": "R", "message": "m"}
        started = None if suspend else format_time(self.clock.now())
        self.advance(conditions=[state], active=0, ready=0, startTime=started)
        self.settle()

    @rule(placed=st.booleans(), reason=st.sampled_from(["Placed", "Held"]))
    def tell(self, placed: bool, reason: str) -> None:
        patch = KIND.condition_patch(self.hub_job(), reason=reason, message="m", placed=placed, now=self.clock.now())
        if patch is not None:
            self.run(self.hub.patch(JOBS, "n", "j", patch, subresource="status"))
        assert KIND.parse(self.hub_job()).condition == (reason, "m")
        self.settle()


MirroredJob.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestMirroredJob = MirroredJob.TestCase
