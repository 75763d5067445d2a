"""Emulated Azure: AKS clusters and agent pools over ARM REST (https), long operations included, and Entra ID beside.

Shapes are those that azure-mgmt-containerservice reads and writes. A call that the identity's roles do not grant is
refused, by the permission that Azure's own list of operations names for it.
"""

from __future__ import annotations

import datetime
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from clusters.sandbox.clouds.aks_cluster import VERSION, ManagedCluster
from clusters.sandbox.clouds.arm import SHORTAGE_CODES, SHORTAGES, Answer, ArmError, denied, page, read_object, strike
from clusters.sandbox.clouds.certificates import make_server_certificate
from clusters.sandbox.clouds.entra import Application
from clusters.sandbox.clouds.operations import Operation, Operations
from clusters.sandbox.clouds.running import RunningCloud, application
from clusters.sandbox.clouds.tokens import same_secret
from clusters.sandbox.ports import ApiAddress, EmulatedPools, Instance, PoolState
from scheduler.model.ports import Clock

_SUBSCRIPTION: Final = "00000000-0000-0000-0000-000000000001"
_GROUP: Final = "overspill-sandbox"
_LOCATION: Final = "westeurope"
"""Of a cluster whose pools' zones name no region."""
_AKS: Final = "Microsoft.ContainerService/managedClusters"
_LOCATIONS: Final = "Microsoft.ContainerService/locations"
_OPERATION_SECONDS: Final = 20.0
"""Virtual time that an operation takes at least; its pool refuses another one meanwhile."""
_LONGEST_SECONDS: Final = 3600.0
_POLL_SECONDS: Final = 10
_POOL_LABEL: Final = "kubernetes.azure.com/agentpool"


Handler = Callable[[Mapping[str, str], Any], Answer]


class ResourceManager:
    """Azure Resource Manager over one cluster's pools."""

    def __init__(
        self,
        pools: EmulatedPools,
        clock: Clock,
        entra: Application,
        cloud: RunningCloud,
        cluster: ManagedCluster,
        api: ApiAddress,
    ) -> None:
        self._pools = pools
        self._entra = entra
        self._cloud = cloud
        self._cluster = cluster
        self._api = api
        self._location = _location(pools)
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
        clusters = f"{subscription}/resourceGroups/{{group}}{provider}/managedClusters"
        cluster = clusters + "/{cluster}"
        pool = cluster + "/agentPools/{pool}"
        here = f"{subscription}{provider}/locations/{{location}}"
        pools, login = f"{_AKS}/agentPools", "listClusterUserCredential"
        may = "/providers/Microsoft.Authorization/permissions"
        remove, operation, result = "deleteMachines", "operations/{operation}", "operationresults/{operation}"
        for method, path, name, permission, handler in (
            ("GET", clusters, "managedClusters", f"{_AKS}/read", self._list_clusters),
            ("GET", cluster, "managedClusters/{cluster}", f"{_AKS}/read", self._get_cluster),
            ("POST", f"{cluster}/{login}", login, f"{_AKS}/{login}/action", self._user_credentials),
            ("GET", cluster + may, "permissions", "Microsoft.Authorization/permissions/read", self._permissions),
            ("GET", cluster + "/agentPools", "agentPools", f"{pools}/read", self._list),
            ("GET", pool, "agentPools/{pool}", f"{pools}/read", self._get),
            ("PUT", pool, "agentPools/{pool}", f"{pools}/write", self._put),
            ("POST", f"{pool}/{remove}", f"agentPools/{{pool}}/{remove}", f"{pools}/{remove}/action", self._delete),
            ("GET", pool + "/machines", "machines", f"{pools}/machines/read", self._list_machines),
            ("GET", pool + "/machines/{machine}", "machines/{machine}", f"{pools}/machines/read", self._get_machine),
            ("GET", f"{here}/{operation}", "operations", f"{_LOCATIONS}/operations/read", self._get_operation),
            ("GET", f"{here}/{result}", "operationresults", f"{_LOCATIONS}/operationresults/read", self._get_result),
        ):
            app.router.add_route(method, path, self._served(f"{method} {name}", permission, handler))
        return app

    def _served(
        self, action: str, permission: str, handler: Handler
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        writes = not action.startswith("GET ") and not permission.endswith("/listClusterUserCredential/action")

        async def serve(request: web.Request) -> web.Response:
            try:
                self._authenticate(request)
                self._cloud.log(action)
                if not self._cluster.may(permission):
                    raise denied(permission)
                fault = self._cloud.faults.take(writes=writes)
                strike(fault, permission)
                base = f"{request.scheme}://{request.host}{request.path}?api-version={request.query['api-version']}"
                told = {"if-match": request.headers.get("if-match", ""), "skip": request.query.get("$skiptoken", "0")}
                answer = handler(
                    {**told, "url": base, **request.match_info}, await read_object(request) if writes else None
                )
            except ArmError as error:
                body = {"error": {"code": error.code, "message": str(error)}}
                return web.json_response(body, status=error.status, headers=error.headers)
            if fault is not None and fault.kind == "lost-answer":
                await self._cloud.closing.wait()
            return self._response(request, answer)

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

    def _list_clusters(self, asked: Mapping[str, str], _: Any) -> Answer:
        others = [
            {
                "id": self._id().removesuffix(self._pools.cluster) + name,
                "name": name,
                "location": self._location,
                "properties": {"provisioningState": "Creating", "kubernetesVersion": "1.33"},
            }
            for name in self._cluster.neighbours
        ]
        return self._page(asked, [self._managed_cluster(), *others])

    def _get_cluster(self, _: Mapping[str, str], __: Any) -> Answer:
        return Answer(self._managed_cluster())

    def _managed_cluster(self) -> dict[str, Any]:
        pools = [{"name": state.spec.name, **self._properties(state)} for state in self._pools.pools()]
        return {
            "id": self._id(),
            "name": self._pools.cluster,
            "location": self._location,
            "properties": {**self._cluster.properties(self._api), "agentPoolProfiles": pools},
        }

    def _user_credentials(self, _: Mapping[str, str], __: Any) -> Answer:
        return Answer(self._cluster.user_credentials(self._pools.cluster, self._entra.tenant_id, self._api))

    def _permissions(self, asked: Mapping[str, str], _: Any) -> Answer:
        return self._page(asked, self._cluster.roles)

    def _list(self, asked: Mapping[str, str], _: Any) -> Answer:
        return self._page(asked, [self._resource(state) for state in self._pools.pools()])

    def _page(self, asked: Mapping[str, str], items: list[dict[str, Any]]) -> Answer:
        return page(asked, items, self._cluster.page_size, self._cluster.next_link)

    def _get(self, asked: Mapping[str, str], _: Any) -> Answer:
        return Answer(self._resource(self._pool(asked)))

    def _put(self, asked: Mapping[str, str], body: Any) -> Answer:
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
        return Answer(self._resource(self._pool(asked)), operation=operation)

    def _delete(self, asked: Mapping[str, str], body: Any) -> Answer:
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
        return Answer(None, status=202, operation=operation)

    def _list_machines(self, asked: Mapping[str, str], _: Any) -> Answer:
        state = self._pool(asked)
        return Answer({"value": [self._machine(state, one) for one in state.instances if one.state != "terminating"]})

    def _get_machine(self, asked: Mapping[str, str], _: Any) -> Answer:
        state = self._pool(asked)
        for one in state.instances:
            if one.node == asked["machine"] and one.state != "terminating":
                return Answer(self._machine(state, one))
        raise ArmError(404, "NotFound", f"Machine '{asked['machine'][:80]}' was not found.")

    def _get_operation(self, asked: Mapping[str, str], _: Any) -> Answer:
        operation = self._operation(asked)
        status, error = self._progress(operation)
        started = datetime.datetime.fromtimestamp(operation.started, datetime.UTC).isoformat()
        body: dict[str, Any] = {"id": operation.id, "name": operation.id, "status": status, "startTime": started}
        return Answer(body if error is None else {**body, "error": error})

    def _get_result(self, asked: Mapping[str, str], _: Any) -> Answer:
        operation = self._operation(asked)
        status, error = self._progress(operation)
        if status == "InProgress":
            return Answer(None, status=202, operation=operation)
        if error is not None:
            raise ArmError(409, error["code"], error["message"])
        return Answer(None, status=204)

    def _operation(self, asked: Mapping[str, str]) -> Operation:
        operation = self._operations.find(asked["operation"])
        if operation is None or asked["location"] != self._location:
            raise ArmError(404, "NotFound", f"The operation '{asked['operation'][:80]}' was not found.")
        return operation

    def _progress(self, operation: Operation) -> tuple[str, dict[str, str] | None]:
        """Status of an operation, and its error."""
        state = next(one for one in self._pools.pools() if one.spec.name == operation.pool)
        if self._operations.runs(operation, state):
            return "InProgress", None
        return ("Failed", self._failure(state)) if self._operations.failed(operation, state) else ("Succeeded", None)

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
            "enableAutoScaling": spec.name in self._cluster.autoscaled,
            "orchestratorVersion": VERSION.rpartition(".")[0],
            "currentOrchestratorVersion": VERSION,
            "scaleSetPriority": "Spot" if spec.capacity_type == "spot" else "Regular",
            "nodeLabels": {key: value for key, value in spec.labels if key != _POOL_LABEL},
            "nodeTaints": [f"{key}={value}:{effect}" for key, value, effect in spec.taints],
            # Azure tells the number alone; a zone that is none of this region's is told whole.
            "availabilityZones": [spec.zone.removeprefix(f"{self._location}-")],
            "provisioningState": "Scaling" if running else "Failed" if failed else "Succeeded",
            "powerState": {"code": "Running"},
        }
        if properties["enableAutoScaling"]:
            properties |= {"minCount": spec.min_nodes, "maxCount": spec.max_nodes}
        if failed and self._cluster.tells_why:
            properties["status"] = {"provisioningError": self._failure(state)}
        return properties

    def _failure(self, state: PoolState) -> dict[str, str]:
        """As AKS reports it: its own code outside, the scale set's inside the message."""
        if self._cluster.failure is not None:
            code, message = self._cluster.failure
            return {"code": code, "message": message}
        kind = state.shortage or "capacity"
        if kind == "quota":
            return {"code": SHORTAGE_CODES[kind], "message": SHORTAGES[kind]}
        message = f'VMSSAgentPoolReconciler retry failed: Code="{SHORTAGE_CODES[kind]}" Message="{SHORTAGES[kind]}"'
        return {"code": "ReconcileVMSSAgentPoolFailed", "message": message}

    def _machine(self, state: PoolState, one: Instance) -> dict[str, Any]:
        return {
            "id": f"{self._id()}/agentPools/{state.spec.name}/machines/{one.node}",
            "name": one.node,
            "properties": {"resourceId": one.provider_id.removeprefix("azure://")},
        }

    def _tag(self, state: PoolState) -> str:
        latest = self._operations.latest(state.spec.name)
        return f"{state.desired}-{latest.id if latest else 'new'}"

    def _response(self, request: web.Request, answer: Answer) -> web.Response:
        headers = {"x-ms-request-id": secrets.token_hex(16)}
        if answer.operation is not None:
            place = (
                f"{request.scheme}://{request.host}/subscriptions/{_SUBSCRIPTION}/providers/{_LOCATIONS}"
                f"/{self._location}"
            )
            version = f"api-version={request.query['api-version']}"
            headers["Azure-AsyncOperation"] = f"{place}/operations/{answer.operation.id}?{version}"
            headers["Location"] = f"{place}/operationresults/{answer.operation.id}?{version}"
            headers["Retry-After"] = str(_POLL_SECONDS)
        if answer.body is None:
            return web.Response(status=answer.status, headers=headers)
        return web.json_response(answer.body, status=answer.status, headers=headers)

    def _id(self) -> str:
        provider = "Microsoft.ContainerService/managedClusters"
        return f"/subscriptions/{_SUBSCRIPTION}/resourceGroups/{_GROUP}/providers/{provider}/{self._pools.cluster}"


def _location(pools: EmulatedPools) -> str:
    """The region that the pools' zones are in, Azure calling them eastus-1 and the like."""
    found = re.fullmatch(r"([a-z0-9]+)-\d", next((state.spec.zone for state in pools.pools()), ""))
    return found.group(1) if found else _LOCATION


async def start(pools: EmulatedPools, clock: Clock, state_dir: Path, api: ApiAddress) -> RunningCloud:
    """Serve the emulated Azure over a cluster that is integrated with Entra ID."""
    return await serve(pools, clock, state_dir, api, ManagedCluster(), Application())


async def serve(
    pools: EmulatedPools,
    clock: Clock,
    state_dir: Path,
    api: ApiAddress,
    cluster: ManagedCluster,
    entra: Application,
) -> RunningCloud:
    """Serve the emulated Azure; the application's secret, a federated token and the CA are written as files."""
    certificate = make_server_certificate(state_dir / "credentials", f"{pools.cluster}-azure")
    cloud = RunningCloud(settings={})
    secret_file = Path("credentials") / f"{pools.cluster}-azure-client-secret"
    entra.write_secret(state_dir / secret_file)
    entra.write_federated_token(state_dir / "credentials" / f"{pools.cluster}-azure-federated-token")
    manager = ResourceManager(pools, clock, entra, cloud, cluster, api)
    url = await cloud.serve_http(manager.app(), certificate.tls_context())

    def revoke() -> None:
        entra.revoke()
        cluster.local_token = secrets.token_hex(64)

    def accepts(token: str) -> bool:
        if cluster.login == "token":
            return same_secret(token, cluster.local_token)
        return cluster.login == "entra" and entra.cluster_tokens.accepts(f"Bearer {token}")

    cloud.revoke_credentials, cloud.accepts_token = revoke, accepts
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
