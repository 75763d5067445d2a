"""Tables for selectors, affinity, taints, and what pods ask for."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.sandbox.emulation.matching import matches_affinity, requirement_matches, untolerated
from clusters.sandbox.emulation.objects import format_time, parse_time, pod_requests
from scheduler.model.errors import InvalidObjectError
from scheduler.model.resources import Resources

LABELS = {"zone": "a", "gpus": "8"}


@pytest.mark.parametrize(
    ("requirement", "want"),
    [
        ({"key": "zone", "operator": "In", "values": ["a", "b"]}, True),
        ({"key": "zone", "operator": "In", "values": ["b"]}, False),
        ({"key": "none", "operator": "In", "values": ["b"]}, False),
        ({"key": "zone", "operator": "NotIn", "values": ["b"]}, True),
        ({"key": "none", "operator": "NotIn", "values": ["b"]}, True),
        ({"key": "zone", "operator": "NotIn", "values": ["a"]}, False),
        ({"key": "zone", "operator": "Exists"}, True),
        ({"key": "none", "operator": "Exists"}, False),
        ({"key": "none", "operator": "DoesNotExist"}, True),
        ({"key": "zone", "operator": "DoesNotExist"}, False),
        ({"key": "gpus", "operator": "Gt", "values": ["4"]}, True),
        ({"key": "gpus", "operator": "Gt", "values": ["8"]}, False),
        ({"key": "gpus", "operator": "Lt", "values": ["9"]}, True),
        ({"key": "zone", "operator": "Lt", "values": ["9"]}, False),
        ({"key": "gpus", "operator": "Gt", "values": []}, False),
        ({"key": "gpus", "operator": "Near", "values": ["8"]}, False),
    ],
)
def test_requirement(requirement: dict[str, Any], want: bool) -> None:
    assert requirement_matches(requirement, LABELS) is want


def _affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": list(terms)}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({}, True),
        ({"nodeSelector": {"zone": "a"}}, True),
        ({"nodeSelector": {"zone": "b"}}, False),
        (_affinity({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}), True),
        (_affinity({"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}), False),
        (_affinity({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}), True),
        (_affinity({}), False),  # an empty term matches nothing
        (
            _affinity(
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]},
                {"matchExpressions": [{"key": "gpus", "operator": "Exists"}]},
            ),
            True,  # terms are alternatives
        ),
    ],
)
def test_affinity(spec: dict[str, Any], want: bool) -> None:
    assert matches_affinity(spec, LABELS, "n1") is want


TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("toleration", "kept_away"),
    [
        (None, True),
        ({"operator": "Exists"}, False),
        ({"key": "nvidia.com/gpu", "operator": "Exists"}, False),
        ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}, True),
        ({"key": "nvidia.com/gpu", "operator": "Equal", "value": "present"}, False),
        ({"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}, False),
        ({"key": "nvidia.com/gpu", "value": "absent"}, True),
        ({"key": "other", "operator": "Exists"}, True),
    ],
)
def test_toleration(toleration: dict[str, Any] | None, kept_away: bool) -> None:
    tolerations = [toleration] if toleration else []
    assert (untolerated([TAINT], tolerations, ("NoSchedule",)) is not None) is kept_away
    assert untolerated([TAINT], tolerations, ("NoExecute",)) is None


def test_pod_requests_are_the_sum_or_the_largest_init_container() -> None:
    spec = {
        "containers": [
            {"resources": {"requests": {"cpu": "1500m", "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 2, "cpu": "4"}}},
            {"resources": {"requests": {"cpu": "500m"}}},
        ],
        "initContainers": [{"resources": {"requests": {"memory": "3Gi"}}}],
        "overhead": {"cpu": "10m"},
    }
    assert pod_requests(spec) == Resources(2010, 3 * 2**30, 2, 1)


def test_times_round_trip_in_whole_seconds() -> None:
    assert format_time(1_700_000_000.9) == "2023-11-14T22:13:20Z"
    assert parse_time("2023-11-14T22:13:20Z") == 1_700_000_000.0
    assert parse_time("2023-11-14T22:13:20.500000Z") == 1_700_000_000.5
    with pytest.raises(InvalidObjectError, match="yesterday"):
        parse_time("yesterday")
