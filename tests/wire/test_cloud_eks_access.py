"""What the EKS adapter finds out about its own permissions, against the emulated AWS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scheduler.model.cloud import AccessCheck
from scheduler.model.errors import AuthError, TransientError
from tests.contract import cloud_permissions
from tests.wire.eks_bench import ONE, EksBench

UPDATE, TERMINATE = "eks:UpdateNodegroupConfig", "autoscaling:TerminateInstanceInAutoScalingGroup"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[EksBench]:
    made = await EksBench.start(tmp_path)
    yield made
    await made.stop()


async def checks_of(bench: EksBench, **changes: object) -> dict[str, AccessCheck]:
    found = await bench.provider(**changes).check_access()
    assert len({one.action for one in found}) == len(found)
    return {one.action: one for one in found}


async def test_all_that_the_policy_grants_is_checked(bench: EksBench) -> None:
    found = await checks_of(bench)
    prices = {one for one in cloud_permissions.granted("eks") if cloud_permissions.is_price("eks", one)}
    assert set(found) == cloud_permissions.granted("eks") - prices - {"iam:SimulatePrincipalPolicy"}
    assert all(one.allowed is True and not one.remedy for one in found.values())
    assert found["ec2:DescribeInstanceTypes"].detail == "dry run"
    assert found[UPDATE].detail == "policy simulation: allowed"


async def test_a_role_is_asked_about_by_its_own_name(bench: EksBench) -> None:
    file = bench.write_session(bench.services.identities.begin_session("burst"))
    found = await checks_of(bench, credentialsFile=file)
    assert found[UPDATE].allowed is True
    assert found[TERMINATE].allowed is True


async def test_a_role_whose_path_is_not_known_cannot_be_simulated(
    bench: EksBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/teams/ml/burst")
    file = bench.write_session(bench.services.identities.begin_session("burst"))
    found = await checks_of(bench, credentialsFile=file)
    assert found[UPDATE].allowed is None
    assert "NoSuchEntity" in found[UPDATE].detail
    assert "iam:SimulatePrincipalPolicy on arn:aws:iam::000000000000:role/teams/ml/burst" in found[UPDATE].remedy


@pytest.mark.parametrize(
    "denied",
    [
        "eks:ListClusters",
        "eks:DescribeCluster",
        "eks:ListNodegroups",
        "eks:DescribeNodegroup",
        "eks:ListUpdates",
        "eks:DescribeUpdate",
        "autoscaling:DescribeAutoScalingGroups",
        "autoscaling:DescribeAutoScalingInstances",
        "ec2:DescribeInstanceTypes",
        UPDATE,
        TERMINATE,
    ],
)
async def test_the_one_thing_that_is_denied_is_the_one_that_is_told(bench: EksBench, denied: str) -> None:
    bench.services.identities.denied.add(denied)
    found = await checks_of(bench)
    assert {name for name, one in found.items() if one.allowed is False} == {denied}
    assert found[denied].remedy.startswith(f"allow {denied} ")
    assert "deploy/iam/eks.json" in found[denied].remedy


async def test_where_nothing_may_be_simulated_writes_stay_unknown(bench: EksBench) -> None:
    bench.services.identities.denied.add("iam:SimulatePrincipalPolicy")
    found = await checks_of(bench)
    assert {name for name, one in found.items() if one.allowed is None} == {UPDATE, TERMINATE}
    assert "allow iam:SimulatePrincipalPolicy on arn:aws:iam::000000000000:user/overspill" in found[UPDATE].remedy


async def test_a_cluster_without_node_groups_is_checked_too(bench: EksBench) -> None:
    bench.pools._states.clear()
    found = await checks_of(bench)
    assert {name for name, one in found.items() if one.allowed is not True} == set()


async def test_nobody_and_nothing_are_errors(bench: EksBench) -> None:
    provider = bench.provider(connectTimeoutSeconds=1.0, readTimeoutSeconds=1.0)
    bench.services.identities.revoke()
    with pytest.raises(AuthError):
        await provider.check_access()
    await bench.cloud.stop()
    with pytest.raises(TransientError):
        await provider.check_access()


async def test_sts_out_of_reach_does_not_hide_the_rest(bench: EksBench) -> None:
    endpoints = {**bench.cloud.settings["endpoints"], "sts": "https://127.0.0.1:1"}  # type: ignore[dict-item]
    found = await checks_of(bench, endpoints=endpoints, connectTimeoutSeconds=1.0)
    assert found["eks:ListClusters"].allowed is True
    assert found[UPDATE].allowed is None


async def test_machines_are_known_only_where_ec2_may_be_asked(bench: EksBench) -> None:
    denied = bench.services.identities.denied
    denied.add("ec2:DescribeInstanceTypes")
    provider = bench.provider()
    for _ in range(2):
        assert {pool.gpus for pool in await provider.list_pools()} == {None}
    assert bench.cloud.request_log.count("DescribeInstanceTypes") == 1, "not asked at every turn"
    denied.clear()
    bench.clock.advance(600)
    for _ in range(2):
        assert {(pool.gpu_model, pool.gpus) for pool in await provider.list_pools()} == {("A100", 8)}
    assert bench.cloud.request_log.count("DescribeInstanceTypes") == 2, "and never again, once it is known"


async def test_updates_that_may_not_be_looked_at_do_not_hide_the_pools(bench: EksBench) -> None:
    bench.services.identities.denied |= {"eks:DescribeUpdate", "eks:ListUpdates"}
    provider = bench.provider()
    await provider.set_size(ONE, 2)
    (one, _) = await provider.list_pools()
    assert (one.desired_nodes, one.busy) == (2, True)
    bench.clock.advance(60)
    (one, _) = await provider.list_pools()
    assert (one.desired_nodes, one.busy) == (2, False)
