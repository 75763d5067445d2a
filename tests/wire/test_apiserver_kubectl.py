"""kubectl against the emulated API server, over TLS with the kubeconfig that the sandbox writes."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from clusters.sandbox.apiserver import ApiServer, kubeconfig
from tests.builders.apiserver import StillClock, deployment, job, widget_crd

KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed; put one on PATH to run these")


class Kubectl:
    def __init__(self, server: ApiServer, folder: Path) -> None:
        self.server = server
        self._folder = folder
        self._config = folder / "kubeconfig"
        self._config.write_bytes(orjson.dumps(kubeconfig(server)))

    async def __call__(self, *words: str, stdin: object = None, want: int = 0) -> str:
        """What it prints (both streams), when it exits with `want`."""
        assert KUBECTL is not None
        process = await asyncio.create_subprocess_exec(
            KUBECTL,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"KUBECONFIG": str(self._config), "HOME": str(self._folder), "PATH": "/usr/bin:/bin"},
        )
        async with asyncio.timeout(60):
            printed, _ = await process.communicate(orjson.dumps(stdin) if stdin is not None else b"")
        assert process.returncode == want, printed.decode()
        return printed.decode()

    async def json(self, *words: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(await self(*words, "-o", "json"))
        return found


@pytest_asyncio.fixture
async def kubectl(tmp_path: Path) -> AsyncIterator[Kubectl]:
    server = ApiServer("hub", StillClock(), token="wire-test-token")
    await server.start()
    yield Kubectl(server, tmp_path)
    await server.stop()


async def test_the_commands_that_the_project_promises(kubectl: Kubectl) -> None:
    body = job("train", managedBy="overspill.dev/federation")
    assert "serverside-applied" in await kubectl("apply", "--server-side", "-f", "-", stdin=body)
    assert "train" in await kubectl("get", "nodes,jobs,pods", "-A")
    assert "Backoff Limit" in await kubectl("describe", "job", "train")
    assert "managedBy <string>" in await kubectl("explain", "job.spec.managedBy")
    assert "train" in await kubectl("get", "jobs", "-o", "wide")
    assert "deleted" in await kubectl("delete", "job", "train")
    assert "No resources found" in await kubectl("get", "jobs")


async def test_apply_of_both_kinds(kubectl: Kubectl) -> None:
    assert "created" in await kubectl("apply", "-f", "-", stdin=deployment())
    assert "unchanged" in await kubectl("apply", "-f", "-", stdin=deployment())
    assert "configured" in await kubectl("apply", "-f", "-", stdin=deployment(replicas=3))
    conflict = await kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=deployment(), want=1)
    assert 'conflict with "kubectl-client-side-apply"' in conflict
    await kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=deployment())
    live = await kubectl.json("get", "deployment", "web")
    assert live["spec"]["replicas"] == 1  # type: ignore[index]


async def test_refusals_reach_the_user(kubectl: Kubectl) -> None:
    body = job("train", managedBy="overspill.dev/federation")
    await kubectl("apply", "-f", "-", stdin=body)
    body["spec"]["managedBy"] = "example.com/other"
    assert "field is immutable" in await kubectl("apply", "-f", "-", stdin=body, want=1)
    body["spec"]["managedByy"] = "x"
    assert 'unknown field "spec.managedByy"' in await kubectl("apply", "-f", "-", stdin=body, want=1)


async def test_get_watch_sees_what_happens(kubectl: Kubectl) -> None:
    watching = asyncio.create_task(kubectl("get", "jobs", "--watch", "--request-timeout=5s", "-o", "name"))
    resource = kubectl.server.store
    async with asyncio.timeout(20):
        while not resource._collections.get(("batch", "jobs")) or not resource._collections[("batch", "jobs")].watchers:
            await asyncio.sleep(0.02)
    await kubectl("apply", "-f", "-", stdin=job("seen"))
    kubectl.server.store.close_watchers()
    assert "job.batch/seen" in await watching


async def test_scale_label_patch_and_wait(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=deployment())
    await kubectl("scale", "deployment/web", "--replicas=4")
    await kubectl("label", "deployment/web", "team=blue")
    await kubectl(
        "patch", "deployment/web", "--type=json", '-p=[{"op":"add","path":"/metadata/annotations/x","value":"y"}]'
    )
    await kubectl("set", "image", "deployment/web", "main=example.com/app:2")
    live = await kubectl.json("get", "deployments", "-l", "team in (blue,red)")
    assert live["items"][0]["spec"]["replicas"] == 4  # type: ignore[index]
    await kubectl("wait", "--for=jsonpath={.spec.replicas}=4", "deployment/web", "--timeout=10s")
    await kubectl("delete", "deployment/web", "--cascade=foreground", "--wait")


async def test_crds_and_their_objects(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=widget_crd())
    await kubectl("wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=10s")
    body = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"size": 3}}
    await kubectl("apply", "-f", "-", stdin=body)
    await kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=body)
    assert "SIZE" in await kubectl("get", "wd")
    body["spec"] = {"size": 99}
    assert "less than or equal to 9" in await kubectl("apply", "-f", "-", stdin=body, want=1)


async def test_commands_that_send_protobuf(kubectl: Kubectl) -> None:
    await kubectl("create", "namespace", "team-a")
    await kubectl("create", "configmap", "c", "-n", "team-a", "--from-literal=a=b")
    await kubectl("create", "secret", "generic", "s", "--from-literal=a=b")
    await kubectl("create", "job", "j", "--image=example.com/app:1", "--", "sleep", "1")
    await kubectl("create", "deployment", "d", "--image=example.com/app:1", "--replicas=2", "--port=80")
    await kubectl("create", "priorityclass", "high", "--value=10")
    await kubectl("create", "poddisruptionbudget", "b", "--selector=app=d", "--min-available=50%")
    live = await kubectl.json("get", "job", "j")
    assert live["spec"]["template"]["spec"]["containers"][0]["command"] == ["sleep", "1"]  # type: ignore[index]
    budget = await kubectl.json("get", "pdb", "b")
    assert budget["spec"]["minAvailable"] == "50%"  # type: ignore[index]
    assert "yes" in await kubectl("auth", "can-i", "create", "jobs")
    assert "sandbox-admin" in await kubectl("auth", "whoami")
    await kubectl("delete", "namespace", "team-a")
