"""The emulated scheduler: order, packing, what changes room, bindings that fail; and Deployments on top of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from clusters.sandbox.emulation.objects import condition_true
from scheduler.model.contract import DEPLOYMENTS, JOBS, NODES, PODS, REPLICASETS
from scheduler.model.errors import AlreadyExistsError, TransientError
from tests.unit.emulation_fakes import Bench, bench, job, pool


def _pod(name: str, *, gpus: int = 1, priority: int = 0, **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": "i", "resources": {"limits": {"nvidia.com/gpu": gpus}}}
    body = {"restartPolicy": "Never", "priority": priority, "containers": [container], **spec}
    annotations = {"sandbox.overspill.dev/run-seconds": "100"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": body,
    }


def _bound(b: Bench) -> dict[str, str | None]:
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in b.api.all(PODS)}


async def test_higher_priority_goes_first_then_the_older() -> None:
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.api.create(PODS, "default", _pod("blocker", gpus=8))
        await b.settle()
        for name, priority in (("low", 0), ("high", 10), ("later", 0)):
            await b.api.create(PODS, "default", _pod(name, gpus=8, priority=priority))
            b.clock.advance(b.clock.now() + 1)
        await b.settle()
        order = []
        for _ in range(3):
            await b.pass_time(130)
            order = [name for verb, _, name in b.api.writes if verb == "binding"]
        assert order == ["blocker", "high", "low", "later"]


async def test_pods_are_packed_so_that_whole_nodes_stay_free() -> None:
    async with bench(pool(maximum=3, fixed=True)) as b:
        for number in range(8):
            await b.api.create(PODS, "default", _pod(f"small-{number}"))
        await b.settle()
        assert len(set(_bound(b).values())) == 1


async def test_selectors_taints_and_cordons_are_kept() -> None:
    tainted = pool("tainted", maximum=1, fixed=True, taints=(("nvidia.com/gpu", "present", "NoSchedule"),))
    async with bench(tainted, pool("open", maximum=1, fixed=True)) as b:
        nodes = {
            n["metadata"]["labels"]["eks.amazonaws.com/nodegroup"]: n["metadata"]["name"] for n in b.api.all(NODES)
        }
        toleration = [{"key": "nvidia.com/gpu", "operator": "Exists"}]
        selector = {"eks.amazonaws.com/nodegroup": "tainted"}
        await b.api.create(PODS, "default", _pod("plain"))
        await b.api.create(PODS, "default", _pod("pinned", nodeSelector=selector, tolerations=toleration))
        await b.api.create(PODS, "default", _pod("hopeless", nodeSelector=selector))
        await b.settle()
        assert _bound(b) == {"plain": nodes["open"], "pinned": nodes["tainted"], "hopeless": None}
        await b.api.patch(NODES, "", nodes["open"], {"spec": {"unschedulable": True}})
        await b.api.create(PODS, "default", _pod("after"))
        await b.settle()
        assert _bound(b)["after"] is None
        await b.api.patch(NODES, "", nodes["open"], {"spec": {"unschedulable": None}})
        await b.settle()
        assert _bound(b)["after"] == nodes["open"]


async def test_a_failed_binding_is_tried_again_and_room_is_not_lost() -> None:
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.settle()
        await b.api.create(PODS, "default", _pod("one", gpus=8))
        b.api.fail_next.append(TransientError("on purpose"))
        await b.until(lambda: _bound(b)["one"] is not None)


async def test_a_pod_deleted_while_it_waits_frees_its_place() -> None:
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.api.create(PODS, "default", _pod("first", gpus=8))
        await b.settle()
        await b.api.create(PODS, "default", _pod("second", gpus=8))
        await b.api.create(PODS, "default", _pod("third", gpus=4))
        await b.settle()
        await b.api.delete(PODS, "default", "second")
        await b.api.delete(PODS, "default", "first", grace_period_seconds=0)
        await b.settle()
        assert _bound(b) == {"third": b.api.all(NODES)[0]["metadata"]["name"]}


async def test_never_over_allocated_and_fast_with_many_nodes() -> None:
    async with bench(pool(maximum=60, fixed=True)) as b:
        await b.settle()
        for number in range(600):
            await b.api.create(JOBS, "default", job(f"j{number}", gpus=1 + number % 8, run=1e6))
        began = time.process_time()
        await b.settle(0.2)
        spent = time.process_time() - began
        used: dict[str, int] = {}
        for pod in b.api.all(PODS):
            if pod["spec"].get("nodeName"):
                gpus = int(pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
                used[pod["spec"]["nodeName"]] = used.get(pod["spec"]["nodeName"], 0) + gpus
        assert max(used.values()) <= 8
        assert sum(used.values()) >= 60 * 8 - 60  # hardly a GPU is left idle while so many pods wait
        assert spent < 20


def _deployment(replicas: int = 3, image: str = "serve:1", **spec: Any) -> dict[str, Any]:
    container = {"name": "serve", "image": image, "resources": {"limits": {"nvidia.com/gpu": 1}}}
    template = {"metadata": {"labels": {"app": "chat"}}, "spec": {"containers": [container]}}
    selector = {"matchLabels": {"app": "chat"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "chat"},
        "spec": {"replicas": replicas, "selector": selector, "template": template, **spec},
    }


async def test_a_deployment_becomes_available_scales_and_is_cleaned_up() -> None:
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.api.create(DEPLOYMENTS, "default", _deployment())
        await b.pass_time(10)
        status = b.api.one(DEPLOYMENTS, "chat")["status"]
        assert (status["replicas"], status["readyReplicas"], status["availableReplicas"]) == (3, 3, 3)
        assert (status["updatedReplicas"], status["unavailableReplicas"], status["observedGeneration"]) == (3, 0, 1)
        assert condition_true(b.api.one(DEPLOYMENTS, "chat"), "Available")
        await b.api.patch(DEPLOYMENTS, "default", "chat", {"spec": {"replicas": 1}})
        await b.pass_time(10)
        assert len(b.api.all(PODS)) == 1
        assert b.api.one(DEPLOYMENTS, "chat")["status"]["observedGeneration"] == 2
        await b.pass_time(5000)
        assert b.api.all(PODS)[0]["status"]["phase"] == "Running"  # served for ever
        await b.api.delete(DEPLOYMENTS, "default", "chat")
        await b.pass_time(10)
        assert b.api.all(REPLICASETS) == []
        assert b.api.all(PODS) == []


async def test_a_rolling_change_replaces_all_pods_and_stays_available() -> None:
    async with bench(pool(maximum=2, fixed=True)) as b:
        await b.api.create(DEPLOYMENTS, "default", _deployment(4))
        await b.pass_time(10)
        least = 4

        def watch(kind: str, old: object, deployment: Any) -> None:
            nonlocal least
            least = min(least, deployment["status"]["availableReplicas"])

        b.cluster._deployments.handle(watch)
        changed = _deployment(4, "serve:2")["spec"]["template"]
        await b.api.patch(DEPLOYMENTS, "default", "chat", {"spec": {"template": changed}})
        await b.pass_time(60)
        images = [pod["spec"]["containers"][0]["image"] for pod in b.api.all(PODS)]
        assert images == ["serve:2"] * 4
        assert least >= 3
        sets = b.api.all(REPLICASETS)
        assert sorted(s["spec"]["replicas"] for s in sets) == [0, 4]
        assert {s["metadata"]["annotations"]["deployment.kubernetes.io/revision"] for s in sets} == {"1", "2"}


async def test_recreate_stops_the_old_pods_first() -> None:
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.api.create(DEPLOYMENTS, "default", _deployment(8, strategy={"type": "Recreate"}))
        await b.pass_time(10)
        changed = _deployment(8, "serve:2")["spec"]["template"]
        await b.api.patch(DEPLOYMENTS, "default", "chat", {"spec": {"template": changed}})
        await b.pass_time(60)
        assert [pod["spec"]["containers"][0]["image"] for pod in b.api.all(PODS)] == ["serve:2"] * 8
        assert b.api.one(DEPLOYMENTS, "chat")["status"]["availableReplicas"] == 8


async def test_a_set_that_its_former_deployment_leaves_is_waited_for() -> None:
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.api.create(DEPLOYMENTS, "default", _deployment())
        # Its name is taken when it is created, and free again when it is looked at: the collector was here.
        b.api.fail_next.append(AlreadyExistsError("replicasets.apps already exists", code="AlreadyExists"))
        async with asyncio.timeout(10):
            while not b.api.all(REPLICASETS):
                await asyncio.sleep(0.005)
        assert not b.api.fail_next
        await b.pass_time(10)
        assert b.api.one(DEPLOYMENTS, "chat")["status"]["readyReplicas"] == 3
