"""The emulated API server's semantics in process: identity, preconditions, deletion, ownership, subresources, CRDs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clusters.sandbox.apiserver.failures import StatusError
from clusters.sandbox.apiserver.registry import Deletion, Request
from scheduler.model.contract import CRDS, DEPLOYMENTS, EVENTS, JOBS, NAMESPACES, NODES, PODS, REPLICASETS
from scheduler.model.errors import (
    AlreadyExistsError,
    AuthError,
    ConflictError,
    GoneError,
    NotFoundError,
    NotServedError,
    RefusedError,
    ThrottledError,
)
from scheduler.model.ports import Resource, WatchEvent
from tests.builders.apiserver import World, config_map, deployment, job, pod, widget_crd

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
SECRETS = Resource("", "v1", "secrets", "Secret")
PRIORITIES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass")
WIDGETS = Resource("example.com", "v1", "widgets", "Widget")


async def gone(world: World, resource: Resource, name: str) -> bool:
    try:
        await world.api.get(resource, "default" if resource.namespaced else "", name)
    except NotFoundError:
        return True
    return False


# Identity and versions


async def test_what_the_server_stamps() -> None:
    world = World()
    made = await world.api.create(CONFIG_MAPS, "default", config_map(a="b"))
    meta = made["metadata"]
    assert meta["creationTimestamp"] == "2023-11-14T22:13:20Z"
    assert int(meta["resourceVersion"]) == world.store.resource_version
    assert len(meta["uid"]) == 36
    assert meta["managedFields"][0]["manager"] == "sandbox"
    with pytest.raises(AlreadyExistsError):
        await world.api.create(CONFIG_MAPS, "default", config_map())


async def test_generated_names_differ() -> None:
    world = World()
    body = {"metadata": {"generateName": "n-"}}
    names = {(await world.api.create(CONFIG_MAPS, "default", body))["metadata"]["name"] for _ in range(50)}
    assert len(names) == 50
    assert all(name.startswith("n-") and len(name) == 7 for name in names)


async def test_stale_versions_and_foreign_uids_are_refused() -> None:
    world = World()
    made = await world.api.create(CONFIG_MAPS, "default", config_map(a="1"))
    stale = made["metadata"]["resourceVersion"]
    await world.api.patch(CONFIG_MAPS, "default", "c", {"data": {"a": "2"}})
    with pytest.raises(ConflictError, match="the object has been modified"):
        await world.api.update(CONFIG_MAPS, "default", "c", made)
    with pytest.raises(ConflictError, match="the object has been modified"):
        await world.api.patch(CONFIG_MAPS, "default", "c", {"metadata": {"resourceVersion": stale}, "data": {}})
    with pytest.raises(RefusedError, match="field is immutable"):
        await world.api.patch(CONFIG_MAPS, "default", "c", {"metadata": {"uid": "other"}, "data": {"a": "3"}})
    with pytest.raises(ConflictError, match="UID in precondition: other"):
        await world.api.delete(CONFIG_MAPS, "default", "c", uid="other")
    assert (await world.api.get(CONFIG_MAPS, "default", "c"))["data"] == {"a": "2"}


async def test_a_write_that_changes_nothing_makes_no_version() -> None:
    world = World()
    made = await world.api.create(CONFIG_MAPS, "default", config_map(a="1"))
    writes = world.store.writes
    same = await world.api.patch(CONFIG_MAPS, "default", "c", {"data": {"a": "1"}})
    again = await world.api.update(CONFIG_MAPS, "default", "c", made)
    assert same is made
    assert again is made
    assert world.store.writes == writes


async def test_generation_counts_changes_of_the_spec_only() -> None:
    world = World()
    await world.api.create(JOBS, "default", job())

    async def generation(patch: dict[str, Any], subresource: str = "") -> int:
        changed = await world.api.patch(JOBS, "default", "j", patch, subresource=subresource)
        return int(changed["metadata"]["generation"])

    assert await generation({"metadata": {"labels": {"a": "b"}}}) == 1
    assert await generation({"status": {"active": 1}}, "status") == 1
    assert await generation({"status": {"active": 7}}) == 1
    assert await generation({"spec": {"parallelism": 2}}) == 2
    assert (await world.api.get(JOBS, "default", "j"))["status"] == {"active": 1}


async def test_a_status_write_leaves_the_spec_alone() -> None:
    world = World()
    made = await world.api.create(JOBS, "default", job())
    body = {**made, "spec": {**made["spec"], "parallelism": 9}, "status": {"active": 1}}
    after = await world.api.update(JOBS, "default", "j", body, subresource="status")
    assert after["spec"] == made["spec"]
    assert after["status"] == {"active": 1}


@pytest.mark.parametrize(
    ("metadata", "want"),
    [
        ({"name": "Bad_Name"}, 'metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain'),
        ({"name": "a" * 254}, "must be no more than 253 characters"),
        ({}, "metadata.name: Required value: name or generateName is required"),
        ({"name": "c", "labels": {"a b": "c"}}, 'metadata.labels: Invalid value: "a b": name part must consist'),
        ({"name": "c", "labels": {"a": "-"}}, 'metadata.labels: Invalid value: "-": a valid label must be'),
        ({"name": "c", "annotations": {"x/y/z": "c"}}, 'metadata.annotations: Invalid value: "x/y/z"'),
        ({"name": "c", "annotations": {"x": "y" * 300_000}}, "metadata.annotations: Too long"),
        ({"name": "c", "finalizers": ["unqualified"]}, "name is neither a standard finalizer name"),
        ({"name": "c", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}, "uid must not be empty"),
    ],
)
async def test_bad_metadata(metadata: dict[str, Any], want: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        await World().api.create(CONFIG_MAPS, "default", {"metadata": metadata})
    assert want in str(refusal.value)


async def test_unknown_fields_and_wrong_types() -> None:
    world = World()
    kind = world.registry.kind("", "v1", "pods")
    body = pod()
    body["spec"]["nodeNam"] = "x"
    request = Request(field_validation="Warn")
    made = world.registry.create(kind, "default", body, request)
    assert request.warnings == ['unknown field "spec.nodeNam"']
    assert "nodeNam" not in made.obj["spec"]
    with pytest.raises(StatusError, match=r'strict decoding error: unknown field "spec\.nodeNam"') as refusal:
        world.registry.create(kind, "default", {**body, "metadata": {"name": "q"}}, Request(field_validation="Strict"))
    assert refusal.value.code == 400
    with pytest.raises(StatusError, match=r"cannot unmarshal string into Go struct field spec\.hostNetwork"):
        world.registry.create(kind, "default", pod("q", hostNetwork="yes"), Request())


async def test_dry_run_stores_nothing() -> None:
    world = World()
    kind = world.registry.kind("", "v1", "configmaps")
    writes = world.store.writes
    world.registry.create(kind, "default", config_map(), Request(dry_run=True))
    assert world.store.writes == writes
    world.registry.create(kind, "default", config_map(a="1"), Request())
    changed = world.registry.patch(
        kind, "default", "c", {"data": {"a": "2"}}, "application/merge-patch+json", Request(dry_run=True)
    )
    world.registry.delete(kind, "default", "c", Deletion(dry_run=True))
    assert changed.obj["data"] == {"a": "2"}
    assert world.registry.get(kind, "default", "c").obj["data"] == {"a": "1"}


# Pods


@pytest.mark.parametrize(
    ("resources", "want"),
    [
        ({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}, "must be less than or equal to cpu limit of 1"),
        ({"requests": {"nvidia.com/gpu": 1}}, "Limit must be set for non overcommitable resources"),
        ({"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}}, "must be equal to nvidia.com/gpu limit"),
        ({"limits": {"nvidia.com/gpu": "500m"}}, "must be an integer"),
        ({"limits": {"gpus": 1}}, "must be a standard resource for containers"),
        ({"limits": {"cpu": "-1"}}, "must be greater than or equal to 0"),
        ({"limits": {"cpu": "1x"}}, "quantities must match the regular expression"),
    ],
)
async def test_bad_resources(resources: dict[str, Any], want: str) -> None:
    body = pod()
    body["spec"]["containers"][0]["resources"] = resources
    with pytest.raises(RefusedError) as refusal:
        await World().api.create(PODS, "default", body)
    assert want in str(refusal.value)


async def test_quantities_are_stored_in_canonical_form() -> None:
    body = pod()
    body["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "0.5", "memory": "2048Mi", "nvidia.com/gpu": 1}}
    made = await World().api.create(PODS, "default", body)
    resources = made["spec"]["containers"][0]["resources"]
    assert resources["limits"] == {"cpu": "500m", "memory": "2Gi", "nvidia.com/gpu": "1"}
    assert resources["requests"] == resources["limits"]
    assert made["status"] == {"phase": "Pending", "qosClass": "Guaranteed"}


@pytest.mark.parametrize(
    ("patch", "allowed"),
    [
        ({"containers": [{"name": "main", "image": "example.com/app:2"}]}, True),
        ({"tolerations": [{"key": "a", "operator": "Exists"}]}, True),
        ({"activeDeadlineSeconds": 5}, True),
        ({"nodeName": "elsewhere"}, False),
        ({"priority": 5}, False),
        ({"containers": [{"name": "other", "image": "example.com/app:1"}]}, False),
    ],
)
async def test_a_pods_spec_is_held_but_for_a_few_fields(patch: dict[str, Any], allowed: bool) -> None:
    world = World()
    await world.api.create(PODS, "default", pod())
    if allowed:
        await world.api.patch(PODS, "default", "p", {"spec": patch})
        return
    with pytest.raises(RefusedError, match="pod updates may not"):
        await world.api.patch(PODS, "default", "p", {"spec": patch})


async def test_binding_happens_once() -> None:
    world = World()
    await world.api.create(PODS, "default", pod())
    target = {"target": {"kind": "Node", "name": "n1"}}
    await world.api.create_subresource(PODS, "default", "p", "binding", target)
    bound = await world.api.get(PODS, "default", "p")
    assert bound["spec"]["nodeName"] == "n1"
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
    with pytest.raises(ConflictError, match='already assigned to node "n1"'):
        await world.api.create_subresource(PODS, "default", "p", "binding", {"target": {"name": "n2"}})
    body = {"metadata": {"uid": "other"}, **target}
    with pytest.raises(ConflictError, match="UID in precondition"):
        await world.api.create_subresource(PODS, "default", "p", "binding", body)


async def test_grace_period_of_a_running_pod() -> None:
    world = World()
    await world.api.create(PODS, "default", pod(terminationGracePeriodSeconds=60))
    await world.api.create_subresource(PODS, "default", "p", "binding", {"target": {"name": "n"}})
    await world.api.delete(PODS, "default", "p")
    meta = (await world.api.get(PODS, "default", "p"))["metadata"]
    assert meta["deletionGracePeriodSeconds"] == 60
    assert meta["deletionTimestamp"] == "2023-11-14T22:14:20Z"
    await world.api.delete(PODS, "default", "p", grace_period_seconds=5)
    assert (await world.api.get(PODS, "default", "p"))["metadata"]["deletionGracePeriodSeconds"] == 5
    await world.api.delete(PODS, "default", "p", grace_period_seconds=0)
    assert await gone(world, PODS, "p")


async def test_an_unbound_pod_goes_at_once() -> None:
    world = World()
    await world.api.create(PODS, "default", pod())
    await world.api.delete(PODS, "default", "p")
    assert await gone(world, PODS, "p")


async def ready_pods(world: World, count: int) -> None:
    for index in range(count):
        body = pod(f"p{index}", nodeName="n")
        body["metadata"]["labels"] = {"app": "x"}
        await world.api.create(PODS, "default", body)
        status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        await world.api.patch(PODS, "default", f"p{index}", {"status": status}, subresource="status")


@pytest.mark.parametrize(
    ("budget", "want_evictions"),
    [
        ({"minAvailable": 2}, 1),
        ({"maxUnavailable": 2}, 2),
        ({"minAvailable": "100%"}, 0),
        ({"maxUnavailable": "34%"}, 2),
    ],
)
async def test_eviction_respects_disruption_budgets(budget: dict[str, Any], want_evictions: int) -> None:
    world = World()
    await ready_pods(world, 3)
    spec = {**budget, "selector": {"matchLabels": {"app": "x"}}}
    await world.api.create(BUDGETS, "default", {"metadata": {"name": "b"}, "spec": spec})
    evicted = 0
    for index in range(3):
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": f"p{index}"}}
        try:
            await world.api.create_subresource(PODS, "default", f"p{index}", "eviction", body)
        except ThrottledError as error:
            assert "would violate the pod's disruption budget" in str(error)  # noqa: PT017
        else:
            evicted += 1
    assert evicted == want_evictions


async def test_pending_pods_are_evicted_freely() -> None:
    world = World()
    await world.api.create(PODS, "default", pod())
    await world.api.create(BUDGETS, "default", {"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {}}})
    await world.api.create_subresource(PODS, "default", "p", "eviction", {})
    assert await gone(world, PODS, "p")


# Deletion and ownership


def owned(body: dict[str, Any], owner: Any, *, blocking: bool = True) -> dict[str, Any]:
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": blocking,
    }
    return {**body, "metadata": {**body["metadata"], "ownerReferences": [reference]}}


async def test_finalizers_hold_an_object() -> None:
    world = World()
    body = config_map()
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await world.api.create(CONFIG_MAPS, "default", body)
    await world.api.delete(CONFIG_MAPS, "default", "c")
    meta = (await world.api.get(CONFIG_MAPS, "default", "c"))["metadata"]
    assert meta["deletionTimestamp"] == "2023-11-14T22:13:20Z"
    with pytest.raises(RefusedError, match="no new finalizers can be added"):
        await world.api.patch(
            CONFIG_MAPS, "default", "c", {"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}
        )
    await world.api.patch(CONFIG_MAPS, "default", "c", {"metadata": {"finalizers": None}})
    assert await gone(world, CONFIG_MAPS, "c")


async def test_background_deletion_takes_dependents_along() -> None:
    world = World()
    parent = await world.api.create(DEPLOYMENTS, "default", deployment())
    replica_set = {**deployment("rs"), "kind": "ReplicaSet"}
    replica_set["spec"].pop("strategy", None)
    middle = await world.api.create(REPLICASETS, "default", owned(replica_set, parent))
    await world.api.create(PODS, "default", owned(pod(), middle))
    await world.api.delete(DEPLOYMENTS, "default", "web")
    assert await gone(world, REPLICASETS, "rs")
    assert await gone(world, PODS, "p")


async def test_foreground_deletion_waits_for_dependents() -> None:
    world = World()
    parent = await world.api.create(JOBS, "default", job())
    await world.api.create(PODS, "default", owned(pod(nodeName="n"), parent))
    await world.api.delete(JOBS, "default", "j", propagation="Foreground")
    assert (await world.api.get(JOBS, "default", "j"))["metadata"]["finalizers"] == ["foregroundDeletion"]
    assert (await world.api.get(PODS, "default", "p"))["metadata"]["deletionGracePeriodSeconds"] == 30
    await world.api.delete(PODS, "default", "p", grace_period_seconds=0)
    assert await gone(world, JOBS, "j")


async def test_orphans_stay_and_forget_their_owner() -> None:
    world = World()
    parent = await world.api.create(JOBS, "default", job())
    await world.api.create(PODS, "default", owned(pod(), parent))
    await world.api.delete(JOBS, "default", "j", propagation="Orphan")
    assert await gone(world, JOBS, "j")
    assert "ownerReferences" not in (await world.api.get(PODS, "default", "p"))["metadata"]


async def test_jobs_orphan_their_pods_when_nothing_is_said() -> None:
    world = World()
    parent = await world.api.create(JOBS, "default", job())
    await world.api.create(PODS, "default", owned(pod(), parent))
    world.registry.delete(world.registry.kind("batch", "v1", "jobs"), "default", "j", Deletion())
    assert not await gone(world, PODS, "p")


async def test_an_object_whose_owner_is_gone_goes_too() -> None:
    world = World()
    parent = await world.api.create(JOBS, "default", job())
    await world.api.delete(JOBS, "default", "j")
    await world.api.create(PODS, "default", owned(pod(), parent))
    assert await gone(world, PODS, "p")


async def test_namespaces() -> None:
    world = World()
    with pytest.raises(NotFoundError, match='namespaces "new" not found'):
        await world.api.create(CONFIG_MAPS, "new", config_map())
    await world.api.create(NAMESPACES, "", {"metadata": {"name": "new"}})
    held = config_map()
    held["metadata"]["finalizers"] = ["example.com/hold"]
    await world.api.create(CONFIG_MAPS, "new", held)
    await world.api.create(CONFIG_MAPS, "new", config_map("other"))
    await world.api.delete(NAMESPACES, "", "new")
    assert (await world.api.get(NAMESPACES, "", "new"))["status"] == {"phase": "Terminating"}
    with pytest.raises(AuthError, match="because it is being terminated"):
        await world.api.create(CONFIG_MAPS, "new", config_map("late"))
    assert len((await world.api.list(CONFIG_MAPS, namespace="new")).items) == 1
    await world.api.patch(CONFIG_MAPS, "new", "c", {"metadata": {"finalizers": None}})
    assert await gone(world, NAMESPACES, "new")
    with pytest.raises(AuthError, match="may not be deleted"):
        await world.api.delete(NAMESPACES, "", "default")


# Other kinds


async def test_rules_of_other_kinds() -> None:
    world = World()
    api = world.api
    await api.create(DEPLOYMENTS, "default", deployment())
    body = {"selector": {"matchLabels": {"app": "v2"}}, "template": {"metadata": {"labels": {"app": "v2"}}}}
    with pytest.raises(RefusedError, match=r"spec\.selector: Invalid value: .*field is immutable"):
        await api.patch(DEPLOYMENTS, "default", "web", {"spec": body})
    await api.create(
        NODES, "", {"metadata": {"name": "n"}, "spec": {"providerID": "a"}, "status": {"phase": "Running"}}
    )
    with pytest.raises(RefusedError, match=r"spec\.providerID: Forbidden"):
        await api.patch(NODES, "", "n", {"spec": {"providerID": "b"}})
    with pytest.raises(RefusedError, match=r"spec\.taints\[0\]\.effect: Unsupported value"):
        await api.patch(NODES, "", "n", {"spec": {"taints": [{"key": "a", "effect": "Never"}]}})
    secret = await api.create(
        SECRETS, "default", {"metadata": {"name": "s"}, "immutable": True, "stringData": {"a": "a"}}
    )
    assert (secret["data"], "stringData" in secret) == ({"a": "YQ=="}, False)
    with pytest.raises(RefusedError, match="field is immutable when `immutable` is set"):
        await api.patch(SECRETS, "default", "s", {"data": {"a": "Yg=="}})
    await api.create(PRIORITIES, "", {"metadata": {"name": "high"}, "value": 100})
    made = await api.create(PODS, "default", pod(priorityClassName="high"))
    assert made["spec"]["priority"] == 100
    with pytest.raises(AuthError, match="no PriorityClass with name low was found"):
        await api.create(PODS, "default", pod("q", priorityClassName="low"))
    event = {"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "kube-system"}}
    with pytest.raises(RefusedError, match=r"does not match event\.namespace"):
        await api.create(EVENTS, "default", event)


async def test_scale() -> None:
    world = World()
    await world.api.create(DEPLOYMENTS, "default", deployment(replicas=2))
    scale = await world.api.patch(DEPLOYMENTS, "default", "web", {"spec": {"replicas": 5}}, subresource="scale")
    assert scale["kind"] == "Scale"
    assert scale["spec"] == {"replicas": 5}
    scaled = await world.api.get(DEPLOYMENTS, "default", "web")
    assert scaled["spec"]["replicas"] == 5
    assert scaled["metadata"]["generation"] == 2
    (entry,) = [one for one in scaled["metadata"]["managedFields"] if one.get("subresource") == "scale"]
    assert entry["fieldsV1"] == {"f:spec": {"f:replicas": {}}}, "whose the replicas are, and by which door"
    assert (entry["operation"], entry["apiVersion"]) == ("Update", "apps/v1")
    with pytest.raises(RefusedError, match=r"spec\.replicas: Invalid value: -1"):
        await world.api.patch(DEPLOYMENTS, "default", "web", {"spec": {"replicas": -1}}, subresource="scale")


# Watching in process


async def collect(events: Any, count: int) -> list[WatchEvent]:
    found: list[WatchEvent] = []
    async with asyncio.timeout(5):
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    await events.aclose()
    return found


async def test_a_watch_resumes_and_sees_selectors_come_and_go() -> None:
    world = World()
    start = (await world.api.list(CONFIG_MAPS)).resource_version
    await world.api.create(CONFIG_MAPS, "default", config_map())
    await world.api.patch(CONFIG_MAPS, "default", "c", {"metadata": {"labels": {"a": "b"}}})
    await world.api.patch(CONFIG_MAPS, "default", "c", {"data": {"x": "y"}})
    await world.api.patch(CONFIG_MAPS, "default", "c", {"metadata": {"labels": None}})
    await world.api.delete(CONFIG_MAPS, "default", "c")
    every = await collect(world.api.watch(CONFIG_MAPS, resource_version=start), 5)
    assert [event.type for event in every] == ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"]
    versions = [int(event.object["metadata"]["resourceVersion"]) for event in every]
    assert versions == sorted(set(versions))
    some = await collect(world.api.watch(CONFIG_MAPS, resource_version=start, label_selector="a=b"), 3)
    assert [event.type for event in some] == ["ADDED", "MODIFIED", "DELETED"]


async def test_a_watch_from_before_the_log_is_gone() -> None:
    world = World(log_length=3)
    start = (await world.api.list(CONFIG_MAPS)).resource_version
    for index in range(5):
        await world.api.create(CONFIG_MAPS, "default", config_map(f"c{index}"))
    with pytest.raises(GoneError, match="too old resource version"):
        await anext(world.api.watch(CONFIG_MAPS, resource_version=start))
    with pytest.raises(GoneError):
        await anext(world.api.watch(CONFIG_MAPS, resource_version="99999999"))


async def test_a_slow_watcher_is_cut_off() -> None:
    world = World()
    kind = world.registry.kind("", "v1", "configmaps")
    watcher = world.registry.watch(kind, "", world.store.resource_version)
    watcher._limit = 3
    for index in range(5):
        await world.api.create(CONFIG_MAPS, "default", config_map(f"c{index}"))
    assert watcher.closed
    assert await watcher.batch(None) == []


# CRDs


async def test_custom_resources() -> None:
    world = World()
    crd = await world.api.create(CRDS, "", widget_crd())
    assert {c["type"]: c["status"] for c in crd["status"]["conditions"]} == {
        "NamesAccepted": "True",
        "Established": "True",
    }
    made = await world.api.create(WIDGETS, "default", {"metadata": {"name": "w"}, "spec": {"size": 3}})
    assert made["spec"] == {"size": 3, "colour": "red", "replicas": 1}
    kind = world.registry.kind("example.com", "v1", "widgets")
    request = Request()
    body = {
        "metadata": {"name": "x"},
        "spec": {"size": 1, "typo": 1, "free": {"any": {"thing": 1}}},
        "status": {"phase": "x"},
    }
    pruned = world.registry.create(kind, "default", body, request).obj
    assert pruned["spec"] == {"size": 1, "colour": "red", "replicas": 1, "free": {"any": {"thing": 1}}}
    assert "status" not in pruned
    assert request.warnings == ['unknown field "spec.typo"']
    status = await world.api.patch(WIDGETS, "default", "w", {"status": {"phase": "Up"}}, subresource="status")
    assert (status["status"], status["metadata"]["generation"]) == ({"phase": "Up"}, 1)
    changed = await world.api.patch(WIDGETS, "default", "w", {"spec": {"size": 4}})
    assert changed["metadata"]["generation"] == 2
    scaled = await world.api.patch(WIDGETS, "default", "w", {"spec": {"replicas": 7}}, subresource="scale")
    assert scaled["spec"] == {"replicas": 7}


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({}, "spec.size: Required value"),
        ({"size": 0}, "spec.size in body should be greater than or equal to 1"),
        ({"size": "big"}, 'spec.size in body must be of type integer: "string"'),
        ({"size": 1, "colour": "blue"}, 'spec.colour: Unsupported value: "blue": supported values: "green", "red"'),
        ({"size": 1, "parts": [{"name": "a"}, {"name": "a"}]}, "spec.parts[1]: Duplicate value"),
        ({"size": 1, "parts": [{"weight": 1}]}, "spec.parts[0].name: Required value"),
        ({"size": 1, "free": 3}, "spec.free in body must be of type object"),
    ],
)
async def test_structural_schemas_are_enforced(spec: dict[str, Any], want: str) -> None:
    world = World()
    await world.api.create(CRDS, "", widget_crd())
    with pytest.raises(RefusedError) as refusal:
        await world.api.create(WIDGETS, "default", {"metadata": {"name": "w"}, "spec": spec})
    assert want in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ({"metadata": {"name": "wrong"}}, 'must be spec.names.plural+"."+spec.group'),
        ({"spec": {"scope": "Galaxy"}}, "spec.scope: Unsupported value"),
        ({"spec": {"versions": [{"name": "v1", "served": True, "storage": True}]}}, "schemas are required"),
        (
            {
                "spec": {
                    "versions": [{"name": "v1", "served": True, "storage": False, "schema": {"openAPIV3Schema": {}}}]
                }
            },
            "must have exactly one version marked as storage version",
        ),
    ],
)
async def test_bad_definitions(change: dict[str, Any], want: str) -> None:
    crd = widget_crd()
    for key, value in change.items():
        crd[key] = {**crd[key], **value}
    with pytest.raises(RefusedError) as refusal:
        await World().api.create(CRDS, "", crd)
    assert want in str(refusal.value)


async def test_rules_of_custom_resources() -> None:
    world = World()
    await world.api.create(CRDS, "", widget_crd())
    with pytest.raises(RefusedError, match=r"spec: Invalid value: \"object\": failed rule: .*self\.size"):
        await world.api.create(WIDGETS, "default", {"metadata": {"name": "w"}, "spec": {"size": 1, "replicas": 11}})
    body = {"metadata": {"name": "w"}, "spec": {"size": 1, "shape": "round"}}
    await world.api.create(WIDGETS, "default", body)
    await world.api.patch(WIDGETS, "default", "w", {"spec": {"size": 2}})
    with pytest.raises(RefusedError, match=r"spec\.shape: Invalid value: \"square\": shape is immutable"):
        await world.api.patch(WIDGETS, "default", "w", {"spec": {"shape": "square"}})
    crd = widget_crd()
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] = [{"rule": "self. =="}]
    with pytest.raises(RefusedError, match="x-kubernetes-validations"):
        await World().api.create(CRDS, "", crd)


async def test_a_definition_takes_its_objects_along() -> None:
    world = World()
    await world.api.create(CRDS, "", widget_crd())
    await world.api.create(WIDGETS, "default", {"metadata": {"name": "w"}, "spec": {"size": 3}})
    await world.api.delete(CRDS, "", "widgets.example.com")
    with pytest.raises(NotServedError):
        await world.api.list(WIDGETS)
    await world.api.create(CRDS, "", widget_crd())
    assert (await world.api.list(WIDGETS)).items == ()
