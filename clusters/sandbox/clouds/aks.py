"""Emulated Azure: AKS agent pools over ARM REST (https) with long-running operations, and Entra ID beside them.

Shapes are those that azure-mgmt-containerservice reads and writes. Only the node-pool calls are there.
"""

from __future__ import annotations

import datetime
import json
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from clusters.sandbox.clouds.certificates import make_server_certificate
from clusters.sandbox.clouds.entra import Application
from clusters.sandbox.clouds.faults import Fault
from clusters.sandbox.clouds.operations import Operation, Operations
from clusters.sandbox.clouds.running import RunningCloud, application
from clusters.sandbox.ports import ApiAddress, EmulatedPools, Instance, PoolState
from scheduler.model.ports import Clock

_SUBSCRIPTION: Final = "00000000-0000-0000-0000-000000000001"
_GROUP: Final = "overspill-sandbox"
_LOCATION: Final = "westeurope"
_OPERATION_SECONDS: Final = 20.0
"""Virtual time that an operation takes at least; its pool refuses another one meanwhile."""
_LONGEST_SECONDS: Final = 3600.0
_POLL_SECONDS: Final = 10
_POOL_LABEL: Final = "kubernetes.azure.com/agentpool"
_SHORTAGES: Final = {
    "capacity": "We do not have sufficient capacity for the requested VM size in this region.",
    "quota": "Insufficient regional vcpu quota left for location westeurope. left regional vcpu quota 0.",
}
_SHORTAGE_CODES: Final = {"capacity": "AllocationFailed", "quota": "ErrCode_InsufficientVCPUQuota"}


class ArmError(Exception):
    """An answer other than the asked one."""

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


@dataclass(frozen=True, slots=True)
class _Answer:
    body: Any
    status: int = 200
    operation: Operation | None = None
    """Told in the headers, to be polled."""


Handler = Callable[[Mapping[str, str], Any], _Answer]


class ResourceManager:
    """Azure Resource Manager over one cluster's pools."""

    def __init__(self, pools: EmulatedPools, clock: Clock, entra: Application, cloud: RunningCloud) -> None:
        self._pools = pools
        self._entra = entra
        self._cloud = cloud
        self._operations = Operations(
            clock,
            lambda: str(uuid.uuid4()),
            least_seconds=_OPERATION_SECONDS,
            longest_seconds=_LONGEST_SECONDS,
        )

    def app(self) -> web.Application:
        app = application()
        self._entra.add_routes(app)
        subscription = "/subscriptions/{subscription}"
        provider = "/providers/Microsoft.ContainerService"
        cluster = f"{subscription}/resourceGroups/{{group}}{provider}/managedClusters/{{cluster}}"
        pool = cluster + "/agentPools/{pool}"
        operations = f"{subscription}{provider}/locations/{{location}}"
        for method, path, name, handler in (
            ("GET", cluster, "managedClusters", self._get_cluster),
            ("GET", cluster + "/agentPools", "agentPools", self._list),
            ("GET", pool, "agentPools/{pool}", self._get),
            ("PUT", pool, "agentPools/{pool}", self._put),
            ("POST", pool + "/deleteMachines", "agentPools/{pool}/deleteMachines", self._delete_machines),
            ("GET", pool + "/machines", "machines", self._list_machines),
            ("GET", pool + "/machines/{machine}", "machines/{machine}", self._get_machine),
            ("GET", operations + "/operations/{operation}", "operations", self._get_operation),
            ("GET", operations + "/operationresults/{operation}", "operationresults", self._get_result),
        ):
            app.router.add_route(method, path, self._served(f"{method} {name}", handler, writes=method != "GET"))
        return app

    def _served(
        self, action: str, handler: Handler, *, writes: bool
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def serve(request: web.Request) -> web.Response:
            try:
                self._authenticate(request)
                self._cloud.log(action)
                fault = self._cloud.faults.take(writes=writes)
                _strike(fault, action)
                headers = {"if-match": request.headers.get("if-match", "")}
                answer = handler({**headers, **request.match_info}, await _json(request) if writes else None)
            except ArmError as error:
                body = {"error": {"code": error.code, "message": str(error)}}
                return web.json_response(body, status=error.status, headers=error.headers)
            if fault is not None and fault.kind == "lost-answer":
                await self._cloud.closing.wait()
            return _response(request, answer)

        return serve

    def _authenticate(self, request: web.Request) -> None:
        """Raises: ArmError for a caller, a subscription, an API version or a resource that is not known."""
        if not self._entra.tokens.accepts(request.headers.get("Authorization", "")):
            raise ArmError(401, "InvalidAuthenticationToken", "The access token is invalid or has expired.")
        if "api-version" not in request.query:
            raise ArmError(400, "MissingApiVersionParameter", "The api-version query parameter is required.")
        asked = request.match_info
        if asked["subscription"] != _SUBSCRIPTION:
            raise ArmError(
                404, "SubscriptionNotFound", f"The subscription '{asked['subscription'][:40]}' is not found."
            )
        if asked.get("group", _GROUP) != _GROUP:
            raise ArmError(404, "ResourceGroupNotFound", f"Resource group '{asked['group'][:90]}' could not be found.")
        if asked.get("cluster", self._pools.cluster) != self._pools.cluster:
            raise ArmError(404, "ResourceNotFound", f"The managed cluster '{asked['cluster'][:90]}' was not found.")

    def _get_cluster(self, _: Mapping[str, str], __: Any) -> _Answer:
        pools = [{"name": state.spec.name, **self._properties(state)} for state in self._pools.pools()]
        properties = {"provisioningState": "Succeeded", "kubernetesVersion": "1.33", "agentPoolProfiles": pools}
        return _Answer({"id": self._id(), "name": self._pools.cluster, "location": _LOCATION, "properties": properties})

    def _list(self, _: Mapping[str, str], __: Any) -> _Answer:
        return _Answer({"value": [self._resource(state) for state in self._pools.pools()]})

    def _get(self, asked: Mapping[str, str], _: Any) -> _Answer:
        return _Answer(self._resource(self._pool(asked)))

    def _put(self, asked: Mapping[str, str], body: Any) -> _Answer:
        state = self._pool(asked)
        given = body.get("properties")
        count = given.get("count") if isinstance(given, dict) else None
        if not isinstance(given, dict) or type(count) is not int:
            raise ArmError(400, "InvalidParameter", "properties.count must be an integer")
        if given.get("vmSize", state.spec.instance_type) != state.spec.instance_type:
            raise ArmError(400, "PropertyChangeNotAllowed", "Changing property 'properties.vmSize' is not allowed.")
        if asked["if-match"].strip('"') not in ("", "*", self._tag(state)):
            raise ArmError(412, "PreconditionFailed", "The resource has changed since its ETag was read.")
        self._check_idle(state)
        try:
            self._pools.resize(state.spec.name, count)
        except ValueError as error:
            span = f"{state.spec.min_nodes}..{state.spec.max_nodes}"
            message = f"The value of parameter agentPoolProfile.count is invalid: {count} is not in {span}"
            raise ArmError(400, "InvalidParameter", message) from error
        operation = self._operations.begin(state.spec.name, count)
        return _Answer(self._resource(self._pool(asked)), operation=operation)

    def _delete_machines(self, asked: Mapping[str, str], body: Any) -> _Answer:
        state = self._pool(asked)
        named = body.get("machineNames")
        if not isinstance(named, list) or not named or not all(isinstance(one, str) for one in named):
            raise ArmError(400, "InvalidParameter", "machineNames must be a list of names")
        self._check_idle(state)
        mine = {one.node: one for one in state.instances if one.state != "terminating"}
        missing = [name for name in named if name not in mine]
        if missing:
            raise ArmError(
                400, "InvalidParameter", f"Machine '{missing[0][:80]}' is not in agent pool {state.spec.name}"
            )
        for name in named:
            self._pools.remove(state.spec.name, mine[name].instance_id)
        operation = self._operations.begin(state.spec.name, max(0, state.desired - len(named)))
        return _Answer(None, status=202, operation=operation)

    def _list_machines(self, asked: Mapping[str, str], _: Any) -> _Answer:
        state = self._pool(asked)
        return _Answer({"value": [self._machine(state, one) for one in state.instances if one.state != "terminating"]})

    def _get_machine(self, asked: Mapping[str, str], _: Any) -> _Answer:
        state = self._pool(asked)
        for one in state.instances:
            if one.node == asked["machine"] and one.state != "terminating":
                return _Answer(self._machine(state, one))
        raise ArmError(404, "NotFound", f"Machine '{asked['machine'][:80]}' was not found.")

    def _get_operation(self, asked: Mapping[str, str], _: Any) -> _Answer:
        operation = self._operation(asked)
        status, error = self._progress(operation)
        started = datetime.datetime.fromtimestamp(operation.started, datetime.UTC).isoformat()
        body: dict[str, Any] = {"id": operation.id, "name": operation.id, "status": status, "startTime": started}
        return _Answer(body if error is None else {**body, "error": error})

    def _get_result(self, asked: Mapping[str, str], _: Any) -> _Answer:
        operation = self._operation(asked)
        status, error = self._progress(operation)
        if status == "InProgress":
            return _Answer(None, status=202, operation=operation)
        if error is not None:
            raise ArmError(409, error["code"], error["message"])
        return _Answer(None, status=204)

    def _operation(self, asked: Mapping[str, str]) -> Operation:
        operation = self._operations.find(asked["operation"])
        if operation is None or asked["location"] != _LOCATION:
            raise ArmError(404, "NotFound", f"The operation '{asked['operation'][:80]}' was not found.")
        return operation

    def _progress(self, operation: Operation) -> tuple[str, dict[str, str] | None]:
        """Status of an operation, and its error."""
        state = next(one for one in self._pools.pools() if one.spec.name == operation.pool)
        if self._operations.runs(operation, state):
            return "InProgress", None
        return ("Failed", _shortage_error(state)) if self._operations.failed(operation, state) else ("Succeeded", None)

    def _check_idle(self, state: PoolState) -> None:
        if self._operations.running(state):
            message = "Operation is not allowed because there's an in progress operation on agent pool"
            raise ArmError(409, "OperationNotAllowed", f"{message} {state.spec.name}. Please wait for it to finish.")

    def _pool(self, asked: Mapping[str, str]) -> PoolState:
        for state in self._pools.pools():
            if state.spec.name == asked["pool"]:
                return state
        raise ArmError(404, "NotFound", f"Could not find the agentpool {asked['pool'][:80]}.")

    def _resource(self, state: PoolState) -> dict[str, Any]:
        return {
            "id": f"{self._id()}/agentPools/{state.spec.name}",
            "name": state.spec.name,
            "type": "Microsoft.ContainerService/managedClusters/agentPools",
            "properties": self._properties(state),
        }

    def _properties(self, state: PoolState) -> dict[str, Any]:
        spec = state.spec
        running = self._operations.running(state)
        failed = state.shortage is not None and not running
        properties: dict[str, Any] = {
            "eTag": self._tag(state),
            "count": state.desired,
            "vmSize": spec.instance_type,
            "mode": "User",
            "type": "VirtualMachineScaleSets",
            "osType": "Linux",
            "enableAutoScaling": False,
            "scaleSetPriority": "Spot" if spec.capacity_type == "spot" else "Regular",
            "nodeLabels": {key: value for key, value in spec.labels if key != _POOL_LABEL},
            "nodeTaints": [f"{key}={value}:{effect}" for key, value, effect in spec.taints],
            "availabilityZones": [spec.zone[-1]] if spec.zone[-1:].isdigit() else [],
            "provisioningState": "Scaling" if running else "Failed" if failed else "Succeeded",
            "powerState": {"code": "Running"},
        }
        if failed:
            properties["status"] = {"provisioningError": _shortage_error(state)}
        return properties

    def _machine(self, state: PoolState, one: Instance) -> dict[str, Any]:
        return {
            "id": f"{self._id()}/agentPools/{state.spec.name}/machines/{one.node}",
            "name": one.node,
            "properties": {"resourceId": one.provider_id.removeprefix("azure://")},
        }

    def _tag(self, state: PoolState) -> str:
        latest = self._operations.latest(state.spec.name)
        return f"{state.desired}-{latest.id if latest else 'new'}"

    def _id(self) -> str:
        provider = "Microsoft.ContainerService/managedClusters"
        return f"/subscriptions/{_SUBSCRIPTION}/resourceGroups/{_GROUP}/providers/{provider}/{self._pools.cluster}"


def _response(request: web.Request, answer: _Answer) -> web.Response:
    headers = {"x-ms-request-id": secrets.token_hex(16)}
    if answer.operation is not None:
        base = f"{request.scheme}://{request.host}/subscriptions/{_SUBSCRIPTION}/providers/Microsoft.ContainerService"
        version = f"api-version={request.query['api-version']}"
        place = f"{base}/locations/{_LOCATION}"
        headers["Azure-AsyncOperation"] = f"{place}/operations/{answer.operation.id}?{version}"
        headers["Location"] = f"{place}/operationresults/{answer.operation.id}?{version}"
        headers["Retry-After"] = str(_POLL_SECONDS)
    if answer.body is None:
        return web.Response(status=answer.status, headers=headers)
    return web.json_response(answer.body, status=answer.status, headers=headers)


def _strike(fault: Fault | None, action: str) -> None:
    """Raise what the script of faults has for this call."""
    if fault is None:
        return
    match fault.kind:
        case "throttled":
            raise ArmError(429, "TooManyRequests", "The request is being throttled.", fault.retry_after_seconds)
        case "capacity":
            raise ArmError(409, "AllocationFailed", _SHORTAGES["capacity"])
        case "quota":
            raise ArmError(400, "ErrCode_InsufficientVCPUQuota", _SHORTAGES["quota"])
        case "denied":
            raise ArmError(403, "AuthorizationFailed", f"The client does not have authorization to perform: {action}")
        case "unmapped":
            raise ArmError(500, fault.code, "Something that nobody has heard of")


def _shortage_error(state: PoolState) -> dict[str, str]:
    """As AKS reports it: its own code outside, the scale set's inside the message."""
    kind = state.shortage or "capacity"
    if kind == "quota":
        return {"code": _SHORTAGE_CODES[kind], "message": _SHORTAGES[kind]}
    message = f'VMSSAgentPoolReconciler retry failed: Code="{_SHORTAGE_CODES[kind]}" Message="{_SHORTAGES[kind]}"'
    return {"code": "ReconcileVMSSAgentPoolFailed", "message": message}


async def _json(request: web.Request) -> Any:
    try:
        parsed = json.loads(await request.read())
    except ValueError as error:
        raise ArmError(
            400, "InvalidRequestContent", "The request content was invalid and could not be parsed"
        ) from error
    if not isinstance(parsed, dict):
        raise ArmError(400, "InvalidRequestContent", "The request content is no JSON object")
    return parsed


async def start(pools: EmulatedPools, clock: Clock, state_dir: Path, api: ApiAddress) -> RunningCloud:
    """Serve the emulated Azure; the application's secret, a federated token and the CA are written as files."""
    certificate = make_server_certificate(state_dir / "credentials", f"{pools.cluster}-azure")
    cloud = RunningCloud(settings={})
    entra = Application()
    secret_file = Path("credentials") / f"{pools.cluster}-azure-client-secret"
    entra.write_secret(state_dir / secret_file)
    entra.write_federated_token(state_dir / "credentials" / f"{pools.cluster}-azure-federated-token")
    url = await cloud.serve_http(ResourceManager(pools, clock, entra, cloud).app(), certificate.tls_context())
    cloud.revoke_credentials = entra.revoke
    cloud.settings.update(
        type="aks",
        subscriptionId=_SUBSCRIPTION,
        resourceGroup=_GROUP,
        clusterName=pools.cluster,
        tenantId=entra.tenant_id,
        clientId=entra.client_id,
        clientSecretFile=str(secret_file),
        endpoint=url,
        authority=url,
        disableInstanceDiscovery=True,
        caFile=str(certificate.ca_file.relative_to(state_dir)),
    )
    return cloud
