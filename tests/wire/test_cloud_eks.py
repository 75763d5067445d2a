"""The emulated AWS against boto3 itself, and the EKS adapter in what only EKS has. (moto: test_cloud_eks_moto.py.)"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from clusters.providers import eks
from clusters.sandbox.clouds import RunningCloud, start_cloud
from clusters.sandbox.clouds.faults import Fault
from scheduler.model.errors import (
    AuthError,
    InvalidObjectError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    TransientError,
)
from scheduler.model.ids import NodeName
from tests.contract.emulated_pools import ScriptedPools, SteppedClock, pool_spec
from tests.wire.eks_bench import ONE, TWO, EksBench, pool_of

T = TypeVar("T")

ONCE = Config(retries={"total_max_attempts": 1})


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


async def test_the_one_cluster_tells_its_way_in(emulation: Emulation) -> None:
    api = emulation.client("eks")
    assert (await ask(api.list_clusters, maxResults=1))["clusters"] == ["burst"]
    cluster = (await ask(api.describe_cluster, name="burst"))["cluster"]
    assert cluster["endpoint"].startswith("https://")
    assert "data" in cluster["certificateAuthority"]
    with pytest.raises(ClientError, match="InvalidParameterException"):
        await ask(api.list_clusters, nextToken="x")


async def test_updates_come_in_pages_the_newest_first(emulation: Emulation) -> None:
    api = emulation.client("eks")
    for size in (1, 2):
        await ask(
            api.update_nodegroup_config, clusterName="burst", nodegroupName="one", scalingConfig={"desiredSize": size}
        )
        emulation.clock.advance(16)
    wanted = {"name": "burst", "nodegroupName": "one", "maxResults": 1}
    first = await ask(api.list_updates, **wanted)
    second = await ask(api.list_updates, **wanted, nextToken=first["nextToken"])
    sizes = []
    for page in (first, second):
        (found,) = page["updateIds"]
        update = await ask(api.describe_update, name="burst", nodegroupName="one", updateId=found)
        sizes.append(update["update"]["params"][0]["value"])
    assert sizes == ["2", "1"]
    assert not second.get("nextToken")
    assert (await ask(api.list_updates, name="burst", nodegroupName="two"))["updateIds"] == []
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        await ask(api.list_updates, name="burst", nodegroupName="three")


async def test_ec2_tells_the_machines_in_its_own_protocol(emulation: Emulation) -> None:
    api = emulation.client("ec2")
    (told,) = (await ask(api.describe_instance_types, InstanceTypes=["gpu.8xlarge"]))["InstanceTypes"]
    (gpu,) = told["GpuInfo"]["Gpus"]
    assert (gpu["Name"], gpu["Count"], gpu["MemoryInfo"]["SizeInMiB"]) == ("A100", 8, 40960)
    assert (told["VCpuInfo"]["DefaultVCpus"], told["MemoryInfo"]["SizeInMiB"]) == (96, 960 * 1024)
    for arguments, want in (({"DryRun": True}, "DryRunOperation"), ({"InstanceTypes": ["x"]}, "InvalidInstanceType")):
        with pytest.raises(ClientError) as caught:
            await ask(api.describe_instance_types, **arguments)
        assert caught.value.response["Error"]["Code"] == want


async def test_scaling_groups_are_tagged_as_eks_tags_them(emulation: Emulation) -> None:
    groups = (await ask(emulation.client("autoscaling").describe_auto_scaling_groups))["AutoScalingGroups"]
    tags = {tag["Key"]: tag["Value"] for tag in groups[0]["Tags"]}
    assert tags["eks:cluster-name"] == "burst"
    assert tags["k8s.io/cluster-autoscaler/enabled"] == "true"
    assert groups[0]["AutoScalingGroupARN"].endswith(f"autoScalingGroupName/{groups[0]['AutoScalingGroupName']}")


@pytest.mark.parametrize(
    ("action", "resource", "want"),
    [
        ("eks:UpdateNodegroupConfig", "nodegroup/burst/one/1", "allowed"),
        ("eks:UpdateNodegroupConfig", "nodegroup/other/one/1", "implicitDeny"),
        ("eks:DeleteNodegroup", "nodegroup/burst/one/1", "implicitDeny"),
    ],
)
async def test_iam_simulates_the_users_policy(emulation: Emulation, action: str, resource: str, want: str) -> None:
    api = emulation.client("iam")
    arn = f"arn:aws:eks:us-east-1:000000000000:{resource}"
    identity = await ask(emulation.client("sts").get_caller_identity)
    answer = await ask(
        api.simulate_principal_policy, PolicySourceArn=identity["Arn"], ActionNames=[action], ResourceArns=[arn]
    )
    (result,) = answer["EvaluationResults"]
    assert (result["EvalActionName"], result["EvalResourceName"], result["EvalDecision"]) == (action, arn, want)
    with pytest.raises(ClientError, match="NoSuchEntity"):
        await ask(api.simulate_principal_policy, PolicySourceArn=identity["Arn"] + "x", ActionNames=[action])


async def test_a_signature_for_one_service_opens_no_other(emulation: Emulation) -> None:
    url = f"{emulation.url}/clusters/burst"
    signed = AWSRequest("GET", url)
    SigV4Auth(Credentials(emulation.key_id, emulation.secret), "sts", "us-east-1").add_auth(signed)
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=dict(signed.headers.items())) as answer,
    ):
        assert answer.status == 403
        assert answer.headers["x-amzn-ErrorType"] == "InvalidSignatureException"


# -- The adapter ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[EksBench]:
    made = await EksBench.start(tmp_path)
    yield made
    await made.stop()


async def test_a_pool_of_the_cluster_autoscaler_is_never_resized(bench: EksBench) -> None:
    ours, theirs = bench.provider(), bench.provider(clusterAutoscaler=True)
    await ours.set_size(ONE, 1)
    bench.clock.advance(60)
    assert not (await pool_of(ours, ONE)).autoscaled
    assert (await pool_of(theirs, ONE)).autoscaled
    (machine,) = bench.pools.state(ONE).instances
    for call in (
        theirs.set_size(ONE, 2),
        theirs.remove_node(ONE, NodeName(machine.node), machine.provider_id),
    ):
        with pytest.raises(RefusedError, match=r"k8s\.io/cluster-autoscaler/enabled") as caught:
            await call
        assert caught.value.code == "Autoscaled"
    assert bench.pools.state(ONE).instances == (machine,)


async def test_a_size_that_was_there_before_is_grown_to_again(bench: EksBench) -> None:
    """EKS knows client request tokens again: one made of pool and size would leave the second growth undone."""
    provider = bench.provider()
    for size in (3, 2, 3, 0, 3):
        await provider.set_size(ONE, size)
        bench.clock.advance(60)
        assert len(bench.pools.state(ONE).instances) == size


async def test_a_lost_answer_is_asked_again_with_the_same_token(bench: EksBench) -> None:
    """The write arrives, nobody says so, and its effect is not to be seen yet: the retry must not count twice."""
    provider = bench.provider(readTimeoutSeconds=0.5)
    bench.cloud.faults.add(Fault("lost-answer"))
    with pytest.raises(OutcomeUnknownError):
        await provider.set_size(ONE, 2)
    bench.clock.advance(60)
    bench.pools.resize(ONE, 0)  # as it looks where the Auto Scaling group lags behind
    await provider.set_size(ONE, 2)
    assert bench.pools.state(ONE).desired == 0, "EKS answers with the update that it has done already"
    bench.clock.advance(60)
    assert (await pool_of(provider, ONE)).desired_nodes == 0
    await provider.set_size(ONE, 2)
    assert bench.pools.state(ONE).desired == 2, "a new intention, once the old one's outcome is known"


async def test_a_failure_that_only_the_update_tells_is_a_shortage(bench: EksBench) -> None:
    provider = bench.provider()
    bench.pools.short[ONE] = "addresses"
    await provider.set_size(ONE, 2)
    running = await pool_of(provider, ONE)
    assert (running.busy, running.shortage, running.health) == (True, None, ())
    bench.clock.advance(60)
    failed = await pool_of(provider, ONE)
    assert failed.shortage is not None
    assert failed.shortage.kind == "error"
    assert failed.health == (
        "update failed: NodeCreationFailure: Instances failed to join the kubernetes cluster: no free addresses in"
        " their subnet",
    )
    assert (await pool_of(provider, TWO)).shortage is None
    bench.pools.short.clear()
    await provider.set_size(ONE, 1)
    after = await pool_of(provider, ONE)
    assert (after.shortage, after.health) == (None, ())


async def test_a_failed_update_is_not_remembered_for_ever(bench: EksBench) -> None:
    provider = bench.provider()
    bench.pools.short[ONE] = "addresses"
    await provider.set_size(ONE, 2)
    bench.clock.advance(60)
    assert (await pool_of(provider, ONE)).shortage is not None
    bench.clock.advance(1800)
    assert (await pool_of(provider, ONE)).shortage is None


async def test_machines_that_came_after_all_end_the_failure(bench: EksBench) -> None:
    provider = bench.provider()
    bench.pools.short[ONE] = "addresses"
    await provider.set_size(ONE, 2)
    bench.clock.advance(60)
    assert (await pool_of(provider, ONE)).shortage is not None
    bench.pools.short.clear()
    bench.pools.resize(ONE, 2)
    assert (await pool_of(provider, ONE)).shortage is None


async def test_an_update_that_somebody_else_began_is_followed_too(bench: EksBench) -> None:
    """As after a restart, or when the answer to our own request was lost."""
    bench.pools.short[ONE] = "addresses"
    first, second = bench.provider(), bench.provider()
    await first.set_size(ONE, 2)
    running = await pool_of(second, ONE)
    assert (running.busy, running.desired_nodes) == (True, 2)
    with pytest.raises(TransientError) as caught:
        await second.set_size(ONE, 3)
    assert caught.value.code == "PoolBusy"
    bench.clock.advance(60)
    shortage = (await pool_of(second, ONE)).shortage
    assert shortage is not None
    assert shortage.kind == "error"


async def test_two_may_look_at_once(bench: EksBench) -> None:
    provider = bench.provider()
    bench.pools.short[ONE] = "addresses"
    await provider.set_size(ONE, 2)
    bench.clock.advance(60)
    for pools in await asyncio.gather(*(provider.list_pools() for _ in range(3))):
        assert [one.busy for one in pools] == [False, False]
    assert (await pool_of(provider, ONE)).shortage is not None


async def test_the_running_one_of_many_updates_is_found(bench: EksBench) -> None:
    first = bench.provider()
    for size in (1, 2, 3, 2, 1, 3):
        await first.set_size(ONE, size)
        bench.clock.advance(60)
        await first.list_pools()
    await first.set_size(ONE, 4)
    start = len(bench.cloud.request_log)
    assert (await pool_of(bench.provider(), ONE)).desired_nodes == 4
    asked = bench.cloud.request_log[start:]
    assert (asked.count("ListUpdates"), asked.count("DescribeUpdate")) == (1, 2), "the newest is the first here"


async def test_a_node_given_back_while_a_resize_runs_is_counted(bench: EksBench) -> None:
    provider = bench.provider()
    await provider.set_size(ONE, 3)
    machine = bench.pools.state(ONE).instances[0]
    await provider.remove_node(ONE, NodeName(machine.node), machine.provider_id)
    assert (await pool_of(provider, ONE)).desired_nodes == 2
    bench.clock.advance(60)
    assert (await pool_of(provider, ONE)).desired_nodes == 2


async def test_a_node_that_goes_while_we_look_is_given_back(bench: EksBench, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = bench.provider()
    await provider.set_size(ONE, 2)
    bench.clock.advance(60)
    gone, kept = bench.pools.state(ONE).instances
    ask = provider._aws.ask

    async def just_before(service: str, action: str, **arguments: Any) -> dict[str, Any]:
        if action == "TerminateInstanceInAutoScalingGroup":
            bench.pools.remove(ONE, gone.instance_id)
        return await ask(service, action, **arguments)

    monkeypatch.setattr(provider._aws, "ask", just_before)
    await provider.remove_node(ONE, NodeName(gone.node), gone.provider_id)
    assert bench.pools.state(ONE).instances == (kept,)
    bench.cloud.faults.add(Fault("unmapped", code="ValidationError"))
    with pytest.raises(RefusedError):
        await provider.remove_node(ONE, NodeName(kept.node), kept.provider_id)


async def test_pools_below_their_least_are_refused(bench: EksBench) -> None:
    provider = bench.provider()
    with pytest.raises(RefusedError, match=r"-1 nodes is outside the node group's 0\.\.8"):
        await provider.set_size(ONE, -1)
    assert "UpdateNodegroupConfig" not in bench.cloud.request_log


async def test_what_else_goes_wrong_in_clusters(bench: EksBench) -> None:
    strange = bench.provider(clusterName="other")
    with pytest.raises(NotFoundError):
        await strange.log_in()
    bench.services.identities.denied.add("eks:DescribeCluster")
    (seen,) = await strange.list_clusters()
    assert (seen.name, seen.status, seen.version, seen.endpoint) == ("burst", "AccessDeniedException", None, None)
    with pytest.raises(AuthError):
        await bench.provider().list_clusters()
