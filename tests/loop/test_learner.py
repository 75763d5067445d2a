"""What the daemon learns of its runs, and takes up again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import sqlalchemy as sql
from sqlalchemy.ext.asyncio import create_async_engine

from clusters.sandbox.scenario import FaultPlan
from scheduler.daemon.history.store import saved_learning
from scheduler.daemon.history.tables import LEARNED
from scheduler.daemon.learning.learner import NAME, Learner
from scheduler.daemon.parts import Daemon
from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.model.workload import Workload
from scheduler.predict.learned import HISTORY, LEAST_ALIKE, WORK, LearnedPredictor, Span
from scheduler.predict.learning import Learning
from tests.loop.harness import POLICIES, World, a_world, until
from tests.loop.test_behaviours_capacity import lasting

SAID = {
    "overspill.dev/model": "resnet",
    "overspill.dev/batch-size": "64",
    "overspill.dev/total-steps": "6000",
    "overspill.dev/expected-duration": "1h",
}


async def sample(daemon: Daemon, world: World, name: str) -> tuple[Workload, dict[str, Span]]:
    """The job, and what each source says of its length on-prem."""
    job = await world.submit(name, seconds=600.0, annotations=SAID)
    uid = job["metadata"]["uid"]
    await until(lambda: _seen(daemon, uid), "the job to be seen")
    workload = daemon.mirror.workload(uid)
    assert workload is not None
    predictor = daemon.predictor()
    assert isinstance(predictor, LearnedPredictor)
    ref = PoolRef(ClusterId("onprem"), PoolId("a100"))
    pool = next(pool for pool in daemon.mirror.members[ref.cluster].pools() if pool.ref == ref)
    return workload, dict(predictor.run_seconds(workload, pool))


async def _seen(daemon: Daemon, uid: Any) -> bool:
    return daemon.mirror.workload(uid) is not None


async def _learned(daemon: Daemon) -> bool:
    predictor = daemon.predictor()
    return isinstance(predictor, LearnedPredictor) and bool(predictor.known.lengths)


async def test_runs_teach_and_what_they_taught_outlives_the_daemon(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        async with world.daemon() as (daemon, _):
            for index in range(LEAST_ALIKE + 1):
                await world.submit(f"train-{index}", seconds=600.0, annotations=SAID)
            for index in range(LEAST_ALIKE + 1):
                await until(lambda name=f"train-{index}": world.is_done(name), "the jobs to end")  # type: ignore[misc]
            await until(lambda: _learned(daemon), "their lengths to be learned")
            _, said = await sample(daemon, world, "next")
        # The virtual clock runs on while a busy machine gets round to things.
        assert said[HISTORY].median == pytest.approx(600.0, rel=0.5)
        async with world.daemon() as (daemon, _):
            await until(lambda: _learned(daemon), "what was learned to be loaded")
            _, again = await sample(daemon, world, "after")
            assert again[HISTORY].median == pytest.approx(said[HISTORY].median, rel=0.5)
            assert again[WORK].median == pytest.approx(600.0, rel=0.5)


async def test_what_runs_make_of_their_gpus_is_learned_when_they_end(tmp_path: Path) -> None:
    """By the sandbox's DCGM exporter."""
    async with a_world(tmp_path) as world:
        async with world.daemon() as (daemon, _):
            await world.submit("train", seconds=5000.0, annotations=SAID)
            await until(lambda: world.is_done("train"), "it ends")
            await until(lambda: _learned_of(daemon), "its end is learned from")
        saved = await saved_learning(f"sqlite+aiosqlite:///{world.folder / 'history.db'}", NAME)
    assert saved is not None
    uses = Learning.from_state(orjson.loads(saved[1])).uses
    (of_queue,), (of_model,) = uses.of("queue").values(), uses.of("model").values()
    assert of_queue == of_model
    assert (of_queue.runs, of_queue.restarts, of_queue.busy_runs) == (1, 0, 1)
    assert 0.1 < of_queue.busy_mean <= 1.0
    assert of_queue.memory_bytes is not None
    assert 1e8 < of_queue.memory_bytes < 2e11


async def _learned_of(daemon: Daemon) -> bool:
    predictor = daemon.predictor()
    return isinstance(predictor, LearnedPredictor) and predictor.known.throughput is not None


AT_ONCE = POLICIES.replace("afterWait: 1m", "afterWait: 0s")
SOONEST = AT_ONCE.replace("objective: onprem-first", "objective: completion-time")


async def test_an_offering_that_did_not_deliver_is_dearer_by_that_and_explain_says_how_likely_it_is(
    tmp_path: Path,
) -> None:
    spot = PoolRef(ClusterId("eks"), PoolId("p4d-spot"))
    async with a_world(tmp_path, policies=SOONEST) as world, world.daemon() as (daemon, _):
        world.sandbox.strike(FaultPlan(0.0, "eks", "capacity-shortage", pool="p4d-spot"))
        await world.submit("first", gpus=8, template=lasting(600.0))
        again = (await until(lambda: daemon.mirror.backoffs.get(spot), "the offering is backed off")).until
        await until(lambda: world.is_done("first"), "it ran elsewhere")
        await until(lambda: daemon.outside.clock.now() > again, "it may be tried again")
        uid = (await world.submit("second", gpus=8, template=lasting(60.0)))["metadata"]["uid"]
        told = await until(lambda: [one for one in daemon.decisions.of(uid) if one["chosen"]], "it is placed")
        weighed = (told[0]["chosen"], *told[0]["alternatives"])
        (found,) = [one for one in weighed if one["pool"]["pool"] == spot.pool]
        assert not found["refused"]
        assert found["availability"] < 0.9
        usual = next(pool for pool in daemon.mirror.members[spot.cluster].pools() if pool.ref == spot)
        assert usual.provisioning_seconds is not None
        assert found["expected_start_seconds"] > usual.provisioning_seconds + 60.0


async def test_a_saved_state_that_cannot_be_read_is_learned_anew(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        async with world.daemon():
            pass
        engine = create_async_engine(f"sqlite+aiosqlite:///{world.folder / 'history.db'}")
        async with engine.begin() as connection:
            row = {"name": NAME, "saved_at": 0.0, "body": orjson.dumps({"version": 99}).decode()}
            await connection.execute(sql.insert(LEARNED), row)
        await engine.dispose()
        async with world.daemon() as (daemon, _):
            assert isinstance(daemon.learner, Learner)
            await world.submit("train", seconds=60.0)
            await until(lambda: world.is_done("train"), "the job to end all the same")
