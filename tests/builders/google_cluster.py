"""One GKE cluster that says whatever a test has it say: any message of ClusterManager, any answer of Compute.

On the wire as Google's are: gRPC over TLS with the SDK's own types, REST over TLS, tokens of a real token endpoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web
from google.cloud.container_v1 import types

from clusters.sandbox.clouds.certificates import make_server_certificate
from clusters.sandbox.clouds.google_tokens import ServiceAccount
from clusters.sandbox.clouds.running import RunningCloud, application

PROJECT = "proj"
_LINK = "https://www.googleapis.com/compute/v1/"


def group(zone: str, name: str) -> str:
    """Path of an instance group, the key of `GoogleCluster.groups`."""
    return f"projects/{PROJECT}/zones/{zone}/instanceGroupManagers/{name}"


def node_pool(name: str, *groups: str, **more: Any) -> types.NodePool:
    """A running pool over instance groups."""
    more = {"status": types.NodePool.Status.RUNNING} | more
    return types.NodePool(name=name, instance_group_urls=[_LINK + path for path in groups], **more)


@dataclass
class GoogleCluster:
    """Change its fields at any time; `sizes` and `deleted` tell what was asked of it."""

    cluster: types.Cluster
    location: str = "us-central1"
    listed: types.ListClustersResponse = field(default_factory=types.ListClustersResponse)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By path: targetSize, isStable and errors."""
    operations: dict[str, types.Operation] = field(default_factory=dict)
    permissions: set[str] | web.Response = field(default_factory=set)
    """What the project's policy grants, or the answer instead."""
    sizes: list[tuple[str, int]] = field(default_factory=list)
    deleted: list[tuple[str, list[str]]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    account: ServiceAccount = field(default_factory=lambda: ServiceAccount(PROJECT))
    _cloud: RunningCloud = field(default_factory=lambda: RunningCloud(settings={}))

    async def start(self, folder: Path) -> dict[str, object]:
        """Serve until `stop`; the settings of the provider, whose paths are in `folder`."""
        certificate = make_server_certificate(folder / "credentials", "scripted")
        app = application()
        app.router.add_post("/token", self.account.token)
        app.router.add_post("/v1/projects/{project:[^/:]+}:testIamPermissions", self._test_permissions)
        app.router.add_route("*", "/compute/v1/{path:.*}", self._compute)
        url = await self._cloud.serve_http(app, certificate.tls_context())
        self.account.write_key(folder / "credentials" / "key.json", token_uri=f"{url}/token")
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((self._handler(),))
        pair = (certificate.key_file.read_bytes(), certificate.certificate_file.read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        await server.start()

        async def end() -> None:
            await server.stop(0.5)

        self._cloud.servers.append(end)
        return {
            "type": "gke",
            "project": PROJECT,
            "location": self.location,
            "clusterName": self.cluster.name,
            "endpoint": f"127.0.0.1:{port}",
            "computeEndpoint": url,
            "resourceManagerEndpoint": url,
            "caFile": str(certificate.ca_file),
            "credentialsFile": str(folder / "credentials" / "key.json"),
        }

    async def stop(self) -> None:
        await self._cloud.stop()

    def _handler(self) -> grpc.GenericRpcHandler:
        methods: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
            "GetCluster": (lambda _: self.cluster, types.GetClusterRequest, types.Cluster),
            "ListClusters": (lambda _: self.listed, types.ListClustersRequest, types.ListClustersResponse),
            "SetNodePoolSize": (self._set_size, types.SetNodePoolSizeRequest, types.Operation),
            "GetOperation": (self._operation, types.GetOperationRequest, types.Operation),
        }
        return grpc.method_handlers_generic_handler(
            "google.container.v1.ClusterManager",
            {
                name: grpc.unary_unary_rpc_method_handler(
                    self._served(name, function),
                    request_deserializer=asked.deserialize,
                    response_serializer=answered.serialize,
                )
                for name, (function, asked, answered) in methods.items()
            },
        )

    def _served(self, name: str, function: Callable[[Any], Any]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def serve(request: Any, context: grpc.aio.ServicerContext) -> Any:
            header = str(dict(context.invocation_metadata() or ()).get("authorization", ""))
            if not self.account.tokens.accepts(header):
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no valid token")
            self.calls.append(name)
            found = function(request)
            if isinstance(found, grpc.StatusCode):
                await context.abort(found, f"{name}: {found.name}")
            return found

        return serve

    def _set_size(self, request: types.SetNodePoolSizeRequest) -> types.Operation:
        self.sizes.append((request.name.rpartition("/")[2], request.node_count))
        name = f"operation-{len(self.sizes)}"
        return self.operations.setdefault(name, types.Operation(name=name, status=types.Operation.Status.RUNNING))

    def _operation(self, request: types.GetOperationRequest) -> types.Operation | grpc.StatusCode:
        place, _, name = request.name.rpartition("/operations/")
        assert place == f"projects/{PROJECT}/locations/{self.location}"
        return self.operations.get(name) or grpc.StatusCode.NOT_FOUND

    async def _test_permissions(self, request: web.Request) -> web.Response:
        self.calls.append("testIamPermissions")
        if not isinstance(self.permissions, set):
            return web.json_response(text=self.permissions.text, status=self.permissions.status)
        asked = (await request.json())["permissions"]
        return web.json_response({"permissions": [one for one in asked if one in self.permissions]})

    async def _compute(self, request: web.Request) -> web.Response:
        if not self.account.tokens.accepts(request.headers.get("Authorization", "")):
            return web.json_response({"error": {"message": "Invalid Credentials"}}, status=401)
        path = request.match_info["path"]
        verb = next((word for word in ("listErrors", "deleteInstances") if path.endswith(f"/{word}")), "")
        key = path.removesuffix(f"/{verb}")
        self.calls.append(verb or "get")
        found = self.groups.get(key)
        if found is None:
            return web.json_response({"error": {"message": "no such group"}}, status=404)
        if verb == "listErrors":
            return web.json_response({"items": found.get("errors", [])})
        if verb == "deleteInstances":
            self.deleted.append((key, (await request.json())["instances"]))
            return web.json_response({"name": "operation-delete", "status": "RUNNING"})
        return web.json_response(
            {"targetSize": found["targetSize"], "status": {"isStable": found.get("isStable", True)}}
        )
