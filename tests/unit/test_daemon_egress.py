"""The daemon charges for data that is brought: once for each attempt, over restarts too."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clusters.kubernetes.codec import PodFacts
from scheduler.daemon.history.store import History
from scheduler.daemon.money.ledger import Ledger
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.cluster import Route
from scheduler.model.ids import ClusterId, NodeName
from scheduler.model.snapshot import SpendBucket
from scheduler.model.workload import DataSet, Hints, Workload
from tests.unit.engine_world import NOW, amount, placement, workload

EKS, GKE = ClusterId("eks"), ClusterId("gke")
HOUR = NOW - NOW % 3600
DATA = (DataSet(GKE, 3 * 2**30),)


class Clock:
    def now(self) -> float:
        return NOW

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody waits here")


class World:
    """A mirror with one workload, and a history in a file."""

    def __init__(self, url: str, one: Workload, usd_per_gib: Decimal | None) -> None:
        self.url, self.one = url, one
        self.members = {EKS: SimpleNamespace(routes=(Route(GKE, usd_per_gib, None),), pools=tuple)}

    @asynccontextmanager
    async def ledger(self) -> AsyncIterator[Ledger]:
        """As the daemon makes it at its start; what it wrote is there when it has ended."""
        history = await History.open(self.url, Telemetry())
        mirror: Any = SimpleNamespace(members=self.members, workload=lambda uid: self.one, hub={})
        ledger = Ledger(mirror, history, Clock())
        await ledger.load()
        yield ledger
        await history.close()


def world(folder: Path, usd_per_gib: Decimal | None = Decimal("0.01"), **changes: Any) -> World:
    where = placement("eks", "b", bought=True, capacity_type="on-demand", attempt=7)
    one = replace(workload("w", hints=Hints(data=DATA), placement=where), **changes)
    return World(f"sqlite+aiosqlite:///{folder}/history.db", one, usd_per_gib)


def pod(name: str, of: Workload) -> PodFacts:
    return PodFacts(
        "default", name, f"uid-{name}", NodeName("n"), amount(1, 1, 1, 1), False, of.ref.uid, False, NOW, False, 0
    )


def spent(usd: str) -> tuple[SpendBucket, ...]:
    return (SpendBucket(HOUR, EKS, "on-demand", workload("w").queue, Decimal(usd)),)


async def test_it_is_charged_once_for_all_pods_of_an_attempt(tmp_path: Path) -> None:
    there = world(tmp_path)
    async with there.ledger() as ledger:
        for name in ("a", "b"):
            ledger.pod_moved(EKS, pod(name, there.one), "", bound=True)
        ledger.pod_moved(EKS, pod("a", there.one), "", bound=False)
        assert ledger.buckets() == spent("0.03")


async def test_another_attempt_brings_it_again(tmp_path: Path) -> None:
    there = world(tmp_path)
    async with there.ledger() as ledger:
        ledger.pod_moved(EKS, pod("a", there.one), "", bound=True)
        assert there.one.placement is not None
        there.one = replace(there.one, placement=replace(there.one.placement, attempt=8))
        ledger.pod_moved(EKS, pod("b", there.one), "", bound=True)
        assert ledger.buckets() == spent("0.06")


async def test_a_restart_neither_forgets_it_nor_charges_it_twice(tmp_path: Path) -> None:
    there = world(tmp_path)
    async with there.ledger() as ledger:
        ledger.pod_moved(EKS, pod("a", there.one), "", bound=True)
    async with there.ledger() as ledger:
        assert ledger.buckets() == spent("0.03")
        ledger.pod_moved(EKS, pod("a", there.one), "", bound=True)
        assert ledger.buckets() == spent("0.03")


async def test_what_nobody_knows_the_price_of_is_counted_not_charged(tmp_path: Path) -> None:
    there = world(tmp_path, usd_per_gib=None)
    async with there.ledger() as ledger:
        ledger.pod_moved(EKS, pod("a", there.one), "", bound=True)
        assert (ledger.buckets(), ledger.unpriced_transfers) == ((), 1)
    async with there.ledger() as ledger:
        assert ledger.unpriced_transfers == 1


@pytest.mark.parametrize(
    "changes",
    [{"hints": Hints()}, {"hints": Hints(data=(DataSet(EKS, 2**30),))}, {"placement": None},
     {"placement": placement("gke", "t")}],
    ids=["no data", "it lies there", "not placed", "placed elsewhere by now"],
)  # fmt: skip
async def test_nothing_is_charged_for(tmp_path: Path, changes: dict[str, Any]) -> None:
    there = world(tmp_path, **changes)
    async with there.ledger() as ledger:
        ledger.pod_moved(EKS, pod("a", there.one), "", bound=True)
        assert (ledger.buckets(), ledger.unpriced_transfers) == ((), 0)
