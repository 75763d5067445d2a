"""Which of an incident's signals is the cause: what comes early, is urgent, and is of a kind that causes others.

The score is a product of likelihoods, normalised: that of the kind (hardware and infrastructure cause more than they
are caused; a symptom is mostly an effect), of the order in time (an effect seldom shows much before its cause; samples
are minutes apart, so some slack), and of the reach (a cause should touch the nodes that show something: a scope does, a
GPU does through a workload that runs there).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from scheduler.aiops.findings import APPLICATION, HARDWARE, INFRASTRUCTURE, SYMPTOM, severity_rank
from scheduler.aiops.incidents import Cause, Signal
from scheduler.aiops.topology import NODE, WORKLOAD, NodeKey, Scope, Topology

_PRIOR: Final = {HARDWARE: 1.0, INFRASTRUCTURE: 0.8, APPLICATION: 0.6, SYMPTOM: 0.15}
_SEVERITY: Final = (1.0, 0.6, 0.35, 0.1)
_SLACK_SECONDS: Final = 60.0
_FADE_SECONDS: Final = 180.0
MOST_CAUSES: Final = 5


def rank(signals: Sequence[Signal], scope: Scope, fleet: Topology) -> tuple[Cause, ...]:
    """Causes, likeliest first; at most five. A scope wider than a node is one cause with all that its members show
    alike. The same for any order of the signals."""
    begin = min(one.first_at for one in signals)
    everywhere = frozenset[NodeKey]().union(*(fleet.nodes_of(one.subject) for one in signals))
    wide = scope.kind not in ("gpu", NODE)
    groups: dict[tuple[str, Scope], list[Signal]] = defaultdict(list)
    for one in signals:
        inside = wide and _inside(one, scope, fleet)
        spread = one.subject.workload if one.origin in (APPLICATION, SYMPTOM) else ""
        where = scope if inside else Scope(WORKLOAD, spread) if spread else _place(one)
        groups[one.kind, where].append(one)
    scored = []
    for (kind, where), members in sorted(groups.items()):
        likely = max(_PRIOR.get(one.origin, 0.1) * _SEVERITY[min(severity_rank(one.severity), 3)] for one in members)
        late = max(min(one.first_at for one in members) - begin - _SLACK_SECONDS, 0.0)
        reach = _reach(members, everywhere, fleet)
        score = likely * math.exp(-late / _FADE_SECONDS) * (0.2 + 0.8 * reach)
        hit = frozenset[NodeKey]().union(*(fleet.nodes_of(one.subject) for one in members))
        why = f"first after {min(one.first_at for one in members) - begin:.0f} s, on {max(len(hit), 1)} nodes"
        scored.append(Cause(kind, where, score, f"{why}, {reach:.0%} of what is hit within reach"))
    total = sum(one.score for one in scored) or 1.0
    shares = [Cause(one.kind, one.scope, one.score / total, one.why) for one in scored]
    return tuple(sorted(shares, key=lambda one: (-one.score, one.kind, one.scope))[:MOST_CAUSES])


def _place(signal: Signal) -> Scope:
    subject = signal.subject
    if subject.gpu:
        return Scope("gpu", f"{subject.cluster}/{subject.node}/{subject.gpu}")
    if subject.node:
        return Scope(NODE, f"{subject.cluster}/{subject.node}")
    return Scope(subject.about, subject.workload or subject.path or "/".join(
        part for part in (subject.cluster, subject.pool) if part))  # fmt: skip


def _inside(signal: Signal, scope: Scope, fleet: Topology) -> bool:
    """Whether a signal is one of what all members of the scope show: of a workload the hardware's own are not."""
    if scope.kind == WORKLOAD and signal.origin in (HARDWARE, INFRASTRUCTURE):
        return False
    nodes = fleet.nodes_of(signal.subject)
    return signal.subject.workload == scope.name or bool(nodes & fleet.members.get(scope, frozenset()))


def _reach(signals: Sequence[Signal], everywhere: frozenset[NodeKey], fleet: Topology) -> float:
    """The share of the nodes that is on the signals' own nodes, or shares a workload with them."""
    if not everywhere:
        return 1.0
    reached: set[NodeKey] = set()
    for key in frozenset[NodeKey]().union(*(fleet.nodes_of(one.subject) for one in signals)):
        reached.add(key)
        for workload in fleet.workloads_on.get(key, ()):
            reached |= fleet.members[Scope(WORKLOAD, workload)]
    return len(everywhere & reached) / len(everywhere)
