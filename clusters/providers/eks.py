"""Amazon EKS managed node groups, by boto3: the EKS API resizes them, the Auto Scaling API gives back a named node.

The SDK's own retries are off (one attempt): the daemon's next pass is the only retry. The wanted size is read from the
Auto Scaling group, which a termination lowers at once; the node group follows it later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from clusters.providers._eks_access import AccessProbe
from clusters.providers._eks_calls import AwsCalls, Endpoints, Settings
from clusters.providers._eks_errors import typed_error
from clusters.providers._eks_login import log_in
from clusters.providers._eks_machines import InstanceTypes
from clusters.providers._eks_status import GroupFacts, cloud_cluster, pool_status, scaling_groups
from clusters.providers._eks_updates import Updates
from clusters.providers._shortages import ShortageLedger
from scheduler.model.cloud import AccessCheck, CloudCluster, ClusterLogin
from scheduler.model.errors import (
    AuthError,
    ExternalError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    TransientError,
)
from scheduler.model.ids import NodeName, PoolId
from scheduler.model.ports import Clock, PoolStatus

__all__ = ["Endpoints", "NodeGroups", "Settings", "create"]

_INSTANCE_ID: Final = re.compile(r"aws://.*/(i-[0-9a-z]+)")
_GROUPS_A_CALL: Final = 50


class NodeGroups:
    """The managed node groups of one EKS cluster."""

    def __init__(self, settings: Settings, *, clock: Clock) -> None:
        self._cluster = settings.cluster_name
        self._region = settings.region
        self._autoscaler_tags = settings.cluster_autoscaler
        self._aws = AwsCalls(settings)
        self._types = InstanceTypes(self._aws, clock)
        self._updates = Updates(self._aws, self._cluster, clock)
        self._shortages = ShortageLedger(clock)

    async def list_pools(self) -> tuple[PoolStatus, ...]:
        names = await self._aws.all("eks", "ListNodegroups", "nodegroups", clusterName=self._cluster, maxResults=100)
        groups = []
        for name in sorted(names):
            try:
                groups.append(await self._describe(name))
            except NotFoundError:
                continue  # deleted since it was listed
        found = await self._facts(groups)
        gpus = await self._types.gpus(one for facts in found for one in facts.instance_types)
        return tuple(
            pool_status(
                facts,
                gpus,
                self._updates.failure(facts.name, running_nodes=facts.running_nodes, desired_nodes=facts.desired_nodes),
                self._shortages,
            )
            for facts in found
        )

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        """Nothing is sent when the size is right already; TransientError `PoolBusy` while another resize runs,
        RefusedError `Autoscaled` when another autoscaler owns the size."""
        (facts,) = await self._facts([await self._describe(pool)], updates=False)
        _refuse_autoscaled(facts)
        if facts.desired_nodes == desired_nodes:
            self._updates.settled(pool)
            return
        scaling = facts.group.get("scalingConfig", {})
        least, most = scaling.get("minSize", 0), scaling.get("maxSize", 0)
        if not least <= desired_nodes <= most:
            raise RefusedError(
                f"eks: {pool}: {desired_nodes} nodes is outside the node group's {least}..{most};"
                " change its scalingConfig or the pool's minNodes and maxNodes",
                code="OutOfRange",
            )
        if facts.busy or await self._updates.look(facts.group):
            raise TransientError(f"eks: {pool}: another resize is under way", code="PoolBusy")
        update = await self._resize(pool, desired_nodes)
        if update.get("status") == "Failed":
            first = (update.get("errors") or [{}])[0]
            raise typed_error(f"eks: {pool}", first.get("errorCode", ""), first.get("errorMessage", ""), None)
        self._updates.begun(pool, update, desired_nodes)

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        found = _INSTANCE_ID.fullmatch(provider_id)
        if found is None:
            raise RefusedError(f"eks: {node}: provider id {provider_id!r} names no EC2 instance", code="BadProviderId")
        instance = found[1]
        answer = await self._aws.ask("autoscaling", "DescribeAutoScalingInstances", InstanceIds=[instance])
        there = [one for one in answer["AutoScalingInstances"] if not one["LifecycleState"].startswith("Terminat")]
        if not there:
            return
        (facts,) = await self._facts([await self._describe(pool)], updates=False)
        if there[0]["AutoScalingGroupName"] not in scaling_groups(facts.group):
            raise RefusedError(f"eks: {node}: instance {instance} is not of node group {pool}", code="OtherPool")
        _refuse_autoscaled(facts)
        try:
            await self._aws.ask(
                "autoscaling",
                "TerminateInstanceInAutoScalingGroup",
                writes=True,
                InstanceId=instance,
                ShouldDecrementDesiredCapacity=True,
            )
        except RefusedError as error:
            if "not found" not in str(error):  # gone since we looked
                raise
        else:
            self._updates.lowered(pool)

    async def list_clusters(self) -> tuple[CloudCluster, ...]:
        """Those of the region. One that we may not look at is told by name, with AWS's word for it as its status."""
        names = await self._aws.all("eks", "ListClusters", "clusters", maxResults=100)
        found = []
        for name in sorted(names):
            try:
                answer = await self._aws.ask("eks", "DescribeCluster", name=name)
            except NotFoundError:
                continue  # deleted since it was listed
            except AuthError as error:
                if name == self._cluster:
                    raise
                found.append(CloudCluster(name, self._region, version=None, endpoint=None, status=error.code))
            else:
                found.append(cloud_cluster(answer["cluster"], self._region))
        return tuple(found)

    async def log_in(self) -> ClusterLogin:
        answer = await self._aws.ask("eks", "DescribeCluster", name=self._cluster)
        return await log_in(self._aws, answer["cluster"])

    async def check_access(self) -> tuple[AccessCheck, ...]:
        return await AccessProbe(self._aws, self._cluster, self._region).run()

    async def close(self) -> None:
        await self._aws.close()

    async def _resize(self, pool: PoolId, desired_nodes: int) -> Mapping[str, Any]:
        """The update that EKS began. Its token is kept while nobody knows whether the request arrived."""
        try:
            answer = await self._aws.ask(
                "eks",
                "UpdateNodegroupConfig",
                writes=True,
                clusterName=self._cluster,
                nodegroupName=pool,
                scalingConfig={"desiredSize": desired_nodes},
                clientRequestToken=self._updates.token(pool, desired_nodes),
            )
        except (OutcomeUnknownError, TransientError):
            raise
        except ExternalError:
            self._updates.settled(pool)
            raise
        update: Mapping[str, Any] = answer.get("update") or {}
        self._updates.settled(pool)
        return update

    async def _describe(self, pool: str) -> dict[str, Any]:
        answer = await self._aws.ask("eks", "DescribeNodegroup", clusterName=self._cluster, nodegroupName=pool)
        group: dict[str, Any] = answer["nodegroup"]
        return group

    async def _facts(self, groups: Sequence[Mapping[str, Any]], *, updates: bool = True) -> list[GroupFacts]:
        """What is known of each of `groups`; an Auto Scaling group that is not to be seen is left out."""
        names = [name for group in groups for name in scaling_groups(group)]
        known: dict[str, Mapping[str, Any]] = {}
        for start in range(0, len(names), _GROUPS_A_CALL):
            answer = await self._aws.ask(
                "autoscaling",
                "DescribeAutoScalingGroups",
                AutoScalingGroupNames=names[start : start + _GROUPS_A_CALL],
                MaxRecords=_GROUPS_A_CALL,
            )
            known.update((one["AutoScalingGroupName"], one) for one in answer["AutoScalingGroups"])
        return [
            GroupFacts(
                group=group,
                scaling=tuple(known[name] for name in scaling_groups(group) if name in known),
                updating=await self._updates.look(group) if updates else False,
                target=self._updates.target(group["nodegroupName"]),
                autoscaler_tags=self._autoscaler_tags,
            )
            for group in groups
        ]


def create(settings: Settings, *, clock: Clock) -> NodeGroups:
    """The provider. Raises: AuthError when the profile or the credentials file cannot be used; InvalidObjectError."""
    return NodeGroups(settings, clock=clock)


def _refuse_autoscaled(facts: GroupFacts) -> None:
    tag = facts.owner_tag
    if tag is None:
        return
    raise RefusedError(
        f"eks: {facts.name}: another autoscaler owns its size, says the tag {tag}; set `scaling: external` for the"
        " pool, or hand it over: delete the tag from its Auto Scaling group, or leave out `clusterAutoscaler` for the"
        " provider where no cluster-autoscaler runs",
        code="Autoscaled",
    )
