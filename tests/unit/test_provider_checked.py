"""Whatever a provider's reading of an answer raises, its caller gets one typed error that names member and call."""

from __future__ import annotations

import pytest

from clusters.providers._checked import CheckedProvider
from scheduler.model.cloud import AccessCheck, CloudCluster, ClusterLogin
from scheduler.model.errors import CapacityError, ExternalError, OutcomeUnknownError, TransientError
from scheduler.model.ids import NodeName, PoolId
from scheduler.model.ports import PoolStatus


class Raising:
    """A provider that fails as it is told."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def list_pools(self) -> tuple[PoolStatus, ...]:
        raise self.error

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        raise self.error

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        raise self.error

    async def list_clusters(self) -> tuple[CloudCluster, ...]:
        raise self.error

    async def log_in(self) -> ClusterLogin:
        raise self.error

    async def check_access(self) -> tuple[AccessCheck, ...]:
        raise self.error

    async def close(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("call", "want"),
    [
        ("list_pools", TransientError),
        ("list_clusters", TransientError),
        ("log_in", TransientError),
        ("check_access", TransientError),
        ("set_size", OutcomeUnknownError),
        ("remove_node", OutcomeUnknownError),
    ],
)
@pytest.mark.parametrize("error", [KeyError("nodegroup"), TypeError("None"), AttributeError("name"), ValueError("x")])
async def test_nonsense_is_one_typed_line(call: str, want: type[ExternalError], error: Exception) -> None:
    checked = CheckedProvider("eks-1 (eks)", Raising(error))
    with pytest.raises(want, match=rf"^eks-1 \(eks\): {call}: the cloud's answer cannot be understood") as caught:
        await _make(checked, call)
    assert caught.value.code == "Malformed"
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", ["list_pools", "set_size", "remove_node"])
async def test_typed_errors_pass_unchanged(call: str) -> None:
    shortage = CapacityError("none left", code="Stockout")
    with pytest.raises(CapacityError) as caught:
        await _make(CheckedProvider("eks-1 (eks)", Raising(shortage)), call)
    assert caught.value is shortage


async def _make(provider: CheckedProvider, call: str) -> None:
    match call:
        case "list_pools":
            await provider.list_pools()
        case "list_clusters":
            await provider.list_clusters()
        case "log_in":
            await provider.log_in()
        case "check_access":
            await provider.check_access()
        case "set_size":
            await provider.set_size(PoolId("p"), 1)
        case _:
            await provider.remove_node(PoolId("p"), NodeName("n"), "aws:///a/i-1")
