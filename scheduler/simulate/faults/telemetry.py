"""Each minute's samples of the whole fleet, with what is ordinary and must not alarm.

Jobs start, load, pause for checkpoints and stop; serving follows the day; services are rolled out; temperatures follow
load and season; power caps; single corrected errors, PCIe replays and NVLink CRC errors; bugs of single users with
their Xid codes; maintenance behind a cordon; decode that is bound by memory; caches that fill up; scrapes that fail.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.findings import Table
from scheduler.aiops.series import Floats
from scheduler.simulate.faults.fleet import GPUS_PER_NODE, Fleet
from scheduler.simulate.faults.jobs import Jobs
from scheduler.simulate.faults.site_gauges import SiteGauges

START_SECONDS = 1_767_571_200.0
"""A Monday, 00:00 UTC."""
MAX_POWER_WATTS, IDLE_POWER_WATTS = 700.0, 75.0
GPU_MEMORY_BYTES, NODE_MEMORY_BYTES = 80 * 2.0**30, 2048 * 2.0**30
BASE_CLOCK_HERTZ = 1.98e9
_DAY = 1440


class Telemetry:
    """The fleet's true state, and what of it is seen in a minute. Faults change the arrays between `advance` and
    `tables`."""

    def __init__(
        self, fleet: Fleet, jobs: Jobs, rng: np.random.Generator, recorded: Floats | None = None,
        site: SiteGauges | None = None,
    ) -> None:  # fmt: skip
        self.fleet, self.jobs, self.rng = fleet, jobs, rng
        self._site = site
        gpus, nodes, services = fleet.gpus, fleet.nodes, len(fleet.services)
        self._recorded = recorded
        """Duty cycles of real serving GPUs (minutes by pod), instead of drawn ones."""
        self._recorded_at = rng.integers(0, 1 << 30, gpus)
        self._warmth = rng.normal(0.0, 1.5, gpus)
        self._slowness = rng.normal(0.0, 0.006, gpus)
        self._phase, self._base = rng.uniform(-120, 120, services), rng.uniform(0.2, 3.0, services)
        self._bend, self._load_noise = rng.uniform(0.1, 0.4, services), np.zeros(services)
        self._latency_noise = np.zeros(services)
        self._serving_memory = rng.uniform(0.4, 0.85, max(services, 1))
        self._bound = rng.random(max(services, 1)) < 0.3
        self.rolled_out = np.full(services, np.nan)
        self._drift = np.zeros(nodes)
        self._filling = rng.uniform(0.03, 0.18, nodes)
        self._fill_minutes = rng.uniform(10, 45, nodes)
        self._spend_noise, self._warm_nodes = np.zeros(len(fleet.pools)), np.zeros(len(fleet.pools))
        self._silent = np.zeros(nodes, dtype=bool)
        self._maintained_until = np.zeros(nodes, dtype=np.int64)
        # Counters and the last Xid code live as long as the fleet.
        self.xid, self.double, self.single = np.zeros(gpus), np.zeros(gpus), np.zeros(gpus)
        self.remapped, self.remap_failed = np.zeros(gpus), np.zeros(gpus)
        self.crc, self.replays = rng.integers(0, 50, gpus).astype(float), rng.integers(0, 500, gpus).astype(float)

    def advance(self, minute: int) -> None:
        """The state of this minute before any fault."""
        self.minute = minute
        self._serve(minute)
        self._compute(minute)
        self._count()
        self._hosts(minute)
        self._money()
        if self._site is not None:
            self._site.advance(minute)

    @property
    def site(self) -> SiteGauges:
        """Raises: LookupError where the site has no gauges of its own."""
        if self._site is None:
            raise LookupError("this fleet has no gauges of the site's own")
        return self._site

    def _serve(self, minute: int) -> None:
        fleet, rng = self.fleet, self.rng
        count = len(fleet.services)
        day = 0.55 + 0.4 * np.sin(2 * np.pi * (minute + self._phase - 540) / _DAY)
        weekend = 0.75 if (minute // _DAY) % 7 >= 5 else 1.0
        self._load_noise = 0.9 * self._load_noise + rng.normal(0.0, 0.04, count)
        self.load = np.clip(day * weekend * np.exp(self._load_noise), 0.03, 1.3)
        self._latency_noise = 0.7 * self._latency_noise + rng.normal(0.0, 0.035, count)
        slower = 1.0 + self._bend * self.load**2
        self.latency: Floats = self._base * slower * np.exp(self._latency_noise + rng.normal(0.0, 0.05, count))
        self.requests: Floats = 40.0 * self.load * np.exp(rng.normal(0.0, 0.05, count))
        new = rng.random(count) < 0.5 / _DAY
        self._base = np.where(new, self._base * rng.uniform(0.95, 1.05, count), self._base)
        self.rolled_out = np.where(new, START_SECONDS + 60.0 * minute, self.rolled_out)

    def _compute(self, minute: int) -> None:
        fleet, rng, gpus = self.fleet, self.rng, self.fleet.gpus
        node_of, service = fleet.node_of, fleet.service_of
        use, power, tensor, memory = (np.zeros(fleet.nodes) for _ in range(4))
        step = np.full(fleet.nodes, np.nan)
        hung = np.zeros(fleet.nodes, dtype=bool)
        for job in self.jobs.running.values():
            at, age = job.nodes, minute - job.starts
            loading, dips = age < 5, age % job.dip_every < 2
            use[at] = 0.05 if loading else 0.3 if dips else job.utilisation
            power[at] = 0.15 if loading else 0.3 if dips else job.power
            tensor[at] = 0.0 if loading or dips else job.tensor
            memory[at] = job.memory * min(age + 1, 5) / 5
            step[at] = np.nan if loading else job.step_seconds
            hung[at] = job.hangs_from is not None and minute >= job.hangs_from
        serving = service >= 0
        load = self.load[service] if len(self.load) else np.zeros(gpus)
        bound = self._bound[service] & serving
        duty = np.where(bound, np.clip(0.3 + 0.8 * load, 0, 1), load)
        if self._recorded is not None:
            row = (minute + self._recorded_at) % len(self._recorded)
            duty = np.where(serving, self._recorded[row, self._recorded_at % self._recorded.shape[1]], duty)
        noise = rng.normal(0.0, 1.0, (4, gpus))
        self.utilisation = np.clip(np.where(serving, duty, use[node_of]) + 0.03 * noise[0], 0.0, 1.0)
        self.power_share = np.clip(np.where(serving, 0.15 + 0.5 * duty, power[node_of]) * (1 + 0.04 * noise[1]), 0, 1)
        self.tensor = np.clip(np.where(serving, np.where(bound, 0.02, 0.3) * duty, tensor[node_of])
                              * (1 + 0.1 * noise[2]), 0.0, 1.0)  # fmt: skip
        kept = self._serving_memory[service] + 0.04 * load
        self.memory = np.where(serving, kept, memory[node_of] + 0.002 * noise[3] * (memory[node_of] > 0))
        self.step = step[node_of] * np.exp(self._slowness + rng.normal(0.0, 0.015, gpus))
        self.hang(hung[node_of])
        season = 3.0 * np.sin(2 * np.pi * (minute - 600) / _DAY)
        self.temperature = 30 + season + self._warmth + 38 * self.power_share + rng.normal(0.0, 0.7, gpus)
        self.clock = BASE_CLOCK_HERTZ * np.where(self.power_share > 0.9, 0.93, 1.0)
        self.reasons = np.where(self.power_share > 0.85, 0x4, np.where(self.utilisation < 0.02, 0x1, 0)).astype(
            np.int64
        )
        self.reasons |= np.where(rng.random(gpus) < 2e-5, 0x20, 0)

    def hang(self, where: NDArray[np.bool_]) -> None:
        """These GPUs spin: busy, and nothing done."""
        self.utilisation = np.where(where, 1.0, self.utilisation)
        self.power_share = np.where(where, 0.2, self.power_share)
        self.tensor, self.step = np.where(where, 0.0, self.tensor), np.where(where, np.nan, self.step)

    def _count(self) -> None:
        rng, gpus = self.rng, self.fleet.gpus
        self.single += rng.random(gpus) < 2e-5
        self.replays += rng.poisson(0.01, gpus) + np.where(rng.random(gpus) < 1e-4, rng.integers(1, 6, gpus), 0)
        self.crc += np.where(rng.random(gpus) < 1e-5, rng.integers(1, 20, gpus), 0)
        buggy = (rng.random(gpus) < 6.0 / _DAY / gpus) & (self.utilisation > 0.1)
        self.xid = np.where(buggy, rng.choice((13, 31, 43), gpus), self.xid)
        self.missing = np.zeros(gpus, dtype=bool)

    def _hosts(self, minute: int) -> None:
        fleet, rng, nodes = self.fleet, self.rng, self.fleet.nodes
        base, age = np.full(nodes, 0.12), np.full(nodes, 1e9)
        for job in self.jobs.running.values():
            base[job.nodes], age[job.nodes] = job.host_memory, minute - job.starts
        self._drift = 0.995 * self._drift + rng.normal(0.0, 0.0008, nodes)
        filled = self._filling * (1.0 - np.exp(-age / self._fill_minutes))
        self.host_memory = np.clip(base + filled + self._drift + rng.normal(0.0, 0.003, nodes), 0.02, 0.99)
        self.ready, self.cordoned = np.ones(nodes), np.zeros(nodes)
        starts = (rng.random(nodes) < 1.0 / _DAY / nodes) & ~fleet.serves
        self._maintained_until = np.where(starts, minute + 40, self._maintained_until)
        maintained = self._maintained_until > minute
        self.cordoned[maintained] = 1.0
        # The kubelet is restarted in the middle of it.
        away = maintained & (self._maintained_until - minute < 25) & (self._maintained_until - minute > 10)
        self.ready[away | (rng.random(nodes) < 1e-6)] = 0.0
        self.notice = np.zeros(nodes)
        self._silent = np.where(self._silent, rng.random(nodes) < 0.2, rng.random(nodes) < 1e-3)
        self.unseen = self._silent | away
        self.gone = np.zeros(nodes, dtype=bool)

    def _money(self) -> None:
        fleet, rng = self.fleet, self.rng
        pools = len(fleet.pools)
        busy: Floats = np.asarray(np.bincount(fleet.pool, self._busy_nodes(), pools), dtype=np.float64)
        self._warm_nodes = np.maximum(busy, 0.97 * self._warm_nodes)
        self._spend_noise = 0.98 * self._spend_noise + rng.normal(0.0, 0.004, pools)
        price = np.zeros(pools)
        for place, pool in zip(fleet.places, fleet.pool.tolist(), strict=True):
            price[pool] = float(place.usd_per_hour or 0)
        self.spend = price * (self._warm_nodes + 0.5) * np.exp(self._spend_noise)
        self.busy = GPUS_PER_NODE * busy * np.exp(rng.normal(0.0, 0.01, pools))

    def _busy_nodes(self) -> Floats:
        return np.array([bool(uid) for uid in self.jobs.on_node], dtype=float) + self.fleet.serves

    # --- what is seen ------------------------------------------------------------------------------------------------

    def tables(self, workloads: NDArray[np.int64]) -> dict[str, Table]:
        """This minute's tables by scope. `workloads`: number of the workload on each GPU, -1: none."""
        at = START_SECONDS + 60.0 * self.minute
        seen = ~(self.unseen | self.gone)[self.fleet.node_of] & ~self.missing
        node_workload = workloads[::GPUS_PER_NODE]
        return {
            "gpu": Table(at, self.fleet.gpus, self._gpu(seen),
                         {"workload": workloads, "node": self.fleet.node_of}),
            "node": Table(at, self.fleet.nodes, self._node(seen), {"workload": node_workload}),
            "workload": Table(at, len(self.fleet.services), self._services(), {}),
            "pool": Table(at, len(self.fleet.pools), {"spend_usd_per_hour": self.spend, "busy_gpus_count": self.busy},
                          {}),
        }  # fmt: skip

    def _gpu(self, seen: NDArray[np.bool_]) -> dict[str, Floats]:
        power = IDLE_POWER_WATTS + (MAX_POWER_WATTS - IDLE_POWER_WATTS) * self.power_share
        whole: tuple[tuple[str, Floats], ...] = (
            ("gpu_utilization_ratio", np.round(self.utilisation, 2)),
            ("gpu_power_watts", power),
            ("gpu_tensor_active_ratio", self.tensor),
            ("gpu_memory_used_bytes", self.memory * GPU_MEMORY_BYTES),
            ("gpu_memory_total_bytes", np.full(self.fleet.gpus, GPU_MEMORY_BYTES)),
            ("gpu_temperature_celsius", np.round(self.temperature)),
            ("gpu_sm_clock_hertz", self.clock),
            ("gpu_clock_event_reasons_code", self.reasons.astype(float)),
            ("gpu_xid_code", self.xid),
            ("gpu_ecc_double_bit_errors_count", self.double),
            ("gpu_ecc_single_bit_errors_count", self.single),
            ("gpu_remapped_rows_uncorrectable_count", self.remapped),
            ("gpu_row_remap_failed_count", self.remap_failed),
            ("gpu_nvlink_crc_errors_count", self.crc),
            ("gpu_pcie_replays_count", self.replays),
            ("workload_step_compute_seconds", self.step),
        )
        own = self._site.gpu() if self._site is not None else {}
        return {name: np.where(seen, value, np.nan) for name, value in (*whole, *own.items())}

    def _services(self) -> dict[str, Floats]:
        return {
            "serving_latency_p95_seconds": self.latency,
            "serving_requests_per_second": self.requests,
            "workload_rolled_out_at_seconds": self.rolled_out,
        }

    def _node(self, seen: NDArray[np.bool_]) -> dict[str, Floats]:
        there = ~self.gone
        reporting = seen.reshape(-1, GPUS_PER_NODE).sum(axis=1).astype(float)
        known: Floats = np.where(there, 1.0, np.nan)
        scraped = np.where(self.unseen, np.nan, known)
        own = self._site.node() if self._site is not None else {}
        return {name: value * scraped for name, value in own.items()} | {
            "node_ready_count": self.ready * known,
            "node_unschedulable_count": np.asarray(self.cordoned * known),
            "node_reclaim_notice_count": self.notice * known,
            "node_memory_total_bytes": NODE_MEMORY_BYTES * known,
            "node_memory_available_bytes": (1.0 - self.host_memory) * NODE_MEMORY_BYTES * scraped,
            "gpu_reporting_count": reporting * known,
            "gpu_expected_count": float(GPUS_PER_NODE) * known,
        }
