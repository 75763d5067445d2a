"""An in-memory `EmulatedPools` whose shortages are scripted, and a clock that moves when told: doubles for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from clusters.sandbox.ports import Instance, PoolSpec, PoolState
from scheduler.model.ids import Instant

PROVIDER_IDS: dict[str, Callable[[str, str], tuple[str, str, str]]] = {
    "eks": lambda pool, number: (
        f"i-{int(number):017x}",
        f"aws:///us-east-1a/i-{int(number):017x}",
        f"ip-10-0-0-{number}.ec2.internal",
    ),
    "gke": lambda pool, number: (
        f"gke-burst-{pool}-{number}",
        f"gce://overspill-sandbox/us-east-1a/gke-burst-{pool}-{number}",
        f"gke-burst-{pool}-{number}",
    ),
    "aks": lambda pool, number: (
        f"aks-{pool}-vmss{int(number):06d}",
        f"azure:///subscriptions/s/resourceGroups/mc/providers/Microsoft.Compute/virtualMachineScaleSets/"
        f"aks-{pool}-vmss/virtualMachines/{number}",
        f"aks-{pool}-vmss{int(number):06d}",
    ),
}


class SteppedClock:
    """Stands still until `advance`."""

    def __init__(self, start: Instant = 1_800_000_000.0) -> None:
        self._now = start

    def now(self) -> Instant:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    async def sleep(self, seconds: float) -> None:
        self._now += seconds
        await asyncio.sleep(0)


def pool_spec(name: str, *, capacity_type: str = "on-demand", min_nodes: int = 0, max_nodes: int = 8) -> PoolSpec:
    return PoolSpec(
        name=name,
        instance_type="gpu.8xlarge",
        capacity_type=capacity_type,
        min_nodes=min_nodes,
        max_nodes=max_nodes,
        cpu="96",
        memory="960Gi",
        gpus=8,
        gpu_model="A100-40GB",
        gpu_memory="40Gi",
        usd_per_hour="9.62",
        zone="us-east-1a",
        provisioning_seconds=240,
        labels=(("team", "ml"),),
        taints=(("nvidia.com/gpu", "present", "NoSchedule"),),
    )


@dataclass
class ScriptedPools:
    """Machines appear at once, all running, unless `short` names the pool: then none comes and the reason is told."""

    provider: str
    specs: Sequence[PoolSpec]
    clock: SteppedClock
    cluster: str = "burst"
    short: dict[str, str] = field(default_factory=dict)
    _states: dict[str, PoolState] = field(default_factory=dict)
    _launched: int = 0

    def __post_init__(self) -> None:
        for spec in self.specs:
            self._states[spec.name] = PoolState(spec, 0, (), None, resizing=False)

    def pools(self) -> tuple[PoolState, ...]:
        return tuple(self._states.values())

    def state(self, pool: str) -> PoolState:
        return self._states[pool]

    def resize(self, pool: str, desired: int) -> None:
        state = self._states[pool]
        if not state.spec.min_nodes <= desired <= state.spec.max_nodes:
            raise ValueError(f"{desired} is outside {state.spec.min_nodes}..{state.spec.max_nodes}")
        instances = state.instances[:desired]
        shortage = self.short.get(pool) if desired > len(instances) else None
        while shortage is None and len(instances) < desired:
            instances = (*instances, self._launch(pool))
        self._states[pool] = replace(state, desired=desired, instances=instances, shortage=shortage)

    def remove(self, pool: str, instance_or_node: str) -> None:
        state = self._states[pool]
        left = tuple(one for one in state.instances if instance_or_node not in _names(one))
        if len(left) < len(state.instances):
            self._states[pool] = replace(state, desired=state.desired - 1, instances=left)

    def _launch(self, pool: str) -> Instance:
        self._launched += 1
        instance_id, provider_id, node = PROVIDER_IDS[self.provider](pool, str(self._launched))
        return Instance(instance_id, provider_id, node, "running", self.clock.now())


def _names(one: Instance) -> tuple[str, str, str]:
    return one.instance_id, one.provider_id, one.node
