"""Emulated Google Cloud: GKE's ClusterManager (gRPC over TLS), Compute's instance groups and Resource Manager's policy
question (REST), and the token endpoint.

The gRPC messages are the SDK's own types. Of the service only what tells of clusters and sizes node pools is there.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import grpc
from google.cloud.container_v1 import types
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from clusters.sandbox.clouds.certificates import make_server_certificate
from clusters.sandbox.clouds.compute import InstanceGroups
from clusters.sandbox.clouds.faults import Fault
from clusters.sandbox.clouds.google_iam import Policy, ResourceManager
from clusters.sandbox.clouds.google_tokens import ServiceAccount
from clusters.sandbox.clouds.operations import Operation, Operations
from clusters.sandbox.clouds.running import RunningCloud
from clusters.sandbox.ports import ApiAddress, EmulatedPools, PoolSpec, PoolState
from scheduler.model.ports import Clock

_SERVICE: Final = "google.container.v1.ClusterManager"
_PROJECT: Final = "overspill-sandbox"
_OPERATION_SECONDS: Final = 20.0
"""Virtual time that a resize takes at least; its pool refuses another one meanwhile."""
_LONGEST_SECONDS: Final = 3600.0
_POOL_LABEL: Final = "cloud.google.com/gke-nodepool"
_EFFECTS: Final = {"NoSchedule": "NO_SCHEDULE", "NoExecute": "NO_EXECUTE", "PreferNoSchedule": "PREFER_NO_SCHEDULE"}
_GOODBYE_SECONDS: Final = 1.0
_VERSION: Final = "1.33.5-gke.1201000"
_ACCELERATORS: Final = {
    "A100-40GB": "nvidia-tesla-a100",
    "A100-80GB": "nvidia-a100-80gb",
    "H100-80GB": "nvidia-h100-80gb",
    "H200-141GB": "nvidia-h200-141gb",
    "L4": "nvidia-l4",
    "T4": "nvidia-tesla-t4",
    "V100": "nvidia-tesla-v100",
}
"""GKE's word for a GPU; of others it tells none here."""


@dataclass
class GoogleCloud(RunningCloud):
    """The emulated Google Cloud while it runs."""

    policy: Policy = field(default_factory=lambda: Policy(_PROJECT))
    account: ServiceAccount = field(default_factory=lambda: ServiceAccount(_PROJECT))


class ClusterManager:
    """The gRPC service over one cluster's pools."""

    def __init__(
        self,
        pools: EmulatedPools,
        clock: Clock,
        account: ServiceAccount,
        groups: InstanceGroups,
        cloud: GoogleCloud,
        api: ApiAddress,
    ) -> None:
        self._pools = pools
        self._api = api
        self._account = account
        self._groups = groups
        self._cloud = cloud
        self._location = groups.location
        self._operations = Operations(
            clock,
            lambda: f"operation-{int(clock.now() * 1000)}-{secrets.token_hex(4)}",
            least_seconds=_OPERATION_SECONDS,
            longest_seconds=_LONGEST_SECONDS,
        )

    def handler(self) -> grpc.GenericRpcHandler:
        methods: dict[str, tuple[Callable[[Any], Any], type, type, bool]] = {
            "ListClusters": (self._list_clusters, types.ListClustersRequest, types.ListClustersResponse, False),
            "GetCluster": (self._get_cluster, types.GetClusterRequest, types.Cluster, False),
            "ListNodePools": (self._list, types.ListNodePoolsRequest, types.ListNodePoolsResponse, False),
            "GetNodePool": (self._get, types.GetNodePoolRequest, types.NodePool, False),
            "SetNodePoolSize": (self._set_size, types.SetNodePoolSizeRequest, types.Operation, True),
            "GetOperation": (self._get_operation, types.GetOperationRequest, types.Operation, False),
            "ListOperations": (self._list_operations, types.ListOperationsRequest, types.ListOperationsResponse, False),
        }
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    self._served(name, answer, writes=writes),
                    request_deserializer=asked.deserialize,  # type: ignore[attr-defined]
                    response_serializer=answered.serialize,  # type: ignore[attr-defined]
                )
                for name, (answer, asked, answered, writes) in methods.items()
            },
        )

    def _served(
        self, action: str, answer: Callable[[Any], Any], *, writes: bool
    ) -> Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]:
        async def serve(request: Any, context: grpc.aio.ServicerContext) -> Any:
            headers = dict(context.invocation_metadata() or ())
            try:
                if not self._account.tokens.accepts(str(headers.get("authorization", ""))):
                    raise RpcError(
                        grpc.StatusCode.UNAUTHENTICATED,
                        "Request had invalid authentication credentials. Expected OAuth 2 access token.",
                        "ACCESS_TOKEN_EXPIRED",
                    )
                self._cloud.log(action)
                lacking = self._cloud.policy.lacking(action)
                if lacking:
                    text = f'Required "{lacking}" permission(s) for "projects/{_PROJECT}".'
                    raise RpcError(grpc.StatusCode.PERMISSION_DENIED, text, "IAM_PERMISSION_DENIED")
                fault = self._cloud.faults.take(writes=writes)
                _strike(fault, action)
                result = answer(request)
            except RpcError as failure:
                await failure.abort(context)
            if fault is not None and fault.kind == "lost-answer":
                await self._cloud.closing.wait()
            return result

        return serve

    def _list_clusters(self, request: types.ListClustersRequest) -> types.ListClustersResponse:
        place = f"projects/{_PROJECT}/locations/"
        if not request.parent.startswith(place):
            raise RpcError(grpc.StatusCode.PERMISSION_DENIED, f"No access to {request.parent}.", "")
        here = request.parent.removeprefix(place) in (self._location, "-")
        return types.ListClustersResponse(clusters=[self._cluster_message()] if here else [])

    def _get_cluster(self, request: types.GetClusterRequest) -> types.Cluster:
        self._check_cluster(request.name)
        return self._cluster_message()

    def _cluster_message(self) -> types.Cluster:
        """Its endpoint is told without a scheme, as Google does."""
        endpoint = self._api.server.removeprefix("https://")
        endpoints = types.ControlPlaneEndpointsConfig
        return types.Cluster(
            name=self._pools.cluster,
            location=self._location,
            locations=sorted({state.spec.zone for state in self._pools.pools()}),
            status=types.Cluster.Status.RUNNING,
            current_master_version=_VERSION,
            endpoint=endpoint,
            master_auth=types.MasterAuth(cluster_ca_certificate=base64.b64encode(self._api.ca_pem).decode()),
            control_plane_endpoints_config=endpoints(
                ip_endpoints_config=endpoints.IPEndpointsConfig(enabled=True, public_endpoint=endpoint),
                dns_endpoint_config=endpoints.DNSEndpointConfig(
                    endpoint=f"gke-{self._pools.cluster}.{self._location}.gke.goog", allow_external_traffic=False
                ),
            ),
            node_pools=[self._pool_message(state) for state in self._pools.pools()],
        )

    def _list(self, request: types.ListNodePoolsRequest) -> types.ListNodePoolsResponse:
        self._check_cluster(request.parent)
        return types.ListNodePoolsResponse(node_pools=[self._pool_message(state) for state in self._pools.pools()])

    def _get(self, request: types.GetNodePoolRequest) -> types.NodePool:
        return self._pool_message(self._pool(request.name))

    def _set_size(self, request: types.SetNodePoolSizeRequest) -> types.Operation:
        state = self._pool(request.name)
        busy = self._operations.running(state)
        if busy is not None:
            raise RpcError(
                grpc.StatusCode.FAILED_PRECONDITION, f"Cluster is running incompatible operation {busy.id}.", ""
            )
        try:
            self._pools.resize(state.spec.name, request.node_count)
        except ValueError as error:
            raise RpcError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Node pool size {request.node_count} is not in {state.spec.min_nodes}..{state.spec.max_nodes}.",
                "",
            ) from error
        return self._operation_message(self._operations.begin(state.spec.name, request.node_count))

    def _get_operation(self, request: types.GetOperationRequest) -> types.Operation:
        operation = self._operations.find(request.name.rpartition("/")[2])
        if operation is None:
            raise RpcError(grpc.StatusCode.NOT_FOUND, f"Not found: {request.name}.", "")
        return self._operation_message(operation)

    def _list_operations(self, request: types.ListOperationsRequest) -> types.ListOperationsResponse:
        return types.ListOperationsResponse(
            operations=[self._operation_message(operation) for operation in self._operations.all()]
        )

    def _pool_message(self, state: PoolState) -> types.NodePool:
        spec = state.spec
        conditions = []
        status = types.NodePool.Status.RUNNING
        if self._operations.running(state):
            status = types.NodePool.Status.RECONCILING
        elif state.shortage is not None:
            status = types.NodePool.Status.RUNNING_WITH_ERROR
            codes = types.StatusCondition.Code
            code = codes.GCE_QUOTA_EXCEEDED if state.shortage == "quota" else codes.GCE_STOCKOUT
            conditions = [types.StatusCondition(code=code, message=self._groups.shortage_text(state))]
        taints = [types.NodeTaint(key=key, value=value, effect=_EFFECTS[effect]) for key, value, effect in spec.taints]
        # GKE puts the pool's label on the nodes by itself; it is not among the configured ones.
        labels = {key: value for key, value in spec.labels if key != _POOL_LABEL}
        return types.NodePool(
            name=spec.name,
            config=types.NodeConfig(
                machine_type=spec.instance_type,
                spot=spec.capacity_type == "spot",
                labels=labels,
                taints=taints,
                accelerators=_accelerators(spec),
            ),
            version=_VERSION,
            locations=[spec.zone],
            instance_group_urls=[self._groups.url(state)],
            status=status,
            conditions=conditions,
            self_link=f"https://container.googleapis.com/v1/{self._cluster_name()}/nodePools/{spec.name}",
        )

    def _operation_message(self, operation: Operation) -> types.Operation:
        state = self._pool(f"{self._cluster_name()}/nodePools/{operation.pool}")
        runs = self._operations.runs(operation, state)
        message = types.Operation(
            name=operation.id,
            operation_type=types.Operation.Type.SET_NODE_POOL_SIZE,
            status=types.Operation.Status.RUNNING if runs else types.Operation.Status.DONE,
            target_link=f"https://container.googleapis.com/v1/{self._cluster_name()}/nodePools/{operation.pool}",
        )
        if self._operations.failed(operation, state):
            code = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
            message.error = status_pb2.Status(code=code, message=self._groups.shortage_text(state))
        return message

    def _cluster_name(self) -> str:
        return f"projects/{_PROJECT}/locations/{self._location}/clusters/{self._pools.cluster}"

    def _check_cluster(self, name: str) -> None:
        if name != self._cluster_name():
            raise RpcError(grpc.StatusCode.NOT_FOUND, f"Not found: {name}.", "")

    def _pool(self, name: str) -> PoolState:
        cluster, _, pool = name.partition("/nodePools/")
        self._check_cluster(cluster)
        for state in self._pools.pools():
            if state.spec.name == pool:
                return state
        raise RpcError(grpc.StatusCode.NOT_FOUND, f"Not found: {name}.", "")


def _accelerators(spec: PoolSpec) -> list[types.AcceleratorConfig]:
    word = _ACCELERATORS.get(spec.gpu_model)
    return [types.AcceleratorConfig(accelerator_count=spec.gpus, accelerator_type=word)] if word and spec.gpus else []


class RpcError(Exception):
    """A gRPC status, with Google's machine-readable details."""

    def __init__(
        self, code: grpc.StatusCode, message: str, reason: str, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self._code = code
        self._reason = reason
        self._retry_after_seconds = retry_after_seconds

    async def abort(self, context: grpc.aio.ServicerContext) -> NoReturn:
        details = []
        if self._reason:
            details.append(error_details_pb2.ErrorInfo(reason=self._reason, domain="googleapis.com"))
        if self._retry_after_seconds is not None:
            details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=self._retry_after_seconds)))
        packed = []
        for detail in details:
            packed.append(AnyMessage())
            packed[-1].Pack(detail)
        status = status_pb2.Status(code=self._code.value[0], message=str(self), details=packed)
        await context.abort(self._code, str(self), (("grpc-status-details-bin", status.SerializeToString()),))
        raise AssertionError("abort always raises")


def _strike(fault: Fault | None, action: str) -> None:
    """Raise what the script of faults has for this call."""
    if fault is None:
        return
    codes = grpc.StatusCode
    match fault.kind:
        case "throttled":
            text = "Quota exceeded for quota metric 'Requests' of service 'container.googleapis.com'."
            raise RpcError(codes.RESOURCE_EXHAUSTED, text, "RATE_LIMIT_EXCEEDED", fault.retry_after_seconds)
        case "capacity":
            text = "ZONE_RESOURCE_POOL_EXHAUSTED: The zone does not have enough resources available."
            raise RpcError(codes.RESOURCE_EXHAUSTED, text, "")
        case "quota":
            text = 'Insufficient regional quota to satisfy request: resource "NVIDIA_A100_GPUS": is short "8.0".'
            raise RpcError(codes.PERMISSION_DENIED, text, "")
        case "denied":
            text = f'Required "container.{action}" permission(s) for this resource.'
            raise RpcError(codes.PERMISSION_DENIED, text, "IAM_PERMISSION_DENIED")
        case "unmapped":
            raise RpcError(codes.UNKNOWN, "Something that nobody has heard of", fault.code)


async def start(pools: EmulatedPools, clock: Clock, state_dir: Path, api: ApiAddress) -> GoogleCloud:
    """Serve the emulated Google Cloud; a service account's key and the CA are written as files."""
    certificate = make_server_certificate(state_dir / "credentials", f"{pools.cluster}-google")
    cloud = GoogleCloud(settings={})
    account = cloud.account
    groups = InstanceGroups(pools, clock, account, cloud, cloud.policy)
    app = groups.app()
    ResourceManager(cloud.policy, account, cloud).serve_on(app)
    url = await cloud.serve_http(app, certificate.tls_context())
    key_file = Path("credentials") / f"{pools.cluster}-google.json"
    account.write_key(state_dir / key_file, token_uri=f"{url}/token")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((ClusterManager(pools, clock, account, groups, cloud, api).handler(),))
    pair = (certificate.key_file.read_bytes(), certificate.certificate_file.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()

    async def stop() -> None:
        await server.stop(_GOODBYE_SECONDS)

    cloud.servers.append(stop)
    cloud.revoke_credentials = account.revoke
    cloud.accepts_token = lambda token: account.tokens.accepts(f"Bearer {token}")
    cloud.settings.update(
        type="gke",
        project=_PROJECT,
        location=groups.location,
        clusterName=pools.cluster,
        endpoint=f"127.0.0.1:{port}",
        computeEndpoint=url,
        resourceManagerEndpoint=url,
        caFile=str(certificate.ca_file.relative_to(state_dir)),
        credentialsFile=str(key_file),
    )
    return cloud
