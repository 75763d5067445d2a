"""Emulated Auto Scaling (the groups behind node groups) and what EC2 tells of instance types."""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import escape

from clusters.sandbox.clouds._eks_wire import ACCOUNT, AwsError, QueryHandler, listed, region_of, resize
from clusters.sandbox.ports import EmulatedPools, Instance, PoolSpec, PoolState

_LIFECYCLES: Final = {"pending": "Pending", "running": "InService", "terminating": "Terminating"}
_MIB: Final = {"Mi": 1, "Gi": 1024, "Ti": 1024 * 1024}


def scaling_group(pool: str) -> str:
    """The name of the Auto Scaling group behind a node group, made as EKS makes it."""
    return f"eks-{pool}-{hashlib.sha256(pool.encode()).hexdigest()[:8]}"


class ScalingGroups:
    """Auto Scaling, and EC2's instance types, over one cluster's pools."""

    def __init__(self, pools: EmulatedPools) -> None:
        self._pools = pools

    def actions(self) -> dict[tuple[str, str], tuple[QueryHandler, bool]]:
        """Handlers by service and action, and whether they write."""
        return {
            ("autoscaling", "DescribeAutoScalingGroups"): (self._describe_groups, False),
            ("autoscaling", "DescribeAutoScalingInstances"): (self._describe_instances, False),
            ("autoscaling", "TerminateInstanceInAutoScalingGroup"): (self._terminate, True),
            ("autoscaling", "SetDesiredCapacity"): (self._set_desired, True),
            ("ec2", "DescribeInstanceTypes"): (self._describe_types, False),
        }

    def _describe_groups(self, form: Mapping[str, str]) -> str:
        wanted = listed(form, "AutoScalingGroupNames")
        found = [one for one in self._pools.pools() if not wanted or scaling_group(one.spec.name) in wanted]
        members = "".join(f"<member>{self._group_xml(one)}</member>" for one in found)
        return f"<AutoScalingGroups>{members}</AutoScalingGroups>"

    def _group_xml(self, state: PoolState) -> str:
        spec, name = state.spec, scaling_group(state.spec.name)
        arn = (
            f"arn:aws:autoscaling:{region_of(self._pools)}:{ACCOUNT}:autoScalingGroup:"
            f"{uuid.uuid5(uuid.NAMESPACE_DNS, name)}:autoScalingGroupName/{name}"
        )
        instances = "".join(f"<member>{_instance_xml(one, state)}</member>" for one in state.instances)
        return (
            f"<AutoScalingGroupName>{name}</AutoScalingGroupName><AutoScalingGroupARN>{arn}</AutoScalingGroupARN>"
            f"<MinSize>{spec.min_nodes}</MinSize><MaxSize>{spec.max_nodes}</MaxSize>"
            f"<DesiredCapacity>{state.desired}</DesiredCapacity><DefaultCooldown>300</DefaultCooldown>"
            f"<HealthCheckType>EC2</HealthCheckType><CreatedTime>2026-01-01T00:00:00Z</CreatedTime>"
            f"<AvailabilityZones><member>{escape(spec.zone)}</member></AvailabilityZones>"
            f"<MixedInstancesPolicy><LaunchTemplate><Overrides><member><InstanceType>{escape(spec.instance_type)}"
            f"</InstanceType></member></Overrides></LaunchTemplate></MixedInstancesPolicy>"
            f"<Instances>{instances}</Instances><Tags>{self._tags_xml(name, spec)}</Tags>"
        )

    def _tags_xml(self, group: str, spec: PoolSpec) -> str:
        """EKS tags every group for the cluster-autoscaler's auto-discovery, whether one runs or not."""
        cluster = self._pools.cluster
        tags = {
            "eks:cluster-name": cluster,
            "eks:nodegroup-name": spec.name,
            "k8s.io/cluster-autoscaler/enabled": "true",
            f"k8s.io/cluster-autoscaler/{cluster}": "owned",
            f"kubernetes.io/cluster/{cluster}": "owned",
        }
        return "".join(
            f"<member><ResourceId>{group}</ResourceId><ResourceType>auto-scaling-group</ResourceType>"
            f"<Key>{escape(key)}</Key><Value>{escape(value)}</Value><PropagateAtLaunch>true</PropagateAtLaunch></member>"
            for key, value in tags.items()
        )

    def _describe_instances(self, form: Mapping[str, str]) -> str:
        wanted = listed(form, "InstanceIds")
        members = "".join(
            f"<member>{_instance_xml(one, state)}<AutoScalingGroupName>{scaling_group(state.spec.name)}"
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
            if any(one.instance_id == instance for one in state.instances):
                if state.desired <= state.spec.min_nodes:
                    message = f"Currently, desiredSize equals minSize ({state.desired}). Terminating instance without"
                    raise AwsError(400, "ValidationError", f"{message} replacement will violate group's min size.")
                self._pools.remove(state.spec.name, instance)
                return (
                    f"<Activity><ActivityId>{secrets.token_hex(16)}</ActivityId><StatusCode>InProgress</StatusCode>"
                    f"<AutoScalingGroupName>{scaling_group(state.spec.name)}</AutoScalingGroupName>"
                    f"<Cause>user request</Cause><StartTime>2026-01-01T00:00:00Z</StartTime></Activity>"
                )
        message = f"Instance Id not found - No managed instance found for instance ID: {instance[:40]}"
        raise AwsError(400, "ValidationError", message)

    def _set_desired(self, form: Mapping[str, str]) -> str:
        name, desired = form.get("AutoScalingGroupName", ""), form.get("DesiredCapacity", "")
        found = [state for state in self._pools.pools() if scaling_group(state.spec.name) == name]
        if not found or not desired.isdigit():
            raise AwsError(400, "ValidationError", "AutoScalingGroup name not found, or DesiredCapacity is no number")
        resize(self._pools, found[0], int(desired))
        return ""

    def _describe_types(self, form: Mapping[str, str]) -> str:
        if form.get("DryRun") == "true":
            raise AwsError(412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
        specs = {state.spec.instance_type: state.spec for state in self._pools.pools()}
        wanted = listed(form, "InstanceType") or sorted(specs)
        unknown = [one for one in wanted if one not in specs]
        if unknown:
            message = f"The following supplied instance types do not exist: [{', '.join(unknown)[:200]}]"
            raise AwsError(400, "InvalidInstanceType", message)
        return f"<instanceTypeSet>{''.join(_type_xml(specs[one]) for one in wanted)}</instanceTypeSet>"


def _type_xml(spec: PoolSpec) -> str:
    gpu_mib = _mib(spec.gpu_memory)
    # AWS names the chip; its memory stands apart.
    gpus = (
        f"<gpuInfo><gpus><item><name>{escape(spec.gpu_model.partition('-')[0])}</name>"
        f"<manufacturer>NVIDIA</manufacturer><count>{spec.gpus}</count><memoryInfo><sizeInMiB>{gpu_mib}</sizeInMiB>"
        f"</memoryInfo></item></gpus><totalGpuMemoryInMiB>{gpu_mib * spec.gpus}</totalGpuMemoryInMiB></gpuInfo>"
    )
    return (
        f"<item><instanceType>{escape(spec.instance_type)}</instanceType><vCpuInfo><defaultVCpus>{escape(spec.cpu)}"
        f"</defaultVCpus></vCpuInfo><memoryInfo><sizeInMiB>{_mib(spec.memory)}</sizeInMiB></memoryInfo>"
        f"{gpus if spec.gpus else ''}</item>"
    )


def _mib(quantity: str) -> int:
    """Of a quantity such as 960Gi; 0 for one in other units."""
    found = re.fullmatch(r"(\d+)(Mi|Gi|Ti)", quantity)
    return int(found[1]) * _MIB[found[2]] if found else 0


def _instance_xml(one: Instance, state: PoolState) -> str:
    return (
        f"<InstanceId>{escape(one.instance_id)}</InstanceId><InstanceType>{escape(state.spec.instance_type)}</InstanceType>"
        f"<AvailabilityZone>{escape(state.spec.zone)}</AvailabilityZone><LifecycleState>{_LIFECYCLES[one.state]}"
        f"</LifecycleState><HealthStatus>Healthy</HealthStatus><ProtectedFromScaleIn>false</ProtectedFromScaleIn>"
    )
