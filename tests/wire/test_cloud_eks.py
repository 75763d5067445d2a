"""The EKS adapter against a real moto server, and the emulated AWS against boto3 itself."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import boto3
import pytest
import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from clusters.providers import eks
from clusters.sandbox.clouds import RunningCloud, start_cloud
from scheduler.model.errors import AuthError, InvalidObjectError, RefusedError
from scheduler.model.ids import NodeName, PoolId
from tests.contract.emulated_pools import ScriptedPools, SteppedClock, pool_spec

T = TypeVar("T")

KEYS = "[overspill]\naws_access_key_id = AKIAMOTO\naws_secret_access_key = secret\n"
ONCE = Config(retries={"total_max_attempts": 1})


@pytest.fixture
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    requests.post(
        f"http://{host}:{port}/moto-api/reset", timeout=10
    ).raise_for_status()  # moto's state is the process's
    server.stop()


@pytest.fixture
def moto_clients(moto_url: str) -> Iterator[Callable[[str], Any]]:
    made = []

    def client(service: str) -> Any:
        keys = {"aws_access_key_id": "AKIAMOTO", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        made.append(boto3.client(service, endpoint_url=moto_url, config=ONCE, **keys))
        return made[-1]

    yield client
    for one in made:
        one.close()


@pytest.fixture
async def moto_provider(
    moto_url: str, moto_clients: Callable[[str], Any], tmp_path: Path
) -> AsyncIterator[eks.NodeGroups]:
    (tmp_path / "keys.ini").write_text(KEYS)
    api = moto_clients("eks")
    subnets = [one["SubnetId"] for one in moto_clients("ec2").describe_subnets()["Subnets"]][:2]
    api.create_cluster(
        name="burst", roleArn="arn:aws:iam::123456789012:role/eks", resourcesVpcConfig={"subnetIds": subnets}
    )
    for name, capacity, desired in (("a100", "ON_DEMAND", 1), ("p4d-spot", "SPOT", 0)):
        api.create_nodegroup(
            clusterName="burst",
            nodegroupName=name,
            capacityType=capacity,
            scalingConfig={"minSize": 0, "maxSize": 4, "desiredSize": desired},
            instanceTypes=["p4d.24xlarge"],
            labels={"team": "ml"},
            subnets=subnets,
            nodeRole="arn:aws:iam::123456789012:role/node",
        )
    settings = eks.Settings.model_validate(
        {
            "type": "eks",
            "clusterName": "burst",
            "region": "us-east-1",
            "endpoints": dict.fromkeys(("eks", "autoscaling", "ec2"), moto_url),
            "credentialsFile": "keys.ini",
            "profile": "overspill",
        },
        context={"base_dir": tmp_path},
    )
    provider = eks.create(settings, clock=SteppedClock())
    yield provider
    await provider.close()


async def test_moto_lists_and_resizes(moto_provider: eks.NodeGroups) -> None:
    first = {one.pool: one for one in await moto_provider.list_pools()}
    assert set(first) == {"a100", "p4d-spot"}
    assert (first[PoolId("a100")].capacity_type, first[PoolId("p4d-spot")].capacity_type) == ("on-demand", "spot")
    assert (first[PoolId("a100")].desired_nodes, first[PoolId("a100")].max_nodes) == (1, 4)
    assert first[PoolId("a100")].labels == (("eks.amazonaws.com/nodegroup", "a100"), ("team", "ml"))
    await moto_provider.set_size(PoolId("a100"), 3)
    await moto_provider.set_size(PoolId("a100"), 3)
    after = {one.pool: one.desired_nodes for one in await moto_provider.list_pools()}
    assert after == {"a100": 3, "p4d-spot": 0}
    with pytest.raises(RefusedError, match=r"5 nodes is outside the node group's 0\.\.4"):
        await moto_provider.set_size(PoolId("a100"), 5)


async def test_moto_gives_back_a_named_node(moto_provider: eks.NodeGroups, moto_clients: Callable[[str], Any]) -> None:
    """moto keeps no Auto Scaling group for a node group, so the one it names is made for it."""
    scaling, compute = moto_clients("autoscaling"), moto_clients("ec2")
    group = moto_clients("eks").describe_nodegroup(clusterName="burst", nodegroupName="a100")["nodegroup"]
    name = group["resources"]["autoScalingGroups"][0]["name"]
    image = compute.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    scaling.create_launch_configuration(LaunchConfigurationName="lc", ImageId=image, InstanceType="t2.micro")
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=name,
        LaunchConfigurationName="lc",
        MinSize=0,
        MaxSize=4,
        DesiredCapacity=2,
        AvailabilityZones=["us-east-1a"],
    )

    def instances() -> list[str]:
        found = scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"][0]
        return [one["InstanceId"] for one in found["Instances"]]

    gone, kept = instances()
    sizes = {one.pool: one.desired_nodes for one in await moto_provider.list_pools()}
    assert sizes[PoolId("a100")] == 2, "the Auto Scaling group knows better than the node group"
    for _ in range(2):
        await moto_provider.remove_node(PoolId("a100"), NodeName("ip-10-0-0-1"), f"aws:///us-east-1a/{gone}")
        assert instances() == [kept]
    sizes = {one.pool: one.desired_nodes for one in await moto_provider.list_pools()}
    assert sizes[PoolId("a100")] == 1
    with pytest.raises(RefusedError, match="is not of node group p4d-spot"):
        await moto_provider.remove_node(PoolId("p4d-spot"), NodeName("ip-10-0-0-2"), f"aws:///us-east-1a/{kept}")


class Emulation:
    """The emulated AWS and boto3 clients of it."""

    def __init__(self, cloud: RunningCloud, pools: ScriptedPools, clock: SteppedClock, folder: Path) -> None:
        self.cloud, self.pools, self.clock = cloud, pools, clock
        self.url = str(cloud.settings["endpoints"]["eks"])  # type: ignore[index]
        text = (folder / str(cloud.settings["credentialsFile"])).read_text()
        self.key_id, self.secret = (line.split(" = ")[1] for line in text.splitlines()[1:])
        self._clients: list[Any] = []

    def client(self, service: str, secret: str | None = None) -> Any:
        made = boto3.client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.key_id,
            aws_secret_access_key=secret or self.secret,
            config=ONCE,
        )
        self._clients.append(made)
        return made

    def close(self) -> None:
        for client in self._clients:
            client.close()


@pytest.fixture
async def emulation(tmp_path: Path) -> AsyncIterator[Emulation]:
    clock = SteppedClock()
    pools = ScriptedPools("eks", (pool_spec("one"), pool_spec("two", capacity_type="spot")), clock)
    cloud = await start_cloud("eks", pools, clock, tmp_path)
    made = Emulation(cloud, pools, clock, tmp_path)
    yield made
    made.close()
    await cloud.stop()


async def ask(function: Callable[..., T], **arguments: Any) -> T:
    return await asyncio.to_thread(function, **arguments)


def test_settings_for_a_place_that_is_none_are_one_clear_line(tmp_path: Path) -> None:
    base = {"type": "eks", "clusterName": "c", "region": "us-east-1"}
    cases: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"credentialsFile": "nosuch.ini"}, AuthError, r"nosuch\.ini: no such credentials file"),
        ({"caFile": "nosuch.pem"}, InvalidObjectError, r"caFile .*nosuch\.pem: no such file"),
        ({"profile": "nosuch-profile"}, AuthError, "nosuch-profile"),
        ({"endpoints": {"eks": "no url"}}, InvalidObjectError, "no url"),
    ]
    for more, want, text in cases:
        settings = eks.Settings.model_validate(base | more, context={"base_dir": tmp_path})
        with pytest.raises(want, match=text):
            eks.create(settings, clock=SteppedClock())


async def test_the_caller_and_the_cluster_are_told(emulation: Emulation) -> None:
    identity = await ask(emulation.client("sts").get_caller_identity)
    assert identity["Arn"].startswith("arn:aws:iam::")
    cluster = await ask(emulation.client("eks").describe_cluster, name="burst")
    assert cluster["cluster"]["status"] == "ACTIVE"
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        await ask(emulation.client("eks").describe_cluster, name="other")
    assert emulation.cloud.request_log == ["GetCallerIdentity", "DescribeCluster", "DescribeCluster"]


async def test_node_groups_come_in_pages(emulation: Emulation) -> None:
    api = emulation.client("eks")
    first = await ask(api.list_nodegroups, clusterName="burst", maxResults=1)
    second = await ask(api.list_nodegroups, clusterName="burst", maxResults=1, nextToken=first["nextToken"])
    assert first["nodegroups"] + second["nodegroups"] == ["one", "two"]
    assert not second.get("nextToken")


async def test_an_update_takes_virtual_time_and_excludes_another(emulation: Emulation) -> None:
    api = emulation.client("eks")
    wanted = {"clusterName": "burst", "nodegroupName": "one"}
    token = "0123456789"
    update = (
        await ask(api.update_nodegroup_config, **wanted, scalingConfig={"desiredSize": 2}, clientRequestToken=token)
    )["update"]
    again = await ask(api.update_nodegroup_config, **wanted, scalingConfig={"desiredSize": 2}, clientRequestToken=token)
    assert update["status"] == "InProgress"
    assert again["update"]["id"] == update["id"], "a request sent twice is done once"
    with pytest.raises(ClientError, match="ResourceInUseException"):
        await ask(api.update_nodegroup_config, **wanted, scalingConfig={"desiredSize": 3})
    assert (await ask(api.describe_nodegroup, **wanted))["nodegroup"]["status"] == "UPDATING"
    emulation.clock.advance(16)
    ended = await ask(api.describe_update, name="burst", nodegroupName="one", updateId=update["id"])
    assert ended["update"]["status"] == "Successful"
    assert (await ask(api.describe_nodegroup, **wanted))["nodegroup"]["status"] == "ACTIVE"
    assert len(emulation.pools.state("one").instances) == 2


async def test_auto_scaling_speaks_its_own_protocol(emulation: Emulation) -> None:
    api = emulation.client("autoscaling")
    groups = (await ask(api.describe_auto_scaling_groups))["AutoScalingGroups"]
    name = groups[0]["AutoScalingGroupName"]
    await ask(api.set_desired_capacity, AutoScalingGroupName=name, DesiredCapacity=2)
    (group,) = (await ask(api.describe_auto_scaling_groups, AutoScalingGroupNames=[name]))["AutoScalingGroups"]
    assert (group["DesiredCapacity"], len(group["Instances"])) == (2, 2)
    first = group["Instances"][0]["InstanceId"]
    terminate = api.terminate_instance_in_auto_scaling_group
    activity = await ask(terminate, InstanceId=first, ShouldDecrementDesiredCapacity=True)
    assert activity["Activity"]["AutoScalingGroupName"] == name
    with pytest.raises(ClientError, match="No managed instance found"):
        await ask(terminate, InstanceId=first, ShouldDecrementDesiredCapacity=True)
    with pytest.raises(ClientError, match=r"outside 0\.\.8"):
        await ask(api.set_desired_capacity, AutoScalingGroupName=name, DesiredCapacity=9)
    with pytest.raises(ClientError, match="InvalidAction"):
        await ask(api.describe_policies)


async def test_a_wrong_signature_is_refused_in_each_protocol(emulation: Emulation) -> None:
    with pytest.raises(ClientError) as rest:
        await ask(emulation.client("eks", secret="guess").describe_cluster, name="burst")
    with pytest.raises(ClientError) as query:
        await ask(emulation.client("sts", secret="guess").get_caller_identity)
    emulation.key_id = "AKIASOMEBODYELSE"
    with pytest.raises(ClientError) as stranger:
        await ask(emulation.client("eks").describe_cluster, name="burst")
    codes = [one.value.response["Error"]["Code"] for one in (rest, query, stranger)]
    assert codes == ["InvalidSignatureException", "SignatureDoesNotMatch", "UnrecognizedClientException"]
    assert emulation.cloud.request_log == []


async def test_no_signature_no_answer_and_no_changed_body(emulation: Emulation) -> None:
    url = f"{emulation.url}/clusters/burst/node-groups/one/update-config"
    body = json.dumps({"scalingConfig": {"desiredSize": 1}}).encode()
    signed = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/json"})
    SigV4Auth(Credentials(emulation.key_id, emulation.secret), "eks", "us-east-1").add_auth(signed)
    headers = dict(signed.headers.items())
    async with aiohttp.ClientSession() as session:
        async with session.post(url, data=body) as unsigned:
            assert unsigned.status == 403
            assert unsigned.headers["x-amzn-ErrorType"] == "MissingAuthenticationTokenException"
        async with session.post(url, data=body.replace(b"1", b"8"), headers=headers) as changed:
            assert changed.status == 403
        old = {**headers, "X-Amz-Date": "20200101T000000Z"}
        async with session.post(url, data=body, headers=old) as stale:
            assert stale.status == 403
        for header in ({"X-Amz-Date": "20269999T000000Z"}, {"Authorization": "AWS4-HMAC-SHA256 x"}):
            async with session.post(url, data=body, headers=headers | header) as senseless:
                assert senseless.status == 403
        async with session.post(url, data=io.BytesIO(b"x" * (2 << 20)), headers=headers) as huge:
            assert huge.status == 413
        assert emulation.pools.state("one").desired == 0
        async with session.post(url, data=body, headers=headers) as right:
            assert right.status == 200
    assert emulation.pools.state("one").desired == 1


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"scalingConfig": {"desiredSize": "2"}}', b'{"scalingConfig": {"desiredSize": true}}']
)
async def test_a_senseless_body_is_a_client_error(emulation: Emulation, body: bytes) -> None:
    url = f"{emulation.url}/clusters/burst/node-groups/one/update-config"
    signed = AWSRequest("POST", url, data=body, headers={"Content-Type": "application/json"})
    SigV4Auth(Credentials(emulation.key_id, emulation.secret), "eks", "us-east-1").add_auth(signed)
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=dict(signed.headers.items())) as answer,
    ):
        assert answer.status == 400
        assert "message" in await answer.json()
