"""What the emulated service account may do in its Google project, and Resource Manager's question about it (REST).

Source of the permissions: GKE's "API permissions" page and the reference of each Compute Engine method.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aiohttp import web

from clusters.sandbox.clouds.google_tokens import ServiceAccount
from clusters.sandbox.clouds.running import RunningCloud

ASKED: Final = "projects.testIamPermissions"
_NEEDED: Final = {
    "ListClusters": "container.clusters.list",
    "GetCluster": "container.clusters.get",
    "ListNodePools": "container.clusters.get",
    "GetNodePool": "container.clusters.get",
    "SetNodePoolSize": "container.clusters.update",
    "GetOperation": "container.operations.get",
    "ListOperations": "container.operations.list",
    "instanceGroupManagers.get": "compute.instanceGroupManagers.get",
    "instanceGroupManagers.listErrors": "compute.instanceGroupManagers.get",
    "instanceGroupManagers.deleteInstances": "compute.instanceGroupManagers.update",
}
_KNOWN: Final = frozenset({*_NEEDED.values(), "container.clusters.connect", "container.clusters.getCredentials"})
_MOST: Final = 100
"""Permissions in one question."""


class Policy:
    """The account's permissions; `granted` may be changed while the cloud runs."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.granted = set(_NEEDED.values())

    def lacking(self, action: str) -> str:
        """The permission that `action` needs and the account has not; "" when it may."""
        needed = _NEEDED[action]
        return "" if needed in self.granted else needed


class ResourceManager:
    """`projects.testIamPermissions`, which needs no permission."""

    def __init__(self, policy: Policy, account: ServiceAccount, cloud: RunningCloud) -> None:
        self._policy = policy
        self._account = account
        self._cloud = cloud

    def serve_on(self, app: web.Application) -> None:
        app.router.add_post("/v1/projects/{project:[^/:]+}:testIamPermissions", self._test)

    async def _test(self, request: web.Request) -> web.Response:
        if not self._account.tokens.accepts(request.headers.get("Authorization", "")):
            return _refusal(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        self._cloud.log(ASKED)
        fault = self._cloud.faults.take(writes=False)
        kind = fault.kind if fault is not None else ""
        if fault is not None and kind == "throttled":
            return _refusal(429, "RESOURCE_EXHAUSTED", "Quota exceeded for 'requests'.", fault.retry_after_seconds)
        if kind == "denied" or request.match_info["project"] != self._policy.project:
            return _refusal(403, "PERMISSION_DENIED", "The caller does not have permission")
        if fault is not None and kind == "unmapped":
            return _refusal(500, fault.code, "Something that nobody has heard of")
        asked = _permissions(await request.read())
        if asked is None:
            return _refusal(400, "INVALID_ARGUMENT", "A permission is not valid for projects.")
        if kind == "lost-answer":
            await self._cloud.closing.wait()
        granted = [one for one in asked if one in self._policy.granted]
        return web.json_response({"permissions": granted} if granted else {})


def _permissions(body: bytes) -> list[str] | None:
    """None: not a list of known permissions."""
    try:
        asked: Any = json.loads(body)["permissions"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(asked, list) or len(asked) > _MOST or not all(one in _KNOWN for one in map(str, asked)):
        return None
    return [str(one) for one in asked]


def _refusal(status: int, word: str, message: str, retry_after: int | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return web.json_response(
        {"error": {"code": status, "message": message, "status": word}}, status=status, headers=headers
    )
