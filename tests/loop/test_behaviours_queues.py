"""Queues: quota, borrowing, priority, fair share; and gangs that start whole or not at all."""

from __future__ import annotations

from pathlib import Path

from scheduler.daemon.parts import Daemon
from scheduler.model.contract import ANNOTATION_PRIORITY, LABEL_ORIGIN_UID, PODS
from scheduler.model.ids import Uid
from tests.loop.harness import PodCounter, World, a_world, counting, tiny_scenario, until

HOUR = 3600.0


def _queue(name: str, *, weight: int = 1, nominal: int | None = None, cohort: str = "") -> str:
    cohort_line = f"\n  cohort: {cohort}" if cohort else ""
    quota = f"\n  quotas:\n    - resource: gpu\n      nominal: {nominal}" if nominal is not None else ""
    return f"""
apiVersion: overspill.dev/v1alpha1
kind: Queue
metadata:
  name: {name}
spec:
  weight: {weight}{cohort_line}{quota}
---"""


OWNED_ONLY = """
apiVersion: overspill.dev/v1alpha1
kind: PlacementPolicy
metadata:
  name: owned-only
spec:
  objective: onprem-first
  constraints:
    clusters: [onprem]
"""


async def _uids(world: World, *names: str) -> list[Uid]:
    return [Uid((await world.job(name) or {})["metadata"]["uid"]) for name in names]


async def _decision(daemon: Daemon, uid: Uid) -> tuple[str, str]:
    """(reason, sentence) of the first decision about a workload, once there is one."""
    decisions = await until(lambda: daemon.decisions.of(uid), "decided on")
    return decisions[-1]["reason"]["code"], decisions[-1]["sentence"]


def _started(daemon: Daemon, uid: Uid) -> bool:
    entry = daemon.mirror.hub.get(uid)
    return entry is not None and entry.workload.placement is not None


async def test_quota_holds_what_is_too_much_until_there_is_room_in_it(tmp_path: Path) -> None:
    policies = _queue("small", nominal=8) + OWNED_ONLY
    async with a_world(tmp_path, speed=1800.0, policies=policies) as world, world.daemon() as (daemon, _):
        await world.submit("one", gpus=8, seconds=HOUR, queue="small")
        [one] = await _uids(world, "one")
        await until(lambda: daemon.decisions.of(one), "the first is placed")
        await world.submit("two", gpus=8, seconds=HOUR, queue="small")
        [two] = await _uids(world, "two")
        reason, message = await _decision(daemon, two)
        assert reason == "QuotaExceeded"
        assert "queue small: gpu quota of 8" in message
        assert not await world.is_done("one")
        await until(lambda: world.all_done("one", "two"), "both end")


async def test_a_queue_borrows_what_its_cohort_does_not_use_and_no_more(tmp_path: Path) -> None:
    policies = _queue("a", nominal=8, cohort="c") + _queue("b", nominal=8, cohort="c") + OWNED_ONLY
    async with a_world(tmp_path, speed=1800.0, policies=policies) as world, world.daemon() as (daemon, _):
        names = ["a1", "a2", "a3"]
        for name in names:
            await world.submit(name, gpus=8, seconds=HOUR, queue="a")

        uids = await _uids(world, *names)
        await until(lambda: all(daemon.decisions.of(uid) for uid in uids), "all are decided on")
        reasons = sorted([(await _decision(daemon, uid))[0] for uid in uids])
        assert reasons == ["Placed", "Placed", "QuotaExceeded"], "two run, one of them on borrowed quota"
        await world.submit("b1", gpus=8, seconds=60, queue="b")
        [lender] = await _uids(world, "b1")
        reason, message = await _decision(daemon, lender)
        assert reason == "QuotaExceeded"
        assert "lent out to a" in message
        await until(lambda: world.all_done(*names, "b1"), "all end")


async def test_higher_priority_goes_first(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, speed=3600.0, policies=OWNED_ONLY, scenario=tiny_scenario(1)) as world,
        counting(world) as counter,
    ):
        for name, priority in (("low", "-5"), ("middle", "0"), ("high", "100")):
            await world.submit(name, gpus=8, seconds=HOUR / 4, annotations={ANNOTATION_PRIORITY: priority})
        async with world.daemon():
            await until(lambda: world.all_done("low", "middle", "high"), "all end")
        want = await _uids(world, "high", "middle", "low")
        assert [uid for uid in counter.ran if uid in want] == want


async def test_room_is_shared_by_weight(tmp_path: Path) -> None:
    policies = _queue("light", weight=1) + _queue("heavy", weight=3) + OWNED_ONLY
    async with a_world(tmp_path, speed=3600.0, policies=policies, scenario=tiny_scenario(1)) as world:
        light, heavy = [f"light-{number}" for number in range(8)], [f"heavy-{number}" for number in range(8)]
        for name in (*light, *heavy):
            await world.submit(name, seconds=HOUR / 2, queue=name.partition("-")[0])
        async with world.daemon() as (daemon, _):
            uids = dict(zip((*light, *heavy), await _uids(world, *light, *heavy), strict=True))

            def full() -> list[str] | None:
                placed = [name for name, uid in uids.items() if _started(daemon, uid)]
                return placed if len(placed) == 8 else None

            placed = await until(full, "the node is full")
            assert sum(name.startswith("heavy") for name in placed) == 6, "three GPUs to one"
            await until(lambda: world.all_done(*light, *heavy), "all end")


async def test_a_gang_never_starts_in_part(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, speed=3600.0, policies=OWNED_ONLY, scenario=tiny_scenario(2)) as world,
        counting(world) as counter,
        world.daemon() as (daemon, _),
    ):
        await world.submit("blocker", gpus=1, seconds=HOUR / 2)
        [blocker] = await _uids(world, "blocker")
        await until(lambda: counter.ran.get(blocker), "one node is in part in use")
        await world.submit("gang", gpus=8, pods=2, seconds=60)
        [gang] = await _uids(world, "gang")
        await until(lambda: daemon.decisions.of(gang), "it is decided on")

        async def early() -> bool:
            assert counter.succeeded.get(blocker) or not _began(counter, gang), "no pod of the gang while it cannot all"
            return await world.is_done("gang")

        await until(early, "the gang ends")
        assert len(counter.succeeded[gang]) == 2


def _began(counter: PodCounter, uid: str) -> bool:
    return bool(counter.copies.get(uid))


async def test_who_may_run_on_beside_a_waiting_gang_is_kept_off_its_nodes(tmp_path: Path) -> None:
    """One node is half full for long, one is busy, one empty; the gang waits for the last two."""
    policies = OWNED_ONLY + "  reservation:\n    afterWait: 0s\n"
    async with (
        a_world(tmp_path, policies=policies, scenario=tiny_scenario(3)) as world,
        world.daemon() as (daemon, _),
    ):
        where: dict[str, str] = {}
        for name, gpus, hours in (("half", 4, 100), ("busy", 8, 50)):
            expected = {"overspill.dev/expected-duration": f"{hours}h"}
            await world.submit(name, gpus=gpus, seconds=hours * HOUR, annotations=expected)
            [uid] = await _uids(world, name)
            where[name] = await until(lambda uid=uid: _node_of(world, uid), f"{name} runs")  # type: ignore[misc]
        await world.submit("gang", pods=2, gpus=8, seconds=HOUR)
        [gang] = await _uids(world, "gang")
        assert (await _decision(daemon, gang))[0] == "Reserved"
        await world.submit("late", gpus=4, seconds=HOUR)
        [late] = await _uids(world, "late")
        assert await until(lambda: _node_of(world, late), "late runs") == where["half"]
        [(_, copy)] = await world.copies(late)
        node_affinity = copy["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        [term] = node_affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        off = [value for field in term["matchFields"] for value in field["values"]]
        assert len(off) == 2
        assert where["busy"] in off
        assert where["half"] not in off


async def _node_of(world: World, uid: Uid) -> str | None:
    """Where its only pod runs on-prem."""
    pods = await world.member("onprem").list(PODS, label_selector=f"{LABEL_ORIGIN_UID}={uid}")
    return next((str(pod["spec"]["nodeName"]) for pod in pods.items if pod["spec"].get("nodeName")), None)
