"""What our identity may do, asked without changing anything.

Reading is asked by reading (which tells of service control policies and endpoint policies too), EC2 by its dry run,
and writing by IAM's policy simulation where we may ask for it. AWS authorizes a request before it looks for what the
request names, so that "there is no such thing" means that we may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clusters.providers._eks_calls import AwsCalls
from clusters.providers._eks_errors import one_line
from clusters.providers._eks_status import scaling_groups
from scheduler.model.cloud import AccessCheck
from scheduler.model.errors import AuthError, ExternalError, NotFoundError, TransientError

_POLICY: Final = "deploy/iam/eks.json"
_NO_GROUP: Final = "overspill-access-check"
_NO_UPDATE: Final = "00000000-0000-0000-0000-000000000000"
_IDENTITY: Final = re.compile(r"arn:([\w-]+):(iam|sts)::(\d+):([\w-]+)/?(.*)")
_DRY_RUN: Final = "DryRunOperation"


@dataclass
class _Place:
    """What was learnt on the way about what there is to ask for."""

    group: Mapping[str, Any]
    scaling: Mapping[str, Any]


class AccessProbe:
    """Asks one thing after the other."""

    def __init__(self, aws: AwsCalls, cluster: str, region: str) -> None:
        self._aws = aws
        self._cluster = cluster
        self._region = region
        self._checks: list[AccessCheck] = []

    async def run(self) -> tuple[AccessCheck, ...]:
        """Raises: AuthError when AWS does not know us; ExternalError when it answers nothing at all."""
        identity, silence = "", None
        try:
            identity = (await self._aws.ask("sts", "GetCallerIdentity")).get("Arn", "")  # nobody can be denied this
        except AuthError:
            raise
        except ExternalError as error:  # STS may be out of reach where the rest is not
            silence = error
        place = await self._read()
        if silence is not None and all(check.allowed is None for check in self._checks):
            raise silence
        await self._ask_about_writes(identity, place)
        return tuple(self._checks)

    async def _read(self) -> _Place:
        cluster = {"clusterName": self._cluster}
        await self._tried("eks", "ListClusters", maxResults=1)
        await self._tried("eks", "DescribeCluster", name=self._cluster)
        names = (await self._tried("eks", "ListNodegroups", maxResults=100, **cluster)).get("nodegroups") or []
        name = min(names, default=_NO_GROUP)
        group = (await self._tried("eks", "DescribeNodegroup", nodegroupName=name, **cluster)).get("nodegroup") or {}
        of_group = {"name": self._cluster, "nodegroupName": name}
        updates = (await self._tried("eks", "ListUpdates", maxResults=1, **of_group)).get("updateIds") or []
        await self._tried("eks", "DescribeUpdate", updateId=updates[0] if updates else _NO_UPDATE, **of_group)
        wanted = {"AutoScalingGroupNames": scaling_groups(group)[:1]} if scaling_groups(group) else {"MaxRecords": 1}
        found = await self._tried("autoscaling", "DescribeAutoScalingGroups", **wanted)
        await self._tried("autoscaling", "DescribeAutoScalingInstances", MaxRecords=1)
        await self._tried("ec2", "DescribeInstanceTypes", DryRun=True)
        mine = found.get("AutoScalingGroups") if scaling_groups(group) else None
        return _Place(group, mine[0] if mine else {})

    async def _tried(self, service: str, action: str, **arguments: Any) -> dict[str, Any]:
        """The answer, {} without one; what it means for `action` is noted."""
        name = f"{service}:{action}"
        try:
            answer = await self._aws.ask(service, action, **arguments)
        except NotFoundError as error:
            self._note(name, True, str(error))
        except AuthError as error:
            remedy = f"allow {name} to the identity that is configured, as in {_POLICY}"
            self._note(name, False, str(error), remedy)
        except ExternalError as error:
            if error.code == _DRY_RUN:
                self._note(name, True, "dry run")
            else:
                self._note(name, None, str(error), "AWS did not tell; ask again")
        else:
            self._note(name, True)
            return answer
        return {}

    async def _ask_about_writes(self, identity: str, place: _Place) -> None:
        partition, account = _account(identity)
        region = f"{self._region}:{account}"
        group = place.group.get("nodegroupArn") or f"arn:{partition}:eks:{region}:nodegroup/{self._cluster}/*/*"
        scaling = place.scaling.get("AutoScalingGroupARN") or (
            f"arn:{partition}:autoscaling:{region}:autoScalingGroup:*:autoScalingGroupName/eks-*"
        )
        tags = {tag["Key"]: tag.get("Value") or "" for tag in place.scaling.get("Tags") or []}
        tags.setdefault("eks:cluster-name", self._cluster)
        source = policy_source(identity, self._aws.clients.role_arn())
        await self._simulated(source, "eks:UpdateNodegroupConfig", group, {})
        await self._simulated(source, "autoscaling:TerminateInstanceInAutoScalingGroup", scaling, tags)

    async def _simulated(self, source: str | None, name: str, resource: str, tags: Mapping[str, str]) -> None:
        if source is None:
            text = "IAM can simulate the policies of users and roles only"
            self._note(name, None, text, "configure a role with the policy of " + _POLICY)
            return
        context = [
            {"ContextKeyName": f"aws:ResourceTag/{key}", "ContextKeyValues": [value], "ContextKeyType": "string"}
            for key, value in sorted(tags.items())
        ]
        try:
            answer = await self._aws.ask(
                "iam",
                "SimulatePrincipalPolicy",
                PolicySourceArn=source,
                ActionNames=[name],
                ResourceArns=[resource],
                ContextEntries=context,
            )
        except ExternalError as error:
            remedy = f"to have it checked, allow iam:SimulatePrincipalPolicy on {source}, as in {_POLICY}"
            self._note(name, None, str(error), remedy)
            return
        allowed, detail = verdict(answer.get("EvaluationResults") or [])
        remedy = "" if allowed else f"allow {name} on {resource} to {source}, as in {_POLICY}"
        self._note(name, allowed, detail, remedy)

    def _note(self, name: str, allowed: bool | None, detail: str = "", remedy: str = "") -> None:
        self._checks.append(AccessCheck(name, allowed, one_line(detail), remedy))


def policy_source(identity: str, configured_role: str) -> str | None:
    """The ARN whose policies speak for `identity` (what GetCallerIdentity says); None: IAM cannot simulate it.

    A session of a role does not tell the role's path, which its ARN needs: `configured_role` does where it names the
    same role; otherwise it is taken to have none.
    """
    found = _IDENTITY.fullmatch(identity)
    if found is None:
        return None
    partition, _, account, sort, name = found.groups()
    if sort in ("user", "role"):
        return identity
    if sort != "assumed-role":
        return None  # the account's root, or a federated user
    role = name.partition("/")[0]
    if configured_role.startswith(f"arn:{partition}:iam::{account}:role/") and configured_role.endswith(f"/{role}"):
        return configured_role
    return f"arn:{partition}:iam::{account}:role/{role}"


def verdict(results: Sequence[Mapping[str, Any]]) -> tuple[bool | None, str]:
    """What IAM's simulation of one action says: allowed (None: it cannot tell), and why."""
    if not results:
        raise TransientError("eks: SimulatePrincipalPolicy: no result", code="Malformed")
    result = results[0]
    decision = result.get("EvalDecision", "")
    bounds = {
        "a service control policy": (result.get("OrganizationsDecisionDetail") or {}).get("AllowedByOrganizations"),
        "the permissions boundary": (result.get("PermissionsBoundaryDecisionDetail") or {}).get(
            "AllowedByPermissionsBoundary"
        ),
    }
    forbidding = [name for name, allows in bounds.items() if allows is False]
    if forbidding:
        return False, f"{forbidding[0]} does not allow it"
    if decision == "implicitDeny" and result.get("MissingContextValues"):
        return None, f"depends on {', '.join(result['MissingContextValues'])}"
    return decision == "allowed", f"policy simulation: {decision}"


def _account(identity: str) -> tuple[str, str]:
    found = _IDENTITY.fullmatch(identity)
    return (found[1], found[3]) if found else ("aws", "*")
