"""What tests of divided services over emulated and real Kubernetes APIs have in common."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from clusters.kubernetes.connection import Limits
from scheduler.cli.demo.manifests import route_definition
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import (
    CRDS,
    DEPLOYMENTS,
    FEDERATED_WORKLOADS,
    HTTP_ROUTES,
    INFERENCE_SERVICES,
    KNATIVE_ROUTES,
    KNATIVE_SERVICES,
)
from scheduler.model.errors import ExternalError, NotFoundError
from scheduler.model.ports import KubeApi, RawObject, Resource
from tests.e2e.federations import POLICIES, Federation, a_federation, scenario
from tests.loop import test_behaviours_templates as templates
from tests.loop.harness import until
from tests.loop.services import SLO, Played, condition, hub_object, status
from tests.loop.test_behaviours_serving import deployment

QUICK = Limits(connect_seconds=1, read_seconds=1, call_seconds=1)
WHOLE = POLICIES + SLO.replace("downAfter: 1m", "downAfter: 2s").replace("downStep: 1", "downStep: 0.5").replace(
    "step: 1m", "step: 2s"
).replace("keepOld: 1m", "keepOld: 2s")  # fmt: skip
TWO_CLUSTERS = WHOLE.replace(
    "  limits:\n", "  failureDomains:\n    key: cluster\n    minReplicas: 1\n    domains: 2\n  limits:\n"
)
RESOURCES = {"deployment": DEPLOYMENTS, **templates.RESOURCES}
LITTLE, MUCH = 2.0, 8.0
"""Requests per second: two replicas carry it; more than the four that have room on-prem."""


@asynccontextmanager
async def a_serving_federation(variant: str, folder: Path) -> AsyncIterator[Federation]:
    """One machine with four GPUs on-prem, and the cloud; KServe, Knative and the Gateway API defined everywhere."""
    whole = scenario()
    onprem, cloud = whole.members
    pool = onprem.pools[0]
    pool = replace(pool, spec=replace(pool.spec, gpus=4, min_nodes=1, max_nodes=1), initial_nodes=1)
    small = replace(whole, members=(replace(onprem, pools=(pool,)), cloud))
    async with a_federation(variant, folder, small, WHOLE) as made:
        await made.hub.create(CRDS, "", route_definition())
        await until(partial(served, made.hub, HTTP_ROUTES), "HTTPRoutes are served")
        for one in made.members:
            await templates.define(made.member(one))
            for resource in (INFERENCE_SERVICES, KNATIVE_SERVICES, KNATIVE_ROUTES):
                await until(partial(served, made.member(one), resource), f"{resource.plural} of {one} are served")
        yield made


async def served(api: KubeApi, resource: Resource) -> bool:
    try:
        await api.list(resource)
    except ExternalError:
        return False
    return True


@asynccontextmanager
async def divided(
    federation: Federation, played: Played | None = None, policies: str = WHOLE, **options: Any
) -> AsyncIterator[Daemon]:
    """A daemon with these policies that measures what is played (None: nothing), and looks as often as it would after
    each round of metrics of a federation at speed."""
    (federation.policies / "policies.yaml").write_text(policies)
    async with federation.daemon(**options) as daemon:
        if played is not None:
            played.play_to(daemon)
        rounds = asyncio.get_running_loop().create_task(_rounds(daemon))
        try:
            yield daemon
        except BaseException:
            # The next test is to begin with nothing, too.
            await _clear(federation)
            raise
        finally:
            rounds.cancel()
            await asyncio.gather(rounds, return_exceptions=True)


async def _clear(federation: Federation) -> None:
    for resource, api in [
        (FEDERATED_WORKLOADS, federation.hub),
        *((resource, federation.member(one)) for one in federation.members for resource in RESOURCES.values()),
    ]:
        with contextlib.suppress(ExternalError):
            for raw in (await api.list(resource, namespace="default")).items:
                name = raw["metadata"]["name"]
                await api.delete(resource, "default", name)
                await api.patch(resource, "default", name, {"metadata": {"finalizers": None}})


async def _rounds(daemon: Daemon) -> None:
    while True:
        await asyncio.sleep(0.5)
        daemon.services.keeper.trigger()


def made_of(name: str, image: str = "vllm:1", most: int = 12) -> dict[str, Any]:
    """A template of that kind, two replicas at least."""
    if name == "deployment":
        return deployment(image=image)
    made = templates.MAKERS[name](image)
    if name == "inferenceservice":
        made["spec"]["predictor"]["maxReplicas"] = most
    if name == "knativeservice":
        made["spec"]["template"]["metadata"]["annotations"]["autoscaling.knative.dev/max-scale"] = str(most)
    return made


async def ready_on(federation: Federation) -> dict[str, int]:
    """Ready replicas by member, as the hub object's status tells."""
    told = (await status(federation)).get("clusters") or []
    return {one["name"]: count for one in told if (count := one.get("readyReplicas") or 0)}


async def until_ready(federation: Federation, want: Callable[[dict[str, int]], bool], what: str) -> dict[str, int]:
    seen: dict[str, int] = {}

    async def there() -> bool:
        seen.clear()
        seen.update(await ready_on(federation))
        return want(seen)

    try:
        await until(there, what)
    except AssertionError as error:
        raise AssertionError(f"{error}: {seen}, {await condition(federation)}") from error
    return seen


async def at_home(federation: Federation) -> None:
    await until_ready(federation, lambda found: found == {"onprem": 2}, "two replicas on-prem")


async def burst(federation: Federation) -> dict[str, int]:
    def is_burst(found: dict[str, int]) -> bool:
        return found.get("onprem") == 4 and found.get("eks", 0) >= 1

    return await until_ready(federation, is_burst, "on-prem is full, and the rest is in the cloud")


async def parts(federation: Federation, resource: Resource, uid: str) -> dict[str, list[RawObject]]:
    """Copies by member, also of members that do not know the kind."""
    found: dict[str, list[RawObject]] = {}
    for member, raw in await templates.copies(federation, resource, uid):
        found.setdefault(member, []).append(raw)
    return found


async def revisions(federation: Federation, resource: Resource, uid: str) -> set[str]:
    """Images of the parts."""
    found = await parts(federation, resource, uid)
    return {_image(raw["spec"]) for each in found.values() for raw in each}


def _image(spec: RawObject) -> str:
    if "predictor" in spec:
        return str(spec["predictor"]["model"]["image"])
    return str(spec["template"]["spec"]["containers"][0]["image"])


async def says(federation: Federation, kind: str, reason: str, words: str = "") -> bool:
    said = await condition(federation, kind)
    return said.get("reason") == reason and words in said["message"]


async def remove(federation: Federation, resource: Resource, uid: str) -> None:
    await federation.hub.delete(FEDERATED_WORKLOADS, "default", "chat")

    async def gone() -> bool:
        try:
            await hub_object(federation)
        except NotFoundError:
            return not await parts(federation, resource, uid)
        return False

    await until(gone, "deleted with all its parts")

    async def given_back() -> bool:
        return not await federation.bought_nodes()

    await until(given_back, "nothing bought is left")
