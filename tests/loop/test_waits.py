"""Queue waits over the sandbox: said while a workload waits, and held against how long it did."""

from __future__ import annotations

from pathlib import Path

from scheduler.predict.learned import LearnedPredictor
from tests.loop.harness import POLICIES, a_world, tiny_scenario, until

NO_BURST = POLICIES.replace("  burst:\n    afterWait: 1m\n    maxNodes: 8\n", "")
SAID = {"overspill.dev/expected-duration": "40m"}


async def test_a_wait_is_said_while_it_lasts_and_learned_when_it_is_over(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, policies=NO_BURST, scenario=tiny_scenario(1)) as world,
        world.daemon() as (daemon, _),
    ):
        await world.submit("first", gpus=8, seconds=2400.0, annotations=SAID)
        await until(lambda: daemon.mirror.snapshot(()).copies, "the first one runs")
        uid = (await world.submit("second", gpus=8, seconds=60.0))["metadata"]["uid"]
        (told,) = await until(lambda: daemon.waits.of(uid), "its wait is said")
        assert told["cluster"] == "onprem"
        assert 0 <= told["expected_seconds"] <= 2500.0
        explained = await daemon.report.explain("second")
        assert explained is not None
        assert explained["waits"][0]["cluster"] == "onprem"

        def learned() -> bool:
            known = daemon.predictor()
            return isinstance(known, LearnedPredictor) and known.wait_correction("onprem").count >= 1

        await until(learned, "how long it waited is learned")
