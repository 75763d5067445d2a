"""Our definition, and the published ones that tests reduce, as an API server takes them: established and structural.

The real server is that of $KUBEBUILDER_ASSETS.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from clusters.clock import SharedClock, SystemClock
from clusters.kubernetes.client import HttpKubeApi
from scheduler.cli import crds
from scheduler.cli.demo.manifests import route_definition
from scheduler.model.contract import CRDS
from scheduler.model.ports import RawObject
from tests.e2e.federations import NEWER, emulated, with_newer_definitions
from tests.e2e.real_cluster import find_assets, real_clusters
from tests.loop.harness import until
from tests.loop.test_behaviours_templates import DEFINITIONS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]
ALL = {
    one["metadata"]["name"]: one
    for one in (
        *crds.load(),
        route_definition(),
        *(yaml.safe_load(file.read_text()) for file in sorted(DEFINITIONS.glob("*.yaml"))),
    )
}


async def one_api(variant: str, folder: Path, stack: AsyncExitStack) -> HttpKubeApi:
    """A server alone, until `stack` is closed: emulated, real, or real with newer definitions. Skips the test where
    there is nothing for it."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240
    if variant != "emulated":
        assets = find_assets()
        if isinstance(assets, str):
            pytest.skip(assets)
        made = await stack.enter_async_context(real_clusters(assets, folder / "real", ["one"]))
        if variant == NEWER:
            made = await with_newer_definitions(assets, folder, made, stack)
        path = made["one"].kubeconfig
    else:
        clock = SharedClock.create(folder / "clock", start=SystemClock().now(), speed=1.0)
        path, _ = await emulated("one", clock, folder, stack)
    api = await HttpKubeApi.connect(name="one", kubeconfig=path, context=None)
    stack.push_async_callback(api.close)
    return api


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["emulated", "real", NEWER])
async def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HttpKubeApi]:
    async with AsyncExitStack() as stack:
        yield await one_api(request.param, tmp_path_factory.mktemp("definitions"), stack)


@pytest.mark.parametrize("name", sorted(ALL))
async def test_it_is_taken_whole_and_served(api: HttpKubeApi, name: str) -> None:
    made = await api.create(CRDS, "", ALL[name])
    assert made["spec"]["names"]["plural"] == name.partition(".")[0]
    definition: RawObject = await until(partial(established, api, name), f"{name} is established")
    told = {one["type"]: one["status"] for one in definition["status"]["conditions"]}
    assert told.get("NonStructuralSchema", "False") == "False", definition["status"]["conditions"]
    assert told["NamesAccepted"] == "True"


async def established(api: HttpKubeApi, name: str) -> RawObject | None:
    raw = await api.get(CRDS, "", name)
    told = {one["type"]: one["status"] for one in (raw.get("status") or {}).get("conditions") or ()}
    return raw if told.get("Established") == "True" else None
