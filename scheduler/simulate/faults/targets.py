"""Where faults go."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from scheduler.simulate.faults.fault import Fault, Kind
from scheduler.simulate.faults.fleet import GPUS_PER_NODE
from scheduler.simulate.faults.kinds import KINDS
from scheduler.simulate.faults.telemetry import Telemetry


@dataclass(slots=True)
class Targets:
    """Chooses where a fault goes, and keeps faults apart."""

    last_on: dict[tuple[str, int], int] = field(default_factory=dict)
    apart_minutes: int = 150

    def choose(self, world: Telemetry, fault: Fault) -> bool:
        """Sets the fault's target; False where there is none just now."""
        kind, rng, fleet = KINDS[fault.kind], world.rng, world.fleet
        free = [node for node in range(fleet.nodes) if self._free("node", node, fault) and world.ready[node]
                and not world.cordoned[node]]  # fmt: skip
        match kind.about:
            case "service":
                options = [one for one in range(len(fleet.services)) if self._free("service", one, fault)]
            case "pool":
                options = [one for one in range(len(fleet.pools)) if self._free("pool", one, fault)]
            case "zone":
                whole = np.bincount(fleet.domain, minlength=len(fleet.domains))
                able = np.bincount(fleet.domain[free], minlength=len(fleet.domains))
                options = np.flatnonzero((whole == able) & (whole >= 4)).tolist()
            case "spot":
                options = [node for node in free if fleet.spot[node]]
            case "serving-gpu":
                options = [node for node in free if fleet.serves[node]]
            case _:
                options = [node for node in free if self._suits(world, node, fault, kind)]
        if not options:
            return False
        self._aim(world, fault, kind, int(options[int(rng.integers(len(options)))]))
        return True

    def _suits(self, world: Telemetry, node: int, fault: Fault, kind: Kind) -> bool:
        job = world.jobs.on(node)
        if job is None:
            return not kind.busy and not world.fleet.serves[node]
        needs = fault.minutes if kind.wants == ("memory.leak",) else min(fault.minutes, 60)
        settled, lasts = fault.starts - job.starts >= 40, job.ends - fault.starts >= needs + 5
        alone = all(self._free("node", one, fault) for one in job.nodes.tolist())
        return settled and lasts and alone and len(job.nodes) >= kind.least_nodes and job.hangs_from is None

    def _aim(self, world: Telemetry, fault: Fault, kind: Kind, choice: int) -> None:
        fleet = world.fleet
        if kind.about in ("service", "pool"):
            fault.target = choice
            fault.workload = fleet.services[choice] if kind.about == "service" else ""
            self.last_on[kind.about, choice] = fault.ends
            return
        if kind.about == "zone":
            fault.target, fault.nodes = choice, tuple(np.flatnonzero(fleet.domain == choice).tolist())
        else:
            fault.job = world.jobs.on(choice)
            fault.workload = fault.job.uid if fault.job else ""
            whole = kind.about == "job" and fault.job is not None
            fault.nodes = tuple(fault.job.nodes.tolist()) if whole and fault.job else (choice,)
            lane = int(world.rng.integers(GPUS_PER_NODE))
            fault.target = choice * GPUS_PER_NODE + lane if kind.about.endswith("gpu") else choice
            service = int(fleet.service_of[choice * GPUS_PER_NODE + lane])
            if service >= 0:
                fault.workload = fleet.services[service]
                self.last_on["service", service] = fault.ends
        touched = set(fault.nodes)
        for node in fault.nodes:
            job = world.jobs.on(node)
            touched.update(job.nodes.tolist() if job else ())
        for node in touched:
            self.last_on["node", node] = fault.ends

    def _free(self, what: str, number: int, fault: Fault) -> bool:
        return fault.starts >= self.last_on.get((what, number), -self.apart_minutes) + self.apart_minutes
