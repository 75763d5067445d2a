"""Decisions in words: the reason, the sentence that users read, and the alternatives that were weighed.

A sentence of a held workload carries no number that time changes, so that it is written only when the cause changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from scheduler.engine.candidates import Weighed
from scheduler.engine.filters import WAITING
from scheduler.model.ids import DecisionId, Instant, PoolRef
from scheduler.model.plan import Candidate, Decision, ShadowPrice, WaitOption
from scheduler.model.policy import PlacementPolicy
from scheduler.model.verdict import Reason, Verdict, histogram, sentence
from scheduler.model.workload import MOVED, Placement, PlacementState, Workload

MAX_ALTERNATIVES: Final = 5
MAX_REFUSED: Final = 20
MAX_BINDING: Final = 5


def decision_id(workload: Workload, what: str, digest: str, now: Instant) -> DecisionId:
    """Deterministic: the same decision on the same snapshot has the same id."""
    return short_hash(f"{workload.ref.uid}|{what}{id_tail(digest, now)}")


def id_tail(digest: str, now: Instant) -> str:
    """What the ids of all decisions of one cycle are made of."""
    return f"|{digest}|{round(now * 1000)}"


def short_hash(text: str) -> DecisionId:
    return DecisionId(hashlib.sha256(text.encode()).hexdigest()[:16])


def held(
    workload: Workload,
    reason: Reason,
    message: str,
    policy: PlacementPolicy | None,
    digest: str,
    now: Instant,
    alternatives: tuple[Candidate, ...] = (),
    refused: tuple[tuple[Reason, int], ...] = (),
) -> Decision | None:
    """The decision to keep it queued; None when its condition says exactly that already."""
    if workload.condition == (reason.code, message):
        return None
    return Decision(
        id=decision_id(workload, reason.code + message, digest, now),
        at=now,
        workload=workload.ref,
        queue=workload.queue,
        outcome="held",
        reason=reason,
        sentence=message,
        policy="" if policy is None else policy.name,
        policy_digest=digest,
        alternatives=alternatives,
        refused=refused,
    )


def placed(
    workload: Workload,
    chosen: Weighed,
    weighed: tuple[Weighed, ...],
    policy: PlacementPolicy,
    state: PlacementState,
    attempt: int,
    digest: str,
    now: Instant,
    wait: WaitOption | None = None,
    binding: tuple[ShadowPrice, ...] = (),
) -> Decision:
    """The decision to put a pending workload somewhere: `placed`, or `burst` on capacity that is bought."""
    candidate = chosen.candidate
    fitting = sum(each.fit is not None for each in weighed)
    reason, text = placed_words(candidate, fitting, len(weighed), policy, state)
    return Decision(
        id=decision_id(workload, str(attempt), digest, now),
        at=now,
        workload=workload.ref,
        queue=workload.queue,
        outcome="burst" if candidate.bought else "placed",
        reason=reason,
        sentence=text,
        policy=policy.name,
        policy_digest=digest,
        chosen=candidate,
        alternatives=others(weighed, chosen),
        refused=refusals(weighed),
        wait=wait,
        binding=binding,
    )


def exploring(decision: Decision, why: str) -> Decision:
    """The decision to place a workload, where it is placed to learn."""
    sentence = f"{decision.sentence.rpartition(': ')[0]}: {why}"
    return decision._replace(reason=Reason("Exploring", "placed to learn its speed"), sentence=sentence)


def placed_words(
    candidate: Candidate, fitting: int, offerings: int, policy: PlacementPolicy, state: PlacementState
) -> tuple[Reason, str]:
    """The reason and the sentence of a placement that is the best of so many."""
    by = policy.objective if policy.value_of_time is None else "total cost, time included"
    rank = f"best of {fitting} of {offerings} offerings by {by}"
    if state is PlacementState.RESERVED:
        nodes = f"buying {_nodes(candidate.new_nodes)}" if candidate.new_nodes else "waiting for nodes on their way"
        return Reason("Bursting", "capacity is being bought"), f"{nodes} in {candidate.pool}: {rank}"
    if candidate.bought:
        return Reason("Burst", "on bought capacity"), f"on bought capacity in {candidate.pool}: {rank}"
    return Reason("Placed", "placed"), f"on {candidate.pool}: {rank}"


def moved(
    workload: Workload,
    placement: Placement,
    outcome: str,
    reason: Reason,
    policy: PlacementPolicy | None,
    digest: str,
    now: Instant,
) -> Decision:
    """The decision to start, to pause or to release a workload that has a placement."""
    verb = {"started": "started on", "paused": "paused on"}.get(outcome, "leaves")
    return Decision(
        id=decision_id(workload, f"{placement.attempt}{reason.code}", digest, now),
        at=now,
        workload=workload.ref,
        queue=workload.queue,
        outcome=outcome,
        reason=reason,
        sentence=f"{verb} {placement.pool_ref}: {reason.text}",
        policy="" if policy is None else policy.name,
        policy_digest=digest,
    )


def relocated(
    workload: Workload,
    source: Placement,
    target: PoolRef,
    text: str,
    policy: PlacementPolicy,
    digest: str,
    now: Instant,
) -> Decision:
    """The decision to move a running workload from one pool to another."""
    return Decision(
        id=decision_id(workload, f"{source.attempt}{MOVED}{target}", digest, now),
        at=now,
        workload=workload.ref,
        queue=workload.queue,
        outcome="moved",
        reason=Reason(MOVED, "cheaper elsewhere"),
        sentence=f"moves from {source.pool_ref} to {target}: {text}",
        policy=policy.name,
        policy_digest=digest,
    )


def hold_reason(weighed: Iterable[Weighed]) -> tuple[Reason, str]:
    """What a workload that fits nowhere waits for, and the sentence that says it of all offerings.

    A reason that passes by itself is named before one that needs somebody to change something.
    """
    everything = tuple(weighed)
    return hold_words(refusals(everything), len(everything))


def hold_words(counted: tuple[tuple[Reason, int], ...], offerings: int) -> tuple[Reason, str]:
    """`hold_reason` of what has been counted already."""
    text = sentence(counted, offerings)
    if not counted:
        return Reason("NoOfferings", "no member cluster offers any capacity"), text
    waits = [reason for reason, _ in counted if reason.code in WAITING]
    return min(waits, key=lambda reason: (WAITING.index(reason.code), reason), default=counted[0][0]), text


def waits_for_capacity(weighed: Iterable[Weighed]) -> bool:
    """Whether some offering would do but for something that passes by itself."""
    return any(each.candidate.refused and each.candidate.refused[0].code in WAITING for each in weighed)


def refusals(weighed: Iterable[Weighed]) -> tuple[tuple[Reason, int], ...]:
    return histogram(Verdict(each.candidate.refused) for each in weighed if each.candidate.refused)


def others(weighed: Iterable[Weighed], chosen: Weighed | None) -> tuple[Candidate, ...]:
    """The best other offerings, then the first refused ones."""
    rest = [each for each in weighed if chosen is None or each.candidate.pool != chosen.candidate.pool]
    fitting = sorted((each for each in rest if each.fit is not None), key=lambda each: each.order)
    refused = [each for each in rest if each.fit is None]
    return tuple(each.candidate for each in (*fitting[:MAX_ALTERNATIVES], *refused[:MAX_REFUSED]))


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"
