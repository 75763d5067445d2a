"""The EKS adapter against moto, in a process of its own.

moto stops short of: Auto Scaling groups behind node groups (the ones that it names are made here), DescribeUpdate,
ListUpdates, SimulatePrincipalPolicy, dry runs, signatures and permissions. The emulated AWS has all of these
(test_cloud_eks.py, test_cloud_eks_access.py, test_cloud_eks_login.py, and the contracts of every provider).
"""

from __future__ import annotations

import asyncio
import base64
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
import requests
from botocore.config import Config

from clusters.providers import eks
from clusters.providers._eks_calls import AwsCalls
from scheduler.model.errors import NotFoundError, RefusedError
from scheduler.model.ids import NodeName, PoolId
from tests.contract.emulated_pools import SteppedClock

KEYS = "[overspill]\naws_access_key_id = AKIAMOTO\naws_secret_access_key = secret\n"
A100, SPOT = PoolId("a100"), PoolId("p4d-spot")
pytestmark = pytest.mark.xdist_group("moto-eks")  # one process for all of them
_LISTENS = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")


@pytest.fixture(scope="module")
def moto_process() -> Iterator[str]:
    """Its URL. It picks a free port, and says which as soon as it listens there."""
    command = [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                found = _LISTENS.search(line)
                if found:
                    break
            else:
                pytest.fail(f"moto did not start: {''.join(said)[-2000:]}")
            yield found[1]
        finally:
            process.terminate()
            process.stdout.read()  # until it has gone, so that it never waits for a reader


@pytest.fixture
def moto_url(moto_process: str) -> Iterator[str]:
    yield moto_process
    requests.post(f"{moto_process}/moto-api/reset", timeout=10).raise_for_status()


@pytest.fixture
def moto_clients(moto_url: str) -> Iterator[Callable[[str], Any]]:
    made = []

    def client(service: str) -> Any:
        keys = {"aws_access_key_id": "AKIAMOTO", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        once = Config(retries={"total_max_attempts": 1})
        made.append(boto3.client(service, endpoint_url=moto_url, config=once, **keys))
        return made[-1]

    yield client
    for one in made:
        one.close()


def subnets_of(moto_clients: Callable[[str], Any]) -> list[str]:
    return [one["SubnetId"] for one in moto_clients("ec2").describe_subnets()["Subnets"]][:2]


@pytest.fixture
async def moto_provider(
    moto_url: str, moto_clients: Callable[[str], Any], tmp_path: Path
) -> AsyncIterator[eks.NodeGroups]:
    (tmp_path / "keys.ini").write_text(KEYS)
    api, subnets = moto_clients("eks"), subnets_of(moto_clients)
    api.create_cluster(
        name="burst", roleArn="arn:aws:iam::123456789012:role/eks", resourcesVpcConfig={"subnetIds": subnets}
    )
    for name, capacity, desired in ((A100, "ON_DEMAND", 1), (SPOT, "SPOT", 0)):
        api.create_nodegroup(
            clusterName="burst",
            nodegroupName=name,
            capacityType=capacity,
            scalingConfig={"minSize": 0, "maxSize": 4, "desiredSize": desired},
            instanceTypes=["p4d.24xlarge"],
            labels={"team": "ml"},
            taints=[{"key": "nvidia.com/gpu", "value": "present", "effect": "NO_SCHEDULE"}],
            subnets=subnets,
            nodeRole="arn:aws:iam::123456789012:role/node",
        )
    provider = eks.create(settings_of(moto_url, tmp_path), clock=SteppedClock())
    yield provider
    await provider.close()


def settings_of(moto_url: str, folder: Path) -> eks.Settings:
    return eks.Settings.model_validate(
        {
            "type": "eks",
            "clusterName": "burst",
            "region": "us-east-1",
            "endpoints": dict.fromkeys(("eks", "autoscaling", "ec2", "sts", "iam"), moto_url),
            "credentialsFile": "keys.ini",
            "profile": "overspill",
        },
        context={"base_dir": folder},
    )


class ScalingGroup:
    """The Auto Scaling group that a node group of moto's names, made for it."""

    def __init__(self, moto_clients: Callable[[str], Any], pool: str, desired: int) -> None:
        self.api, compute = moto_clients("autoscaling"), moto_clients("ec2")
        group = moto_clients("eks").describe_nodegroup(clusterName="burst", nodegroupName=pool)["nodegroup"]
        self.name = group["resources"]["autoScalingGroups"][0]["name"]
        image = compute.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        self.api.create_launch_configuration(LaunchConfigurationName="lc", ImageId=image, InstanceType="t2.micro")
        self.api.create_auto_scaling_group(
            AutoScalingGroupName=self.name,
            LaunchConfigurationName="lc",
            MinSize=0,
            MaxSize=4,
            DesiredCapacity=desired,
            AvailabilityZones=["us-east-1b", "us-east-1a"],
        )

    def instances(self) -> list[str]:
        found = self.api.describe_auto_scaling_groups(AutoScalingGroupNames=[self.name])["AutoScalingGroups"][0]
        return [one["InstanceId"] for one in found["Instances"]]

    def tag(self, key: str, value: str) -> None:
        where = {"ResourceId": self.name, "ResourceType": "auto-scaling-group", "PropagateAtLaunch": True}
        self.api.create_or_update_tags(Tags=[{**where, "Key": key, "Value": value}])


async def test_moto_lists_and_resizes(moto_provider: eks.NodeGroups) -> None:
    first = {one.pool: one for one in await moto_provider.list_pools()}
    assert set(first) == {"a100", "p4d-spot"}
    assert (first[A100].capacity_type, first[SPOT].capacity_type) == ("on-demand", "spot")
    assert (first[A100].desired_nodes, first[A100].max_nodes) == (1, 4)
    assert first[A100].labels == (("eks.amazonaws.com/nodegroup", "a100"), ("team", "ml"))
    await moto_provider.set_size(A100, 3)
    await moto_provider.set_size(A100, 3)
    after = {one.pool: one.desired_nodes for one in await moto_provider.list_pools()}
    assert after == {"a100": 3, "p4d-spot": 0}
    with pytest.raises(RefusedError, match=r"5 nodes is outside the node group's 0\.\.4"):
        await moto_provider.set_size(A100, 5)


async def test_moto_scales_to_zero_and_back(moto_provider: eks.NodeGroups) -> None:
    for size in (0, 2, 0):
        await moto_provider.set_size(A100, size)
        sizes = {one.pool: one.desired_nodes for one in await moto_provider.list_pools()}
        assert sizes[A100] == size


async def test_moto_tells_the_machines(moto_provider: eks.NodeGroups) -> None:
    for pool in await moto_provider.list_pools():
        assert (pool.instance_type, pool.gpu_model, pool.gpus) == ("p4d.24xlarge", "A100", 8)
        assert [(one.key, one.value, one.effect) for one in pool.taints] == [
            ("nvidia.com/gpu", "present", "NoSchedule")
        ]
        assert not pool.autoscaled


async def test_moto_does_not_know_every_type(moto_provider: eks.NodeGroups, moto_clients: Callable[[str], Any]) -> None:
    api, subnets = moto_clients("eks"), subnets_of(moto_clients)
    for name, types in (
        ("made-up", ["p99.metal"]),
        ("trainium", ["trn1.32xlarge"]),
        ("mixed", ["g5.xlarge", "p4d.24xlarge"]),
    ):
        api.create_nodegroup(
            clusterName="burst",
            nodegroupName=name,
            instanceTypes=types,
            subnets=subnets,
            nodeRole="arn:aws:iam::123456789012:role/node",
        )
    told = {str(one.pool): (one.gpu_model, one.gpus) for one in await moto_provider.list_pools()}
    assert told["made-up"] == (None, None), "it is not known, and spoils the answer for no other"
    assert told["trainium"] == (None, 0), "accelerators, but no GPUs"
    assert told["mixed"] == (None, None), "one pool, two sorts of machines"
    assert told[str(A100)] == ("A100", 8)


async def test_moto_gives_back_a_named_node(moto_provider: eks.NodeGroups, moto_clients: Callable[[str], Any]) -> None:
    group = ScalingGroup(moto_clients, A100, desired=2)
    gone, kept = group.instances()
    found = {one.pool: one for one in await moto_provider.list_pools()}
    assert found[A100].desired_nodes == 2, "the Auto Scaling group knows better than the node group"
    assert found[A100].zones == ("us-east-1a", "us-east-1b")
    for _ in range(2):
        await moto_provider.remove_node(A100, NodeName("ip-10-0-0-1"), f"aws:///us-east-1a/{gone}")
        assert group.instances() == [kept]
    sizes = {one.pool: one.desired_nodes for one in await moto_provider.list_pools()}
    assert sizes[A100] == 1
    with pytest.raises(RefusedError, match="is not of node group p4d-spot"):
        await moto_provider.remove_node(SPOT, NodeName("ip-10-0-0-2"), f"aws:///us-east-1a/{kept}")


async def test_a_tag_in_moto_hands_the_pool_to_the_cluster_autoscaler(
    moto_provider: eks.NodeGroups, moto_url: str, moto_clients: Callable[[str], Any], tmp_path: Path
) -> None:
    group = ScalingGroup(moto_clients, A100, desired=1)
    group.tag("k8s.io/cluster-autoscaler/enabled", "true")
    assert not any(one.autoscaled for one in await moto_provider.list_pools()), "none is said to run"
    beside_one = settings_of(moto_url, tmp_path).model_copy(update={"cluster_autoscaler": True})
    careful = eks.create(beside_one, clock=SteppedClock())
    try:
        found = {one.pool: one.autoscaled for one in await careful.list_pools()}
        assert found == {A100: True, SPOT: False}
        (machine,) = group.instances()
        for call in (
            careful.set_size(A100, 2),
            careful.remove_node(A100, NodeName("n"), f"aws:///us-east-1a/{machine}"),
        ):
            with pytest.raises(RefusedError) as caught:
                await call
            assert caught.value.code == "Autoscaled"
        assert group.instances() == [machine]
    finally:
        await careful.close()


async def test_moto_tells_clusters_page_by_page(
    moto_provider: eks.NodeGroups, moto_url: str, moto_clients: Callable[[str], Any], tmp_path: Path
) -> None:
    api, subnets = moto_clients("eks"), subnets_of(moto_clients)
    for name in ("d", "b", "c", "a"):
        api.create_cluster(
            name=name, roleArn="arn:aws:iam::123456789012:role/eks", resourcesVpcConfig={"subnetIds": subnets}
        )
    found = await moto_provider.list_clusters()
    assert [one.name for one in found] == ["a", "b", "burst", "c", "d"]
    assert {(one.region, one.status) for one in found} == {("us-east-1", "ACTIVE")}
    assert all(one.version is not None and one.endpoint is not None for one in found)
    calls = AwsCalls(settings_of(moto_url, tmp_path))
    try:
        assert sorted(await calls.all("eks", "ListClusters", "clusters", maxResults=2)) == ["a", "b", "burst", "c", "d"]
    finally:
        await calls.close()


async def test_a_login_names_the_caller_to_motos_sts(moto_provider: eks.NodeGroups, moto_url: str) -> None:
    """What the cluster does with the token: it asks the URL inside, with its own name in the header."""
    login = await moto_provider.log_in()
    assert login.server.startswith("https://")
    assert login.ca_pem
    inner = login.token.removeprefix("k8s-aws-v1.")
    url = urlsplit(base64.urlsafe_b64decode(inner + "=" * (-len(inner) % 4)).decode())
    assert url.netloc == "sts.us-east-1.amazonaws.com"
    credential = parse_qs(url.query)["X-Amz-Credential"][0]
    # moto tells services apart by this header alone, which a presigned URL goes without.
    headers = {
        "x-k8s-aws-id": "burst",
        "Authorization": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host",
    }
    answer = await asyncio.to_thread(requests.get, f"{moto_url}/?{url.query}", headers=headers, timeout=10)
    assert answer.status_code == 200
    assert "<GetCallerIdentityResult>" in answer.text


async def test_no_such_cluster_in_moto(moto_url: str, tmp_path: Path) -> None:
    (tmp_path / "keys.ini").write_text(KEYS)
    provider = eks.create(settings_of(moto_url, tmp_path), clock=SteppedClock())
    try:
        assert await provider.list_clusters() == ()
        with pytest.raises(NotFoundError):
            await provider.log_in()
        with pytest.raises(NotFoundError):
            await provider.set_size(A100, 1)
    finally:
        await provider.close()


async def test_moto_cannot_say_what_may_be_written(moto_provider: eks.NodeGroups) -> None:
    found = {one.action: one for one in await moto_provider.check_access()}
    reads = {"eks:ListClusters", "eks:DescribeCluster", "eks:ListNodegroups", "eks:DescribeNodegroup"}
    assert {name for name in reads if found[name].allowed} == reads
    for write in ("eks:UpdateNodegroupConfig", "autoscaling:TerminateInstanceInAutoScalingGroup"):
        assert found[write].allowed is None
        assert "iam:SimulatePrincipalPolicy" in found[write].remedy
    assert all("\n" not in one.detail + one.remedy for one in found.values())
