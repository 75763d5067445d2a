"""A workload that serves, over the sandbox: its latency metrics become what is known of it, and where they are to break
its queue's objective, an incident."""

from __future__ import annotations

from pathlib import Path

from scheduler.aiops.incidents import Incident
from scheduler.model.ids import Uid
from scheduler.predict.learned import LearnedPredictor
from scheduler.predict.served import Serving
from tests.loop.harness import POLICIES, until
from tests.loop.test_behaviours_serving import deployment, serving, submit

PROMISED = POLICIES.replace("  quotas:\n", "  latencyObjective: 1ms\n  quotas:\n")


async def test_the_latency_of_a_workload_is_gathered_learned_and_held_against_its_objective(tmp_path: Path) -> None:
    async with serving(tmp_path, PROMISED) as (world, daemon):
        uid = Uid(await submit(world, deployment()))

        def known() -> Serving | None:
            predictor, workload = daemon.predictor(), daemon.mirror.workload(uid)
            found = predictor.serving(workload) if isinstance(predictor, LearnedPredictor) and workload else None
            return found if found is not None and found.replicas == 2 else None

        found = await until(known, "its latency is known")
        assert found.p95_seconds > 0
        assert found.requests_per_second is None or found.requests_per_second > 0

        def told() -> Incident | None:
            return next((each for each in daemon.watch.incidents() if each.kind == "workload.latency-slo"), None)

        incident = await until(told, "no forecast is within the objective")
        assert incident.subject.workload == uid
        evidence = dict(incident.signals[0].evidence)
        assert evidence["serving_latency_p95_forecast_seconds"] > evidence["serving_latency_p95_objective_seconds"]
