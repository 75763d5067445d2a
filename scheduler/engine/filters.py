"""Filters: each says why one offering is not for one workload, or nothing.

A filter is a function of an `Ask` (what a workload wants; equal workloads share one) and an `Offer` (a pool, and how
the gang would fit into it now). They run in the order of the tuples below, which is the order in which reasons are
reported. Texts are equal for equal causes, so that they can be counted, and carry no number that time changes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from scheduler.engine.packing import Shape
from scheduler.engine.rooms import Fit, PoolRoom
from scheduler.model.contract import LABEL_RESIDENCY, TOPOLOGY_NODE
from scheduler.model.ids import QueueId
from scheduler.model.money import NANO, Usd, cost_usd
from scheduler.model.policy import PlacementPolicy
from scheduler.model.ports import Prediction
from scheduler.model.verdict import Reason
from scheduler.model.workload import Workload

WAITING: Final = (
    "BurstWaiting",
    "OverBudget",
    "BurstPaused",
    "BackedOff",
    "BurstLimit",
    "PoolAtMax",
    "NoRoomNow",
    "ClusterUnavailable",
    "Quarantined",
)
"""Reasons that pass without anybody changing anything, the one that says most first."""


UNKNOWN: Final = Prediction(None, None)


@dataclass(frozen=True, slots=True)
class Ask:
    """What a class of equal workloads wants."""

    number: int
    group: int
    """Equal for classes that differ only in what predictions and costs look at: they fit into the same room."""
    workload: Workload
    """One of the class: the filters look only at what all of it have in common."""
    shape: Shape
    policy: PlacementPolicy
    burst_matches: bool
    """Whether the policy's burst rule is there and its expression holds for the workload."""
    waited: bool
    """Whether it has been queued for as long as the burst rule wants."""

    @property
    def queue(self) -> QueueId:
        return self.workload.queue


class Offer(NamedTuple):
    """An offering as it stands for one `Ask`. `fit` is None when the gang does not fit now or ever so far."""

    room: PoolRoom
    paused: bool
    fit: Fit | None = None
    prediction: Prediction = UNKNOWN
    priced: bool = False
    """Whether it has been predicted, and so costs what it would."""
    policy_nodes: int = 0
    """Bought nodes that the policy's workloads would use, this one included."""
    over_budget: Reason | None = None

    @property
    def usd_per_hour(self) -> Usd | None:
        """Of the nodes that it would occupy; None: unknown, or it has not come so far."""
        price = self.room.pool.price
        if price is None or self.fit is None or not self.priced:
            return None
        nodes = self.fit.new_nodes + self.fit.share
        return (price.usd_per_hour * nodes.numerator / nodes.denominator).quantize(NANO)

    @property
    def seconds(self) -> float | None:
        """That it runs, work that reclaims undo and that is done again included."""
        run = self.prediction.run_seconds
        return None if run is None else run + self.prediction.lost_seconds

    @property
    def cost_usd(self) -> Usd | None:
        """Of the whole run, and of bringing its data there; None: unknown.

        Without the work that reclaims undo: that is reckoned as if it were done again at the same place, which a
        policy with a value of time can hold against waiting. By price alone nothing can be waited for, and the same
        reckoning sends every long run to nodes on demand, although one that is reclaimed is placed anew and often
        comes home: over days 20 to 42 of the Philly log that cost 1.2 to 3.4 times as much.
        """
        rate, seconds, data = self.usd_per_hour, self.prediction.run_seconds, self.prediction.transfer_usd
        return None if rate is None or seconds is None or data is None else cost_usd(rate, seconds) + data


Filter = Callable[[Ask, Offer], Reason | None]


def cluster_unavailable(ask: Ask, offer: Offer) -> Reason | None:
    cluster = offer.room.cluster
    if not cluster.synced:
        return Reason("ClusterUnavailable", "in a cluster that has not synced yet")
    if cluster.unreachable_since is not None:
        return Reason("ClusterUnavailable", "in a cluster that cannot be reached")
    return None


def quarantined(ask: Ask, offer: Offer) -> Reason | None:
    return Reason("Quarantined", "quarantined because of an incident") if offer.room.pool.quarantined else None


def avoided(ask: Ask, offer: Offer) -> Reason | None:
    avoids = ask.workload.hints.avoided_pools
    return Reason("Avoided", "where it did badly") if avoids and offer.room.pool.ref in avoids else None


def cluster_not_allowed(ask: Ask, offer: Offer) -> Reason | None:
    limits, cluster = ask.policy.constraints, offer.room.cluster
    if (limits.clusters and cluster.id not in limits.clusters) or cluster.id in limits.excluded_clusters:
        return Reason("ClusterNotAllowed", "in a cluster outside the policy")
    if limits.providers and cluster.provider not in limits.providers:
        return Reason("ClusterNotAllowed", "with a provider outside the policy")
    return None


def region_not_allowed(ask: Ask, offer: Offer) -> Reason | None:
    regions, region = ask.policy.constraints.regions, offer.room.cluster.region
    if regions and region not in regions:
        return Reason("RegionNotAllowed", f"in region {region} outside the policy")
    return None


def outside_residency(ask: Ask, offer: Offer) -> Reason | None:
    allowed = ask.policy.constraints.residency
    if not allowed:
        return None
    labels = dict(offer.room.cluster.labels)
    if labels.get(LABEL_RESIDENCY) in allowed:
        return None
    return Reason("OutsideResidency", f"in region {offer.room.cluster.region} outside residency")


def capacity_type_not_allowed(ask: Ask, offer: Offer) -> Reason | None:
    allowed, kind = ask.policy.constraints.capacity_types, offer.room.pool.capacity_type
    return Reason("CapacityTypeNotAllowed", f"{kind} not allowed") if allowed and kind not in allowed else None


def wrong_gpu(ask: Ask, offer: Offer) -> Reason | None:
    if not ask.shape.gpus:
        return None
    pool, room = offer.room.pool, offer.room
    if not pool.node_resources.gpus and not any(node.allocatable.gpus for node in room.nodes):
        return Reason("WrongGpu", "without GPU")
    wanted = [set(ask.policy.constraints.gpu_models), *(set(models) for models in ask.shape.gpu_models)]
    if all(not models or any(same_model(pool.gpu_model, want) for want in models) for models in wanted):
        return None
    return Reason("WrongGpu", "wrong GPU")


def gpu_memory_too_small(ask: Ask, offer: Offer) -> Reason | None:
    least = ask.policy.constraints.min_gpu_memory_bytes
    if least is None or not ask.shape.gpus:
        return None
    there = offer.room.pool.gpu_memory_bytes
    if there is None:
        return Reason("GpuMemoryTooSmall", "GPU memory unknown")
    return Reason("GpuMemoryTooSmall", "too little GPU memory") if there < least else None


def selector_mismatch(ask: Ask, offer: Offer) -> Reason | None:
    labels = set(offer.room.pool.labels)
    for pod_set in ask.shape.pod_sets:
        wanted = set(pod_set.node_selector)
        if not wanted <= labels and not any(wanted <= labels.union(node.labels) for node in offer.room.nodes):
            return Reason("SelectorMismatch", "outside the node selector")
    return None


def pod_too_large(ask: Ask, offer: Offer) -> Reason | None:
    if all(offer.room.holds_one(pod_set.requests) for pod_set in ask.shape.pod_sets):
        return None
    return Reason("PodTooLarge", "too small for one of its pods")


def outside_topology(ask: Ask, offer: Offer) -> Reason | None:
    topology = ask.shape.pod_sets[0].topology if ask.shape.pod_sets else ""
    room = offer.room
    if topology == TOPOLOGY_NODE:
        whole = replace(ask.shape.requests, pods=0)
        return None if room.holds_one(whole) else Reason("PodTooLarge", "too small for all of its pods on one node")
    if not topology or topology in dict(room.pool.labels):
        return None
    if any(topology in dict(node.labels) for node in room.nodes):
        return None
    return Reason("TopologyUnknown", f"without the node label {topology}")


def over_price_cap(ask: Ask, offer: Offer) -> Reason | None:
    cap, pool = ask.policy.constraints.max_usd_per_gpu_hour, offer.room.pool
    if cap is None or not ask.shape.gpus or pool.price is None or not pool.node_resources.gpus:
        return None
    over = pool.price.usd_per_hour > cap * pool.node_resources.gpus
    return Reason("OverPriceCap", "over the price cap") if over else None


def price_unknown(ask: Ask, offer: Offer) -> Reason | None:
    limits, pool = ask.policy.constraints, offer.room.pool
    capped = limits.max_usd_per_run is not None or (limits.max_usd_per_gpu_hour is not None and ask.shape.gpus > 0)
    if pool.price is None and (capped or pool.bought):
        return Reason("PriceUnknown", "of unknown price")
    return None


def round_trip_too_high(ask: Ask, offer: Offer) -> Reason | None:
    most = ask.policy.constraints.max_round_trip_seconds
    if most is None:
        return None
    measured = offer.room.cluster.round_trip_seconds
    if measured is None:
        return Reason("RoundTripTooHigh", "of unknown round trip")
    return Reason("RoundTripTooHigh", "too far away") if measured > most else None


def burst_not_allowed(ask: Ask, offer: Offer) -> Reason | None:
    if not offer.room.pool.bought or ask.burst_matches:
        return None
    return Reason("BurstNotAllowed", "not to be bought by its policy")


def burst_paused(ask: Ask, offer: Offer) -> Reason | None:
    return Reason("BurstPaused", "while bursting is paused") if offer.paused and offer.room.pool.bought else None


def no_room_now(ask: Ask, offer: Offer) -> Reason | None:
    if offer.fit is not None or offer.room.pool.scaling == "managed":
        return None
    return Reason("NoRoomNow", "without room now")


def pool_not_resizable(ask: Ask, offer: Offer) -> Reason | None:
    if offer.fit is not None or offer.room.growable:
        return None
    return Reason("PoolNotResizable", "of unknown size, so not resized")


def backed_off(ask: Ask, offer: Offer) -> Reason | None:
    if offer.room.backoff is None or (offer.fit is not None and offer.fit.now):
        return None
    return Reason("BackedOff", "backed off after a shortage")


def pool_at_max(ask: Ask, offer: Offer) -> Reason | None:
    return Reason("PoolAtMax", "at the pool's maximum") if offer.fit is None else None


def burst_waiting(ask: Ask, offer: Offer) -> Reason | None:
    rule = ask.policy.burst
    buys = offer.fit is not None and offer.fit.new_nodes > 0 and offer.room.pool.bought
    if not buys or rule is None or ask.waited:
        return None
    return Reason("BurstWaiting", f"to be bought after {duration_text(rule.after_wait_seconds)} in the queue")


def burst_limit(ask: Ask, offer: Offer) -> Reason | None:
    rule = ask.policy.burst
    if rule is None or rule.max_nodes is None or not offer.room.pool.bought:
        return None
    if offer.policy_nodes <= rule.max_nodes:
        return None
    return Reason("BurstLimit", f"over the policy's {rule.max_nodes} bought nodes")


def data_cost_unknown(ask: Ask, offer: Offer) -> Reason | None:
    if offer.prediction.transfer_usd is not None or not offer.room.pool.bought:
        return None  # It has to run somewhere: owned nodes are not refused for what nobody knows.
    return Reason("DataCostUnknown", "of unknown cost of bringing its data there")


def duration_unknown(ask: Ask, offer: Offer) -> Reason | None:
    needed = ask.policy.constraints.max_usd_per_run is not None
    if needed and offer.prediction.run_seconds is None:
        return Reason("DurationUnknown", "with an unknown run time, which the cost cap needs")
    return None


def over_run_cost(ask: Ask, offer: Offer) -> Reason | None:
    cap = ask.policy.constraints.max_usd_per_run
    cost = None if cap is None else offer.cost_usd
    if cap is None or cost is None:
        return None
    return Reason("OverRunCost", "over the cost cap of a run") if cost > cap else None


def over_budget(ask: Ask, offer: Offer) -> Reason | None:
    return offer.over_budget


STATIC: Final[tuple[Filter, ...]] = (
    cluster_unavailable,
    quarantined,
    avoided,
    cluster_not_allowed,
    region_not_allowed,
    outside_residency,
    capacity_type_not_allowed,
    wrong_gpu,
    gpu_memory_too_small,
    selector_mismatch,
    pod_too_large,
    outside_topology,
    over_price_cap,
    price_unknown,
    round_trip_too_high,
    burst_not_allowed,
)
"""What a pool is, against what the policy and the pods say. A placement that is only reserved must keep these too."""

ROOM: Final[tuple[Filter, ...]] = (
    burst_paused,
    no_room_now,
    pool_not_resizable,
    backed_off,
    pool_at_max,
    burst_waiting,
)
"""What the pool has now."""

MONEY: Final[tuple[Filter, ...]] = (data_cost_unknown, duration_unknown, over_run_cost, burst_limit, over_budget)
"""What it would cost."""

ROOM_CODES: Final = frozenset(
    ("BurstPaused", "NoRoomNow", "PoolNotResizable", "BackedOff", "PoolAtMax", "BurstWaiting")
)
MONEY_CODES: Final = frozenset(("DataCostUnknown", "DurationUnknown", "OverRunCost", "BurstLimit", "OverBudget"))
"""The codes that the filters of these tuples give."""


def first_reason(filters: tuple[Filter, ...], ask: Ask, offer: Offer) -> Reason | None:
    """The first refusal; None: all let it pass."""
    for each in filters:
        reason = each(ask, offer)
        if reason is not None:
            return reason
    return None


def all_reasons(filters: tuple[Filter, ...], ask: Ask, offer: Offer) -> tuple[Reason, ...]:
    return tuple(reason for each in filters if (reason := each(ask, offer)) is not None)


def same_model(model: str | None, wanted: str) -> bool:
    """Whether a GPU model is the wanted one or of the wanted family: A100 accepts A100-80GB. Case does not matter."""
    if model is None:
        return False
    have, want = model.casefold(), wanted.casefold()
    return have == want or have.startswith(f"{want}-")


def duration_text(seconds: float) -> str:
    """90 -> 90s, 600 -> 10m, 9000 -> 2h30m: as people write it in policies."""
    whole = round(seconds)
    if whole < 120 and whole % 60:
        return f"{whole}s"
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "") + (f"{left}s" if left else "")
    return text or "0s"
