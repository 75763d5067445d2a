"""`overspill doctor` over the sandbox: all is well; or it says what is not, where, and how to mend it."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from clusters.clock import SystemClock
from clusters.kubernetes.connection import Limits
from clusters.sandbox.apiserver.authorization import User
from clusters.sandbox.clouds.faults import Fault
from clusters.sandbox.federation_file import dump
from clusters.sandbox.scenario import default_scenario
from scheduler.cli import crds
from scheduler.cli.main import invoke
from scheduler.daemon.config.federation import load_federation, validate_settings
from scheduler.daemon.doctor import FAIL, OK, WARN, Finding, examine
from tests.builders import rbac
from tests.loop.harness import World, a_world

SHORT = Limits(connect_seconds=1.0, read_seconds=1.0, call_seconds=1.0)
PATIENT = Limits(connect_seconds=4.0, read_seconds=4.0, call_seconds=4.0)
"""On a machine that is busy a refusal may take more than a second to come."""
"""Where something hangs."""
PATIENT = Limits(connect_seconds=10.0, read_seconds=10.0, call_seconds=10.0)
"""Where everything answers, however busy this machine is."""


async def examined(
    world: World, *, shadow: bool = False, policies: Path | None = None, limits: Limits = PATIENT
) -> list[Finding]:
    federation = load_federation(world.sandbox.federation_file, validate_provider=validate_settings)
    return list(await examine(federation, () if policies is None else (policies,), shadow=shadow, limits=limits))


def of(findings: list[Finding], area: str, state: str) -> list[Finding]:
    return [one for one in findings if (one.area, one.state) == (area, state)]


async def test_under_its_own_roles_nothing_of_kubernetes_is_wrong(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        await rbac.restrict(world.sandbox)
        await crds.install(world.hub)
        findings = await examined(world, policies=world.policies)
        for area in ("hub", "onprem", "eks", "history", "policies", "prices"):
            assert not of(findings, area, FAIL), area
            assert not of(findings, area, WARN), area
            assert of(findings, area, OK), area
        told = {one.what for one in of(findings, "hub", OK)}
        assert "may do all 16 things of deploy/rbac/hub.yaml" in told
        assert "FederatedWorkload is defined" in told
        assert "clock: agrees with ours" in told


async def test_nothing_at_all_is_wrong_with_the_sandbox_and_its_clouds(tmp_path: Path) -> None:
    scenario = replace(default_scenario(), login_by_provider=True)
    async with a_world(tmp_path, scenario=scenario) as world:
        await rbac.restrict(world.sandbox)
        await crds.install(world.hub)
        findings = await examined(world, policies=world.policies, limits=Limits())
        assert [one.line for one in findings if one.state == FAIL] == []
        assert {one.area for one in findings if one.state == WARN} <= {"metrics"}, "not every exporter is emulated"
        for cloud in ("eks", "gke", "aks"):
            told = [one.what for one in of(findings, f"{cloud} cloud", OK)]
            assert any(line.startswith("logs in to the cluster") for line in told)
            assert sum(line.startswith("may ") for line in told) >= 4
            (credentials,) = [one.what for one in of(findings, cloud, OK) if "credentials" in one.what]
            assert "login by the cloud, good for" in credentials


async def test_a_cloud_that_denies_and_one_whose_credentials_are_revoked(tmp_path: Path) -> None:
    async with a_world(tmp_path, scenario=default_scenario()) as world:
        for _ in range(50):
            world.sandbox.clouds["eks"].faults.add(Fault("denied", writes=False))
        world.sandbox.clouds["aks"].revoke_credentials()
        findings = await examined(world)
        for cloud in ("eks", "aks"):
            failed = of(findings, f"{cloud} cloud", FAIL)
            assert failed, cloud
            assert all(one.remedy for one in failed)
        assert not of(findings, "gke cloud", FAIL)


async def test_shadow_mode_is_content_with_the_smaller_roles(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        await rbac.restrict(world.sandbox, shadow=True)
        await crds.install(world.hub)
        findings = await examined(world, shadow=True)
        assert not of(findings, "hub", FAIL)
        assert not of(findings, "eks", FAIL)
        active = await examined(world)
        assert {one.what for one in of(active, "hub", FAIL)} >= {"may not patch jobs.batch"}


async def test_each_missing_permission_is_told_with_the_file_that_grants_it(tmp_path: Path) -> None:
    member = [one for one in rbac.manifests("member") if one["kind"] not in ("Role", "RoleBinding")]
    (role,) = [one for one in member if one["kind"] == "ClusterRole"]
    role["rules"] = [rule for rule in role["rules"] if "pods" not in rule["resources"]]
    async with a_world(tmp_path) as world:
        await rbac.restrict(world.sandbox, roles={"eks": member})
        findings = await examined(world)
        failed = of(findings, "eks", FAIL)
        assert [one.what for one in failed] == ["may not list pods", "may not watch pods"]
        assert {one.remedy for one in failed} == {"kubectl --context eks apply -f deploy/rbac/member.yaml"}
        warned = [one.what for one in of(findings, "eks", WARN)]
        assert warned == ["may not list events in default", "may not watch events in default"], "it does without"
        assert not of(findings, "onprem", FAIL)


async def test_the_leases_of_shards_are_asked_for_where_there_are_shards(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        await rbac.restrict(world.sandbox)
        document = yaml.safe_load(world.sandbox.federation_file.read_text())
        document["spec"]["gathering"] = {"shards": 2, "tokenFile": "token"}
        world.sandbox.federation_file.write_text(dump(document))
        failed = of(await examined(world), "hub", FAIL)
        assert {one.what for one in failed} == {
            f"may not {verb} leases.coordination.k8s.io overspill-sandbox-shard-{number} in kube-system"
            for verb in ("get", "update", "patch")
            for number in range(2)
        }
        assert {one.remedy.partition(" with ")[0] for one in failed} == {
            "kubectl --context hub apply -f deploy/rbac/hub-shards.yaml"
        }
        assert not of(await examined(world, shadow=True), "hub", FAIL), "in shadow mode nothing is shared"
        await rbac.apply(world.hub, rbac.manifests("hub-shards"))
        assert not of(await examined(world), "hub", FAIL)


async def test_a_lease_of_another_name_is_told_with_its_name(tmp_path: Path) -> None:
    hub = json.loads(json.dumps(rbac.manifests("hub")).replace(rbac.LEASE, "overspill-other"))
    async with a_world(tmp_path) as world:
        await rbac.restrict(world.sandbox, roles={"hub": hub})
        failed = of(await examined(world), "hub", FAIL)
        assert [one.what for one in failed] == [
            "may not get configmaps overspill-sandbox in kube-system",
            *(
                f"may not {verb} leases.coordination.k8s.io overspill-sandbox in kube-system"
                for verb in ("get", "patch", "update")
            ),
        ]
        assert all("with overspill-sandbox for overspill-example" in one.remedy for one in failed)


async def test_a_member_that_hangs_and_a_hub_that_is_gone_are_marked_and_hold_nobody_up(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        world.sandbox.servers["eks"].fall_silent()
        await world.sandbox.servers["hub"].stop()
        findings = await examined(world, limits=PATIENT)
        (silent,) = of(findings, "eks", FAIL)
        assert silent.what.startswith("does not answer: cluster eks")
        (gone,) = of(findings, "hub", FAIL)
        assert "cannot connect" in gone.what
        assert len(of(findings, "onprem", OK)) >= 4
        assert [one.state for one in findings] == sorted([one.state for one in findings], key=[FAIL, WARN, OK].index)
        world.sandbox.servers["eks"].speak()


def jwt(ends_at: float) -> str:
    """A token whose end can be read, as service accounts have it; signed by nobody."""
    claims = base64.urlsafe_b64encode(json.dumps({"exp": ends_at}).encode()).decode().rstrip("=")
    return f"e30.{claims}.c2ln"


@pytest.mark.parametrize(
    ("left", "want_state", "want"),
    [(-3600.0, FAIL, "token expired"), (86400.0, WARN, "token expires in 24 h"), (86400.0 * 60, OK, "good for 60 d")],
)
async def test_the_remaining_life_of_a_token_is_told(tmp_path: Path, left: float, want_state: str, want: str) -> None:
    async with a_world(tmp_path) as world:
        token = jwt(SystemClock().now() + left)
        world.sandbox.servers["onprem"].enroll(token, User("admin", ("system:masters",)))
        path = world.sandbox.kubeconfigs["onprem"]
        document = yaml.safe_load(path.read_text())
        document["users"][0]["user"]["token"] = token
        path.write_text(dump(document))
        found = [one for one in await examined(world) if one.area == "onprem" and "credentials" in one.what]
        assert [one.state for one in found] == [want_state]
        assert want in found[0].what
        assert token not in found[0].line


async def test_what_is_refused_altogether_is_one_line(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        path = world.sandbox.kubeconfigs["onprem"]
        path.write_text(path.read_text().replace(world.sandbox.servers["onprem"].token, "of-yesterday"))
        findings = await examined(world)
        assert any("401" in one.what for one in of(findings, "onprem", FAIL))
        assert "of-yesterday" not in "".join(one.line for one in findings)


async def test_definitions_policies_prices_and_history(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        document = yaml.safe_load(world.sandbox.federation_file.read_text())
        document["spec"]["history"]["url"] = "sqlite+aiosqlite:///nowhere/overspill.db"
        del document["spec"]["members"][0]["pools"][0]["price"]
        world.sandbox.federation_file.write_text(dump(document))
        (world.policies / "wrong.yaml").write_text("kind: Nothing\n")
        findings = await examined(world, policies=world.policies)
        (undefined,) = of(findings, "hub", WARN)
        assert undefined.remedy == "kubectl --context hub apply -f deploy/crds/"
        (history,) = of(findings, "history", FAIL)
        assert "folder" in history.what
        (price,) = of(findings, "prices", WARN)
        assert price.what.startswith("onprem/a100: ")
        wrong = of(findings, "policies", FAIL)
        assert wrong
        assert "wrong.yaml:1" in wrong[0].what


async def test_the_command_prints_lines_or_one_object_and_its_status_tells(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with a_world(tmp_path) as world:
        await rbac.restrict(world.sandbox, roles={"eks": []})
        arguments = ["doctor", "--config", str(world.sandbox.federation_file)]
        assert await asyncio.to_thread(invoke, arguments) == 1
        *lines, summary = capfd.readouterr().out.splitlines()
        assert all(line.split("  ")[0] in ("ok", "warn", "fail") for line in lines)
        assert "fail  eks  may not patch nodes  -> kubectl --context eks apply -f deploy/rbac/member.yaml" in lines
        assert lines[0].startswith("fail")
        assert summary.endswith("ok")
        assert await asyncio.to_thread(invoke, [*arguments, "--json"]) == 1
        told = json.loads(capfd.readouterr().out)
        assert told["federation"] == "sandbox"
        assert told["fail"] == sum(one["state"] == "fail" for one in told["findings"]) > 0
        assert set(told["findings"][0]) == {"state", "area", "what", "remedy"}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (None, "no such file"),
        ("apiVersion: overspill.dev/v1alpha1\nkind: Federation\nspec: {membres: []}\n", 'missing key "metadata"'),
        ("a: [", "not YAML"),
    ],
)
def test_a_config_of_no_use_is_told_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str | None, want: str
) -> None:
    config = tmp_path / "federation.yaml"
    if text is not None:
        config.write_text(text)
    assert invoke(["doctor", "--config", str(config)]) == 2
    told = capfd.readouterr()
    assert not told.out
    assert want in told.err
    assert len(told.err.splitlines()) == 1
