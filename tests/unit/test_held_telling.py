"""How often a workload that is held is told why: another reason soon, other words now and then, the last always."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusters.kinds.job import Job
from scheduler.daemon.placing.reconciler import Reconciler
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.contract import CONDITION_PLACED
from scheduler.model.ids import DecisionId, Uid
from scheduler.model.plan import Decision
from scheduler.model.ports import KubeApi, RawObject, Resource
from scheduler.model.verdict import Reason
from tests.builders.apiserver import StillClock
from tests.loop.harness import a_job

UID = Uid("u-1")


@dataclass
class Hub:
    """Of the hub's API what is asked here: a status is patched, and the object with its next version comes back."""

    job: dict[str, Any]
    told: list[tuple[str, str]] = field(default_factory=list)

    async def patch(
        self, _resource: Resource, _namespace: str, _name: str, body: RawObject, *, subresource: str = ""
    ) -> RawObject:
        assert subresource == "status"
        version = str(int(self.job["metadata"]["resourceVersion"]) + 1)
        metadata = {**self.job["metadata"], "resourceVersion": version}
        self.job = {**self.job, "metadata": metadata, "status": body["status"]}
        placed = next(one for one in body["status"]["conditions"] if one["type"] == CONDITION_PLACED)
        self.told.append((placed["reason"], placed["message"]))
        return self.job


class Told:
    """A reconciler over one queued Job, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        job = a_job("one", gpus=1, seconds=1)
        job["metadata"] |= {
            "namespace": "default", "uid": UID, "resourceVersion": "1", "creationTimestamp": "2026-01-31T12:00:00Z",
        }  # fmt: skip
        federation = SimpleNamespace(members=(), hub=SimpleNamespace(name="hub"), dependents=frozenset())
        clock, telemetry = StillClock(), Telemetry()
        self.hub = Hub(job)
        self.mirror = Mirror(cast("Any", federation), {"job": Job()}, cast("Any", clock), telemetry)
        self.mirror.apply_hub(Job(), job)
        self.events: list[str] = []
        self.reconciler = Reconciler(
            self.mirror, cast("KubeApi", self.hub), {}, cast("Any", clock), telemetry,
            fence=lambda: None, is_lost=lambda workload, cluster: False,
            emit=lambda workload, reason, message: self.events.append(f"{reason}: {message}"),
        )  # fmt: skip
        self.now = 100.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)

    async def held(self, reason: str, sentence: str) -> None:
        workload = self.mirror.hub[UID].workload
        made = Decision(
            DecisionId("d"), 0.0, workload.ref, workload.queue, "held", Reason(reason, ""), sentence, "p", "digest"
        )
        self.reconciler.tell(made)
        await self.reconciler.reconcile(UID)

    async def after(self, seconds: float) -> None:
        self.now += seconds
        await self.reconciler.reconcile(UID)


async def test_new_words_for_the_same_reason_are_gathered_and_the_last_of_them_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = Told(monkeypatch)
    await told.held("QuotaExceeded", "12 before it")
    assert told.hub.told == []
    await told.after(1.0)
    assert told.hub.told == [("QuotaExceeded", "12 before it")]
    for left in range(11, 0, -1):
        await told.held("QuotaExceeded", f"{left} before it")
        await told.after(0.25)
    assert told.hub.told == [("QuotaExceeded", "12 before it")]
    await told.after(0.25)
    assert told.hub.told[1:] == [("QuotaExceeded", "1 before it")]
    await told.after(10.0)
    assert len(told.hub.told) == 2
    assert told.events == ["QuotaExceeded: 12 before it"]
    told.reconciler.keys.close()


async def test_another_reason_is_told_soon_whatever_is_being_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)
    await told.held("QuotaExceeded", "12 before it")
    await told.after(1.0)
    await told.held("QuotaExceeded", "11 before it")
    await told.after(0.5)
    await told.held("OverBudget", "no money")
    await told.after(1.0)
    assert told.hub.told[1:] == [("OverBudget", "no money")]
    assert told.events == ["QuotaExceeded: 12 before it", "OverBudget: no money"]
    told.reconciler.keys.close()


async def test_one_held_for_another_reason_each_moment_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)
    for number in range(8):
        await told.held("OverBudget" if number % 2 else "QuotaExceeded", str(number))
        await told.after(0.25)
    assert told.hub.told == [("OverBudget", "3"), ("OverBudget", "7")]
    told.reconciler.keys.close()
