"""No ServingSLO matches a service any more: it gathers in one place, and is handed back when that carries it. Pure.

What runs elsewhere stays until all that its template asks for is ready at home: make before break here, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scheduler.engine.serving.looking import Sight, decision_id
from scheduler.engine.serving.slots import Slot
from scheduler.model.division import ReplicaTarget
from scheduler.model.service_intent import ServiceIntent
from scheduler.model.serving import ReplicaOwner, ServingOffer


@dataclass(frozen=True, slots=True)
class Leaving:
    """`home` None: it runs nowhere, or nowhere that it could go on. `done`: it can be handed back."""

    home: Slot | None
    intent: ServiceIntent
    done: bool
    text: str


def leave(sight: Sight, offers: Sequence[ServingOffer]) -> Leaving:
    """What is to be asked for meanwhile, and whether the end has come."""
    before = sight.intent
    assert before is not None
    home = _home(sight, offers)
    if home is None:
        runs = any(not part.deleting for part in sight.parts.values()) or bool(before.targets)
        text = "no ServingSLO matches it any more; where it runs it cannot stay, so it is kept until something else can"
        return Leaving(None, _written(sight, before, before.targets), not runs, text if runs else "it runs nowhere")
    wanted = max(1, sight.replicas) if not sight.workload.suspended else 0
    others = tuple(one for one in before.targets if Slot(one.pool, one.revision) != home)
    targets = (*others, ReplicaTarget(home.pool, home.revision, wanted, _bounds(sight, before, home)))
    ready = sight.parts[home].ready
    scaled = sight.owner is not ReplicaOwner.OVERSPILL or sight.parts[home].wanted == wanted
    done = (ready >= wanted or _sleeps(sight)) and scaled
    text = f"no ServingSLO matches it any more; it gathers on {home.pool}: {ready} of {wanted} replicas are ready there"
    return Leaving(home, _written(sight, before, targets), done, text)


def _home(sight: Sight, offers: Sequence[ServingOffer]) -> Slot | None:
    """Of the present revision where that runs anywhere; where all has room before where it has not; the cheapest: what
    does not change while it gathers."""
    rooms = {one.pool: one for one in offers if one.open and one.reachable}
    there = {slot: part for slot, part in sight.parts.items() if slot.pool in rooms and not part.deleting}

    def rank(slot: Slot) -> tuple[bool, bool, float, Slot]:
        offer = rooms[slot.pool]
        fits = offer.most_replicas >= sight.replicas
        price = offer.usd_per_replica_hour
        return slot.revision != sight.revision.name, not fits, math.inf if price is None else float(price), slot

    return min(there, key=rank, default=None)


def _sleeps(sight: Sight) -> bool:
    """Nothing of it runs, for nobody asks: there is nothing to wait for."""
    another = sight.owner is not ReplicaOwner.OVERSPILL and sight.owner_bounds[0] == 0
    return another and not any(part.ready for part in sight.parts.values())


def _bounds(sight: Sight, before: ServiceIntent, home: Slot) -> tuple[int, int] | None:
    """Of another owner of the replicas: those that its user gave, else as they were."""
    target = before.target(home.pool, home.revision)
    least, most = sight.owner_bounds
    if least is not None and most is not None:
        return least, most
    return None if target is None else target.bounds


def _written(sight: Sight, before: ServiceIntent, targets: tuple[ReplicaTarget, ...]) -> ServiceIntent:
    ordered = tuple(sorted(targets, key=lambda one: (one.pool, one.revision)))
    if ordered == before.targets and not before.slo:
        return before
    decision = decision_id(sight.workload.ref.uid, sight.now)
    return replace(before, slo="", targets=ordered, decision=decision, decided_at=sight.now)
