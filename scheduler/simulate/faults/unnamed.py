"""Faults that no rule names: in gauges of a site's own, and gauges of a GPU that no longer follow one another.

Found is any incident about the thing, whatever it says. Power and temperature stay within what these gauges show anyway
on other GPUs or at other times: only together with the other gauges they are odd.
"""

from __future__ import annotations

from typing import Final

from scheduler.simulate.faults.fault import GPU, NODE, UNNAMED, Fault, Kind
from scheduler.simulate.faults.telemetry import Telemetry

ANYTHING: Final = ("",)


def _network_errors(world: Telemetry, fault: Fault, _: int) -> None:
    world.site.errors[fault.nodes[0]] += world.site.rng.poisson(60.0 * fault.strength) / 60.0


def _disk_slow(world: Telemetry, fault: Fault, _: int) -> None:
    world.site.disk_latency[fault.nodes[0]] *= fault.strength


def _level_drifts(world: Telemetry, fault: Fault, age: int) -> None:
    world.site.level[fault.nodes[0]] += fault.strength * age / 60.0


def _link_replays(world: Telemetry, fault: Fault, age: int) -> None:
    grown = min(1.0, (age + 1) / 30.0)
    world.site.replays[fault.target] += world.site.rng.poisson(60.0 * fault.strength * grown) / 60.0


def _power_low(world: Telemetry, fault: Fault, _: int) -> None:
    """Busy and computing, at a share of the power; and cooler, as the power says."""
    saved = (1.0 - fault.strength) * world.power_share[fault.target]
    world.power_share[fault.target] -= saved
    world.temperature[fault.target] -= 38.0 * saved


def _hot(world: Telemetry, fault: Fault, _: int) -> None:
    """A heat sink that is fouled: hotter than the power explains, and below what throttles."""
    world.temperature[fault.target] += fault.strength


def _clock_low(world: Telemetry, fault: Fault, _: int) -> None:
    """A clock that stays down, and no reason is told."""
    world.clock[fault.target] *= fault.strength


UNNAMED_KINDS: Final = (
    Kind("network-errors", UNNAMED, NODE, ANYTHING, (60, 180), (1.0, 10.0), apply=_network_errors, busy=False),
    Kind("disk-latency", UNNAMED, NODE, ANYTHING, (60, 180), (3.0, 10.0), apply=_disk_slow, busy=False),
    Kind("gauge-drift", UNNAMED, NODE, ANYTHING, (180, 360), (3.0, 10.0), apply=_level_drifts, busy=False),
    Kind("link-replays", UNNAMED, GPU, ANYTHING, (60, 180), (0.5, 5.0), apply=_link_replays, busy=False),
    Kind("power-low", UNNAMED, GPU, ANYTHING, (60, 180), (0.5, 0.75), apply=_power_low),
    Kind("runs-hot", UNNAMED, GPU, ANYTHING, (60, 180), (7.0, 14.0), apply=_hot),
    Kind("clock-low", UNNAMED, GPU, ANYTHING, (60, 180), (0.6, 0.85), apply=_clock_low),
)
