"""The daemon over emulated and over real Kubernetes APIs: the same tests, the same daemon, nothing told apart.

The real ones run when $KUBEBUILDER_ASSETS names a folder with etcd and kube-apiserver. "mixed": real members under an
emulated hub, so that Jobs run on API servers that are too old to be a hub for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from scheduler.model.contract import (
    CONDITION_PLACED,
    DEPLOYMENTS,
    EVENTS,
    FEDERATED_WORKLOADS,
    FINALIZER,
    JOBS,
    LABEL_ORIGIN_UID,
    NAMESPACES,
    PODS,
)
from scheduler.model.errors import RefusedError
from scheduler.model.ports import RawObject, Resource
from tests.e2e.federations import VARIANTS, Federation, a_federation, a_service
from tests.loop import test_behaviours_templates as templates
from tests.loop.harness import a_job, is_complete, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

HOLD = "example.com/hold"
FOR_LONG = 36_000.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of workload, as the tests use it."""

    hub: Resource
    copy: Resource

    async def submit(
        self,
        federation: Federation,
        name: str,
        *,
        pods: int = 1,
        gpus: int = 1,
        model: str = "A100",
        seconds: float = 1,
    ) -> str:
        """The UID of a new hub object; `seconds`: how long a Job's pods run (a service runs for ever)."""
        if self is JOB:
            body = a_job(name, pods=pods, gpus=gpus, seconds=seconds)
            template = body["spec"]["template"]
        else:
            body = a_service(name, pods)
            template = body["spec"]["template"]["spec"]["template"]
        template["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": model}
        return str((await federation.hub.create(self.hub, "default", body))["metadata"]["uid"])


JOB = Kind(JOBS, JOBS)
SERVICE = Kind(FEDERATED_WORKLOADS, DEPLOYMENTS)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(VARIANTS))
async def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    async with a_federation(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest.fixture(params=["job", "service"])
def kind(request: pytest.FixtureRequest, federation: Federation) -> Kind:
    if request.param == "job":
        federation.needs_managed_jobs()
        return JOB
    return SERVICE


def placed(obj: RawObject | None) -> dict[str, Any]:
    """Its Overspill condition; empty when it has none."""
    listed = ((obj or {}).get("status") or {}).get("conditions") or []
    return next((dict(one) for one in listed if one["type"] == CONDITION_PLACED), {})


async def until_told(federation: Federation, kind: Kind, name: str) -> dict[str, Any]:
    """Its Overspill condition, once it has one."""

    async def told() -> dict[str, Any]:
        return placed(await federation.find(kind.hub, name))

    condition: dict[str, Any] = await until(told, f"the condition of {name}")
    return condition


async def one_copy(federation: Federation, kind: Kind, uid: str) -> tuple[str, RawObject]:
    """The member and the copy, once there is one."""
    found = await until(lambda: federation.copies(kind.copy, uid), f"a copy of {uid}")
    assert len(found) == 1
    member, raw = found[0]
    return str(member), raw


async def until_started(federation: Federation, uid: str, pods: int) -> None:
    await until(lambda: len(federation.started.get(uid, ())) >= pods, f"{pods} pods of {uid} run")


async def until_complete(federation: Federation, name: str) -> RawObject:
    async def complete() -> RawObject | None:
        job = await federation.find(JOBS, name)
        return job if job is not None and is_complete(job) and not job["metadata"].get("finalizers") else None

    done: RawObject = await until(complete, f"{name} is complete and let go")
    return done


async def until_ready(federation: Federation, name: str, replicas: int) -> RawObject:
    async def ready() -> RawObject | None:
        found = await federation.find(FEDERATED_WORKLOADS, name) or {}
        return found if (found.get("status") or {}).get("readyReplicas") == replicas else None

    done: RawObject = await until(ready, f"{name} has {replicas} ready replicas")
    return done


async def remove(federation: Federation, kind: Kind, name: str, uid: str) -> None:
    """Delete the hub object and wait until nothing of it is left anywhere."""
    await federation.hub.delete(kind.hub, "default", name)
    await until_gone(federation, kind, name, uid)


async def until_gone(federation: Federation, kind: Kind, name: str, uid: str) -> None:
    async def gone() -> bool:
        return await federation.find(kind.hub, name) is None

    async def no_pods() -> bool:
        listed = [
            await federation.apis[one].list(PODS, label_selector=f"{LABEL_ORIGIN_UID}={uid}")
            for one in federation.members
        ]
        return not any(one.items for one in listed)

    await until(gone, f"{name} is gone from the hub")
    assert not await federation.copies(kind.copy, uid), "the hub object goes last"
    await until(no_pods, f"the pods of {name} are gone")


async def test_a_job_runs_at_home_and_its_end_is_mirrored(federation: Federation) -> None:
    federation.needs_managed_jobs()
    async with federation.daemon():
        uid = await JOB.submit(federation, "plain", seconds=federation.lasting(2))
        member, copy = await one_copy(federation, JOB, uid)
        assert member == "onprem"
        assert "managedBy" not in copy["spec"]

        async def active() -> bool:
            return ((await federation.find(JOBS, "plain") or {}).get("status") or {}).get("active") == 1

        await until(active, "its progress is mirrored")
        job = await until_complete(federation, "plain")
        status = job["status"]
        assert status["succeeded"] == 1
        assert not status.get("active")
        assert status["startTime"] <= status["completionTime"]
        true = {one["type"] for one in status["conditions"] if one["status"] == "True"}
        assert true == {"SuccessCriteriaMet", "Complete", CONDITION_PLACED}
        assert not await federation.copies(JOBS, uid)
        assert len(federation.started[uid]) == 1


async def test_a_gang_starts_whole_or_not_at_all(federation: Federation) -> None:
    federation.needs_managed_jobs()
    async with federation.daemon():
        too_many = await JOB.submit(federation, "three-machines", pods=3, gpus=8)
        uid = await JOB.submit(federation, "two-machines", pods=2, gpus=8, seconds=1)
        job = await until_complete(federation, "two-machines")
        assert job["status"]["succeeded"] == 2
        assert len(federation.started[uid]) == 2
        assert (await until_told(federation, JOB, "three-machines"))["status"] == "False"
        assert too_many not in federation.started
        assert not await federation.copies(JOBS, too_many)
        await remove(federation, JOB, "three-machines", too_many)


async def test_it_bursts_and_gives_back_and_the_spend_is_the_bill(federation: Federation, kind: Kind) -> None:
    async with federation.daemon() as daemon:
        before = federation.bill_usd()
        uid = await kind.submit(federation, "burst", pods=2, model="A10G", seconds=1)
        await until_started(federation, uid, 2)
        assert len(await federation.bought_nodes()) == 2
        if kind is JOB:
            await until_complete(federation, "burst")
        else:
            service = await until_ready(federation, "burst", 2)
            assert service["status"]["clusters"][0]["name"] == "eks"
            assert placed(service)["status"] == "True"
            await remove(federation, kind, "burst", uid)

        async def given_back() -> bool:
            return not await federation.bought_nodes()

        await until(given_back, "bought nodes are given back", 60)
        charges = federation.emulations["eks"].billing.charges()
        await until(lambda: daemon.ledger.nodes_ended == len(charges), "the ledger has seen the nodes go")
        assert federation.bill_usd() > before
        assert daemon.ledger.total_usd == federation.bill_usd()


async def test_a_job_is_suspended_and_resumed(federation: Federation) -> None:
    federation.needs_managed_jobs()
    federation.needs_suspended_jobs()

    async def suspended() -> bool:
        status = (await federation.find(JOBS, "paused") or {}).get("status") or {}
        told = {one["type"]: one["status"] for one in status.get("conditions") or ()}
        return told.get("Suspended") == "True" and not status.get("active") and not status.get("startTime")

    async with federation.daemon():
        uid = await JOB.submit(federation, "paused", seconds=FOR_LONG)
        await until_started(federation, uid, 1)
        await federation.hub.patch(JOBS, "default", "paused", {"spec": {"suspend": True}})
        await until(suspended, "it is suspended")
        _, copy = await one_copy(federation, JOB, uid)
        assert copy["spec"]["suspend"] is True
        await federation.hub.patch(JOBS, "default", "paused", {"spec": {"suspend": False}})
        await until_started(federation, uid, 2)
        _, resumed = await one_copy(federation, JOB, uid)
        assert resumed["metadata"]["uid"] == copy["metadata"]["uid"]
        await remove(federation, JOB, "paused", uid)


async def test_the_hub_object_waits_until_its_copy_is_gone(federation: Federation, kind: Kind) -> None:
    async with federation.daemon():
        uid = await kind.submit(federation, "deleted", seconds=FOR_LONG)
        await until_started(federation, uid, 1)
        member, copy = await one_copy(federation, kind, uid)
        api, name = federation.apis[member], copy["metadata"]["name"]
        held = sorted({*(copy["metadata"].get("finalizers") or ()), HOLD})
        await api.patch(kind.copy, "default", name, {"metadata": {"finalizers": held}})
        await federation.hub.delete(kind.hub, "default", "deleted")

        async def deleting() -> bool:
            return bool((await api.get(kind.copy, "default", name))["metadata"].get("deletionTimestamp"))

        await until(deleting, "the copy is being deleted")
        waiting = await federation.find(kind.hub, "deleted")
        assert waiting is not None
        assert waiting["metadata"]["deletionTimestamp"]
        assert FINALIZER in waiting["metadata"]["finalizers"]
        await api.patch(kind.copy, "default", name, {"metadata": {"finalizers": None}})
        await until_gone(federation, kind, "deleted", uid)


async def test_a_copy_that_somebody_deletes_is_made_anew(federation: Federation, kind: Kind) -> None:
    async with federation.daemon():
        uid = await kind.submit(federation, "stolen", seconds=federation.lasting(3))
        await until_started(federation, uid, 1)
        member, copy = await one_copy(federation, kind, uid)
        await federation.apis[member].delete(kind.copy, "default", copy["metadata"]["name"])

        async def another() -> bool:
            found = await federation.copies(kind.copy, uid)
            return bool(found) and found[0][1]["metadata"]["uid"] != copy["metadata"]["uid"]

        await until(another, "there is another copy")
        await until_started(federation, uid, 2)
        if kind is JOB:
            assert (await until_complete(federation, "stolen"))["status"]["succeeded"] == 1
        else:
            await until_ready(federation, "stolen", 1)
        await remove(federation, kind, "stolen", uid)


async def test_a_deployment_is_kept_as_the_hub_wants_it(federation: Federation) -> None:
    async with federation.daemon():
        uid = await SERVICE.submit(federation, "serving", pods=2)
        service = await until_ready(federation, "serving", 2)
        assert service["status"]["clusters"][0]["name"] == "onprem"
        assert {one["type"]: one["status"] for one in service["status"]["conditions"]}["Available"] == "True"
        await federation.hub.patch(
            FEDERATED_WORKLOADS, "default", "serving", {"spec": {"template": {"spec": {"replicas": 3}}}}
        )
        await until_ready(federation, "serving", 3)
        await federation.hub.patch(FEDERATED_WORKLOADS, "default", "serving", {"spec": {"suspend": True}})
        await until_ready(federation, "serving", 0)
        await federation.hub.patch(FEDERATED_WORKLOADS, "default", "serving", {"spec": {"suspend": False}})
        await until_ready(federation, "serving", 3)
        await remove(federation, SERVICE, "serving", uid)


async def test_a_namespace_that_the_member_lacks_is_made_there(federation: Federation) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}}
    body = a_service("away", 1)
    body["metadata"]["namespace"] = "team-a"
    async with federation.daemon():
        await federation.hub.create(NAMESPACES, "", namespace)
        made = await federation.hub.create(FEDERATED_WORKLOADS, "team-a", body)
        await until_started(federation, str(made["metadata"]["uid"]), 1)
        _, copy = await one_copy(federation, SERVICE, str(made["metadata"]["uid"]))
        assert copy["metadata"]["namespace"] == "team-a"
        await federation.hub.delete(FEDERATED_WORKLOADS, "team-a", "away")

        async def gone() -> bool:
            return not (await federation.hub.list(FEDERATED_WORKLOADS, namespace="team-a")).items

        await until(gone, "it is gone from the hub")


async def test_a_daemon_that_is_started_anew_goes_on(federation: Federation, kind: Kind) -> None:
    async with federation.daemon():
        uid = await kind.submit(federation, "midway", seconds=federation.lasting(3))
        await until_started(federation, uid, 1)
        member, copy = await one_copy(federation, kind, uid)
    key = f"default/{copy['metadata']['name']}"
    if kind is JOB:
        jobs = federation.emulations[member].jobs
        await until(lambda: is_complete(jobs.get(key)), "the copy ends while no daemon looks")
        assert not is_complete(await federation.find(JOBS, "midway"))
    else:
        patch = {"spec": {"template": {"spec": {"replicas": 2}}}}
        await federation.hub.patch(FEDERATED_WORKLOADS, "default", "midway", patch)
    async with federation.daemon():
        if kind is JOB:
            assert (await until_complete(federation, "midway"))["status"]["succeeded"] == 1
            assert len(federation.started[uid]) == 1, "it ran once"
        else:
            await until_ready(federation, "midway", 2)
            _, same = await one_copy(federation, kind, uid)
            assert same["metadata"]["uid"] == copy["metadata"]["uid"]
        await remove(federation, kind, "midway", uid)


async def test_what_waits_is_told_why(federation: Federation, kind: Kind) -> None:
    async with federation.daemon() as daemon:
        uid = await kind.submit(federation, "nowhere", model="H900")
        condition = await until_told(federation, kind, "nowhere")
        assert condition["status"] == "False"
        explained = await daemon.report.explain("default/nowhere")
        assert explained is not None
        assert explained["decisions"][0]["sentence"] == condition["message"]

        async def announced() -> bool:
            events = (await federation.hub.list(EVENTS, namespace="default")).items
            return any((one["involvedObject"]["uid"], one["message"]) == (uid, condition["message"]) for one in events)

        await until(announced, "an Event says so, too")
        assert not await federation.copies(kind.copy, uid)
        await remove(federation, kind, "nowhere", uid)


@pytest.mark.parametrize("name", sorted(templates.MAKERS))
async def test_whatever_is_wrapped_is_placed_overridden_and_gone(federation: Federation, name: str) -> None:
    """The hub's and the members' definitions as a real server takes them, with their rules and defaults."""
    kind = Kind(FEDERATED_WORKLOADS, templates.RESOURCES[name])
    for each in federation.members:
        await templates.define(federation.apis[each])
    merge = {"metadata": {"annotations": {"example.com/where": "onprem"}}}
    spec = {"template": templates.MAKERS[name](), "overrides": [{"clusters": ["onprem"], "merge": merge}]}
    body = a_service(name, 1) | {"spec": spec}
    async with federation.daemon():
        await refused(federation, name, {**body, "spec": {**spec, "overrides": [{"merge": merge}]}})
        uid = str((await federation.hub.create(FEDERATED_WORKLOADS, "default", body))["metadata"]["uid"])
        service = await until_ready(federation, name, 2)
        member, copy = await one_copy(federation, kind, uid)
        assert (member, copy["metadata"]["annotations"]["example.com/where"]) == ("onprem", "onprem")
        assert bool(service["status"].get("url")) == kind.copy.custom
        await federation.hub.patch(FEDERATED_WORKLOADS, "default", name, {"spec": {"suspend": True}})
        await until_ready(federation, name, 0)
        await remove(federation, kind, name, uid)


async def refused(federation: Federation, name: str, body: dict[str, Any]) -> None:
    """By the definition's own rules, or, on a hub that is too old for them, by the daemon in the same words."""
    words = "write either clusters or selector"
    if federation.holds_to_rules:
        with pytest.raises(RefusedError, match=words):
            await federation.hub.create(FEDERATED_WORKLOADS, "default", body)
        return
    made = await federation.hub.create(FEDERATED_WORKLOADS, "default", body)

    async def told() -> bool:
        return words in placed(await federation.find(FEDERATED_WORKLOADS, name)).get("message", "")

    await until(told, "the daemon says what is wrong")
    await remove(federation, Kind(FEDERATED_WORKLOADS, templates.RESOURCES[name]), name, made["metadata"]["uid"])
