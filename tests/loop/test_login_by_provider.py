"""Members that are logged in to by their cloud's short-lived tokens, over the emulated clouds' own wires."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clusters.sandbox.scenario import Scenario, default_scenario
from scheduler.model.ids import ClusterId
from tests.loop.harness import POLICIES, World, a_world, until

CLOUDS = ("eks", "gke", "aks")
TO_THE_CLOUD = POLICIES.replace(
    "  objective: onprem-first\n", "  objective: cost\n  constraints:\n    clusters: [CLOUD]\n"
)


def scenario_of(cloud: str) -> Scenario:
    whole = default_scenario()
    members = tuple(member for member in whole.members if member.name in ("onprem", cloud))
    return replace(whole, members=members, login_by_provider=True)


def used_tokens(world: World, cloud: str) -> list[str]:
    """Every bearer token, other than the server's own, that reached the cloud's cluster from now on and was good."""
    server = world.sandbox.servers[cloud]
    accepts, used = server.accepts_token, []

    def noted(token: str) -> bool:
        good = accepts(token)
        if good:
            used.append(token)
        return good

    server.accepts_token = noted
    return used


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_job_runs_on_a_cluster_that_is_logged_in_to_by_its_cloud(tmp_path: Path, cloud: str) -> None:
    policies = TO_THE_CLOUD.replace("CLOUD", cloud).replace("afterWait: 1m", "afterWait: 0s")
    async with a_world(tmp_path, scenario=scenario_of(cloud), policies=policies) as world:
        used = used_tokens(world, cloud)
        assert "login: provider" in world.sandbox.federation_file.read_text()
        async with world.daemon() as (daemon, _):
            await until(lambda: daemon.mirror.members[ClusterId(cloud)].available, "logged in and listed")
            assert used
            await world.submit("train", gpus=1, seconds=60.0)
            await until(lambda: world.is_done("train"), "it runs there")
            assert world.sandbox.charges()


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_cloud_that_knows_nobody_any_more_makes_its_member_unreachable_and_nothing_else(
    tmp_path: Path, cloud: str
) -> None:
    async with a_world(tmp_path, scenario=scenario_of(cloud)) as world, world.daemon(ping_seconds=0.05) as (daemon, _):
        await until(lambda: daemon.mirror.members[ClusterId(cloud)].available, "logged in and listed")
        world.sandbox.clouds[cloud].revoke_credentials()
        await until(lambda: daemon.mirror.members[ClusterId(cloud)].discovered.pools_error, "its cloud refuses")
        await world.submit("stays", gpus=1, seconds=30.0)
        await until(lambda: world.is_done("stays"), "the others go on")
