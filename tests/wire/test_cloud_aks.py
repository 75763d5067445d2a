"""The emulated Azure against Azure's own SDK, long-running operations included, and what only AKS has."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceModifiedError
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import ClientSecretCredential
from azure.mgmt.containerservice import ContainerServiceClient
from pydantic import ValidationError

from clusters.providers import aks
from clusters.sandbox.clouds import RunningCloud, start_cloud
from scheduler.model.errors import AuthError, InvalidObjectError, RefusedError, TransientError
from scheduler.model.ids import NodeName, PoolId
from tests.contract.emulated_pools import ScriptedPools, SteppedClock, pool_spec

T = TypeVar("T")


class SteppingTransport(RequestsTransport):  # type: ignore[misc]
    """Waits between two polls by moving the sandbox's clock."""

    def __init__(self, clock: SteppedClock, **options: Any) -> None:
        super().__init__(**options)
        self._clock = clock

    def sleep(self, duration: float) -> None:
        self._clock.advance(duration)


class Emulation:
    def __init__(self, cloud: RunningCloud, pools: ScriptedPools, clock: SteppedClock, folder: Path) -> None:
        self.cloud, self.pools, self.clock = cloud, pools, clock
        self.settings = aks.Settings.model_validate(cloud.settings, context={"base_dir": folder})
        self.ca_file = str(self.settings.ca_file)
        assert self.settings.client_secret_file is not None
        self.credential = ClientSecretCredential(
            self.settings.tenant_id or "",
            self.settings.client_id or "",
            self.settings.client_secret_file.read_text(),
            authority=self.settings.authority,
            disable_instance_discovery=True,
            connection_verify=self.ca_file,
        )
        self.sdk = ContainerServiceClient(
            self.credential,
            self.settings.subscription_id,
            base_url=self.settings.endpoint,
            transport=SteppingTransport(clock, connection_verify=self.ca_file),
        )
        self.where = (self.settings.resource_group, self.settings.cluster_name)

    def close(self) -> None:
        self.sdk.close()
        self.credential.close()


@pytest.fixture
async def emulation(tmp_path: Path) -> AsyncIterator[Emulation]:
    clock = SteppedClock()
    pools = ScriptedPools("aks", (pool_spec("one"), pool_spec("two", capacity_type="spot")), clock)
    cloud = await start_cloud("aks", pools, clock, tmp_path)
    made = Emulation(cloud, pools, clock, tmp_path)
    yield made
    made.close()
    await cloud.stop()


async def ask(function: Callable[..., T], *args: Any, **arguments: Any) -> T:
    return await asyncio.to_thread(function, *args, **arguments)


async def test_the_sdks_own_poller_sees_a_resize_to_its_end(emulation: Emulation) -> None:
    pools = emulation.sdk.agent_pools
    pool = await ask(pools.get, *emulation.where, "one")
    pool.count = 2
    poller = await ask(pools.begin_create_or_update, *emulation.where, "one", pool)
    ended = await ask(poller.result)
    assert (ended.count, ended.provisioning_state) == (2, "Succeeded")
    log = emulation.cloud.request_log
    assert log.count("GET operations") >= 2, "it was in progress at first"
    assert len(emulation.pools.state("one").instances) == 2


async def test_a_machine_is_deleted_to_the_operations_end(emulation: Emulation) -> None:
    emulation.pools.resize("one", 2)
    first, second = emulation.pools.state("one").instances
    machines = await ask(lambda: list(emulation.sdk.machines.list(*emulation.where, "one")))
    assert [one.name for one in machines] == [first.node, second.node]
    poller = await ask(
        emulation.sdk.agent_pools.begin_delete_machines, *emulation.where, "one", {"machineNames": [first.node]}
    )
    await ask(poller.result)
    assert emulation.pools.state("one").instances == (second,)


async def test_a_failed_operation_carries_the_allocation_failure(emulation: Emulation) -> None:
    emulation.pools.short["one"] = "capacity"
    pool = await ask(emulation.sdk.agent_pools.get, *emulation.where, "one")
    pool.count = 1
    poller = await ask(emulation.sdk.agent_pools.begin_create_or_update, *emulation.where, "one", pool)
    with pytest.raises(HttpResponseError, match="AllocationFailed"):
        await ask(poller.result)
    failed = await ask(emulation.sdk.agent_pools.get, *emulation.where, "one")
    assert failed.provisioning_state == "Failed"
    assert "AllocationFailed" in failed.status.provisioning_error.message


async def test_a_pool_that_changed_is_not_overwritten(emulation: Emulation) -> None:
    pool = await ask(emulation.sdk.agent_pools.get, *emulation.where, "one")
    tag = pool.e_tag
    emulation.pools.resize("one", 1)
    pool.count = 3
    with pytest.raises(ResourceModifiedError):
        await ask(
            emulation.sdk.agent_pools.begin_create_or_update,
            *emulation.where,
            "one",
            pool,
            etag=tag,
            match_condition=MatchConditions.IfNotModified,
        )
    assert emulation.pools.state("one").desired == 1


async def test_a_running_operation_refuses_a_deletion_for_now(emulation: Emulation) -> None:
    provider = aks.create(emulation.settings, clock=emulation.clock)
    try:
        await provider.set_size(PoolId("one"), 2)
        machine = emulation.pools.state("one").instances[0]
        with pytest.raises(TransientError, match="OperationNotAllowed"):
            await provider.remove_node(PoolId("one"), NodeName(machine.node), machine.provider_id)
        emulation.clock.advance(21)
        await provider.remove_node(PoolId("one"), NodeName(machine.node), machine.provider_id)
        assert emulation.pools.state("one").desired == 1
    finally:
        await provider.close()


async def test_workload_identity_opens_the_door(emulation: Emulation, tmp_path: Path) -> None:
    token = tmp_path / "credentials" / "burst-azure-federated-token"
    identity = {"client_secret_file": None, "federated_token_file": token}
    provider = aks.create(emulation.settings.model_copy(update=identity), clock=emulation.clock)
    try:
        assert len(await provider.list_pools()) == 2
    finally:
        await provider.close()
    token.write_text("guess")
    stranger = aks.create(emulation.settings.model_copy(update=identity), clock=emulation.clock)
    try:
        with pytest.raises(AuthError, match="AADSTS7000215"):
            await stranger.list_pools()
        token.unlink()
        with pytest.raises(AuthError):
            await stranger.list_pools()
    finally:
        await stranger.close()


async def test_arm_refuses_in_its_own_words(emulation: Emulation) -> None:
    pool = (
        f"/subscriptions/{emulation.settings.subscription_id}/resourceGroups/{emulation.settings.resource_group}"
        f"/providers/Microsoft.ContainerService/managedClusters/burst/agentPools/one"
    )
    token = (await ask(emulation.credential.get_token, emulation.settings.scope)).token
    right = {"Authorization": f"Bearer {token}"}
    version = "?api-version=2026-08-01"
    cases: list[tuple[str, str, dict[str, str], bytes, int, str]] = [
        ("GET", pool + version, {}, b"", 401, "InvalidAuthenticationToken"),
        ("GET", pool + version, {"Authorization": "Bearer guess"}, b"", 401, "InvalidAuthenticationToken"),
        ("GET", pool, right, b"", 400, "MissingApiVersionParameter"),
        ("GET", pool.replace("0001/", "0002/") + version, right, b"", 404, "SubscriptionNotFound"),
        ("GET", pool.replace("overspill-sandbox", "x") + version, right, b"", 404, "ResourceGroupNotFound"),
        ("GET", pool.replace("/burst/", "/x/") + version, right, b"", 404, "ResourceNotFound"),
        ("GET", pool + "x" + version, right, b"", 404, "NotFound"),
        ("PUT", pool + version, right, b"{", 400, "InvalidRequestContent"),
        ("PUT", pool + version, right, b"[]", 400, "InvalidRequestContent"),
        ("PUT", pool + version, right, b'{"properties": {"count": "3"}}', 400, "InvalidParameter"),
        ("PUT", pool + version, right, b'{"properties": {"count": 99}}', 400, "InvalidParameter"),
        ("PUT", pool + version, right, b'{"properties": {"count": 1, "vmSize": "x"}}', 400, "PropertyChangeNotAllowed"),
        ("POST", pool + "/deleteMachines" + version, right, b'{"machineNames": ["x"]}', 400, "InvalidParameter"),
    ]
    context = ssl.create_default_context(cafile=emulation.ca_file)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        for method, path, headers, body, status, code in cases:
            url = emulation.settings.endpoint + path
            async with session.request(method, url, headers=headers, data=body) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (status, code), (method, path, body)
    assert emulation.pools.state("one").desired == 0


async def test_entra_refuses_in_its_own_words(emulation: Emulation) -> None:
    right = {
        "grant_type": "client_credentials",
        "client_id": emulation.settings.client_id,
        "client_secret": "guess",
        "scope": emulation.settings.scope,
    }
    cases = [
        (right, 401, "AADSTS7000215"),
        (right | {"client_id": "x"}, 400, "AADSTS700016"),
        (right | {"scope": "x"}, 400, "AADSTS70011"),
        (right | {"grant_type": "password"}, 400, "AADSTS70003"),
    ]
    context = ssl.create_default_context(cafile=emulation.ca_file)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        for form, status, text in cases:
            url = f"{emulation.settings.authority}/{emulation.settings.tenant_id}/oauth2/v2.0/token"
            async with session.post(url, data=form) as answer:
                assert (answer.status, text in (await answer.json())["error_description"]) == (status, True)
        async with session.get(f"{emulation.settings.authority}/x/v2.0/.well-known/openid-configuration") as answer:
            assert answer.status == 400


async def test_an_autoscaled_pool_is_left_to_its_owner(emulation: Emulation, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = aks.create(emulation.settings, clock=emulation.clock)
    plain = provider._get

    async def autoscaled(pool: str) -> Any:
        found = await plain(pool)
        found.enable_auto_scaling, found.min_count, found.max_count = True, 0, 4
        return found

    monkeypatch.setattr(provider, "_get", autoscaled)
    try:
        with pytest.raises(RefusedError, match="scaling: external"):
            await provider.set_size(PoolId("one"), 1)
    finally:
        await provider.close()


BASE = {"type": "aks", "subscriptionId": "s", "resourceGroup": "g", "clusterName": "c"}


@pytest.mark.parametrize(
    ("more", "want"),
    [
        ({"clientSecretFile": "x"}, "need tenantId and clientId"),
        ({"clientSecretFile": "x", "federatedTokenFile": "y", "tenantId": "t", "clientId": "c"}, "not both"),
        ({"readTimeoutSeconds": 0}, "greater than 0"),
        ({"readTimeoutSeconds": "5"}, "valid number"),
    ],
)
def test_senseless_settings_are_refused(more: dict[str, Any], want: str) -> None:
    with pytest.raises(ValidationError, match=want):
        aks.Settings.model_validate(BASE | more)


def test_unusable_files_and_addresses_are_one_clear_line(tmp_path: Path) -> None:
    identity = BASE | {"tenantId": "t", "clientId": "c", "clientSecretFile": "secret"}
    settings = aks.Settings.model_validate(identity, context={"base_dir": tmp_path})
    with pytest.raises(AuthError, match=r"clientSecretFile .*secret: .*No such file"):
        aks.create(settings, clock=SteppedClock())
    (tmp_path / "secret").write_text("x")
    with pytest.raises(InvalidObjectError, match="invalid authority"):
        aks.create(settings.model_copy(update={"authority": "http://127.0.0.1"}), clock=SteppedClock())
    with pytest.raises(InvalidObjectError, match="caFile"):
        aks.create(settings.model_copy(update={"ca_file": tmp_path / "nosuch.pem"}), clock=SteppedClock())
