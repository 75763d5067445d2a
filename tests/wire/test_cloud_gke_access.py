"""GKE on the wire: tokens in mid-life, permissions, endpoints, operations that fail late, zones, autoscalers."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from google.cloud.container_v1 import types
from google.rpc import status_pb2

from clusters.providers import gke
from clusters.providers._gke_access import CONNECT, NEEDED, check
from clusters.providers._gke_errors import RestError
from clusters.sandbox.clouds import start_cloud
from clusters.sandbox.clouds.faults import Fault
from clusters.sandbox.clouds.gke import GoogleCloud
from clusters.sandbox.federation import Sandbox
from clusters.sandbox.ports import ApiAddress
from scheduler.model.errors import AuthError, ExternalError, NotFoundError, RefusedError, ThrottledError, TransientError
from scheduler.model.ids import NodeName, PoolId
from scheduler.model.ports import PoolStatus
from tests.builders.google_cluster import GoogleCluster, group, node_pool
from tests.contract.emulated_pools import ScriptedPools, SteppedClock, pool_spec

ONE = PoolId("one")
API = ApiAddress("https://127.0.0.1:16443", b"-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n")
Endpoints = types.ControlPlaneEndpointsConfig


class Emulation:
    """The emulated cloud and the adapter in front of it."""

    def __init__(self, cloud: GoogleCloud, pools: ScriptedPools, clock: SteppedClock, folder: Path) -> None:
        self.cloud, self.pools, self.clock = cloud, pools, clock
        self.settings = gke.Settings.model_validate(cloud.settings, context={"base_dir": folder})
        self.provider = gke.create(self.settings, clock=clock)


@pytest.fixture
async def emulation(tmp_path: Path) -> AsyncIterator[Emulation]:
    clock = SteppedClock()
    pools = ScriptedPools("gke", (pool_spec(ONE), pool_spec("two", capacity_type="spot")), clock)
    cloud = await start_cloud("gke", pools, clock, tmp_path, API)
    assert isinstance(cloud, GoogleCloud)
    made = Emulation(cloud, pools, clock, tmp_path)
    yield made
    await made.provider.close()
    await cloud.stop()


A, B, GREEN = group("us-central1-a", "grp"), group("us-central1-b", "grp"), group("us-central1-b", "green")


class Scripted:
    """A scripted cluster and the adapter in front of it."""

    def __init__(self, google: GoogleCluster, provider: gke.NodePools, clock: SteppedClock) -> None:
        self.google, self.provider, self.clock = google, provider, clock

    async def pool(self) -> PoolStatus:
        (found,) = await self.provider.list_pools()
        return found


@pytest.fixture
async def scripted(tmp_path: Path) -> AsyncIterator[Scripted]:
    """A regional cluster whose one pool spans two zones, with two nodes in each."""
    pool = node_pool(ONE, A, B, locations=["us-central1-b", "us-central1-a"], version="1.33.5-gke.1")
    google = GoogleCluster(types.Cluster(name="c", location="us-central1", endpoint="34.1.2.3", node_pools=[pool]))
    google.groups = {A: {"targetSize": 2}, B: {"targetSize": 2}}
    clock = SteppedClock()
    settings = gke.Settings.model_validate(await google.start(tmp_path))
    provider = gke.create(settings, clock=clock)
    yield Scripted(google, provider, clock)
    await provider.close()
    await google.stop()


# Tokens


@pytest.fixture
def far_from_greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """google-auth's times are UTC without saying so; taken for local ones they would be hours off."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_from_greenwich")
async def test_a_login_is_fresh_each_time_and_honest_about_its_life(emulation: Emulation) -> None:
    first, second = await emulation.provider.log_in(), await emulation.provider.log_in()
    assert first.token != second.token
    for login in (first, second):
        assert login.server == "https://127.0.0.1:16443"
        assert login.ca_pem == API.ca_pem
        assert 3500 < login.lifetime_seconds <= 3600
        assert emulation.cloud.accepts_token(login.token)


async def test_a_token_refused_in_mid_life_is_replaced_at_once(emulation: Emulation) -> None:
    await emulation.provider.set_size(ONE, 1)
    emulation.clock.advance(60)
    old = emulation.provider._calls.credentials.token
    emulation.cloud.account.tokens.revoke_all()
    assert not emulation.cloud.accepts_token(old)
    assert len(await emulation.provider.list_clusters()) == 1, "over gRPC"
    assert emulation.provider._calls.credentials.token != old
    emulation.cloud.account.tokens.revoke_all()
    url = (await emulation.provider._cluster()).node_pools[0].instance_group_urls[0]
    emulation.cloud.account.tokens.revoke_all()
    assert (await emulation.provider._group("get", url))["targetSize"] == 1, "over HTTP"
    emulation.cloud.account.tokens.revoke_all()
    await emulation.provider.set_size(ONE, 2)
    writes = [one for one in emulation.cloud.request_log if one == "SetNodePoolSize"]
    assert len(writes) == 2, "what was refused for its token was not done, and what was done was not repeated"


async def test_an_expired_token_is_renewed_before_the_call(emulation: Emulation) -> None:
    await emulation.provider.list_pools()
    credentials = emulation.provider._calls.credentials
    old, credentials.expiry = credentials.token, credentials.expiry.replace(year=2020)
    emulation.cloud.account.tokens.revoke_all()
    await emulation.provider.list_pools()
    assert credentials.token != old


async def test_a_login_opens_the_emulated_cluster_until_it_is_revoked(tmp_path: Path) -> None:
    sandbox = await Sandbox.start(tmp_path / "state", speed=60)
    (member,) = [plan.name for plan in sandbox.scenario.members if plan.provider == "gke"]
    cloud = sandbox.clouds[member]
    settings = gke.Settings.model_validate(cloud.settings, context={"base_dir": sandbox.state_dir})
    provider = gke.create(settings, clock=sandbox.clock)
    try:
        login = await provider.log_in()
        trusted = ssl.create_default_context(cadata=login.ca_pem.decode())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusted)) as session:
            for token, want in ((login.token, 200), (login.token[:-1], 401), ("", 401)):
                headers = {"Authorization": f"Bearer {token}"}
                async with session.get(f"{login.server}/api/v1/nodes", headers=headers) as answer:
                    assert answer.status == want
            cloud.revoke_credentials()
            headers = {"Authorization": f"Bearer {login.token}"}
            async with session.get(f"{login.server}/api/v1/nodes", headers=headers) as answer:
                assert answer.status == 401
    finally:
        await provider.close()
        await sandbox.stop()


async def test_a_key_that_is_gone_is_an_auth_error_without_secrets(emulation: Emulation) -> None:
    token = (await emulation.provider.log_in()).token
    emulation.cloud.revoke_credentials()
    assert not emulation.cloud.accepts_token(token)
    for call in (emulation.provider.list_pools, emulation.provider.log_in, emulation.provider.check_access):
        with pytest.raises(AuthError) as caught:
            await call()
        assert token not in str(caught.value)
        assert "PRIVATE KEY" not in str(caught.value)
        assert "account not found" in str(caught.value)


# Permissions


async def test_the_policy_is_asked_and_nothing_is_written(emulation: Emulation) -> None:
    checks = await emulation.provider.check_access()
    assert [(one.action, one.allowed, one.remedy) for one in checks] == [(action, True, "") for action in NEEDED]
    assert emulation.cloud.request_log == ["GetCluster", "projects.testIamPermissions"]


@pytest.mark.parametrize("lacking", NEEDED)
async def test_each_permission_that_lacks_is_named_with_its_remedy(emulation: Emulation, lacking: str) -> None:
    emulation.cloud.policy.granted.remove(lacking)
    checks = await emulation.provider.check_access()
    denied = [one for one in checks if one.allowed is not True]
    (only,) = denied
    assert (only.action, only.allowed) == (lacking, False)
    assert lacking in only.detail or "not granted" in only.detail
    assert "overspill@overspill-sandbox.iam.gserviceaccount.com" in only.remedy
    assert "deploy/iam/gke.yaml" in only.remedy


@pytest.mark.parametrize("lacking", NEEDED)
async def test_each_call_needs_the_permission_that_the_role_says(emulation: Emulation, lacking: str) -> None:
    """Everything the adapter does, without one permission: the one call that needs it is refused, by its name."""
    provider = emulation.provider
    emulation.cloud.policy.granted.remove(lacking)
    refused: set[str] = set()
    await attempt(provider.list_clusters(), refused)
    await attempt(provider.log_in(), refused)
    await attempt(provider.set_size(ONE, 2), refused)
    emulation.clock.advance(60)
    await attempt(provider.list_pools(), refused)
    emulation.pools.resize(ONE, 2)
    machine = emulation.pools.state(ONE).instances[0]
    await attempt(provider.remove_node(ONE, NodeName(machine.node), machine.provider_id), refused)
    if lacking == "container.operations.get":
        assert refused == set(), "a pool stays readable when its operation may not be looked up"
        assert provider._resizes.running(ONE) is None
    else:
        assert refused == {lacking}


async def attempt(call: Awaitable[object], refused: set[str]) -> None:
    try:
        await call
    except AuthError as error:
        refused.update(one for one in NEEDED if one in str(error))


async def test_reads_tell_where_the_policy_cannot_be_asked(scripted: Scripted) -> None:
    """Resource Manager's API is not enabled: reads tell what they can, and writes stay unknown."""
    error = {"code": 403, "message": "not enabled", "details": [{"reason": "SERVICE_DISABLED"}]}
    scripted.google.permissions = web.json_response({"error": error}, status=403)
    found = {one.action: one for one in await scripted.provider.check_access()}
    assert {action: one.allowed for action, one in found.items()} == {
        "container.clusters.list": True,
        "container.clusters.get": True,
        "container.clusters.update": None,
        "container.operations.get": True,
        "compute.instanceGroupManagers.get": True,
        "compute.instanceGroupManagers.update": None,
    }
    assert "cloudresourcemanager.googleapis.com" in found["container.clusters.update"].remedy
    assert scripted.google.sizes == []
    assert scripted.google.deleted == []


async def test_a_binding_with_a_condition_is_found_out_by_reading(scripted: Scripted) -> None:
    """The policy question of the whole project grants nothing; reads go well all the same."""
    found = {one.action: one.allowed for one in await scripted.provider.check_access()}
    assert [action for action, allowed in found.items() if not allowed] == [
        "container.clusters.update",
        "compute.instanceGroupManagers.update",
    ]


async def test_a_disabled_api_is_to_be_enabled_not_granted() -> None:
    async def nothing() -> frozenset[str]:
        return frozenset()

    async def disabled() -> object:
        raise AuthError("gke: off", code="SERVICE_DISABLED") from RestError(403, "SERVICE_DISABLED", "off", None)

    probes = {"container.clusters.list": disabled}
    (row,) = await check(list(probes), nothing, probes, project="p", identity="i")
    assert row.allowed is False
    assert row.remedy == "enable the API: gcloud services enable container.googleapis.com --project p"


async def test_nothing_that_can_be_asked_is_an_error(emulation: Emulation) -> None:
    for _ in range(20):
        emulation.cloud.faults.add(Fault("throttled", writes=False, retry_after_seconds=5))
    with pytest.raises(ThrottledError) as caught:
        await emulation.provider.check_access()
    assert caught.value.retry_after_seconds == 5


# Clusters and endpoints


async def test_clusters_of_the_place_are_told_with_what_ails_them(scripted: Scripted) -> None:
    statuses, codes = types.Cluster.Status, types.StatusCondition.Code
    scripted.google.listed = types.ListClustersResponse(
        clusters=[
            types.Cluster(name="z", location="us-central1-a", status=statuses.PROVISIONING),
            types.Cluster(
                name="a",
                location="us-central1",
                status=statuses.DEGRADED,
                current_master_version="1.33.5-gke.1",
                endpoint="34.1.2.3",
                conditions=[types.StatusCondition(code=codes.CA_EXPIRING, message="in\nnine days")],
            ),
        ]
    )
    first, second = await scripted.provider.list_clusters()
    assert (first.name, first.region, first.version, first.endpoint, first.status, first.health) == (
        "a",
        "us-central1",
        "1.33.5-gke.1",
        "https://34.1.2.3",
        "DEGRADED",
        ("CA_EXPIRING: in nine days",),
    )
    assert (second.name, second.region, second.version, second.endpoint) == ("z", "us-central1", None, None)
    assert second.status == "PROVISIONING"


async def test_a_zone_that_did_not_answer_makes_the_list_no_list(scripted: Scripted) -> None:
    scripted.google.listed = types.ListClustersResponse(missing_zones=["us-central1-f"])
    with pytest.raises(TransientError, match="no answer from us-central1-f"):
        await scripted.provider.list_clusters()


async def test_a_cluster_without_addresses_is_reached_by_its_name(scripted: Scripted) -> None:
    scripted.google.cluster.endpoint = ""
    dns = Endpoints.DNSEndpointConfig(endpoint="gke-1.us-central1.gke.goog", allow_external_traffic=True)
    scripted.google.cluster.control_plane_endpoints_config = Endpoints(
        dns_endpoint_config=dns, ip_endpoints_config=Endpoints.IPEndpointsConfig(enabled=False)
    )
    login = await scripted.provider.log_in()
    assert (login.server, login.ca_pem) == ("https://gke-1.us-central1.gke.goog", b"")
    assert scripted.google.account.tokens.accepts(f"Bearer {login.token}")
    scripted.google.permissions = set(NEEDED)
    (denied,) = [one for one in await scripted.provider.check_access() if not one.allowed]
    assert (denied.action, denied.allowed) == (CONNECT, False)
    assert "DNS name only" in denied.remedy
    scripted.google.permissions = {*NEEDED, CONNECT}
    assert all(one.allowed for one in await scripted.provider.check_access())


@pytest.mark.parametrize(
    ("status", "want"),
    [(types.Cluster.Status.PROVISIONING, TransientError), (types.Cluster.Status.RUNNING, RefusedError)],
)
async def test_a_cluster_that_cannot_be_reached_says_why(
    scripted: Scripted, status: types.Cluster.Status, want: type[ExternalError]
) -> None:
    scripted.google.cluster.endpoint = ""
    scripted.google.cluster.status = status
    with pytest.raises(want, match=r"being created|enable one"):
        await scripted.provider.log_in()


# Operations


@pytest.mark.parametrize(
    ("code", "message", "want"),
    [
        (8, "ZONE_RESOURCE_POOL_EXHAUSTED: The zone has none", "capacity"),
        (8, "Quota 'NVIDIA_A100_GPUS' exceeded. Limit: 0.0", "quota"),
        (13, "Internal error. Please try again", "error"),
    ],
)
async def test_a_resize_that_fails_late_is_the_pools_shortage(
    scripted: Scripted, code: int, message: str, want: str
) -> None:
    """The pool itself says that it is RUNNING and its groups are stable, with too few nodes."""
    await scripted.provider.set_size(ONE, 6)
    assert scripted.google.sizes == [(ONE, 3)], "GKE takes sizes per zone"
    running = await scripted.pool()
    assert (running.busy, running.shortage) == (True, None), "busy though GKE's own status does not say so yet"
    done = types.Operation.Status.DONE
    scripted.google.operations["operation-1"] = types.Operation(
        name="operation-1", status=done, error=status_pb2.Status(code=code, message=message)
    )
    scripted.clock.advance(300)
    seen_at = scripted.clock.now()
    failed = await scripted.pool()
    assert not failed.busy
    assert failed.shortage is not None
    assert (failed.shortage.kind, failed.shortage.since) == (want, seen_at)
    assert message in failed.shortage.text
    lookups = scripted.google.calls.count("GetOperation")
    scripted.clock.advance(60)
    again = (await scripted.pool()).shortage
    assert again is not None
    assert again.since == seen_at
    assert scripted.google.calls.count("GetOperation") == lookups, "what has ended is not looked up again"
    scripted.clock.advance(900)
    assert (await scripted.pool()).shortage is None, "it was long ago: it says nothing about now"


async def test_nodes_that_came_after_all_end_the_shortage(scripted: Scripted) -> None:
    await scripted.provider.set_size(ONE, 6)
    scripted.google.operations["operation-1"] = types.Operation(
        name="operation-1",
        status=types.Operation.Status.DONE,
        error=status_pb2.Status(code=8, message="GCE_STOCKOUT"),
    )
    assert (await scripted.pool()).shortage is not None
    scripted.google.groups = {A: {"targetSize": 3}, B: {"targetSize": 3}}
    assert (await scripted.pool()).shortage is None


async def test_an_operation_that_google_forgot_is_let_go(scripted: Scripted) -> None:
    await scripted.provider.set_size(ONE, 6)
    scripted.google.operations.clear()
    assert not (await scripted.pool()).busy
    await scripted.pool()
    assert scripted.google.calls.count("GetOperation") == 1


# Several zones


async def test_a_regional_pool_adds_its_zones_up(scripted: Scripted) -> None:
    scripted.google.cluster.node_pools[0].autoscaling = types.NodePoolAutoscaling(max_node_count=4)
    pool = await scripted.pool()
    assert (pool.desired_nodes, pool.max_nodes) == (4, 8)
    assert pool.zones == ("us-central1-a", "us-central1-b")
    with pytest.raises(RefusedError, match="do not spread evenly over its 2 zones"):
        await scripted.provider.set_size(ONE, 5)
    with pytest.raises(RefusedError, match=r"outside 0\.\.8"):
        await scripted.provider.set_size(ONE, 10)
    await scripted.provider.set_size(ONE, 4)
    assert scripted.google.sizes == []


async def test_an_error_in_one_zone_is_the_pools(scripted: Scripted) -> None:
    at = "2027-01-15T08:00:00+00:00"  # the clock's start
    scripted.google.groups[B] = {
        "targetSize": 2,
        "isStable": False,
        "errors": [{"timestamp": at, "error": {"code": "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", "message": "m"}}],
    }
    shortage = (await scripted.pool()).shortage
    assert shortage is not None
    assert shortage.kind == "capacity"


async def test_a_node_is_taken_from_the_groups_of_its_own_zone(scripted: Scripted) -> None:
    """In a blue-green upgrade a zone has two groups; the one that does not know the machine skips it."""
    urls = scripted.google.cluster.node_pools[0].instance_group_urls
    urls.append(urls[0].replace(A, GREEN))
    scripted.google.groups[GREEN] = {"targetSize": 0}
    await scripted.provider.remove_node(ONE, NodeName("n"), "gce://proj/us-central1-b/n")
    assert scripted.google.deleted == [(path, ["zones/us-central1-b/instances/n"]) for path in (B, GREEN)]
    await scripted.provider.set_size(ONE, 6)
    assert scripted.google.sizes == [(ONE, 3)], "three groups, two zones"


# Autoscalers


@pytest.mark.parametrize("owner", ["autoscaler", "auto-provisioning", "autopilot"])
async def test_a_pool_that_gke_sizes_is_left_alone(scripted: Scripted, owner: str) -> None:
    pool = scripted.google.cluster.node_pools[0]
    match owner:
        case "autoscaler":
            pool.autoscaling = types.NodePoolAutoscaling(enabled=True, total_min_node_count=1, total_max_node_count=9)
        case "auto-provisioning":
            pool.autoscaling = types.NodePoolAutoscaling(autoprovisioned=True)
        case "autopilot":
            scripted.google.cluster.autopilot = types.Autopilot(enabled=True)
    assert (await scripted.pool()).autoscaled
    with pytest.raises(RefusedError, match="scaling: external"):
        await scripted.provider.set_size(ONE, 6)
    with pytest.raises(RefusedError, match="scaling: external"):
        await scripted.provider.remove_node(ONE, NodeName("n"), "gce://proj/us-central1-a/n")
    assert scripted.google.sizes == []
    assert scripted.google.deleted == []


async def test_a_pool_that_is_not_there_is_not_found(scripted: Scripted) -> None:
    with pytest.raises(NotFoundError, match="nosuch"):
        await scripted.provider.remove_node(PoolId("nosuch"), NodeName("n"), "gce://proj/us-central1-a/n")
