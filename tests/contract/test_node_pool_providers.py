"""Every node-pool provider that there is a file for keeps one contract, against its own emulated cloud on the wire."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import ValidationError

from clusters.providers import load_provider, provider_names
from clusters.sandbox.clouds import RunningCloud, start_cloud
from clusters.sandbox.clouds.faults import Fault
from scheduler.model.errors import (
    AuthError,
    CapacityError,
    InvalidObjectError,
    NotFoundError,
    OutcomeUnknownError,
    QuotaError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.ids import NodeName, PoolId
from scheduler.model.ports import NodePoolProvider, PoolStatus
from tests.contract import cloud_permissions
from tests.contract.emulated_pools import PROVIDER_IDS, ScriptedPools, SteppedClock, pool_spec

SPOT, PLAIN = PoolId("spotpool"), PoolId("plainpool")
AN_HOUR = 3600.0


@dataclass
class Bench:
    """One provider in front of its emulated cloud."""

    provider: NodePoolProvider
    cloud: RunningCloud
    pools: ScriptedPools
    clock: SteppedClock

    async def pool(self, name: PoolId) -> PoolStatus:
        return next(one for one in await self.provider.list_pools() if one.pool == name)

    async def grow(self, name: PoolId, size: int) -> None:
        """Resize, and let the operation end."""
        await self.provider.set_size(name, size)
        self.clock.advance(AN_HOUR)


async def bench_of(name: str, folder: Path, **changes: object) -> Bench:
    clock = SteppedClock()
    specs = () if name == "onprem" else (pool_spec(SPOT, capacity_type="spot"), pool_spec(PLAIN))
    assert not specs or name in PROVIDER_IDS, f"say in tests/contract/emulated_pools.py how {name} names its machines"
    pools = ScriptedPools(name, specs, clock)
    cloud = await start_cloud(name, pools, clock, folder)
    written = json.loads(json.dumps(cloud.settings | {"readTimeoutSeconds": 5.0} | changes))
    module = load_provider(name)
    settings = module.Settings.model_validate(written, context={"base_dir": folder})
    return Bench(module.create(settings, clock=clock), cloud, pools, clock)


@pytest.fixture(params=provider_names())
async def any_bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = await bench_of(request.param, tmp_path)
    yield bench
    await bench.provider.close()
    await bench.cloud.stop()


@pytest.fixture(params=[name for name in provider_names() if name != "onprem"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    made = await bench_of(request.param, tmp_path)
    yield made
    await made.provider.close()
    await made.cloud.stop()
    beyond = cloud_permissions.used(request.param, made.cloud.request_log) - cloud_permissions.granted(request.param)
    assert not beyond, f"deploy/iam does not grant {sorted(beyond)}"


async def test_it_is_a_provider_that_can_be_closed_twice(any_bench: Bench) -> None:
    assert isinstance(any_bench.provider, NodePoolProvider)
    await any_bench.provider.close()


@pytest.mark.parametrize("name", provider_names())
def test_unknown_settings_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="clusterNmae"):
        load_provider(name).Settings.model_validate({"type": name, "clusterNmae": "x"})


@pytest.mark.parametrize("name", provider_names())
async def test_the_secrets_it_was_given_are_private(name: str, tmp_path: Path) -> None:
    bench = await bench_of(name, tmp_path)
    try:
        files = [path for path in (tmp_path / "credentials").glob("**/*") if path.is_file()]
        assert bool(files) == (name != "onprem")
        assert {path.stat().st_mode & 0o777 for path in files} <= {0o600}
    finally:
        await bench.provider.close()
        await bench.cloud.stop()


async def test_owned_machines_cannot_be_resized(tmp_path: Path) -> None:
    onprem = (await bench_of("onprem", tmp_path)).provider
    assert await onprem.list_pools() == ()
    with pytest.raises(RefusedError, match="scaling: fixed"):
        await onprem.set_size(PoolId("a100"), 2)
    with pytest.raises(RefusedError):
        await onprem.remove_node(PoolId("a100"), NodeName("n"), "")


async def test_pools_are_listed_as_they_are(bench: Bench) -> None:
    found = {one.pool: one for one in await bench.provider.list_pools()}
    assert set(found) == {SPOT, PLAIN}
    assert {name: one.capacity_type for name, one in found.items()} == {SPOT: "spot", PLAIN: "on-demand"}
    for name, one in found.items():
        assert one.instance_type == "gpu.8xlarge"
        assert one.desired_nodes == 0
        assert one.min_nodes == 0
        assert one.max_nodes >= 8
        assert ("team", "ml") in one.labels
        assert name in dict(one.labels).values(), "a label must name the pool"
        assert not one.busy
        assert one.shortage is None


async def test_growing_makes_machines(bench: Bench) -> None:
    await bench.provider.set_size(PLAIN, 3)
    assert len(bench.pools.state(PLAIN).instances) == 3
    now = await bench.pool(PLAIN)
    assert (now.desired_nodes, now.busy) == (3, True)
    bench.clock.advance(AN_HOUR)
    assert not (await bench.pool(PLAIN)).busy
    assert (await bench.pool(SPOT)).desired_nodes == 0


async def test_the_right_size_is_not_asked_for_again(bench: Bench) -> None:
    await bench.grow(PLAIN, 2)
    before = list(bench.cloud.request_log)
    bench.pools.short[PLAIN] = "capacity"
    await bench.provider.set_size(PLAIN, 2)
    asked = bench.cloud.request_log[len(before) :]
    reads = set(bench.cloud.request_log[: before.index(next(one for one in before if is_write(one)))])
    assert asked
    assert not any(is_write(one) for one in asked), f"only reads like {reads} were due"


def is_write(action: str) -> bool:
    return any(word in action for word in ("Update", "Set", "Terminate", "PUT ", "delete"))


async def test_a_busy_pool_is_left_for_the_next_pass(bench: Bench) -> None:
    await bench.provider.set_size(PLAIN, 2)
    with pytest.raises(TransientError):
        await bench.provider.set_size(PLAIN, 3)
    assert bench.pools.state(PLAIN).desired == 2
    bench.clock.advance(AN_HOUR)
    await bench.provider.set_size(PLAIN, 3)
    assert bench.pools.state(PLAIN).desired == 3


async def test_a_pool_goes_to_zero(bench: Bench) -> None:
    await bench.grow(SPOT, 2)
    await bench.grow(SPOT, 0)
    assert bench.pools.state(SPOT).instances == ()
    assert (await bench.pool(SPOT)).desired_nodes == 0


async def test_more_than_the_pool_allows_is_refused(bench: Bench) -> None:
    with pytest.raises(RefusedError, match=r"plainpool|count|size"):
        await bench.provider.set_size(PLAIN, 9)
    assert bench.pools.state(PLAIN).desired == 0


async def test_an_unknown_pool_is_not_found(bench: Bench) -> None:
    with pytest.raises(NotFoundError):
        await bench.provider.set_size(PoolId("nosuch"), 1)


@pytest.mark.parametrize("kind", ["capacity", "quota"])
async def test_a_shortage_is_told_with_its_kind_and_ends(bench: Bench, kind: str) -> None:
    bench.pools.short[SPOT] = kind
    await bench.grow(SPOT, 2)
    first = (await bench.pool(SPOT)).shortage
    assert first is not None
    assert first.kind == kind
    assert first.text
    bench.clock.advance(60)
    again = (await bench.pool(SPOT)).shortage
    assert again is not None
    assert again.since == first.since <= bench.clock.now()
    assert (await bench.pool(PLAIN)).shortage is None
    del bench.pools.short[SPOT]
    await bench.grow(SPOT, 0)
    assert (await bench.pool(SPOT)).shortage is None


@pytest.mark.parametrize(
    ("fault", "want"),
    [
        (Fault("capacity"), CapacityError),
        (Fault("quota"), QuotaError),
        (Fault("denied"), AuthError),
        (Fault("throttled", retry_after_seconds=7), ThrottledError),
        (Fault("unmapped", code="FrobnicationFailure"), TransientError),
    ],
)
async def test_a_refusal_at_once_has_its_type(bench: Bench, fault: Fault, want: type[Exception]) -> None:
    bench.cloud.faults.add(fault)
    with pytest.raises(want) as caught:
        await bench.provider.set_size(PLAIN, 1)
    assert type(caught.value) is want
    if isinstance(caught.value, ThrottledError):
        assert caught.value.retry_after_seconds == 7
    if fault.code:
        assert fault.code in str(caught.value)
        assert isinstance(caught.value, TransientError)
        assert fault.code in caught.value.code
    assert bench.pools.state(PLAIN).desired == 0
    writes = [action for action in bench.cloud.request_log if is_write(action)]
    assert len(writes) == 1, "one layer retries, and it is not the SDK"


async def test_throttled_reads_say_how_long_to_wait(bench: Bench) -> None:
    bench.cloud.faults.add(Fault("throttled", writes=False, retry_after_seconds=11))
    with pytest.raises(ThrottledError) as caught:
        await bench.provider.list_pools()
    assert caught.value.retry_after_seconds == 11
    assert len(await bench.provider.list_pools()) == 2


@pytest.mark.parametrize("name", [name for name in provider_names() if name != "onprem"])
async def test_an_answer_that_never_comes_is_an_unknown_outcome(name: str, tmp_path: Path) -> None:
    bench = await bench_of(name, tmp_path, readTimeoutSeconds=0.5, connectTimeoutSeconds=1.0)
    try:
        await bench.provider.list_pools()  # the token is there
        bench.cloud.faults.add(Fault("lost-answer", writes=False))
        with pytest.raises(TransientError):
            await bench.provider.list_pools()
        bench.cloud.faults.add(Fault("lost-answer"))
        with pytest.raises(OutcomeUnknownError):
            await bench.provider.set_size(PLAIN, 2)
        assert (await bench.pool(PLAIN)).desired_nodes == 2, "reading back tells what became of it"
        await bench.provider.set_size(PLAIN, 2)
    finally:
        await bench.provider.close()
        await bench.cloud.stop()


async def test_a_named_node_is_given_back_once(bench: Bench) -> None:
    await bench.grow(PLAIN, 3)
    first, middle, last = bench.pools.state(PLAIN).instances
    for _ in range(2):
        await bench.provider.remove_node(PLAIN, NodeName(middle.node), middle.provider_id)
        bench.clock.advance(AN_HOUR)
        assert bench.pools.state(PLAIN).instances == (first, last)
        assert (await bench.pool(PLAIN)).desired_nodes == 2
    await bench.provider.set_size(PLAIN, 2)
    assert bench.pools.state(PLAIN).instances == (first, last)


async def test_a_node_of_another_pool_is_never_taken(bench: Bench) -> None:
    await bench.grow(PLAIN, 1)
    await bench.grow(SPOT, 1)
    (other,) = bench.pools.state(SPOT).instances
    with contextlib.suppress(RefusedError):
        await bench.provider.remove_node(PLAIN, NodeName(other.node), other.provider_id)
    assert bench.pools.state(SPOT).instances == (other,)
    assert len(bench.pools.state(PLAIN).instances) == 1


async def test_a_senseless_provider_id_is_refused(bench: Bench) -> None:
    await bench.grow(PLAIN, 1)
    with pytest.raises(RefusedError, match="provider id"):
        await bench.provider.remove_node(PLAIN, NodeName("n1"), "kind://docker/x/y")
    assert len(bench.pools.state(PLAIN).instances) == 1


@pytest.mark.parametrize("name", [name for name in provider_names() if name != "onprem"])
async def test_nobody_there_is_transient(name: str, tmp_path: Path) -> None:
    bench = await bench_of(name, tmp_path, connectTimeoutSeconds=1.0, readTimeoutSeconds=1.0)
    await bench.cloud.stop()
    try:
        with pytest.raises(TransientError):
            await bench.provider.list_pools()
    finally:
        await bench.provider.close()


@pytest.mark.parametrize("seen_before", [False, True])
async def test_revoked_credentials_are_refused(bench: Bench, seen_before: bool) -> None:
    if seen_before:
        await bench.provider.list_pools()
    bench.cloud.revoke_credentials()
    before = len(bench.cloud.request_log)
    for _ in range(2):
        with pytest.raises(AuthError):
            await bench.provider.list_pools()
        with pytest.raises(AuthError):
            await bench.provider.set_size(PLAIN, 1)
    assert len(bench.cloud.request_log) == before, "nobody was let in"


@pytest.mark.parametrize("text", ["nosuch", "ek", "_blocking", "../etc", ""])
def test_an_unknown_type_is_a_named_error(text: str) -> None:
    with pytest.raises(InvalidObjectError, match=f"provider type '{text}' is not known"):
        load_provider(text)


def test_a_module_that_cannot_be_imported_is_a_named_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "overcast.py").write_text("import no_such_sdk_at_all\n")
    (tmp_path / "halfdone.py").write_text("Settings = object\n")
    monkeypatch.setattr("clusters.providers.__path__", [*load_provider_path(), str(tmp_path)])
    with pytest.raises(InvalidObjectError, match="'overcast' cannot be imported: No module named 'no_such_sdk_at_all'"):
        load_provider("overcast")
    with pytest.raises(InvalidObjectError, match=r"'halfdone' is incomplete: .* lacks 'create'"):
        load_provider("halfdone")


def load_provider_path() -> list[str]:
    import clusters.providers

    return list(clusters.providers.__path__)
