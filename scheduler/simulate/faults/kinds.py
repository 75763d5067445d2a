"""The faults that can be planted: what they are about, how they show, and what finds them.

A kind's `apply` changes the telemetry of one minute; `begin` does, in the fault's first minute, what stays (a counter,
a code, a job that will end). The names of the findings that count as having found it are in `wants`. Kinds that no rule
names are in `unnamed`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from scheduler.simulate.faults.fault import GPU, JOB, NODE, POOL, RULE, SERVICE, STATISTICAL, ZONE, Fault, Kind, Step
from scheduler.simulate.faults.fleet import GPUS_PER_NODE
from scheduler.simulate.faults.telemetry import START_SECONDS, Telemetry
from scheduler.simulate.faults.unnamed import UNNAMED_KINDS

_NCCL_MINUTES = 10
"""How long a collective waits for a rank that is gone."""


def _xid(code: int, *, crash_after: int | None, waits: bool = False, mute: bool = False, double: bool = False) -> tuple[
    Step, Step
]:  # fmt: skip
    """A code on a GPU: its job ends (after its ranks have waited), the GPU is mute until it is mended."""

    def begin(world: Telemetry, fault: Fault, minute: int) -> None:
        world.xid[fault.target] = code
        if double:
            world.double[fault.target] += 1
        if fault.job is None or crash_after is None:
            return
        if waits:
            fault.job.hangs_from = minute
        world.jobs.kill(fault.job, minute + crash_after)
        for node in fault.nodes[:1]:
            world.jobs.block(node, fault.ends)

    def apply(world: Telemetry, fault: Fault, age: int) -> None:
        # The driver stops the other ranks, which each say so.
        if fault.job is not None and crash_after is not None and age == crash_after:
            ranks = (fault.job.nodes[:, None] * GPUS_PER_NODE + np.arange(GPUS_PER_NODE)).ravel()
            others = ranks[(ranks != fault.target) & (world.rng.random(len(ranks)) < 0.5)]
            world.xid[others] = 45
        if mute and age >= 1:
            world.missing[fault.target] = True
        if age >= fault.minutes - 1:
            world.xid[fault.target] = 0

    return begin, apply


def _gpu_set(name: str, value: float, *, add: bool = False) -> Step:
    def begin(world: Telemetry, fault: Fault, _: int) -> None:
        counter = getattr(world, name)
        counter[fault.target] = counter[fault.target] + value if add else value

    return begin


def _single_errors(world: Telemetry, fault: Fault, _: int) -> None:
    world.single[fault.target] += world.rng.poisson(fault.strength)


def _thermal(world: Telemetry, fault: Fault, _: int) -> None:
    world.reasons[fault.target] |= 0x20 | 0x40 | 0x8
    world.temperature[fault.target] += 18
    world.clock[fault.target] *= 0.7
    world.step[fault.target] *= 1.2


def _power_brake(world: Telemetry, fault: Fault, _: int) -> None:
    world.reasons[fault.gpus] |= 0x80 | 0x8
    world.clock[fault.gpus] *= 0.5
    world.step[fault.gpus] *= 1.5


def _straggler(world: Telemetry, fault: Fault, _: int) -> None:
    world.step[fault.target] *= 1.0 + fault.strength


def _crc(world: Telemetry, fault: Fault, _: int) -> None:
    world.crc[fault.target] += world.rng.poisson(60.0 * fault.strength)
    world.step[fault.target] *= 1.03


def _replays(world: Telemetry, fault: Fault, _: int) -> None:
    world.replays[fault.target] += world.rng.poisson(fault.strength)


def _hang(world: Telemetry, fault: Fault, minute: int) -> None:
    if fault.job is not None:
        fault.job.hangs_from = minute
        world.jobs.kill(fault.job, fault.ends)


def _host_leak(world: Telemetry, fault: Fault, age: int) -> None:
    at = fault.nodes[0]
    world.host_memory[at] = min(world.host_memory[at] + fault.strength * age / 60.0, 0.995)


def _gpu_leak(world: Telemetry, fault: Fault, age: int) -> None:
    world.memory[fault.target] = min(world.memory[fault.target] + fault.strength * age / 60.0, 0.995)


def _slow(world: Telemetry, fault: Fault, _: int) -> None:
    world.latency[fault.target] *= fault.strength


def _rolled_out(world: Telemetry, fault: Fault, minute: int) -> None:
    """One in two comes with a rollout."""
    if world.rng.random() < 0.5:
        return
    world.rolled_out[fault.target] = START_SECONDS + 60.0 * minute


def _spend(world: Telemetry, fault: Fault, _: int) -> None:
    world.spend[fault.target] *= fault.strength


def _reclaim(world: Telemetry, fault: Fault, minute: int) -> None:
    if fault.job is not None:
        world.jobs.kill(fault.job, minute + 2)
    world.jobs.block(fault.nodes[0], fault.ends)


def _leaves(world: Telemetry, fault: Fault, age: int) -> None:
    if age < 2:
        world.notice[fault.nodes[0]] = 1.0
    else:
        world.gone[fault.nodes[0]] = True


def _breaks(world: Telemetry, fault: Fault, minute: int) -> None:
    if fault.job is not None:
        fault.job.hangs_from = minute
        world.jobs.kill(fault.job, minute + _NCCL_MINUTES)
    world.jobs.block(fault.nodes[0], fault.ends)


def _not_ready(world: Telemetry, fault: Fault, _: int) -> None:
    world.ready[list(fault.nodes)] = 0.0
    world.unseen[list(fault.nodes)] = True


def _mute(world: Telemetry, fault: Fault, _: int) -> None:
    world.unseen[list(fault.nodes)] = True


def _flaps(world: Telemetry, fault: Fault, age: int) -> None:
    if age % 5 < 2:
        world.ready[fault.nodes[0]] = 0.0


def _crash(world: Telemetry, fault: Fault, minute: int) -> None:
    if fault.job is not None:
        world.jobs.kill(fault.job, minute + 3)


def _crashes(world: Telemetry, fault: Fault, age: int) -> None:
    if age < 2:
        gpus = fault.gpus
        world.xid[gpus[gpus % 2 == age]] = 31 if age == 0 else 43


def _outage(world: Telemetry, fault: Fault, minute: int) -> None:
    for node in fault.nodes:
        job = world.jobs.on(node)
        if job is not None:
            job.hangs_from = minute
            world.jobs.kill(job, minute + _NCCL_MINUTES)
        world.jobs.block(node, fault.ends)


def _xid_kind(code: int, minutes: tuple[int, int], **how: bool | int | None) -> Kind:
    begin, apply = _xid(code, **how)  # type: ignore[arg-type]
    wants = (f"gpu.xid.{code}",)
    return Kind(f"xid-{code}", RULE, GPU, wants, minutes, begin=begin, apply=apply)


_KINDS: Final = (
    _xid_kind(79, (60, 180), crash_after=_NCCL_MINUTES, waits=True, mute=True),
    _xid_kind(48, (30, 60), crash_after=1, double=True),
    _xid_kind(94, (30, 60), crash_after=1),
    _xid_kind(95, (30, 60), crash_after=1),
    _xid_kind(119, (60, 120), crash_after=_NCCL_MINUTES, waits=True),
    Kind("ecc-double", RULE, GPU, ("gpu.ecc.double",), (30, 60), begin=_gpu_set("double", 1.0, add=True)),
    Kind("ecc-single", RULE, GPU, ("gpu.ecc.single",), (60, 120), (20.0, 60.0), apply=_single_errors),
    Kind("row-remap", RULE, GPU, ("gpu.remap.pending",), (30, 60), begin=_gpu_set("remapped", 1.0, add=True)),
    Kind("row-remap-failure", RULE, GPU, ("gpu.remap.failed",), (30, 60), begin=_gpu_set("remap_failed", 1.0)),
    Kind("thermal-throttle", RULE, GPU, ("gpu.throttle.thermal",), (30, 90), apply=_thermal),
    Kind("power-brake", RULE, NODE, ("gpu.throttle.power-brake",), (20, 60), apply=_power_brake),
    Kind("nvlink", RULE, GPU, ("gpu.nvlink",), (30, 90), (3.0, 300.0), apply=_crc),
    Kind("pcie", RULE, GPU, ("gpu.pcie",), (30, 90), (12.0, 60.0), apply=_replays),
    Kind("hang", RULE, JOB, ("gpu.hang",), (20, 40), begin=_hang),
    Kind("spot-reclaim", RULE, "spot", ("node.spot-notice",), (30, 60), begin=_reclaim, apply=_leaves, busy=False),
    Kind("not-ready", RULE, NODE, ("node.not-ready",), (20, 60), begin=_breaks, apply=_not_ready),
    Kind("exporter-gone", RULE, NODE, ("node.exporter-gone",), (30, 90), apply=_mute, busy=False),
    Kind("flapping", RULE, NODE, ("node.flapping",), (40, 60), apply=_flaps),
    Kind("job-crash", RULE, JOB, ("gpu.xid",), (5, 10), begin=_crash, apply=_crashes, least_nodes=8),
    Kind("zone-outage", RULE, ZONE, ("node.not-ready",), (30, 60), begin=_outage, apply=_not_ready, busy=False),
    Kind("straggler", STATISTICAL, GPU, ("gpu.straggler",), (45, 120), (0.1, 0.3), apply=_straggler),
    Kind("memory-leak-node", STATISTICAL, NODE, ("memory.leak",), (150, 240), (0.06, 0.2), apply=_host_leak),
    Kind("memory-leak-gpu", STATISTICAL, "serving-gpu", ("memory.leak",), (150, 240), (0.06, 0.2), apply=_gpu_leak,
         busy=False),
    Kind("latency-1.5", STATISTICAL, SERVICE, ("workload.latency",), (90, 240), (1.5, 1.5), _rolled_out, _slow, False),
    Kind("latency-2", STATISTICAL, SERVICE, ("workload.latency",), (90, 240), (2.0, 2.0), _rolled_out, _slow, False),
    Kind("cost-spike", STATISTICAL, POOL, ("cost.spike",), (60, 180), (1.4, 2.5), apply=_spend, busy=False),
)  # fmt: skip
NAMED: Final = tuple(sorted(kind.name for kind in _KINDS))
"""Kinds that rules are meant to find: what a scenario plants unless it says which."""
KINDS: Final = {kind.name: kind for kind in (*_KINDS, *UNNAMED_KINDS)}
