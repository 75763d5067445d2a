"""What starting a workload somewhere costs in all, as the programme reckons it: money, and time until it is done."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.engine.candidates import Weighed
from scheduler.engine.classes import Class, RunTimes
from scheduler.engine.deadlines import late_factor
from scheduler.engine.filters import Ask
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.world import World
from scheduler.model.plan import CostPart
from scheduler.model.ports import Prediction
from scheduler.model.resources import Resources


@dataclass(frozen=True, slots=True)
class Costs:
    """USD of bought capacity while it works, while it starts and stands idle, and while it does work again."""

    capacity: float
    around: float
    again: float
    data: float
    """Of bringing its data there, whoever owns the nodes."""
    seconds_to_end: float
    surely_seconds_to_end: float
    """In as many cases as the policy's confidence in a deadline asks."""

    @property
    def money(self) -> float:
        return self.capacity + self.around + self.again + self.data

    def parts(self, usd_per_second: float) -> tuple[CostPart, ...]:
        """What is told of it; nothing of what is nothing."""
        named = (
            ("capacity", self.capacity),
            ("start-up", self.around),
            ("reclaims", self.again),
            ("data", self.data),
            ("time", usd_per_second * self.seconds_to_end),
        )
        return tuple(CostPart(name, round(usd, 6)) for name, usd in named if usd)


def costs_of(world: World, times: RunTimes, one: Class, weighed: Weighed) -> Costs | None:
    """Of starting one there now; None: it cannot, or nobody knows what it costs."""
    room, start = weighed.room, weighed.prediction.start_seconds
    if weighed.fit is None or start is None:
        return None
    seconds = one.run_seconds * times.slowness(one, room)
    lost = weighed.prediction.lost_seconds
    end = start + seconds + lost
    surely = end + seconds * (late_factor(weighed.prediction, one.ask) - 1.0)
    moving, data = weighed.prediction.transfer_seconds, data_usd(weighed.prediction)
    if not room.pool.bought:
        return Costs(0.0, 0.0, 0.0, data, end, surely)
    if room.pool.price is None:
        return None
    rate = float(room.pool.price.usd_per_hour) * _part_of_node(one.ask, room) / 3600.0
    around = rate * moving if weighed.fit.now else rate * (start + world.idle_seconds(room))
    return Costs(rate * seconds, around, rate * lost, data, end, surely)


def data_usd(prediction: Prediction) -> float:
    """Of bringing its data there. What nobody knows counts for nothing: bought pools are refused for it before, and
    among owned ones it has to run somewhere."""
    return float(prediction.transfer_usd or 0)


def amounts(of: Resources) -> tuple[float, float, float]:
    """GPUs, cores, GiB."""
    return float(of.gpus), of.cpu_milli / 1000, of.memory_bytes / 2**30


def _part_of_node(ask: Ask, room: PoolRoom) -> float:
    """Nodes of the pool that the gang takes, as a fraction by its largest resource."""
    asked, there = amounts(ask.shape.requests), amounts(room.node_size)
    return max((a / t for a, t in zip(asked, there, strict=True) if a > 0 and t > 0), default=0.0)
