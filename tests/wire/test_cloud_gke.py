"""The emulated Google Cloud against Google's own SDK, and what only GKE has."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import google.auth.jwt
import grpc
import pytest
from google.api_core import exceptions as google_errors
from google.auth.crypt import RSASigner
from google.cloud.container_v1 import types
from google.oauth2 import service_account

from clusters.clock import SystemClock
from clusters.providers import gke
from clusters.sandbox.clouds import RunningCloud, start_cloud
from scheduler.model.errors import AuthError, InvalidObjectError, RefusedError, TransientError
from scheduler.model.ids import NodeName, PoolId
from tests.contract.emulated_pools import ScriptedPools, SteppedClock, pool_spec

T = TypeVar("T")


class Emulation:
    """The emulated cloud, the adapter, and through it an SDK client with the right credentials."""

    def __init__(self, cloud: RunningCloud, pools: ScriptedPools, clock: SteppedClock, folder: Path) -> None:
        self.cloud, self.pools, self.clock, self.folder = cloud, pools, clock, folder
        self.settings = gke.Settings.model_validate(cloud.settings, context={"base_dir": folder})
        self.provider = gke.create(self.settings, clock=clock)
        self.sdk: Any = self.provider._calls.gke
        self.cluster = self.provider._name

    def pool(self, name: str) -> str:
        return f"{self.cluster}/nodePools/{name}"


@pytest.fixture
async def emulation(tmp_path: Path) -> AsyncIterator[Emulation]:
    clock = SteppedClock()
    pools = ScriptedPools("gke", (pool_spec("one"), pool_spec("two", capacity_type="spot")), clock)
    cloud = await start_cloud("gke", pools, clock, tmp_path)
    made = Emulation(cloud, pools, clock, tmp_path)
    yield made
    await made.provider.close()
    await cloud.stop()


async def ask(function: Callable[..., T], *args: Any, **arguments: Any) -> T:
    return await asyncio.to_thread(function, *args, **arguments)


async def test_an_operation_takes_virtual_time_and_excludes_another(emulation: Emulation) -> None:
    request = types.SetNodePoolSizeRequest(name=emulation.pool("one"), node_count=2)
    operation = await ask(emulation.sdk.set_node_pool_size, request)
    assert operation.status == types.Operation.Status.RUNNING
    with pytest.raises(google_errors.FailedPrecondition, match="incompatible operation"):
        await ask(emulation.sdk.set_node_pool_size, request)
    found = await ask(emulation.sdk.get_node_pool, name=emulation.pool("one"))
    assert found.status == types.NodePool.Status.RECONCILING
    emulation.clock.advance(21)
    name = f"{emulation.cluster.rpartition('/clusters/')[0]}/operations/{operation.name}"
    ended = await ask(emulation.sdk.get_operation, name=name)
    assert (ended.status, ended.error.message) == (types.Operation.Status.DONE, "")
    cluster = await ask(emulation.sdk.get_cluster, name=emulation.cluster)
    assert [pool.status for pool in cluster.node_pools] == [types.NodePool.Status.RUNNING] * 2
    listed = await ask(emulation.sdk.list_operations, parent=emulation.cluster.rpartition("/clusters/")[0])
    assert [one.name for one in listed.operations] == [operation.name]


async def test_an_ended_operation_does_not_begin_again(emulation: Emulation) -> None:
    """A spot reclaim makes the pool rebuild a machine; that is no operation of ours."""
    await emulation.provider.set_size(PoolId("two"), 1)
    emulation.clock.advance(21)
    assert not (await emulation.provider.list_pools())[1].busy
    emulation.pools._states["two"] = replace(emulation.pools.state("two"), resizing=True)
    assert not (await emulation.provider.list_pools())[1].busy


async def test_a_failed_operation_carries_the_stockout(emulation: Emulation) -> None:
    emulation.pools.short["one"] = "capacity"
    operation = await ask(
        emulation.sdk.set_node_pool_size, types.SetNodePoolSizeRequest(name=emulation.pool("one"), node_count=1)
    )
    emulation.clock.advance(21)
    name = f"{emulation.cluster.rpartition('/clusters/')[0]}/operations/{operation.name}"
    ended = await ask(emulation.sdk.get_operation, name=name)
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" in ended.error.message
    found = await ask(emulation.sdk.get_node_pool, name=emulation.pool("one"))
    assert found.conditions[0].code == types.StatusCondition.Code.GCE_STOCKOUT


async def test_the_instance_group_tells_a_shortage_before_the_operation_ends(emulation: Emulation) -> None:
    emulation.pools.short["one"] = "quota"
    await emulation.provider.set_size(PoolId("one"), 1)
    one = (await emulation.provider.list_pools())[0]
    assert one.busy
    assert one.shortage is not None
    assert (one.shortage.kind, one.shortage.since) == ("quota", emulation.clock.now())
    assert "QUOTA_EXCEEDED" in one.shortage.text


async def test_a_group_deletes_only_its_own(emulation: Emulation) -> None:
    await emulation.provider.set_size(PoolId("one"), 2)
    url = (await ask(emulation.sdk.get_node_pool, name=emulation.pool("one"))).instance_group_urls[0]
    body = {"instances": ["zones/us-east-1a/instances/stranger"]}
    with pytest.raises(RefusedError, match="not a member of the group"):
        await emulation.provider._group("deleteInstances", url, body)
    with pytest.raises(RefusedError, match="instances"):
        await emulation.provider._group("deleteInstances", url, {"instances": []})
    with pytest.raises(RefusedError, match="has no instance group in mars-1a"):
        await emulation.provider.remove_node(PoolId("one"), NodeName("n"), "gce://p/mars-1a/n")
    assert emulation.pools.state("one").desired == 2


async def test_no_token_no_answer(emulation: Emulation) -> None:
    roots = (emulation.folder / str(emulation.cloud.settings["caFile"])).read_bytes()
    credentials = grpc.ssl_channel_credentials(roots)
    async with grpc.aio.secure_channel(emulation.settings.endpoint, credentials) as channel:
        call = channel.unary_unary(
            "/google.container.v1.ClusterManager/ListNodePools",
            request_serializer=types.ListNodePoolsRequest.serialize,
            response_deserializer=types.ListNodePoolsResponse.deserialize,
        )
        for metadata in (None, (("authorization", "Bearer guess"),)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(types.ListNodePoolsRequest(parent=emulation.cluster), metadata=metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert emulation.cloud.request_log == []


async def test_a_server_of_another_authority_is_not_trusted(emulation: Emulation, tmp_path: Path) -> None:
    other = await start_cloud("gke", emulation.pools, emulation.clock, tmp_path / "other")
    changed = emulation.settings.model_copy(update={"ca_file": tmp_path / "other" / str(other.settings["caFile"])})
    provider = gke.create(changed, clock=emulation.clock)
    try:
        with pytest.raises(TransientError, match="CERTIFICATE_VERIFY_FAILED"):
            await provider.list_pools()
    finally:
        await provider.close()
        await other.stop()


async def test_the_token_endpoint_wants_the_right_signature(emulation: Emulation, tmp_path: Path) -> None:
    key = json.loads((tmp_path / str(emulation.cloud.settings["credentialsFile"])).read_text())
    stranger = await start_cloud("gke", emulation.pools, emulation.clock, tmp_path / "stranger")
    other = json.loads((tmp_path / "stranger" / str(stranger.settings["credentialsFile"])).read_text())
    await stranger.stop()
    now = int(SystemClock().now())
    right = {"iss": key["client_email"], "aud": key["token_uri"], "iat": now, "exp": now + 3600, "scope": "x"}
    cases: list[tuple[str, dict[str, Any], str]] = [
        (other["private_key"], right, "Invalid JWT Signature."),
        (key["private_key"], right | {"iss": "nobody@example.com"}, "account not found"),
        (key["private_key"], right | {"aud": "https://example.com/token"}, "wrong audience"),
        (key["private_key"], right | {"iat": now - 9000, "exp": now - 5400}, "short-lived"),
        (key["private_key"], right | {"exp": now + 90_000}, "short-lived"),
        (key["private_key"], right | {"iat": "soon"}, "short-lived"),
        (key["private_key"], right, ""),
    ]
    connector = aiohttp.TCPConnector(ssl=_trusting(tmp_path / str(emulation.cloud.settings["caFile"])))
    async with aiohttp.ClientSession(connector=connector) as session:
        for private_key, claims, want in cases:
            signer: Any = RSASigner.from_string(private_key)  # type: ignore[no-untyped-call]
            assertion = google.auth.jwt.encode(signer, claims).decode()  # type: ignore[no-untyped-call]
            form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
            async with session.post(key["token_uri"], data=form) as answer:
                body = await answer.json()
                assert answer.status == (400 if want else 200)
                assert want in body.get("error_description", "")
                assert bool(body.get("access_token")) == (not want)
        for form in ({}, {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": "a.b.c"}):
            async with session.post(key["token_uri"], data=form) as answer:
                assert answer.status == 400


def _trusting(ca_file: Path) -> Any:
    import ssl

    return ssl.create_default_context(cafile=str(ca_file))


@pytest.mark.parametrize(
    ("content", "want"),
    [
        (None, "No such file"),
        ("{", "Expecting property name"),
        ("[]", "no attribute"),
        ('{"type": "mystery"}', "type must be service_account"),
        ('{"type": "service_account"}', "missing fields"),
    ],
)
def test_unusable_credentials_name_the_file(tmp_path: Path, content: str | None, want: str) -> None:
    if content is not None:
        (tmp_path / "key.json").write_text(content)
    base = {"type": "gke", "project": "p", "location": "z", "clusterName": "c", "credentialsFile": "key.json"}
    settings = gke.Settings.model_validate(base, context={"base_dir": tmp_path})
    with pytest.raises(AuthError, match=rf"key\.json: .*{want}|key\.json: {want}"):
        gke.create(settings, clock=SteppedClock())
    with pytest.raises(InvalidObjectError, match=r"caFile .*nosuch\.pem: no such file"):
        gke.create(settings.model_copy(update={"ca_file": tmp_path / "nosuch.pem"}), clock=SteppedClock())


def test_credentials_are_what_their_file_says(emulation: Emulation) -> None:
    assert isinstance(emulation.provider._calls.credentials, service_account.Credentials)
