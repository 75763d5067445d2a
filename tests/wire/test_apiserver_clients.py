"""The official Python clients against the emulated API server, unchanged: blocking, dynamic and asyncio."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from clusters.sandbox.apiserver import ApiServer, kubeconfig
from tests.builders.apiserver import StillClock, config_map, job, pod

# The clients' own annotations are partial; what is tested here is the wire.
aio: Any = importlib.import_module("kubernetes.aio")
client: Any = importlib.import_module("kubernetes.client")
config: Any = importlib.import_module("kubernetes.config")
dynamic: Any = importlib.import_module("kubernetes.dynamic")
watch: Any = importlib.import_module("kubernetes.watch")


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ApiServer]:
    server = ApiServer("wire", StillClock(), token="wire-test-token")
    await server.start()
    yield server
    await server.stop()


@pytest.mark.parametrize("context", ["wire", "wire-plain"])
async def test_blocking_client(server: ApiServer, context: str) -> None:
    def use() -> None:
        with config.new_client_from_config_dict(kubeconfig(server), context=context) as api:
            core, batch = client.CoreV1Api(api), client.BatchV1Api(api)
            made = batch.create_namespaced_job("default", job("typed", managedBy="overspill.dev/federation"))
            assert made.spec.managed_by == "overspill.dev/federation"
            made.spec.parallelism = 3
            changed = batch.replace_namespaced_job("typed", "default", made)
            assert changed.metadata.generation == 2
            with pytest.raises(client.ApiException) as refusal:
                batch.replace_namespaced_job("typed", "default", made)
            assert refusal.value.status == 409
            core.create_namespaced_pod("default", pod())
            binding = client.V1Binding(metadata={"name": "p"}, target={"kind": "Node", "name": "n"})
            core.create_namespaced_pod_binding("p", "default", binding, _preload_content=False)
            assert core.read_namespaced_pod("p", "default").spec.node_name == "n"
            stream = watch.Watch().stream(core.list_namespaced_pod, "default", timeout_seconds=1)
            assert [event["object"].metadata.name for event in stream] == ["p"]
            pages = core.list_namespace(limit=2)
            rest = core.list_namespace(limit=9, _continue=pages.metadata._continue)
            assert len(pages.items) + len(rest.items) == 4
            assert core.create_namespaced_pod_eviction("p", "default", {"metadata": {"name": "p"}}) is not None

    await asyncio.to_thread(use)


async def test_dynamic_client(server: ApiServer) -> None:
    def use() -> None:
        with config.new_client_from_config_dict(kubeconfig(server)) as api:
            maps = dynamic.DynamicClient(api).resources.get(api_version="v1", kind="ConfigMap")
            made = maps.server_side_apply(body=config_map(a="1"), namespace="default", field_manager="me")
            assert made.data.a == "1"
            with pytest.raises(dynamic.exceptions.ConflictError):
                maps.server_side_apply(body=config_map(a="2"), namespace="default", field_manager="other")

    await asyncio.to_thread(use)


async def test_asyncio_client(server: ApiServer) -> None:
    configuration = aio.client.Configuration()
    await aio.config.load_kube_config_from_dict(kubeconfig(server), client_configuration=configuration)
    async with aio.client.ApiClient(configuration) as api:
        core = aio.client.CoreV1Api(api)
        await core.create_namespaced_config_map("default", config_map(a="1"))
        seen: list[Any] = []
        async with asyncio.timeout(10), aio.watch.Watch() as watching:
            async for event in watching.stream(core.list_namespaced_config_map, "default", resource_version="0"):
                seen.append(event["type"])
                if len(seen) == 2:
                    break
                await core.delete_namespaced_config_map("c", "default")
        assert seen == ["ADDED", "DELETED"]
