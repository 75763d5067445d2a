"""A workload that serves, over the sandbox: its latency metrics become what is known of it."""

from __future__ import annotations

from pathlib import Path

from scheduler.model.ids import Uid
from scheduler.predict.learned import LearnedPredictor
from scheduler.predict.served import Serving
from tests.loop.harness import until
from tests.loop.test_behaviours_serving import deployment, serving, submit


async def test_the_latency_of_a_workload_is_gathered_and_learned(tmp_path: Path) -> None:
    async with serving(tmp_path) as (world, daemon):
        uid = Uid(await submit(world, deployment()))

        def known() -> Serving | None:
            predictor, workload = daemon.predictor(), daemon.mirror.workload(uid)
            found = predictor.serving(workload) if isinstance(predictor, LearnedPredictor) and workload else None
            return found if found is not None and found.replicas == 2 else None

        found = await until(known, "its latency is known")
        assert found.p95_seconds > 0
        assert found.requests_per_second is None or found.requests_per_second > 0
