"""Emulated Compute Engine: the managed instance groups behind GKE node pools (REST), and the OAuth token endpoint."""

from __future__ import annotations

import datetime
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web

from clusters.sandbox.clouds.faults import Fault
from clusters.sandbox.clouds.google_iam import Policy
from clusters.sandbox.clouds.google_tokens import ServiceAccount
from clusters.sandbox.clouds.running import RunningCloud, application
from clusters.sandbox.ports import EmulatedPools, PoolState
from scheduler.model.ports import Clock

_SHORTAGES: Final = {
    "capacity": (
        "ZONE_RESOURCE_POOL_EXHAUSTED",
        "The zone '{zone}' does not have enough resources available to fulfill the request. Try a different zone,"
        " or try again later.",
    ),
    "quota": ("QUOTA_EXCEEDED", "Quota 'NVIDIA_A100_GPUS' exceeded. Limit: 0.0 in region of zone {zone}."),
}

Answer = Callable[[PoolState, Any], dict[str, Any]]


class ComputeError(Exception):
    """An answer other than the asked one."""

    def __init__(self, status: int, reason: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}}
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


class InstanceGroups:
    """One zonal managed instance group for each pool."""

    def __init__(
        self, pools: EmulatedPools, clock: Clock, account: ServiceAccount, cloud: RunningCloud, policy: Policy
    ) -> None:
        self._pools = pools
        self._clock = clock
        self._account = account
        self._cloud = cloud
        self._policy = policy
        self._project = policy.project
        zones = [state.spec.zone for state in pools.pools()]
        self.location = zones[0] if zones else "us-central1-a"

    def url(self, state: PoolState) -> str:
        """As GKE tells it: of the public address, whatever address it is reached by."""
        return (
            f"https://www.googleapis.com/compute/v1/projects/{self._project}/zones/{state.spec.zone}"
            f"/instanceGroupManagers/{group_name(self._pools.cluster, state.spec.name)}"
        )

    def shortage_text(self, state: PoolState) -> str:
        code, text = _SHORTAGES[state.shortage or "capacity"]
        return f"{code}: {text.format(zone=state.spec.zone)}"

    def app(self) -> web.Application:
        app = application()
        group = "/compute/v1/projects/{project}/zones/{zone}/instanceGroupManagers/{group}"
        app.router.add_post("/token", self._account.token)
        app.router.add_get(group, self._served("instanceGroupManagers.get", self._get))
        app.router.add_get(group + "/listErrors", self._served("instanceGroupManagers.listErrors", self._errors))
        app.router.add_post(
            group + "/deleteInstances",
            self._served("instanceGroupManagers.deleteInstances", self._delete_instances, writes=True),
        )
        return app

    def _served(
        self, action: str, answer: Answer, *, writes: bool = False
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def serve(request: web.Request) -> web.Response:
            try:
                if not self._account.tokens.accepts(request.headers.get("Authorization", "")):
                    raise ComputeError(401, "authError", "Invalid Credentials")
                self._cloud.log(action)
                lacking = self._policy.lacking(action)
                if lacking:
                    text = f"Required '{lacking}' permission for 'projects/{self._project}'"
                    raise ComputeError(403, "forbidden", text)
                fault = self._cloud.faults.take(writes=writes)
                _strike(fault, action)
                result = answer(self._state(request.match_info), await _json(request) if writes else None)
            except ComputeError as error:
                return web.json_response(error.body, status=error.status, headers=error.headers)
            if fault is not None and fault.kind == "lost-answer":
                await self._cloud.closing.wait()
            return web.json_response(result)

        return serve

    def _get(self, state: PoolState, _: Any) -> dict[str, Any]:
        running = sum(one.state == "running" for one in state.instances)
        pending = sum(one.state == "pending" for one in state.instances)
        leaving = sum(one.state == "terminating" for one in state.instances)
        return {
            "kind": "compute#instanceGroupManager",
            "name": group_name(self._pools.cluster, state.spec.name),
            "targetSize": state.desired,
            "currentActions": {"none": running, "creating": max(pending, state.desired - running), "deleting": leaving},
            "status": {"isStable": running == state.desired and not pending and not leaving},
        }

    def _errors(self, state: PoolState, _: Any) -> dict[str, Any]:
        if state.shortage is None:
            return {}
        code, text = _SHORTAGES[state.shortage]
        at = datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC).isoformat()
        error = {"code": code, "message": text.format(zone=state.spec.zone)}
        return {"items": [{"error": error, "timestamp": at, "instanceActionDetails": {"action": "CREATING"}}]}

    def _delete_instances(self, state: PoolState, body: Any) -> dict[str, Any]:
        named = body.get("instances")
        if not isinstance(named, list) or not named or not all(isinstance(one, str) for one in named):
            raise ComputeError(400, "invalid", "Invalid value for field 'instances': a list of instance URLs is wanted")
        mine = {
            name: one for one in state.instances if one.state != "terminating" for name in (one.instance_id, one.node)
        }
        for url in named:
            name = url.rpartition("/")[2]
            if name in mine:
                self._pools.remove(state.spec.name, mine[name].instance_id)
            elif body.get("skipInstancesOnValidationError") is not True:
                raise ComputeError(400, "invalid", f"The instance '{name[:80]}' is not a member of the group")
        return {"kind": "compute#operation", "name": f"operation-{secrets.token_hex(8)}", "status": "RUNNING"}

    def _state(self, asked: Mapping[str, str]) -> PoolState:
        for state in self._pools.pools():
            wanted = (self._project, state.spec.zone, group_name(self._pools.cluster, state.spec.name))
            if wanted == (asked["project"], asked["zone"], asked["group"]):
                return state
        raise ComputeError(404, "notFound", f"The resource '{asked['group'][:80]}' was not found")


def group_name(cluster: str, pool: str) -> str:
    return f"gke-{cluster}-{pool}-{hashlib.sha256(pool.encode()).hexdigest()[:8]}-grp"


def _strike(fault: Fault | None, action: str) -> None:
    """Raise what the script of faults has for this call."""
    if fault is None:
        return
    match fault.kind:
        case "throttled":
            raise ComputeError(403, "rateLimitExceeded", "Rate Limit Exceeded", fault.retry_after_seconds)
        case "capacity":
            raise ComputeError(503, "ZONE_RESOURCE_POOL_EXHAUSTED", "The zone has no such machine")
        case "quota":
            raise ComputeError(403, "quotaExceeded", "Quota 'NVIDIA_A100_GPUS' exceeded. Limit: 0.0")
        case "denied":
            raise ComputeError(403, "forbidden", f"Required 'compute.{action}' permission")
        case "unmapped":
            raise ComputeError(500, fault.code, "Something that nobody has heard of")


async def _json(request: web.Request) -> Any:
    try:
        parsed = json.loads(await request.read())
    except ValueError as error:
        raise ComputeError(400, "parseError", "Parse Error") from error
    if not isinstance(parsed, dict):
        raise ComputeError(400, "parseError", "The body is no JSON object")
    return parsed
