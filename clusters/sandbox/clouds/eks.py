"""Emulated AWS: EKS (REST-JSON), Auto Scaling and STS (Query protocol, XML), on one loopback port, signatures checked.

Shapes are those of the service models that botocore ships. Only the node-pool calls are there.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from aiohttp import web

from clusters.sandbox.clouds.certificates import write_private
from clusters.sandbox.clouds.faults import Fault
from clusters.sandbox.clouds.operations import Operation, Operations
from clusters.sandbox.clouds.running import RunningCloud, application
from clusters.sandbox.clouds.sigv4 import AccessKey, check_signature
from clusters.sandbox.ports import ApiAddress, EmulatedPools, Instance, PoolState
from scheduler.model.ports import Clock

_UPDATE_SECONDS: Final = 15.0
"""Virtual time that an update takes; its node group refuses another one meanwhile."""
_ACCOUNT: Final = "000000000000"
_CAPACITY_TYPES: Final = {"on-demand": "ON_DEMAND", "spot": "SPOT", "reserved": "CAPACITY_BLOCK"}
_EFFECTS: Final = {"NoSchedule": "NO_SCHEDULE", "NoExecute": "NO_EXECUTE", "PreferNoSchedule": "PREFER_NO_SCHEDULE"}
_LIFECYCLES: Final = {"pending": "Pending", "running": "InService", "terminating": "Terminating"}
_POOL_LABEL: Final = "eks.amazonaws.com/nodegroup"
_SHORTAGES: Final = {
    "capacity": "InsufficientInstanceCapacity - We currently do not have sufficient {type} capacity in the"
    " Availability Zone you requested ({zone}). Our system will be working on provisioning additional capacity.",
    "quota": "VcpuLimitExceeded - You have requested more vCPU capacity than your current vCPU limit of 0 allows"
    " for the instance bucket that the specified instance type belongs to.",
}


class AwsError(Exception):
    """An answer other than the asked one."""

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


Handler = Callable[[Mapping[str, str], Any], dict[str, Any]]
QueryHandler = Callable[[Mapping[str, str]], str]


class AmazonWebServices:
    """The three services over one cluster's pools."""

    def __init__(self, pools: EmulatedPools, clock: Clock, key: AccessKey, cloud: RunningCloud) -> None:
        self._pools = pools
        self._key = key
        self._cloud = cloud
        self._updates = Operations(clock, lambda: secrets.token_hex(16), least_seconds=_UPDATE_SECONDS)
        self._tokens: dict[str, str] = {}
        """Update id by client request token: a request sent twice is done once."""

    def revoke(self) -> None:
        """The access key is refused from now on."""
        self._key = AccessKey("AKIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30))

    def app(self) -> web.Application:
        app = application()
        groups = "/clusters/{cluster}/node-groups"
        app.router.add_get("/clusters/{cluster}", self._rest("DescribeCluster", self._describe_cluster))
        app.router.add_get(groups, self._rest("ListNodegroups", self._list_groups))
        app.router.add_get(groups + "/{group}", self._rest("DescribeNodegroup", self._describe_group))
        app.router.add_post(
            groups + "/{group}/update-config", self._rest("UpdateNodegroupConfig", self._update_group, writes=True)
        )
        app.router.add_get("/clusters/{cluster}/updates/{update}", self._rest("DescribeUpdate", self._describe_update))
        app.router.add_post("/", self._query)
        return app

    def _rest(
        self, action: str, handler: Handler, *, writes: bool = False
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def serve(request: web.Request) -> web.Response:
            try:
                body = await request.read()
                self._authenticate(request, body, rest=True)
                fault = self._enter(action, writes=writes)
                cluster = request.match_info["cluster"]
                if cluster != self._pools.cluster:
                    raise AwsError(404, "ResourceNotFoundException", f"No cluster found for name: {cluster}.")
                answer = handler({**request.query, **request.match_info}, _json(body) if writes else None)
                await self._maybe_lose(fault)
            except AwsError as error:
                headers = {"x-amzn-ErrorType": error.code, **error.headers}
                return web.json_response({"message": str(error)}, status=error.status, headers=headers)
            return web.json_response(answer)

        return serve

    async def _query(self, request: web.Request) -> web.Response:
        handlers: dict[str, tuple[QueryHandler, bool]] = {
            "DescribeAutoScalingGroups": (self._describe_scaling_groups, False),
            "DescribeAutoScalingInstances": (self._describe_instances, False),
            "TerminateInstanceInAutoScalingGroup": (self._terminate, True),
            "SetDesiredCapacity": (self._set_desired, True),
            "GetCallerIdentity": (self._caller, False),
        }
        try:
            body = await request.read()
            self._authenticate(request, body, rest=False)
            form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
            action = form.get("Action", "")
            if action not in handlers:
                raise AwsError(400, "InvalidAction", f"Could not find operation {action[:80]}")
            handler, writes = handlers[action]
            fault = self._enter(action, writes=writes)
            result = handler(form)
            await self._maybe_lose(fault)
        except AwsError as error:
            text = (
                f"<ErrorResponse><Error><Type>Sender</Type><Code>{escape(error.code)}</Code><Message>"
                f"{escape(str(error))}</Message></Error><RequestId>{secrets.token_hex(8)}</RequestId></ErrorResponse>"
            )
            return web.Response(text=text, status=error.status, content_type="text/xml", headers=error.headers)
        text = (
            f"<{action}Response><{action}Result>{result}</{action}Result><ResponseMetadata><RequestId>"
            f"{secrets.token_hex(8)}</RequestId></ResponseMetadata></{action}Response>"
        )
        return web.Response(text=text, content_type="text/xml")

    def _authenticate(self, request: web.Request, body: bytes, *, rest: bool) -> None:
        rejection = check_signature(self._key, request.method, request.raw_path, request.headers, body)
        if rejection is None:
            return
        code = {
            "missing": "MissingAuthenticationTokenException" if rest else "MissingAuthenticationToken",
            "unknown-key": "UnrecognizedClientException" if rest else "InvalidClientTokenId",
            "expired": "InvalidSignatureException" if rest else "SignatureDoesNotMatch",
            "mismatch": "InvalidSignatureException" if rest else "SignatureDoesNotMatch",
        }[rejection.reason]
        raise AwsError(403, code, rejection.text)

    def _enter(self, action: str, *, writes: bool) -> Fault | None:
        """Log the action; raise what the script of faults has for it."""
        self._cloud.log(action)
        fault = self._cloud.faults.take(writes=writes)
        match fault.kind if fault else "":
            case "throttled":
                assert fault is not None
                raise AwsError(429, "ThrottlingException", "Rate exceeded", fault.retry_after_seconds)
            case "capacity":
                raise AwsError(400, "InsufficientInstanceCapacity", "There is no Spot or On-Demand capacity available")
            case "quota":
                raise AwsError(400, "ResourceLimitExceededException", "You have reached the limit of your account")
            case "denied":
                raise AwsError(403, "AccessDeniedException", f"User is not authorized to perform: {action}")
            case "unmapped":
                assert fault is not None
                raise AwsError(400, fault.code, "Something that nobody has heard of")
        return fault

    async def _maybe_lose(self, fault: Fault | None) -> None:
        if fault is not None and fault.kind == "lost-answer":
            await self._cloud.closing.wait()

    # EKS

    def _describe_cluster(self, asked: Mapping[str, str], _: Any) -> dict[str, Any]:
        return {
            "cluster": {
                "name": asked["cluster"],
                "arn": self._arn("cluster"),
                "status": "ACTIVE",
                "version": "1.33",
            }
        }

    def _list_groups(self, asked: Mapping[str, str], _: Any) -> dict[str, Any]:
        names = sorted(state.spec.name for state in self._pools.pools())
        most, start = asked.get("maxResults", "100"), asked.get("nextToken", "0")
        if not (most.isdigit() and 1 <= int(most) <= 100 and start.isdigit()):
            raise AwsError(400, "InvalidParameterException", "maxResults must be 1 to 100")
        end = int(start) + int(most)
        return {"nodegroups": names[int(start) : end], "nextToken": str(end) if end < len(names) else None}

    def _describe_group(self, asked: Mapping[str, str], _: Any) -> dict[str, Any]:
        state = self._pool(asked["group"])
        spec = state.spec
        issues = [] if state.shortage is None else [_issue(state)]
        status = "UPDATING" if self._updates.running(state) else "DEGRADED" if issues else "ACTIVE"
        labels = dict(spec.labels)
        labels.pop(_POOL_LABEL, None)  # the kubelet gets it from the group's name, not from its labels
        taints = [{"key": key, "value": value, "effect": _EFFECTS[effect]} for key, value, effect in spec.taints]
        return {
            "nodegroup": {
                "nodegroupName": spec.name,
                "nodegroupArn": f"{self._arn('nodegroup')}/{spec.name}",
                "clusterName": asked["cluster"],
                "version": "1.33",
                "status": status,
                "capacityType": _CAPACITY_TYPES.get(spec.capacity_type, "ON_DEMAND"),
                "scalingConfig": {"minSize": spec.min_nodes, "maxSize": spec.max_nodes, "desiredSize": state.desired},
                "instanceTypes": [spec.instance_type],
                "labels": labels,
                "taints": taints,
                "resources": {"autoScalingGroups": [{"name": _scaling_group(spec.name)}]},
                "health": {"issues": issues},
            }
        }

    def _update_group(self, asked: Mapping[str, str], body: Any) -> dict[str, Any]:
        state = self._pool(asked["group"])
        scaling = body.get("scalingConfig")
        token = body.get("clientRequestToken", "")
        before = self._updates.find(self._tokens.get(token, "")) if isinstance(token, str) else None
        if before is not None:
            return {"update": self._update_json(before)}
        if not isinstance(scaling, dict) or not scaling or not all(type(size) is int for size in scaling.values()):
            raise AwsError(400, "InvalidParameterException", "scalingConfig must hold minSize, maxSize or desiredSize")
        if self._updates.running(state):
            message = f"Nodegroup {state.spec.name} already has an update in progress"
            raise AwsError(409, "ResourceInUseException", message)
        low, high = scaling.get("minSize", state.spec.min_nodes), scaling.get("maxSize", state.spec.max_nodes)
        if (low, high) != (state.spec.min_nodes, state.spec.max_nodes):
            raise AwsError(400, "InvalidParameterException", "The sandbox's scenario fixes minSize and maxSize")
        desired = scaling.get("desiredSize", state.desired)
        self._resize(state, desired)
        update = self._updates.begin(state.spec.name, desired)
        self._tokens = {one: known for one, known in self._tokens.items() if self._updates.find(known)}
        if isinstance(token, str) and token:
            self._tokens[token] = update.id
        return {"update": self._update_json(update)}

    def _describe_update(self, asked: Mapping[str, str], _: Any) -> dict[str, Any]:
        update = self._updates.find(asked["update"])
        if update is None or asked.get("nodegroupName") != update.pool:
            raise AwsError(404, "ResourceNotFoundException", f"No update found for ID: {asked['update']}")
        return {"update": self._update_json(update)}

    def _update_json(self, update: Operation) -> dict[str, Any]:
        running = self._updates.runs(update, self._pool(update.pool))
        return {
            "id": update.id,
            "status": "InProgress" if running else "Successful",
            "type": "ConfigUpdate",
            "params": [{"type": "DesiredSize", "value": str(update.desired)}],
            "createdAt": update.started,
            "errors": [],
        }

    # Auto Scaling

    def _describe_scaling_groups(self, form: Mapping[str, str]) -> str:
        wanted = _members(form, "AutoScalingGroupNames")
        members = ""
        for state in self._pools.pools():
            name = _scaling_group(state.spec.name)
            if not wanted or name in wanted:
                instances = "".join(f"<member>{_instance_xml(one, state)}</member>" for one in state.instances)
                members += (
                    f"<member><AutoScalingGroupName>{name}</AutoScalingGroupName><MinSize>{state.spec.min_nodes}</MinSize>"
                    f"<MaxSize>{state.spec.max_nodes}</MaxSize><DesiredCapacity>{state.desired}</DesiredCapacity>"
                    f"<DefaultCooldown>300</DefaultCooldown><HealthCheckType>EC2</HealthCheckType>"
                    f"<CreatedTime>2026-01-01T00:00:00Z</CreatedTime><AvailabilityZones><member>"
                    f"{escape(state.spec.zone)}</member></AvailabilityZones><Instances>{instances}</Instances></member>"
                )
        return f"<AutoScalingGroups>{members}</AutoScalingGroups>"

    def _describe_instances(self, form: Mapping[str, str]) -> str:
        wanted = _members(form, "InstanceIds")
        members = "".join(
            f"<member>{_instance_xml(one, state)}<AutoScalingGroupName>{_scaling_group(state.spec.name)}"
            f"</AutoScalingGroupName></member>"
            for state in self._pools.pools()
            for one in state.instances
            if not wanted or one.instance_id in wanted
        )
        return f"<AutoScalingInstances>{members}</AutoScalingInstances>"

    def _terminate(self, form: Mapping[str, str]) -> str:
        instance, decrement = form.get("InstanceId", ""), form.get("ShouldDecrementDesiredCapacity", "")
        if decrement != "true":
            raise AwsError(400, "ValidationError", "The sandbox terminates only with ShouldDecrementDesiredCapacity")
        for state in self._pools.pools():
            for one in state.instances:
                if one.instance_id == instance:
                    if state.desired <= state.spec.min_nodes:
                        message = (
                            f"Currently, desiredSize equals minSize ({state.desired}). Terminating instance without"
                        )
                        raise AwsError(400, "ValidationError", f"{message} replacement will violate group's min size.")
                    self._pools.remove(state.spec.name, instance)
                    return (
                        f"<Activity><ActivityId>{secrets.token_hex(16)}</ActivityId><StatusCode>InProgress</StatusCode>"
                        f"<AutoScalingGroupName>{_scaling_group(state.spec.name)}</AutoScalingGroupName>"
                        f"<Cause>user request</Cause><StartTime>2026-01-01T00:00:00Z</StartTime></Activity>"
                    )
        message = f"Instance Id not found - No managed instance found for instance ID: {instance[:40]}"
        raise AwsError(400, "ValidationError", message)

    def _set_desired(self, form: Mapping[str, str]) -> str:
        name, desired = form.get("AutoScalingGroupName", ""), form.get("DesiredCapacity", "")
        found = [state for state in self._pools.pools() if _scaling_group(state.spec.name) == name]
        if not found or not desired.isdigit():
            raise AwsError(400, "ValidationError", "AutoScalingGroup name not found, or DesiredCapacity is no number")
        self._resize(found[0], int(desired))
        return ""

    def _caller(self, _: Mapping[str, str]) -> str:
        arn = f"arn:aws:iam::{_ACCOUNT}:user/overspill"
        return f"<Arn>{arn}</Arn><UserId>{self._key.access_key_id}</UserId><Account>{_ACCOUNT}</Account>"

    def _arn(self, sort: str) -> str:
        return f"arn:aws:eks:{_region(self._pools)}:{_ACCOUNT}:{sort}/{self._pools.cluster}"

    def _pool(self, name: str) -> PoolState:
        for state in self._pools.pools():
            if state.spec.name == name:
                return state
        raise AwsError(404, "ResourceNotFoundException", f"No node group found for name: {name}.")

    def _resize(self, state: PoolState, desired: int) -> None:
        try:
            self._pools.resize(state.spec.name, desired)
        except ValueError as error:
            message = f"desired capacity {desired} is outside {state.spec.min_nodes}..{state.spec.max_nodes}"
            raise AwsError(400, "InvalidParameterException", message) from error


async def start(pools: EmulatedPools, clock: Clock, state_dir: Path, api: ApiAddress) -> RunningCloud:
    """Serve the emulated AWS; its access key is written as a shared credentials file."""
    key = AccessKey("AKIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30))
    file = Path("credentials") / f"{pools.cluster}-aws.ini"
    write_private(
        state_dir / file,
        f"[overspill]\naws_access_key_id = {key.access_key_id}\n"
        f"aws_secret_access_key = {key.secret_access_key}\n".encode(),
    )
    cloud = RunningCloud(settings={})
    services = AmazonWebServices(pools, clock, key, cloud)
    url = await cloud.serve_http(services.app())
    cloud.revoke_credentials = services.revoke
    cloud.settings.update(
        type="eks",
        clusterName=pools.cluster,
        region=_region(pools),
        endpoints={"eks": url, "autoscaling": url},
        credentialsFile=str(file),
        profile="overspill",
    )
    return cloud


def _region(pools: EmulatedPools) -> str:
    zones = [state.spec.zone for state in pools.pools()]
    return (
        re.sub(r"[a-z]$", "", zones[0]) if zones and re.fullmatch(r"[a-z]+-[a-z]+-\d[a-z]?", zones[0]) else "us-east-1"
    )


def _scaling_group(pool: str) -> str:
    return f"eks-{pool}-{hashlib.sha256(pool.encode()).hexdigest()[:8]}"


def _issue(state: PoolState) -> dict[str, Any]:
    text = _SHORTAGES[state.shortage or "capacity"].format(type=state.spec.instance_type, zone=state.spec.zone)
    kind = "Spot" if state.spec.capacity_type == "spot" else "On-Demand"
    return {
        "code": "AsgInstanceLaunchFailures",
        "message": f"Could not launch {kind} Instances. {text} Launching EC2 instance failed.",
        "resourceIds": [_scaling_group(state.spec.name)],
    }


def _instance_xml(one: Instance, state: PoolState) -> str:
    return (
        f"<InstanceId>{escape(one.instance_id)}</InstanceId><InstanceType>{escape(state.spec.instance_type)}</InstanceType>"
        f"<AvailabilityZone>{escape(state.spec.zone)}</AvailabilityZone><LifecycleState>{_LIFECYCLES[one.state]}"
        f"</LifecycleState><HealthStatus>Healthy</HealthStatus><ProtectedFromScaleIn>false</ProtectedFromScaleIn>"
    )


def _members(form: Mapping[str, str], name: str) -> set[str]:
    return {value for key, value in form.items() if re.fullmatch(rf"{name}\.member\.\d+", key)}


def _json(body: bytes) -> Any:
    try:
        parsed = json.loads(body)
    except ValueError as error:
        raise AwsError(400, "SerializationException", "the body is no JSON") from error
    if not isinstance(parsed, dict):
        raise AwsError(400, "SerializationException", "the body is no JSON object")
    return parsed
