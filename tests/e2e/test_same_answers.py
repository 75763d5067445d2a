"""The emulated API server answers as a real one does: the same requests to both, in the same order.

Compared is what the daemon sees, the typed outcome and the server's own reason. Needs $KUBEBUILDER_ASSETS. Requests
that only newer servers judge as the emulated one does name the version from which on they do.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clusters.clock import SystemClock
from clusters.kubernetes.client import HttpKubeApi
from clusters.sandbox.apiserver.server import ApiServer, kubeconfig
from clusters.sandbox.federation_file import dump, write_private
from scheduler.cli import crds
from scheduler.model.contract import (
    DEPLOYMENTS,
    EVENTS,
    FEDERATED_WORKLOADS,
    JOBS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
)
from scheduler.model.errors import ExternalError
from scheduler.model.ports import Resource
from tests.e2e.real_cluster import find_assets, real_clusters
from tests.loop.harness import a_job, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

NOWHERE = Resource("nowhere.example.com", "v1", "things", "Thing")
Step = Callable[[HttpKubeApi], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `since`: the Kubernetes version from which on a real server is compared."""

    what: str
    call: Step
    since: tuple[int, int] = (1, 20)


def a_pod(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "train:1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"containers": [container], **spec},
    }


def a_plain_job(name: str, **spec: Any) -> dict[str, Any]:
    body = a_job(name, gpus=0, **spec)
    del body["spec"]["managedBy"]
    return body


def named(name: str, **metadata: str) -> dict[str, Any]:
    """A Job as it may replace the one of that name, whose generated fields a replacement may leave out."""
    body = a_plain_job(name)
    return {**body, "metadata": {**body["metadata"], **metadata}}


def a_deployment(name: str, app: str = "web", **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": app}}, "spec": a_pod("x")["spec"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template, **spec},
    }


def a_workload(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "overspill.dev/v1alpha1",
        "kind": "FederatedWorkload",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def a_lease(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15},
    }


def an_event(name: str, about: str) -> dict[str, Any]:
    subject = {"apiVersion": "batch/v1", "kind": "Job", "name": "first", "namespace": about}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": subject,
        "reason": "Placed",
        "message": "there",
        "type": "Normal",
    }


def create(resource: Resource, body: dict[str, Any], namespace: str = "default") -> Step:
    return lambda api: api.create(resource, namespace if resource.namespaced else "", body)


def patch(resource: Resource, name: str, body: dict[str, Any], subresource: str = "") -> Step:
    namespace = "default" if resource.namespaced else ""
    return lambda api: api.patch(resource, namespace, name, body, subresource=subresource)


def delete(resource: Resource, name: str, **how: Any) -> Step:
    return lambda api: api.delete(resource, "default" if resource.namespaced else "", name, **how)


def update(resource: Resource, name: str, body: dict[str, Any]) -> Step:
    return lambda api: api.update(resource, "default", name, body)


def bind(pod: str, node: str, uid: str = "") -> Step:
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    metadata = {"name": pod, "namespace": "default", **({"uid": uid} if uid else {})}
    body = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
    return lambda api: api.create_subresource(PODS, "default", pod, "binding", body)


NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "finalizers": ["example.com/machine"]}}
NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}}
OTHER_IMAGE = {"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "other:1"}]}}}}
ELSEWHERE = {**a_plain_job("astray"), "metadata": {"name": "astray", "namespace": "team"}}
RUNNING = {"status": {"phase": "Running", "startTime": "2026-01-02T03:04:05Z"}}
ENDED = [{"type": "SuccessCriteriaMet", "status": "True"}, {"type": "Complete", "status": "True"}]
TEMPLATE = a_deployment("inner") | {"metadata": {}}

REQUESTS = (
    Asked("a namespace", create(NAMESPACES, NAMESPACE)),
    Asked("the same namespace", create(NAMESPACES, NAMESPACE)),
    Asked("a job", create(JOBS, a_plain_job("first"))),
    Asked("a job of that name", create(JOBS, a_plain_job("first"))),
    Asked("a job where there is no namespace", create(JOBS, ELSEWHERE | {"metadata": {"name": "x"}}, "nowhere")),
    Asked("a job sent to another namespace than its own", create(JOBS, ELSEWHERE)),
    Asked("a job with a bad name", create(JOBS, a_plain_job("Not_A_Name"))),
    Asked("a job with a bad label",
          create(JOBS, {**a_plain_job("l"), "metadata": {"name": "l", "labels": {"a": "!"}}})),
    Asked("a job with a negative parallelism", create(JOBS, a_plain_job("minus", parallelism=-1))),
    Asked("a job with pods that always restart",
          create(JOBS, a_plain_job("always", template={"spec": a_pod("x")["spec"]}))),
    Asked("a job without a template", create(JOBS, a_plain_job("bare", template={}))),
    Asked("a job with a text for a number", create(JOBS, a_plain_job("text", parallelism="two"))),
    Asked("a pod with a bad quantity", create(PODS, a_pod("q", containers=[
        {"name": "main", "image": "x", "resources": {"requests": {"cpu": "much"}}}]))),
    Asked("a pod with half a GPU", create(PODS, a_pod("half", containers=[
        {"name": "main", "image": "x", "resources": {"limits": {"nvidia.com/gpu": "500m"}}}]))),
    Asked("a pod with requests above limits", create(PODS, a_pod("above", containers=[
        {"name": "main", "image": "x", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}]))),
    Asked("what is not there", lambda api: api.get(JOBS, "default", "missing")),
    Asked("a kind that is not there", lambda api: api.list(NOWHERE)),
    Asked("a bad label selector", lambda api: api.list(JOBS, label_selector="a in (")),
    Asked("a field selector that is not supported", lambda api: api.list(PODS, field_selector="spec.image=x")),
    Asked("a stale patch", patch(JOBS, "first", {"metadata": {"resourceVersion": "1"}, "spec": {"parallelism": 2}})),
    Asked("a patch for another UID",
          patch(JOBS, "first", {"metadata": {"uid": "another"}, "spec": {"parallelism": 2}})),
    Asked("a job in the place of another UID", update(JOBS, "first", named("first", uid="another"))),
    Asked("a job in the place of an old version", update(JOBS, "first", named("first", resourceVersion="1"))),
    Asked("a job in the place of any version", update(JOBS, "first", named("first"))),
    Asked("a patch of what is not there", patch(JOBS, "missing", {"spec": {"parallelism": 2}})),
    Asked("a patch of the parallelism", patch(JOBS, "first", {"spec": {"parallelism": 2}})),
    Asked("a patch of the template", patch(JOBS, "first", OTHER_IMAGE)),
    Asked("a patch of the selector", patch(JOBS, "first", {"spec": {"selector": {"matchLabels": {"a": "b"}}}})),
    Asked("a patch of the completions", patch(JOBS, "first", {"spec": {"completions": 7}})),
    Asked("a patch of the status by the main door", patch(JOBS, "first", {"status": {"active": 5}})),
    Asked("a negative count", patch(JOBS, "first", {"status": {"active": -5}}, "status")),
    Asked("a count", patch(JOBS, "first", {"status": {"active": 1, "startTime": "2026-01-02T03:04:05Z"}}, "status")),
    Asked("an end without its time", patch(JOBS, "first", {"status": {"active": 0, "conditions": ENDED}}, "status"),
          (1, 32)),
    Asked("a deletion of another UID", delete(JOBS, "first", uid="another")),
    Asked("a deletion of what is not there", delete(JOBS, "missing")),
    Asked("a finalizer", patch(JOBS, "first", {"metadata": {"finalizers": ["example.com/hold"]}})),
    Asked("a bad finalizer", patch(JOBS, "first", {"metadata": {"finalizers": ["hold it!"]}})),
    Asked("a deletion", delete(JOBS, "first")),
    Asked("the deletion again", delete(JOBS, "first")),
    Asked("another finalizer",
          patch(JOBS, "first", {"metadata": {"finalizers": ["example.com/hold", "example.com/2"]}})),
    Asked("no finalizer", patch(JOBS, "first", {"metadata": {"finalizers": None}})),
    Asked("what has gone", lambda api: api.get(JOBS, "default", "first")),
    Asked("a job of another manager", create(JOBS, a_job("ours", gpus=0)), (1, 32)),
    Asked("another manager", patch(JOBS, "ours", {"spec": {"managedBy": "example.com/x"}}), (1, 32)),
    Asked("its suspension", patch(JOBS, "ours", {"spec": {"suspend": True}}), (1, 32)),
    Asked("a node", create(NODES, NODE)),
    Asked("a node's new machine", patch(NODES, "n1", {"spec": {"providerID": "x://1"}})),
    Asked("a node's other machine", patch(NODES, "n1", {"spec": {"providerID": "x://2"}})),
    Asked("a node's bad taint", patch(NODES, "n1", {"spec": {"taints": [{"key": "a", "effect": "Sometimes"}]}})),
    Asked("a node's cordon", patch(NODES, "n1", {"spec": {"unschedulable": True}})),
    Asked("a pod", create(PODS, a_pod("p1"))),
    Asked("a pod of an unknown priority class", create(PODS, a_pod("p2", priorityClassName="no-such"))),
    Asked("a binding of another UID", bind("p1", "n1", "another"), (1, 32)),
    Asked("a binding", bind("p1", "n1")),
    Asked("a second binding", bind("p1", "n2")),
    Asked("a binding of what is not there", bind("missing", "n1")),
    Asked("a pod's other node", patch(PODS, "p1", {"spec": {"nodeName": "n2"}})),
    Asked("a pod's image", patch(PODS, "p1", {"spec": {"containers": [{"name": "main", "image": "other:1"}]}})),
    Asked("a pod's other containers", patch(PODS, "p1", {"spec": {"containers": [{"name": "b", "image": "b:1"}]}})),
    Asked("a pod runs", patch(PODS, "p1", RUNNING, "status")),
    Asked("a pod is told to end", delete(PODS, "p1")),
    Asked("a pod that ends is there", lambda api: api.get(PODS, "default", "p1")),
    Asked("a pod is removed", delete(PODS, "p1", grace_period_seconds=0)),
    Asked("a pod that is removed", lambda api: api.get(PODS, "default", "p1")),
    Asked("a node goes", delete(NODES, "n1")),
    Asked("a node that waits for its finalizer", lambda api: api.get(NODES, "", "n1")),
    Asked("a node is let go", patch(NODES, "n1", {"metadata": {"finalizers": None}})),
    Asked("a node that is gone", lambda api: api.get(NODES, "", "n1")),
    Asked("a deployment", create(DEPLOYMENTS, a_deployment("web"))),
    Asked("a deployment that does not select its pods", create(DEPLOYMENTS, a_deployment("other", app="other"))),
    Asked("a deployment's other selector",
          patch(DEPLOYMENTS, "web", {"spec": {"selector": {"matchLabels": {"a": "b"}}}})),
    Asked("a deployment's other image", patch(DEPLOYMENTS, "web", OTHER_IMAGE)),
    Asked("fewer replicas than none", patch(DEPLOYMENTS, "web", {"spec": {"replicas": -1}})),
    Asked("a lease", create(LEASES, a_lease("leader"))),
    Asked("a lease of no version", update(LEASES, "leader", a_lease("leader"))),
    Asked("a lease of an old version", update(LEASES, "leader", {
        **a_lease("leader"), "metadata": {"name": "leader", "namespace": "default", "resourceVersion": "1"}})),
    Asked("a lease of another name", update(LEASES, "leader", a_lease("follower"))),
    Asked("a lease for no time", create(LEASES, {**a_lease("short"), "spec": {"leaseDurationSeconds": 0}})),
    Asked("an event", create(EVENTS, an_event("e1", "default"))),
    Asked("an event about another namespace", create(EVENTS, an_event("e2", "team"))),
    Asked("a workload", create(FEDERATED_WORKLOADS, a_workload("w1", template=TEMPLATE))),
    Asked("a workload without a template", create(FEDERATED_WORKLOADS, a_workload("w2"))),
    Asked("a workload with a text for a truth",
          create(FEDERATED_WORKLOADS, a_workload("w3", template=TEMPLATE, suspend="yes"))),
    Asked("a workload's wrong count", patch(FEDERATED_WORKLOADS, "w1", {"status": {"replicas": "two"}}, "status")),
    Asked("a workload's count", patch(FEDERATED_WORKLOADS, "w1", {"status": {"replicas": 2}}, "status")),
    Asked("a workload's half condition",
          patch(FEDERATED_WORKLOADS, "w1", {"status": {"conditions": [{"type": "A"}]}}, "status")),
    Asked("a workload's other kind",
          patch(FEDERATED_WORKLOADS, "w1", {"spec": {"template": {"kind": "Pod"}}}), (1, 29)),
    Asked("a stale patch of a workload",
          patch(FEDERATED_WORKLOADS, "w1", {"metadata": {"resourceVersion": "1"}, "spec": {"suspend": True}})),
    Asked("a workload goes", delete(FEDERATED_WORKLOADS, "w1")),
    Asked("a workload that is gone", delete(FEDERATED_WORKLOADS, "w1")),
)  # fmt: skip


@asynccontextmanager
async def emulated(folder: Path) -> AsyncIterator[Path]:
    server = ApiServer("emulated", SystemClock(), token=secrets.token_urlsafe(24))
    await server.start()
    try:
        path = folder / "emulated.yaml"
        write_private(path, dump(kubeconfig(server)))
        yield path
    finally:
        await server.stop()


async def answers(path: Path, version: tuple[int, int]) -> dict[str, str]:
    """What is seen of each request that a server of this version is asked."""
    api = await HttpKubeApi.connect(name=path.stem, kubeconfig=path, context=None)
    try:
        await crds.install(api)
        await until(lambda: _outcome(api.list(FEDERATED_WORKLOADS), "done"), "FederatedWorkloads are served")
        seen = {}
        for asked in REQUESTS:
            if asked.since <= version:
                seen[asked.what] = await _outcome(asked.call(api))
        return seen
    finally:
        await api.close()


async def _outcome(call: Awaitable[object], only: str = "") -> str:
    """ "done", or the kind of error and the server's reason; "" when it is another than `only`."""
    try:
        async with asyncio.timeout(20):
            await call
    except ExternalError as error:
        result = f"{type(error).__name__} {error.code}"
    else:
        result = "done"
    return result if only in ("", result) else ""


async def test_every_request_is_answered_alike(tmp_path: Path) -> None:
    assets = find_assets()
    if isinstance(assets, str):
        pytest.skip(assets)
    async with real_clusters(assets, tmp_path / "real", ["real"]) as real, emulated(tmp_path) as path:
        theirs = await answers(real["real"].kubeconfig, assets.version)
        ours = await answers(path, assets.version)
    assert ours == theirs
