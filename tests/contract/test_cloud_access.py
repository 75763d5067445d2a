"""Every cloud tells its clusters, opens their APIs and says what we may do, within what `deploy/iam/` grants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clusters.providers import provider_names
from clusters.sandbox.clouds.faults import Fault
from scheduler.model.errors import AuthError, ExternalError, RefusedError, ThrottledError
from scheduler.model.ids import NodeName
from tests.contract import cloud_permissions
from tests.contract.test_node_pool_providers import AN_HOUR, PLAIN, SPOT, Bench, bench_of

CLOUDS = [name for name in provider_names() if name != "onprem"]


@pytest.fixture(params=CLOUDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def bench(name: str, tmp_path: Path) -> AsyncIterator[Bench]:
    made = await bench_of(name, tmp_path)
    yield made
    await made.provider.close()
    await made.cloud.stop()
    beyond = cloud_permissions.used(name, made.cloud.request_log) - cloud_permissions.granted(name)
    assert not beyond, f"deploy/iam does not grant {sorted(beyond)}"


async def test_where_there_is_no_cloud(tmp_path: Path) -> None:
    onprem = (await bench_of("onprem", tmp_path)).provider
    assert await onprem.list_clusters() == ()
    assert await onprem.check_access() == ()
    with pytest.raises(RefusedError, match="kubeconfig"):
        await onprem.log_in()


async def test_its_clusters_are_told(bench: Bench) -> None:
    (cluster,) = await bench.provider.list_clusters()
    assert cluster.name
    assert cluster.region
    assert cluster.version is not None
    assert cluster.version[0].isdigit()
    assert cluster.endpoint is not None
    assert cluster.endpoint.startswith("https://")
    assert cluster.status
    assert cluster.health == ()


async def test_pools_tell_their_machines(bench: Bench) -> None:
    for pool in await bench.provider.list_pools():
        assert pool.gpus in (8, None), "as the emulated machine has, or not told"
        assert ("nvidia.com/gpu", "present", "NoSchedule") in [(t.key, t.value, t.effect) for t in pool.taints]
        assert pool.zones == ("us-east-1a",)
        assert pool.version is not None
        assert pool.version[0].isdigit()
        assert pool.health == ()
        assert not pool.autoscaled


async def test_a_shortage_is_a_health_line_too_or_at_least_no_crash(bench: Bench) -> None:
    bench.pools.short[SPOT] = "capacity"
    await bench.grow(SPOT, 1)
    pool = await bench.pool(SPOT)
    assert pool.shortage is not None
    assert all("\n" not in line for line in pool.health)


async def test_it_opens_the_clusters_api_for_a_while(bench: Bench) -> None:
    first = await bench.provider.log_in()
    assert first.server.startswith("https://")
    assert first.token
    assert first.token not in repr(first)
    assert 60 <= first.lifetime_seconds <= 24 * 3600
    assert bench.cloud.accepts_token(first.token)
    assert not bench.cloud.accepts_token(first.token + "x")
    assert not bench.cloud.accepts_token("")


async def test_access_is_checked_without_changing_anything(bench: Bench, name: str) -> None:
    before = bench.pools.pools()
    checks = await bench.provider.check_access()
    assert bench.pools.pools() == before
    assert len(checks) >= 4
    for check in checks:
        assert check.action in cloud_permissions.granted(name), "in the words of deploy/iam"
        assert check.allowed is not False, check
        assert not check.remedy or check.allowed is None
    assert any(check.allowed for check in checks)


async def test_what_is_denied_is_told_with_its_remedy(bench: Bench) -> None:
    await bench.provider.list_pools()  # a token is there
    for _ in range(50):
        bench.cloud.faults.add(Fault("denied", writes=False))
    try:
        checks = await bench.provider.check_access()
    except AuthError:
        return  # nothing at all may be asked
    denied = [check for check in checks if check.allowed is False]
    assert denied
    assert all(check.remedy and "\n" not in check.remedy for check in denied)


async def test_revoked_credentials_are_an_auth_error_everywhere(bench: Bench) -> None:
    bench.cloud.revoke_credentials()
    for call in (bench.provider.list_pools, bench.provider.list_clusters):
        with pytest.raises(AuthError):
            await call()
    with pytest.raises((AuthError, ExternalError)):
        await bench.provider.check_access()


async def test_throttling_is_told_for_clusters_too(bench: Bench) -> None:
    bench.cloud.faults.add(Fault("throttled", writes=False, retry_after_seconds=3))
    with pytest.raises(ThrottledError) as caught:
        await bench.provider.list_clusters()
    assert caught.value.retry_after_seconds == 3


async def test_all_that_is_granted_is_needed(bench: Bench, name: str) -> None:
    provider = bench.provider
    await provider.list_clusters()
    await provider.check_access()
    await provider.log_in()
    await bench.grow(PLAIN, 2)
    await provider.list_pools()
    bench.pools.short[SPOT] = "capacity"
    await bench.grow(SPOT, 1)
    await provider.list_pools()
    machine = bench.pools.state(PLAIN).instances[0]
    await provider.remove_node(PLAIN, NodeName(machine.node), machine.provider_id)
    bench.clock.advance(AN_HOUR)
    used = cloud_permissions.used(name, bench.cloud.request_log)
    prices = frozenset(one for one in cloud_permissions.granted(name) if cloud_permissions.is_price(name, one))
    assert cloud_permissions.granted(name) - prices == used
