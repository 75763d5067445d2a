"""What a run on bought nodes is said to cost, and what it did, over the sandbox."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.predict.learned import LearnedPredictor
from tests.loop.harness import a_world, until
from tests.loop.test_behaviours_capacity import lasting

SAID = {"overspill.dev/expected-duration": "20m"}


async def test_a_bought_run_says_its_cost_and_the_ledger_teaches_how_far_off_that_was(tmp_path: Path) -> None:
    """Over a restart of the daemon: what was said is what is compared."""
    async with a_world(tmp_path) as world:
        async with world.daemon() as (daemon, _):
            uid = (await world.submit("wanting", gpus=8, template=lasting(1200.0), annotations=SAID))["metadata"]["uid"]
            said = await until(lambda: daemon.costs.of(uid), "its cost is said")
            expected, p90 = Decimal(said["expected_usd"]), Decimal(said["p90_usd"])
            assert 0 < expected < p90
            assert {"run", "start-up"} <= {name for name, usd in said["expected_parts"].items() if Decimal(usd) > 0}
            explained = await daemon.report.explain("wanting")
            assert explained is not None
            assert explained["cost"]["expected_usd"] == said["expected_usd"]
        async with world.daemon() as (daemon, _):
            again = await until(lambda: daemon.costs.of(uid), "what was said is known again")
            assert again["expected_parts"] == said["expected_parts"]
            assert again["p90_usd"] == said["p90_usd"]

            def learned() -> bool:
                known = daemon.predictor()
                pools = (PoolRef(ClusterId("eks"), PoolId(name)) for name in ("p4d", "p4d-spot"))
                return isinstance(known, LearnedPredictor) and any(known.cost_correction(pool).count for pool in pools)

            await until(learned, "what it cost is learned")
            text = daemon.outside.telemetry.expose().decode()
            assert 'overspill_model_said_error_ratio{name="eks/p4d' in text
