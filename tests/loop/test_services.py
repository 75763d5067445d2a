"""A FederatedWorkload that a ServingSLO matches is divided over members: from its start to its end."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, RenderableType

from scheduler.cli import explain
from scheduler.cli import status as status_view
from scheduler.cli.api import parse_explain, parse_status
from scheduler.daemon.http import answers
from scheduler.model.contract import (
    ANNOTATION_DIVISION,
    ANNOTATION_PLACEMENT,
    CONDITION_PLACED,
    FEDERATED_WORKLOADS,
    NODES,
)
from scheduler.model.errors import NotFoundError
from tests.loop.harness import World, tiny_scenario, until
from tests.loop.services import (
    Played,
    a_serving_world,
    condition,
    copies,
    divided,
    hub_object,
    is_part,
    patch,
    ready_on,
    revisions,
    serving,
    status,
    submit,
    until_ready,
)
from tests.loop.test_behaviours_serving import deployment


async def gone(world: World, uid: str) -> bool:
    try:
        await hub_object(world)
    except NotFoundError:
        return not await copies(world, uid)
    return False


async def annotated(world: World, name: str) -> bool:
    return name in ((await hub_object(world))["metadata"].get("annotations") or {})


async def test_without_metrics_the_least_replicas_run_and_say_so(tmp_path: Path) -> None:
    async with a_serving_world(tmp_path) as world, divided(world) as daemon:
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 2}, "the least replicas are ready")
        await until(lambda: serving(world, "NoDemandMetrics"), "it says that nobody measures it")
        assert (await condition(world))["status"] == "Unknown"
        assert (await condition(world, CONDITION_PLACED))["status"] == "True"
        assert all(is_part(raw) for _, raw in await copies(world, uid))

        async def counted() -> bool:
            told = await status(world)
            return told.get("readyReplicas") == 2 and [one["name"] for one in told["clusters"]] == ["onprem"]

        await until(counted, "its status counts them")
        assert daemon.decisions.counters["placed"] == 0, "no cycle places it"
        await world.hub.delete(FEDERATED_WORKLOADS, "default", "chat")
        await until(lambda: gone(world, uid), "deleted with all its parts")
        await until(daemon.is_idle, "at rest")


async def test_it_bursts_when_on_prem_is_full_and_returns(tmp_path: Path) -> None:
    played = Played(2.0)
    async with a_serving_world(tmp_path, scenario=tiny_scenario(1)) as world, divided(world, played) as daemon:
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 2}, "two carry it")
        await until(lambda: serving(world, "Serving"), "all is well")
        played.per_second = 14.0
        await until_ready(world, uid, {"onprem": 8, "eks": 4}, "more on-prem, and what does not fit in the cloud")
        played.per_second = 2.0
        least = 8

        async def returned() -> bool:
            nonlocal least
            now = await ready_on(world, uid)
            least = min(least, sum(now.values()))
            return now == {"onprem": 2}

        await until(returned, "back on-prem, in small steps")
        assert least >= 2

        async def none_left() -> bool:
            return not (await world.member("eks").list(NODES)).items

        await until(none_left, "what was bought is given back")
        await until(daemon.is_idle, "at rest")


async def test_an_slo_that_appears_takes_over_and_one_that_goes_hands_back_without_a_gap(tmp_path: Path) -> None:
    played = Played(14.0)
    async with a_serving_world(tmp_path, scenario=tiny_scenario(1)) as world, divided(world, played) as daemon:
        uid = await submit(world, deployment(replicas=3), labels={})
        await until_ready(world, uid, {"onprem": 3}, "placed as a whole")
        assert await annotated(world, ANNOTATION_PLACEMENT)
        before = {raw["metadata"]["uid"] for _, raw in await copies(world, uid)}
        fewest = 3

        async def now_on(want: dict[str, int]) -> bool:
            nonlocal fewest
            found = await ready_on(world, uid)
            fewest = min(fewest, sum(found.values()))
            return found == want

        await patch(world, {"metadata": {"labels": {"app": "chat"}}})
        await until(lambda: now_on({"onprem": 8, "eks": 4}), "divided")
        assert before < {raw["metadata"]["uid"] for _, raw in await copies(world, uid)}, "what ran goes on"
        assert not await annotated(world, ANNOTATION_PLACEMENT)
        await patch(world, {"metadata": {"labels": {"app": None}}})
        await until(lambda: now_on({"onprem": 3}), "gathered in one place")
        assert fewest >= 3, "at no time did fewer serve"

        async def whole() -> bool:
            return await annotated(world, ANNOTATION_PLACEMENT) and not await annotated(world, ANNOTATION_DIVISION)

        await until(whole, "placed as a whole again")
        await until(daemon.is_idle, "at rest")
        assert (await condition(world)) == {}, "it promises nothing any more"
        assert len(await copies(world, uid)) == 1
        await patch(world, {"spec": {"template": deployment(replicas=4)}})
        await until_ready(world, uid, {"onprem": 4}, "and is followed as before")
        await world.hub.delete(FEDERATED_WORKLOADS, "default", "chat")
        await until(lambda: gone(world, uid), "deleted")


async def test_a_new_revision_takes_over_by_shares_and_both_stand_side_by_side(tmp_path: Path) -> None:
    played = Played(6.0)
    async with a_serving_world(tmp_path) as world, divided(world, played) as daemon:
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 5}, "five carry it")
        (old,) = await revisions(world, uid)
        await patch(world, {"spec": {"template": deployment(replicas=7)}})
        await until(daemon.is_idle, "replicas in the template are nobody's business")
        assert list(await revisions(world, uid)) == [old]
        await patch(world, {"spec": {"template": deployment(image="serve:2")}})
        both = False

        async def taken_over() -> bool:
            nonlocal both
            found = await revisions(world, uid)
            both |= len([name for name, count in found.items() if count]) == 2
            return old not in found and sum(found.values()) == 5

        await until(taken_over, "the new revision serves")
        assert both, "with both side by side for a while"
        images = {raw["spec"]["template"]["spec"]["containers"][0]["image"] for _, raw in await copies(world, uid)}
        assert images == {"serve:2"}


async def test_explain_status_and_metrics_tell_of_it(tmp_path: Path) -> None:
    played = Played(14.0)
    async with a_serving_world(tmp_path, scenario=tiny_scenario(1)) as world, divided(world, played) as daemon:
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 8, "eks": 4}, "divided")
        await until(lambda: serving(world, "Serving"), "all is well")
        await until(daemon.is_idle, "at rest")
        told = await daemon.report.explain("fw/chat")
        assert told is not None
        explanation = answers.Explanation.model_validate(told)
        assert explanation.division is not None
        assert {(one.pool.cluster, one.replicas) for one in explanation.division.targets} == {("onprem", 8), ("eks", 4)}
        assert "room/onprem/a100" in {one.name for one in explanation.division.binding}
        shown = text_of(explain.view(parse_explain(told)))
        assert "4 on eks/g5, 8 on onprem/a100" in shown
        assert "What binds" in shown
        report = daemon.report.status()
        answers.Status.model_validate(report)
        assert [(one["name"], one["wanted"], one["ready"]) for one in report["services"]] == [("chat", 12, 12)]
        assert "default/chat" in text_of(status_view.view(parse_status(report)))
        daemon.report.refresh_metrics()
        exposed = daemon.outside.telemetry.expose().decode()
        (revision,) = await revisions(world, uid)
        labels = f'cluster="onprem",revision="{revision}",service="federatedworkload/default/chat",state="ready"'
        assert f"overspill_service_replicas{{{labels}}} 8.0" in exposed


def text_of(shown: RenderableType) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()
