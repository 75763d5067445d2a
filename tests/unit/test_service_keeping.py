"""What is kept while nothing can be decided anew, and how a service that nobody measures starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.engine.serving import Memory, serve
from scheduler.model import division as reasons
from scheduler.model.serving import ReplicaGroup, Revision, ServingOffer
from scheduler.model.serving_policy import DomainRule, ScalingRule
from tests.builders.serving import NOW, a_group, a_service, a_view, an_offer, an_slo

LOST = {"open": False, "reachable": False, "why_closed": "in a cluster that cannot be reached"}
UNKNOWN: dict[str, Any] = {"speed": None}


@pytest.mark.parametrize(
    ("groups", "asked", "offers", "changes", "want"),
    [
        # Nothing runs: the least, where it is cheapest, whether or not its speed is known.
        ((), None, (an_offer(**UNKNOWN), an_offer("aws/g5", **UNKNOWN)), {"scaling": ScalingRule(3)},
         {"onprem/a10": 3}),
        ((), None, (an_offer(), an_offer("aws/g5")),
         {"scaling": ScalingRule(2), "domains": DomainRule("cluster", 1, 2)},
         {"onprem/a10": 1, "aws/g5": 1}),
        # Spot only as far as its share goes, rounded down.
        ((), None, (an_offer("aws/g5"), an_offer("aws/g5-spot")),
         {"scaling": ScalingRule(3), "max_reclaimable_share": 0.5}, {"aws/g5": 2, "aws/g5-spot": 1}),
        ((), None, (an_offer(most_replicas=1), an_offer("aws/g5")), {"scaling": ScalingRule(3)},
         {"onprem/a10": 1, "aws/g5": 2}),
        # A lost cluster's share is replaced elsewhere.
        ((a_group("onprem/a10", 2), a_group("aws/g5", 3)), 5, (an_offer(), an_offer("aws/g5", **LOST)), {},
         {"onprem/a10": 5}),
        # And given up when it comes back, step by step: what was asked for counts, not what is there.
        ((a_group("onprem/a10", 5), a_group("aws/g5", 3)), 5, (an_offer(), an_offer("aws/g5")), {},
         {"onprem/a10": 5, "aws/g5": 2}),
        # No room anywhere else: it stays where it is, if anybody answers there.
        ((a_group("aws/g5", 3),), 3, (an_offer("aws/g5", open=False, why_closed="quarantined"),), {}, {"aws/g5": 3}),
        # What costs an unknown price is kept and never added to.
        ((a_group("aws/g5", 1),), 1, (an_offer("aws/g5", usd_per_replica_hour=None),), {"scaling": ScalingRule(2)},
         {"aws/g5": 1}),
        ((a_group("onprem/a10", 9),), 9, (an_offer(),), {"scaling": ScalingRule(1, 4)}, {"onprem/a10": 8}),
    ],
)  # fmt: skip
def test_what_is_kept_without_metrics(
    groups: tuple[ReplicaGroup, ...], asked: int | None, offers: tuple[ServingOffer, ...], changes: dict[str, Any],
    want: dict[str, int],
) -> None:  # fmt: skip
    service = a_service(*groups, demand=None, asked_before=asked)
    division, _ = serve(a_view(service, *offers, slo=an_slo(**changes), forecast=()), Memory())
    assert {str(one.pool): one.replicas for one in division.targets} == want
    assert division.conditions[0].reason == reasons.NO_METRICS
    assert division.solver == "kept"


def test_a_revision_takes_over_without_metrics_too() -> None:
    memory = Memory(stable="r1")
    groups = [a_group("onprem/a10", 4)]
    seen = set()
    for minute in range(200):
        service = replace(
            a_service(*groups, demand=None, asked_before=4),
            revision="r2",
            revisions=(Revision("r1", NOW - 9.0), Revision("r2", NOW)),
        )
        division, memory = serve(a_view(service, an_offer(), now=NOW + 120.0 * minute, forecast=()), memory)
        groups = [a_group(str(one.pool), one.replicas, revision=one.revision) for one in division.targets]
        assert sum(group.ready for group in groups) >= 4, "make before break"
        seen.add(frozenset(group.revision for group in groups))
    assert memory.stable == "r2"
    assert [group.revision for group in groups] == ["r2"]
    assert frozenset({"r1", "r2"}) in seen
