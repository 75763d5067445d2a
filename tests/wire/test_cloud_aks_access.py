"""AKS's logins, permissions, late failures and pages, on the wire of the emulated Azure."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from clusters.clock import SystemClock
from clusters.providers import aks
from clusters.sandbox.clouds import RunningCloud
from clusters.sandbox.clouds.aks import serve
from clusters.sandbox.clouds.aks_cluster import ManagedCluster
from clusters.sandbox.clouds.entra import Application
from clusters.sandbox.clouds.faults import Fault
from clusters.sandbox.federation import Sandbox
from clusters.sandbox.ports import ApiAddress
from scheduler.model.cloud import AccessCheck
from scheduler.model.cluster import Shortage
from scheduler.model.errors import AuthError, ExternalError, OutcomeUnknownError, RefusedError, TransientError
from scheduler.model.ids import NodeName, PoolId
from tests.contract.emulated_pools import ScriptedPools, SteppedClock, pool_spec

ONE = PoolId("one")
PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
API = ApiAddress("https://127.0.0.1:6443", PEM)
AKS = "Microsoft.ContainerService/managedClusters"


@dataclass
class Bench:
    """One cluster in front of the emulated Azure, whose set-up a test may change."""

    cloud: RunningCloud
    cluster: ManagedCluster
    entra: Application
    pools: ScriptedPools
    clock: SteppedClock
    folder: Path
    provider: aks.AgentPools

    def settings(self, **changes: object) -> aks.Settings:
        return aks.Settings.model_validate(self.cloud.settings | changes, context={"base_dir": self.folder})

    async def use(self, **changes: object) -> aks.AgentPools:
        """A provider with other settings, in place of the first."""
        await self.provider.close()
        self.provider = aks.create(self.settings(**changes), clock=self.clock)
        return self.provider

    async def shortage(self) -> Shortage | None:
        return next(one.shortage for one in await self.provider.list_pools() if one.pool == ONE)

    async def grow(self, size: int) -> None:
        await self.provider.set_size(ONE, size)
        self.clock.advance(3600)

    async def check(self, action: str) -> AccessCheck:
        return next(one for one in await self.provider.check_access() if one.action == action)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock, cluster, entra = SteppedClock(), ManagedCluster(), Application()
    pools = ScriptedPools("aks", (pool_spec(ONE), pool_spec("two", capacity_type="spot")), clock)
    cloud = await serve(pools, clock, tmp_path, API, cluster, entra)
    settings = aks.Settings.model_validate(cloud.settings, context={"base_dir": tmp_path})
    made = Bench(cloud, cluster, entra, pools, clock, tmp_path, aks.create(settings, clock=clock))
    yield made
    await made.provider.close()
    await cloud.stop()


# Logins


async def test_an_entra_token_is_for_the_cluster_and_for_nothing_else(bench: Bench) -> None:
    made = await bench.provider.log_in()
    assert (made.server, made.ca_pem) == (API.server, PEM)
    assert bench.entra.cluster_tokens.accepts(f"Bearer {made.token}")
    assert not bench.entra.tokens.accepts(f"Bearer {made.token}"), "it does not open Resource Manager"
    assert not bench.cloud.accepts_token(bench.entra.tokens.issue()), "nor the other way round"


async def test_the_token_tells_its_real_lifetime_whatever_the_sandboxs_clock_says(bench: Bench) -> None:
    bench.entra.cluster_tokens.lifetime_seconds = 500
    bench.clock.advance(10 * 365 * 86400)
    before = SystemClock().now()
    made = await bench.provider.log_in()
    assert 500 - (SystemClock().now() - before) - 2 <= made.lifetime_seconds <= 501


async def test_a_refused_token_is_not_given_out_again(bench: Bench) -> None:
    first = await bench.provider.log_in()
    bench.entra.cluster_tokens.revoke_all()
    assert not bench.cloud.accepts_token(first.token)
    second = await bench.provider.log_in()
    assert second.token != first.token
    assert bench.cloud.accepts_token(second.token)


async def test_a_token_that_is_about_to_end_is_replaced_before_it_does(bench: Bench) -> None:
    bench.entra.tokens.lifetime_seconds = 120
    await bench.provider.list_pools()
    bench.entra.tokens.revoke_all()  # as if the two minutes were over
    assert len(await bench.provider.list_pools()) == 2


async def test_a_token_that_ends_in_mid_life_costs_one_pass(bench: Bench) -> None:
    await bench.provider.list_pools()
    bench.entra.tokens.revoke_all()
    with pytest.raises(AuthError) as caught:
        await bench.provider.list_pools()
    assert caught.value.code == "InvalidAuthenticationToken"
    assert len(await bench.provider.list_pools()) == 2


async def test_a_rotated_secret_is_read_again(bench: Bench) -> None:
    await bench.provider.list_pools()
    secret = bench.settings().client_secret_file
    assert secret is not None
    bench.entra.revoke()
    with pytest.raises(AuthError):
        await bench.provider.list_pools()
    with pytest.raises(AuthError):
        await bench.provider.list_pools()
    bench.entra.write_secret(secret)
    with pytest.raises(AuthError):
        await bench.provider.list_pools()  # the old one, for the last time
    assert len(await bench.provider.list_pools()) == 2
    secret.unlink()
    bench.entra.tokens.revoke_all()
    for _ in range(2):
        with pytest.raises(AuthError):  # what cannot be read leaves the old credential in place
            await bench.provider.list_pools()


async def test_local_accounts_have_a_token_for_an_hour(bench: Bench) -> None:
    bench.cluster.login = "token"
    made = await bench.provider.log_in()
    assert (made.server, made.ca_pem, made.lifetime_seconds) == (API.server, PEM, 3600)
    assert made.token == bench.cluster.local_token
    assert bench.cloud.accepts_token(made.token)
    assert made.token not in repr(made)
    assert not bench.cloud.accepts_token(bench.entra.cluster_tokens.issue()), "the cluster knows nothing of Entra ID"
    bench.cloud.revoke_credentials()
    assert not bench.cloud.accepts_token(made.token)


async def test_a_certificate_alone_is_refused_with_the_remedy(bench: Bench) -> None:
    bench.cluster.login = "certificate"
    with pytest.raises(RefusedError, match=r"client certificate and no token; .*--enable-aad.*kubeconfig") as caught:
        await bench.provider.log_in()
    assert caught.value.code == "NoToken"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cluster", "how", "want"),
    [("entra", "local", "EntraOnly"), ("entra", "entra", ""), ("token", "entra", ""), ("token", "local", "")],
)
async def test_the_setting_decides_before_the_cluster(bench: Bench, cluster: str, how: str, want: str) -> None:
    bench.cluster.login = cluster
    provider = await bench.use(login=how)
    if want:
        with pytest.raises(RefusedError, match="set `login: entra`") as caught:
            await provider.log_in()
        assert caught.value.code == want
    else:
        assert (await provider.log_in()).token
    assert "GET managedClusters/{cluster}" not in bench.cloud.request_log


@pytest.mark.parametrize("content", [b"", b"[" * 5000, b"s3cret: {", b"x: &x [*x]", b"\x00", b"s3cret" * 60_000])
async def test_a_hostile_kubeconfig_is_one_typed_line(bench: Bench, content: bytes) -> None:
    bench.cluster.kubeconfig = content
    with pytest.raises(TransientError, match="the kubeconfig in the answer is not usable") as caught:
        await bench.provider.log_in()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"kubeconfigs": None},
        {"kubeconfigs": []},
        {"kubeconfigs": [{}]},
        {"kubeconfigs": [{"value": 3}]},
        {"kubeconfigs": [{"value": "%%%"}]},
        {"kubeconfigs": [{"value": ["s3cret"]}]},
        {"kubeconfigs": "s3cret"},
        {"kubeconfigs": {"value": "s3cret"}},
        [],
        None,
    ],
)
async def test_an_answer_without_a_kubeconfig_is_one_typed_line(
    bench: Bench, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.cluster, "user_credentials", lambda *_: answer)
    with pytest.raises(TransientError) as caught:
        await bench.provider.log_in()
    assert caught.value.code == "Malformed"
    assert "s3cret" not in str(caught.value)


async def test_no_program_of_the_kubeconfig_is_run_and_no_file_of_it_is_opened(bench: Bench, tmp_path: Path) -> None:
    ran, trap = tmp_path / "ran", tmp_path / "trap.pem"
    trap.write_bytes(PEM)
    user = {"exec": {"command": "touch", "args": [str(ran)]}, "tokenFile": str(trap)}
    cluster = {"server": API.server, "certificate-authority": str(trap)}
    document = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": user}],
        "current-context": "c",
    }
    bench.cluster.kubeconfig = json.dumps(document).encode()
    with pytest.raises(TransientError, match="is a file, which is not opened"):
        await bench.provider.log_in()
    cluster["certificate-authority-data"] = base64.b64encode(PEM).decode()
    bench.cluster.kubeconfig = json.dumps(document).encode()
    with pytest.raises(RefusedError, match="login: entra"):
        await (await bench.use(login="local")).log_in()
    assert not ran.exists()


async def test_nothing_secret_is_in_what_it_says(bench: Bench) -> None:
    said: list[str] = []

    async def hear(call: Callable[[], Any]) -> None:
        try:
            said.append(repr(await call()))
        except ExternalError as error:
            said.append(f"{error!r} {error} {error.__cause__!r}")

    secret = bench.settings().client_secret_file
    assert secret is not None
    hidden = [secret.read_text(), bench.cluster.local_token]
    for bench.cluster.login in ("entra", "token", "certificate"):
        await hear(bench.provider.log_in)
        await hear(bench.provider.list_clusters)
    hidden += bench.entra.tokens._expiry.keys() | bench.entra.cluster_tokens._expiry.keys()
    bench.cloud.revoke_credentials()
    for call in (bench.provider.list_pools, bench.provider.check_access, bench.provider.log_in):
        await hear(call)
    assert len(said) == 9
    assert len(hidden) >= 4
    assert not [one for one in hidden if any(one in text for text in said)]


# Late failures


@pytest.mark.parametrize("tells_why", [True, False])
@pytest.mark.parametrize(
    ("code", "message", "want"),
    [
        ("SkuNotAvailable", "The requested VM size is currently not available in location 'eastus'.", "capacity"),
        ("AllocationFailed", "The VM allocation failed due to an internal error.", "capacity"),
        ("ReconcileVMSSAgentPoolFailed", 'Code="ZonalAllocationFailed" Message="in this zone"', "capacity"),
        ("QuotaExceeded", "Operation results in exceeding quota limits of Core.", "quota"),
        ("CreateVMSSAgentPoolFailed", 'Code="OperationNotAllowed" Message="approved NCADS Cores quota"', "quota"),
        ("VMExtensionProvisioningError", "VM has reported a failure\nwhen processing extension", "error"),
        ("SubnetIsFull", "no capacity of addresses", "error"),
    ],
)
async def test_a_resize_that_fails_late_is_a_shortage_of_its_kind(
    bench: Bench, code: str, message: str, want: str, tells_why: bool
) -> None:
    bench.cluster.failure, bench.cluster.tells_why = (code, message), tells_why
    bench.pools.short[ONE] = "capacity"
    await bench.provider.set_size(ONE, 2)
    assert await bench.shortage() is None, "it is still under way"
    bench.clock.advance(3600)
    seen = await bench.shortage()
    assert seen is not None
    assert (seen.kind, seen.text.startswith(f"{code}: "), "\n" in seen.text) == (want, True, False)
    bench.clock.advance(60)
    assert await bench.shortage() == seen
    assert bench.cloud.request_log.count("GET operations") == 1, "asked once, and remembered"
    del bench.pools.short[ONE]
    await bench.grow(1)
    assert await bench.shortage() is None


async def test_an_operation_that_may_not_be_asked_leaves_the_cause_unknown(bench: Bench) -> None:
    bench.cluster.tells_why = False
    bench.cluster.roles = [{"actions": ["Microsoft.ContainerService/managedClusters/*"]}]
    bench.pools.short[ONE] = "quota"
    await bench.grow(2)
    for _ in range(2):
        seen = await bench.shortage()
        assert seen is not None
        assert (seen.kind, "activity log" in seen.text) == ("error", True)
    assert bench.cloud.request_log.count("GET operations") == 1


async def test_a_failure_that_someone_else_caused_is_told_by_the_pool(bench: Bench) -> None:
    bench.pools.short[ONE] = "quota"
    bench.pools.resize(ONE, 2)
    seen = await bench.shortage()
    assert seen is not None
    assert seen.kind == "quota"
    assert "GET operations" not in bench.cloud.request_log


async def test_the_cause_of_an_earlier_failure_is_not_that_of_an_operation_whose_answer_was_lost(bench: Bench) -> None:
    bench.cluster.tells_why, bench.pools.short[ONE] = False, "quota"
    await bench.grow(2)
    assert (await bench.shortage()) is not None
    provider = await bench.use(readTimeoutSeconds=0.5)
    await bench.grow(3)
    seen = await bench.shortage()
    assert seen is not None
    assert seen.kind == "quota"
    bench.cloud.faults.add(Fault("lost-answer"))
    with pytest.raises(OutcomeUnknownError):
        await provider.set_size(ONE, 4)
    bench.clock.advance(3600)
    seen = await bench.shortage()
    assert seen is not None
    assert seen.kind == "error"


# Pages


async def test_lists_are_followed_to_their_end(bench: Bench) -> None:
    bench.cluster.neighbours, bench.cluster.page_size = ("alpha", "zeta", "mu"), 1
    found = await bench.provider.list_clusters()
    assert [one.name for one in found] == ["alpha", "burst", "mu", "zeta"]
    assert [one.endpoint for one in found] == [None, API.server, None, None]
    assert [one.status for one in found] == ["Creating", "Succeeded", "Creating", "Creating"]
    assert bench.cloud.request_log.count("GET managedClusters") == 4
    assert len(await bench.provider.list_pools()) == 2
    bench.cluster.roles = [{"actions": [f"{AKS}/read"]}, *bench.cluster.roles]
    bench.cluster.roles[1]["notActions"] = [f"{AKS}/read"]
    assert all(check.allowed for check in await bench.provider.check_access())


@pytest.mark.parametrize("call", ["list_clusters", "list_pools", "check_access"])
async def test_a_list_without_end_is_given_up(bench: Bench, call: str) -> None:
    where = bench.settings()
    group = f"{where.endpoint}/subscriptions/{where.subscription_id}/resourceGroups/{where.resource_group}"
    path = f"{group}/providers/Microsoft.ContainerService/managedClusters"
    path += {
        "list_clusters": "",
        "list_pools": "/burst/agentPools",
        "check_access": "/burst/providers/Microsoft.Authorization/permissions",
    }[call]
    bench.cluster.next_link = f"{path}?api-version=2022-04-01"
    with pytest.raises(TransientError, match="no end after 50 pages") as caught:
        await getattr(bench.provider, call)()
    assert caught.value.code == "TooLong"


@pytest.mark.parametrize("call", ["list_clusters", "list_pools", "check_access"])
async def test_no_token_goes_to_another_host(bench: Bench, call: str) -> None:
    other = RunningCloud(settings={})
    seen: list[str] = []

    async def catch(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.json_response({"value": []})

    app = web.Application()
    app.router.add_get("/{path:.*}", catch)
    url = await other.serve_http(app)
    try:
        bench.cluster.next_link = f"{url}/next?api-version=2022-04-01"
        with pytest.raises(TransientError, match="another host"):
            await getattr(bench.provider, call)()
        assert seen == []
    finally:
        await other.stop()


# Permissions


@pytest.mark.parametrize(
    ("roles", "action", "want"),
    [
        ([{"actions": ["*"]}], f"{AKS}/agentPools/write", True),
        ([{"actions": ["*/read"]}], f"{AKS}/agentPools/write", False),
        ([{"actions": ["*"], "notActions": ["*/agentPools/WRITE"]}], f"{AKS}/agentPools/write", False),
        ([{"actions": ["*"], "notActions": [f"{AKS}/*/action"]}], f"{AKS}/agentPools/deleteMachines/action", False),
        (
            [{"actions": ["*"], "notActions": [f"{AKS}/*"]}, {"actions": [f"{AKS}/agentPools/*"]}],
            f"{AKS}/agentPools/deleteMachines/action",
            True,
        ),
        (
            [{"actions": ["*"], "notActions": ["Microsoft.ContainerService/locations/operations/read"]}],
            "Microsoft.ContainerService/locations/operations/read",
            False,
        ),
    ],
)
async def test_permissions_are_evaluated_as_azure_does(
    bench: Bench, roles: list[dict[str, Any]], action: str, want: bool
) -> None:
    bench.cluster.roles = roles
    check = await bench.check(action)
    assert check.allowed is want
    assert bench.cluster.may(action) is want, "and the emulated Azure acts by it"
    if not want:
        assert check.remedy.startswith("make the role of deploy/iam/aks.json and assign it: az role assignment create")
        assert bench.entra.client_id in check.remedy
        assert bench.settings().resource_group in check.remedy


async def test_what_the_check_denies_is_denied_when_it_is_done(bench: Bench) -> None:
    bench.cluster.roles = [{"actions": ["*/read"]}]
    denied = {check.action for check in await bench.provider.check_access() if check.allowed is False}
    assert denied == {
        f"{AKS}/agentPools/write",
        f"{AKS}/agentPools/deleteMachines/action",
        f"{AKS}/listClusterUserCredential/action",
    }
    bench.pools.resize(ONE, 1)
    (machine,) = bench.pools.state(ONE).instances
    for call in (
        lambda: bench.provider.set_size(ONE, 2),
        lambda: bench.provider.remove_node(ONE, NodeName(machine.node), machine.provider_id),
        bench.provider.log_in,
    ):
        with pytest.raises(AuthError) as caught:
            await call()
        assert caught.value.code == "AuthorizationFailed"
        assert any(action in str(caught.value) for action in denied)


async def test_without_the_list_of_permissions_reads_are_tried(bench: Bench) -> None:
    bench.cluster.roles = [{"actions": [f"{AKS}/read"]}]
    before = len(bench.cloud.request_log)
    found = {check.action: check for check in await bench.provider.check_access()}
    assert {action: check.allowed for action, check in found.items()} == {
        f"{AKS}/read": True,
        f"{AKS}/listClusterUserCredential/action": None,
        f"{AKS}/agentPools/read": False,
        f"{AKS}/agentPools/write": None,
        f"{AKS}/agentPools/deleteMachines/action": None,
        f"{AKS}/agentPools/machines/read": None,
        "Microsoft.ContainerService/locations/operations/read": None,
        "Microsoft.Authorization/permissions/read": False,
    }
    assert all(bool(check.remedy) != bool(check.allowed) for check in found.values())
    assert {one.split()[0] for one in bench.cloud.request_log[before:]} == {"GET"}, "nothing was changed"


# Pools and clusters


async def test_an_autoscaled_pool_is_refused_and_told(bench: Bench) -> None:
    bench.cluster.autoscaled.add(ONE)
    told = {one.pool: (one.autoscaled, one.min_nodes, one.max_nodes) for one in await bench.provider.list_pools()}
    assert told[ONE] == (True, 0, 8)
    assert told[PoolId("two")][0] is False
    with pytest.raises(RefusedError, match="scaling: external") as caught:
        await bench.provider.set_size(ONE, 1)
    assert caught.value.code == "Autoscaled"
    assert not [one for one in bench.cloud.request_log if one.startswith("PUT")]


async def test_a_stopped_cluster_says_so(bench: Bench) -> None:
    bench.cluster.power = "Stopped"
    (cluster,) = await bench.provider.list_clusters()
    assert cluster.status == "Stopped"
    assert len(cluster.health) == 1
    assert "az aks start" in cluster.health[0]


async def test_the_region_is_asked_for_once(bench: Bench) -> None:
    for _ in range(3):
        await bench.provider.list_pools()
    assert bench.cloud.request_log.count("GET managedClusters/{cluster}") == 1


async def test_the_login_opens_the_emulated_clusters_own_api(tmp_path: Path) -> None:
    sandbox = await Sandbox.start(tmp_path / "state", speed=1200)
    cloud = sandbox.clouds["aks"]
    settings = aks.Settings.model_validate(cloud.settings, context={"base_dir": sandbox.state_dir})
    provider = aks.create(settings, clock=sandbox.clock)
    try:
        made = await provider.log_in()
        (cluster,) = await provider.list_clusters()
        assert (cluster.endpoint, cluster.region) == (made.server, "eastus")
        assert {zone for pool in await provider.list_pools() for zone in pool.zones} == {"eastus-1"}
        context = ssl.create_default_context(cadata=made.ca_pem.decode())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            for token, want in ((made.token, 200), (made.token + "x", 401)):
                headers = {"Authorization": f"Bearer {token}"}
                async with session.get(f"{made.server}/api/v1/nodes", headers=headers) as answer:
                    assert answer.status == want
    finally:
        await provider.close()
        await sandbox.stop()
