"""A job that is placed to learn: on a bought node, within the budget for it, over a restart of the daemon."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clusters.kubernetes.annotations import parse_placement
from scheduler.daemon.parts import Daemon
from scheduler.model.cluster import NodePool
from scheduler.model.contract import ANNOTATION_PLACEMENT
from scheduler.model.ids import Uid
from scheduler.model.money import Usd
from scheduler.model.ports import Prediction
from scheduler.model.workload import Workload
from tests.loop.harness import World, a_world, until

POLICY = """
apiVersion: overspill.dev/v1alpha1
kind: PlacementPolicy
metadata:
  name: curious
spec:
  objective: completion-time
  constraints:
    capacityTypes: [owned, on-demand]
    gpuModels: [A100]
  burst:
    afterWait: 0s
  return:
    idle: 1m
  exploration:
    limitUsd: "40"
    window: total
"""


@dataclass(frozen=True)
class Unsure:
    """Runs take twenty minutes on owned nodes; on others nobody has seen one."""

    def predict(self, workload: Workload, pool: NodePool, new_nodes: int) -> Prediction:
        start = 20.0 + (pool.provisioning_seconds or 0.0 if new_nodes else 0.0)
        return Prediction(1300.0, start, run_log_sd=0.6) if pool.bought else Prediction(1200.0, start, run_log_sd=0.02)


def unsure(daemon: Daemon) -> None:
    daemon.planner._predictor = Unsure


async def placed(world: World, daemon: Daemon, name: str) -> tuple[Uid, str, Usd | None]:
    """(UID, member, what it counts for)."""
    uid = Uid((await world.submit(name, gpus=8, seconds=300.0))["metadata"]["uid"])
    await until(lambda: daemon.decisions.of(uid), f"{name} is decided on")

    async def written() -> str:
        job = await world.job(name)
        return "" if job is None else str(job["metadata"]["annotations"].get(ANNOTATION_PLACEMENT, ""))

    placement = parse_placement(await until(written, f"the placement of {name} is written"))
    return uid, placement.cluster, placement.exploration_usd


async def test_one_explores_and_the_limit_holds_over_a_restart(tmp_path: Path) -> None:
    async with a_world(tmp_path, policies=POLICY) as world:
        async with world.daemon() as (daemon, _):
            unsure(daemon)
            uid, cluster, usd = await placed(world, daemon, "first")
            assert (cluster, daemon.decisions.of(uid)[-1]["reason"]["code"]) == ("eks", "Exploring")
            assert usd is not None
            assert 20 < usd <= 40
            (state,) = daemon.planner.last_plan.budgets if daemon.planner.last_plan is not None else ()
            assert (state.budget, str(state.limit_usd)) == ("exploration", "40")
            _, cluster, other = await placed(world, daemon, "beside")
            assert (cluster, other) == ("onprem", None)
            await until(lambda: world.all_done("first", "beside"), "both are done")
        async with world.daemon(identity="next") as (daemon, _):
            unsure(daemon)
            _, cluster, other = await placed(world, daemon, "later")
            assert (cluster, other) == ("onprem", None)
            assert [(each.workload, each.policy) for each in daemon.explorations.explored()] == [(uid, "curious")]
            assert sum(each.usd for each in daemon.explorations.explored()) >= usd
