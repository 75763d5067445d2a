"""`overspill incidents`, `pause` and `resume` against a running daemon and its hub."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from scheduler.cli.main import invoke
from scheduler.daemon.http.server import HttpServer
from scheduler.model.contract import NODES
from tests.loop import test_behaviours_remedies as remedies
from tests.loop.harness import POLICIES, a_world, tiny_scenario, until

ASKING = """---
apiVersion: overspill.dev/v1alpha1
kind: RemediationPolicy
metadata: {name: asking}
spec:
  actions: [{action: notify}, {action: cordon, approval: true}]
  guards: {dryRun: false, maxUnavailable: 1}
"""


@pytest.mark.timeout(120)
async def test_a_person_looks_approves_pauses_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def said(*arguments: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(invoke, list(arguments))
        out, err = capsys.readouterr()
        return status, out, err

    scenario, policies = tiny_scenario(2), POLICIES + ASKING
    async with a_world(tmp_path, policies=policies, scenario=scenario) as world, world.daemon() as (daemon, _):
        config = str(world.sandbox.federation_file)
        server = HttpServer("127.0.0.1", 0, daemon.served)
        url = await server.start()
        try:
            told = remedies.Told(daemon)
            name = (await world.member("onprem").list(NODES)).items[0]["metadata"]["name"]
            assert "no incidents" in (await said("incidents", "list", "--url", url))[1]
            told.open("i1", "gpu.xid.79", "onprem", name)
            await until(lambda: "ApprovalNeeded" in remedies.codes(daemon)(), "it asks", 60)
            status, out, _ = await said("incidents", "list", "--url", url)
            assert status == 0
            assert "gpu.xid.79" in out
            assert "ApprovalNeeded" in out.replace("\n", "")
            status, out, err = await said("incidents", "show", "i1", "--url", url)
            assert (status, err) == (0, "")
            assert "policy asking: ready, step cordon" in out
            assert "notify (policy asking): done" in out
            assert (await said("pause", "--config", config))[0] == 0
            await until(lambda: daemon.control.switches.paused, "it is paused", 30)
            status, out, _ = await said("incidents", "approve", "i1", "--config", config, "--action", "cordon")
            assert status == 0
            assert out.endswith("approved: cordon for i1\n")
            await until(lambda: "i1/cordon" in daemon.control.switches.approved, "it is read", 30)
            await remedies.rounds(daemon, 2)
            assert not remedies.is_held(await remedies.node(world, "onprem", name)), "approved, but paused"
            out = (await said("incidents", "list", "--url", url, "--json"))[1]
            answer = json.loads(out[out.index("{") :])
            assert answer["paused"] is True
            assert (await said("resume", "--config", config))[0] == 0

            async def held() -> bool:
                return remedies.is_held(await remedies.node(world, "onprem", name))

            await until(held, "it is closed", 30)
            assert (await said("pause", "--bursting", "--config", config))[0] == 0
            await until(lambda: daemon.planner.bursting_paused, "nothing is bought", 30)
            status, _, err = await said("incidents", "approve", "i1", "--config", config, "--url", url)
            assert (status, err) == (
                1, "overspill: nothing waits for approval of incident i1; name an action with --action\n",
            )  # fmt: skip
            status, _, err = await said("incidents", "approve", "i1", "--config", config, "--action", "drian")
            assert status == 2
            assert 'did you mean "drain"?' in err
            status, _, err = await said("incidents", "show", "no/id", "--url", url)
            assert status == 2
            assert err.count("\n") == 1
            assert (await said("incidents", "show", "none", "--url", url))[0] == 1
        finally:
            await server.stop()
