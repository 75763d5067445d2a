"""Gauges that a site scrapes by queries of its own, of which no rule knows.

They are drawn apart from the rest of the telemetry, so that a seed's other samples are the same with and without them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scheduler.aiops.series import Floats
from scheduler.simulate.faults.fleet import Fleet

_DAY = 1440


class SiteGauges:
    """What a site's own queries give; `gpu` and `node` are columns by metric. Faults change the arrays."""

    def __init__(self, fleet: Fleet, rng: np.random.Generator) -> None:
        self.rng = rng
        nodes, gpus = fleet.nodes, fleet.gpus
        self._usual_errors = rng.gamma(0.5, 0.2, nodes)
        self._usual_latency = rng.uniform(0.3e-3, 1.2e-3, nodes)
        self._latency_noise, self._level_noise = np.zeros(nodes), np.zeros(nodes)
        self._usual_level = rng.uniform(20.0, 60.0, nodes)
        self._usual_replays = rng.gamma(0.5, 0.02, gpus)
        self.errors = self.disk_latency = self.level = np.zeros(nodes)
        self.replays = np.zeros(gpus)

    def advance(self, minute: int) -> None:
        """Host network errors a second (bursts are ordinary), disk latency (an hour's backup each night), a level that
        follows the day, and link replays a second."""
        rng, nodes = self.rng, len(self._usual_errors)
        bursts = np.where(rng.random(nodes) < 2e-4, rng.uniform(0.5, 4.0, nodes), 0.0)
        self.errors = rng.poisson(60.0 * self._usual_errors) / 60.0 + bursts
        self._latency_noise = 0.8 * self._latency_noise + rng.normal(0.0, 0.08, nodes)
        backup = 1.6 if 120 <= minute % _DAY < 180 else 1.0
        self.disk_latency = self._usual_latency * backup * np.exp(self._latency_noise)
        self._level_noise = 0.95 * self._level_noise + rng.normal(0.0, 0.3, nodes)
        self.level = self._usual_level + 4.0 * np.sin(2 * np.pi * minute / _DAY) + self._level_noise
        self.replays = rng.poisson(60.0 * self._usual_replays) / 60.0

    def node(self) -> Mapping[str, Floats]:
        return {
            "node_network_errors_per_second": self.errors,
            "node_disk_latency_seconds": self.disk_latency,
            "node_coolant_celsius": self.level,
        }

    def gpu(self) -> Mapping[str, Floats]:
        return {"gpu_link_replays_per_second": self.replays}
