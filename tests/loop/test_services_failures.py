"""Divided services when something fails: a member is lost, refuses, does not know the kind; a new revision is bad; the
template is broken; the daemon only looks on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from clusters.kinds.federatedworkload import KIND
from clusters.kubernetes.connection import Limits
from clusters.sandbox.scenario import FaultPlan, Scenario
from scheduler.model.contract import (
    ANNOTATION_DIVISION,
    CONDITION_PLACED,
    DEPLOYMENTS,
    INFERENCE_SERVICES,
    LABEL_ORIGIN_UID,
    NODES,
    PODS,
)
from scheduler.model.errors import RefusedError
from scheduler.model.ports import DivisibleKind, KubeApi
from scheduler.model.serving import CanaryVerdict
from tests.loop.harness import POLICIES, tiny_scenario, until
from tests.loop.services import (
    SLO,
    Played,
    a_serving_world,
    condition,
    copies,
    divided,
    hub_object,
    patch,
    ready_on,
    revisions,
    serving,
    submit,
    until_ready,
)
from tests.loop.test_behaviours_serving import deployment
from tests.loop.test_behaviours_templates import define, inference

QUICK = Limits(connect_seconds=1, read_seconds=1, call_seconds=1)
TWO_CLUSTERS = POLICIES + SLO.replace(
    "  limits:\n", "  failureDomains:\n    key: cluster\n    minReplicas: 1\n    domains: 2\n  limits:\n"
)


async def test_a_lost_cluster_is_replaced_and_taken_back_when_it_answers_again(tmp_path: Path) -> None:
    played = Played(6.0)
    async with (
        a_serving_world(tmp_path, TWO_CLUSTERS, scenario=tiny_scenario(1), speed=60.0) as world,
        divided(world, played, limits=QUICK, ping_seconds=0.2) as daemon,
    ):
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 4, "eks": 1}, "in both")
        world.sandbox.servers["onprem"].fall_silent()
        await until(lambda: serving(world, "ClusterLost"), "it says so")
        lost_at, looks = daemon.outside.clock.now(), daemon.services.keeper.looks

        async def restored() -> bool:
            return (await ready_on(world, uid)).get("eks", 0) >= 5

        await until(restored, "its share is ready elsewhere")
        # A node takes 150 s, a pod 15 s at most.
        assert daemon.outside.clock.now() - lost_at < 2 * 15.0 + 150.0 + 60.0
        assert daemon.services.keeper.looks > looks
        assert len(await copies(world, uid, ["onprem"])) == 1, "nobody can delete what is there"
        world.sandbox.servers["onprem"].speak()
        await until_ready(world, uid, {"onprem": 4, "eks": 1}, "back where it was")


SPOT = POLICIES + SLO.replace("maxReclaimableShare: 0", "maxReclaimableShare: 1")


async def test_whose_node_is_taken_back_starts_elsewhere_before_it_is_gone(tmp_path: Path) -> None:
    template = deployment(replicas=1)
    template["spec"]["template"]["spec"] |= {
        "nodeSelector": {"eks.amazonaws.com/capacityType": "SPOT"},
        "tolerations": [{"operator": "Exists"}],
    }
    played = Played(2.0)
    async with (
        a_serving_world(tmp_path, SPOT, scenario=_with_long_notices(), speed=120.0) as world,
        divided(world, played) as daemon,
    ):
        uid = await submit(world, template)
        await until_ready(world, uid, {"eks": 2}, "on spot")
        await until(daemon.is_idle, "at rest")
        (node,) = {pod["spec"]["nodeName"] for pod in (await world.member("eks").list(PODS)).items}
        world.sandbox.strike(FaultPlan(0.0, "eks", "spot-reclaim", node=node))
        await until(lambda: serving(world, "NodesReclaimed"), "it says so")
        await until_ready(world, uid, {"eks": 4}, "others are ready while both stand")
        assert node in {raw["metadata"]["name"] for raw in (await world.member("eks").list(NODES)).items}
        least = 4

        async def over() -> bool:
            nonlocal least
            least = min(least, sum((await ready_on(world, uid)).values()))
            names = {raw["metadata"]["name"] for raw in (await world.member("eks").list(NODES)).items}
            return node not in names and await serving(world, "Serving")

        await until(over, "the node is gone", 60)
        await until_ready(world, uid, {"eks": 2}, "as many as before")
        assert least >= 2


def _with_long_notices() -> Scenario:
    """So that a node can be bought within one."""
    tiny = tiny_scenario(1)
    members = tuple(
        replace(member, pools=tuple(replace(pool, reclaim_notice_seconds=600.0) for pool in member.pools))
        for member in tiny.members
    )
    return replace(tiny, members=members)


def revision_of(raw: Any) -> str:
    assert isinstance(KIND, DivisibleKind)
    return KIND.revision(raw)[0]


async def test_a_bad_revision_is_taken_back_and_not_tried_again(tmp_path: Path) -> None:
    played = Played(6.0)
    async with a_serving_world(tmp_path) as world, divided(world, played) as daemon:
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 5}, "five carry it")
        (old,) = await revisions(world, uid)
        await patch(world, {"spec": {"template": deployment(image="serve:bad")}})
        new = revision_of(await hub_object(world))

        async def side_by_side() -> bool:
            found = await revisions(world, uid)
            return bool(found.get(new)) and bool(found.get(old))

        await until(side_by_side, "both run")
        played.verdicts[new] = CanaryVerdict(new, "bad", "latency +40 % at the same load", 100)
        await until(lambda: serving(world, "RolledBack"), "taken back")

        async def only_old() -> bool:
            found = await revisions(world, uid)
            return list(found) == [old] and found[old] == 5

        await until(only_old, "the old one serves alone")
        assert "latency +40 %" in (await condition(world))["message"]
        assert daemon.outside.telemetry.registry.get_sample_value("overspill_service_rollbacks_total") == 1.0
        await patch(world, {"spec": {"template": deployment(image="serve:better")}})
        better = revision_of(await hub_object(world))

        async def only_better() -> bool:
            return list(await revisions(world, uid)) == [better]

        await until(only_better, "another one is tried")


class Refusing:
    """A member that takes no new Deployment."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    async def create(self, resource: Any, namespace: str, body: Any) -> Any:
        if resource == DEPLOYMENTS:
            raise RefusedError("admission webhook says no")
        return await self._api.create(resource, namespace, body)


async def test_a_member_that_refuses_is_said_and_others_take_its_share(tmp_path: Path) -> None:
    played = Played(6.0)

    def wrap(name: str, api: KubeApi) -> KubeApi:
        return Refusing(api) if name == "onprem" else api

    async with a_serving_world(tmp_path) as world, divided(world, played, wrap=wrap):
        uid = await submit(world)

        async def told() -> bool:
            return (await condition(world, CONDITION_PLACED)).get("reason") == "CopyRefused"

        await until(told, "it says that it is refused")
        await until_ready(world, uid, {"eks": 5}, "its share is elsewhere")


async def test_a_member_without_the_definition_is_left_out_and_said(tmp_path: Path) -> None:
    async with a_serving_world(tmp_path, POLICIES + SLO.replace("minReplicas: 2", "minReplicas: 1")) as world:
        await define(world.member("eks"))
        async with divided(world):
            uid = await submit(world, inference(replicas=1))

            async def there() -> bool:
                listed = await world.member("eks").list(INFERENCE_SERVICES, label_selector=f"{LABEL_ORIGIN_UID}={uid}")
                return len(listed.items) == 1

            await until(there, "where the kind is known")

            async def told() -> bool:
                said = await condition(world)
                return "no inferenceservices.serving.kserve.io in onprem" in said.get("message", "")

            await until(told, "it says where it is not")
            listed = await world.member("eks").list(INFERENCE_SERVICES, label_selector=f"{LABEL_ORIGIN_UID}={uid}")
            predictor = listed.items[0]["spec"]["predictor"]
            assert predictor["minReplicas"] == 1
            assert predictor["maxReplicas"] >= 1


async def test_a_broken_template_and_a_broken_annotation_keep_what_runs(tmp_path: Path) -> None:
    async with a_serving_world(tmp_path) as world, divided(world) as daemon:
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 2}, "two run")
        before = {raw["metadata"]["uid"] for _, raw in await copies(world, uid)}
        broken = deployment()
        broken["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
        await patch(world, {"spec": {"template": broken}})

        async def told() -> bool:
            said = await condition(world, CONDITION_PLACED)
            return said.get("status") == "False" and "selector is missing" in said["message"]

        await until(told, "it says what is wrong")
        await patch(world, {"spec": {"template": deployment(replicas=1)}})
        await patch(world, {"metadata": {"annotations": {ANNOTATION_DIVISION: "{broken"}}})

        async def written_anew() -> bool:
            said = (await hub_object(world))["metadata"]["annotations"].get(ANNOTATION_DIVISION, "")
            return '"targets":[{' in said

        await until(written_anew, "divided anew, from what runs")
        await until(daemon.is_idle, "at rest")
        assert {raw["metadata"]["uid"] for _, raw in await copies(world, uid)} == before


async def test_suspended_it_runs_nowhere_and_resumed_it_runs_again(tmp_path: Path) -> None:
    async with a_serving_world(tmp_path) as world, divided(world):
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 2}, "two run")
        await patch(world, {"spec": {"suspend": True}})

        async def nothing() -> bool:
            return not await copies(world, uid)

        await until(nothing, "nothing is left")
        await until(lambda: serving(world, "Suspended"), "it says why")
        await patch(world, {"spec": {"suspend": False}})
        await until_ready(world, uid, {"onprem": 2}, "two run again")


async def test_shadow_mode_decides_and_writes_nothing(tmp_path: Path) -> None:
    played = Played(6.0)
    async with a_serving_world(tmp_path) as world, divided(world, played, shadow=True) as daemon:
        uid = await submit(world)
        before = await hub_object(world)
        await until(lambda: daemon.services.keeper.looked, "it is decided")
        (looked,) = daemon.services.keeper.looked.values()
        assert sum(one.replicas for one in looked.intent.targets) == 5
        await until(daemon.is_idle, "at rest")
        assert not await copies(world, uid)
        assert (await hub_object(world))["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
