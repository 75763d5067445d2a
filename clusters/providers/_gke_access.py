"""Whether the identity may do what the adapter does, asked without changing anything.

Resource Manager's `projects.testIamPermissions` is asked first: it needs no permission itself. It answers for the whole
project, so a binding with a condition (on one cluster, say) does not show there; where it grants nothing, or cannot be
asked, harmless reads tell what they can. A read of what does not exist is refused to those without the permission
before it is looked for (Google's AIP-211), so "not found" means that it is allowed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from clusters.providers._gke_errors import one_line, status_of
from scheduler.model.cloud import AccessCheck
from scheduler.model.errors import AuthError, ExternalError, NotFoundError

LIST_CLUSTERS: Final = "container.clusters.list"
GET_CLUSTER: Final = "container.clusters.get"
UPDATE_CLUSTER: Final = "container.clusters.update"
CONNECT: Final = "container.clusters.connect"
GET_OPERATION: Final = "container.operations.get"
GET_GROUP: Final = "compute.instanceGroupManagers.get"
UPDATE_GROUP: Final = "compute.instanceGroupManagers.update"

NEEDED: Final = (LIST_CLUSTERS, GET_CLUSTER, UPDATE_CLUSTER, GET_OPERATION, GET_GROUP, UPDATE_GROUP)
"""As `deploy/iam/gke.yaml` grants them; CONNECT comes on top where a cluster is reached by its DNS name only."""

_DISABLED: Final = frozenset({"SERVICE_DISABLED", "accessNotConfigured"})

Probe = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Finding:
    allowed: bool | None
    detail: str
    code: str = ""
    error: ExternalError | None = None
    """Why nothing could be told."""


async def tried(probe: Probe) -> Finding:
    """What a harmless read says. Raises: AuthError when it is not the permission that lacks but the credentials."""
    try:
        await probe()
    except NotFoundError as error:
        return Finding(True, one_line(error))
    except AuthError as error:
        if status_of(error) != 403:
            raise
        return Finding(False, one_line(error), error.code)
    except ExternalError as error:
        return Finding(None, one_line(error), error.code, error)
    return Finding(True, "a read went well")


async def check(
    permissions: Iterable[str],
    asked: Callable[[], Awaitable[frozenset[str]]],
    probes: Mapping[str, Probe],
    *,
    project: str,
    identity: str,
) -> tuple[AccessCheck, ...]:
    """One row for each permission. `asked`: those that the project's policy grants.

    Raises: AuthError for unusable credentials; the ExternalError of the policy question when nothing can be told.
    """
    granted: frozenset[str] | None = None
    failure: ExternalError | None = None
    try:
        granted = await asked()
    except AuthError as error:
        if status_of(error) != 403:
            raise
        failure = error
    except ExternalError as error:
        failure = error
    rows = []
    for permission in permissions:
        finding = await _find(permission, granted, failure, probes.get(permission), project)
        rows.append(_row(permission, finding, project, identity))
    if failure is not None and all(row.allowed is None for row in rows):
        raise failure
    return tuple(rows)


async def _find(
    permission: str,
    granted: frozenset[str] | None,
    failure: ExternalError | None,
    probe: Probe | None,
    project: str,
) -> Finding:
    if granted is not None and permission in granted:
        return Finding(True, f"granted, says testIamPermissions of project {project}")
    if probe is not None:
        return await tried(probe)
    if granted is not None:
        return Finding(False, f"not granted in project {project}, says testIamPermissions")
    return Finding(None, one_line(f"cannot be asked: {failure}"))


def _row(permission: str, finding: Finding, project: str, identity: str) -> AccessCheck:
    if finding.allowed:
        return AccessCheck(permission, True, finding.detail)
    if finding.code in _DISABLED:
        service = permission.partition(".")[0]
        remedy = f"enable the API: gcloud services enable {service}.googleapis.com --project {project}"
    elif finding.allowed is None:
        remedy = f"enable cloudresourcemanager.googleapis.com in project {project}, so that it can be asked about"
    elif permission == CONNECT:
        remedy = f"add {permission} to the role, as the cluster is reached by its DNS name only (deploy/iam/README.md)"
    else:
        remedy = f"grant {identity} the role of deploy/iam/gke.yaml in project {project}; {permission} is of it"
    return AccessCheck(permission, finding.allowed, finding.detail, remedy)
