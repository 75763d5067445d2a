"""What Overspill writes on objects is read back as it was; quantities add up in any spelling."""

from __future__ import annotations

from collections.abc import Callable

import orjson
from hypothesis import given
from hypothesis import strategies as st

from clusters.kubernetes.annotations import format_placement, parse_duration, parse_placement
from clusters.kubernetes.codec import format_time, parse_pod, parse_resources, parse_time
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, PoolId
from scheduler.model.workload import Placement, PlacementState

# Whole microseconds from 1970 to 2100: what metav1.MicroTime can hold.
INSTANTS = st.integers(0, 4_102_444_800 * 10**6).map(lambda micros: micros / 10**6)
NAMES = st.text(min_size=1, max_size=40)
POD = {
    "metadata": {"name": "p", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"containers": [{"name": "c"}]},
    "status": {},
}
POD_FIELDS = {
    "pod": ["metadata", "spec", "status"],
    "metadata": ["name", "uid", "labels", "creationTimestamp", "ownerReferences", "deletionTimestamp"],
    "spec": ["containers", "initContainers", "overhead", "resources", "priority", "nodeName"],
    "status": ["phase"],
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.builds(
        Placement,
        cluster=NAMES.map(ClusterId),
        pool=NAMES.map(PoolId),
        capacity_type=st.sampled_from(["owned", "reserved", "on-demand", "spot"]),
        bought=st.booleans(),
        state=st.sampled_from(PlacementState),
        attempt=st.integers(0, 2**31),
        decided_at=INSTANTS,
        decision=st.text(max_size=40),
        reason=st.text(max_size=80),
        exploration_usd=st.none() | st.decimals(0, 10**9, places=9),
    )
)
def test_placements_survive_the_annotation(placement: Placement) -> None:
    assert parse_placement(format_placement(placement)) == placement


@given(INSTANTS)
def test_times_survive_to_the_microsecond(instant: float) -> None:
    assert parse_time(format_time(instant, micro=True)) == instant


@given(st.integers(-62_135_596_800, 253_402_300_799))
def test_whole_seconds_survive_exactly(second: int) -> None:
    assert parse_time(format_time(second)) == second


@given(st.integers(0, 10**15))
def test_quantities_mean_the_same_in_any_spelling(amount: int) -> None:
    plain = parse_resources({"cpu": str(amount), "memory": str(amount)})
    assert parse_resources({"cpu": f"{amount}000m", "memory": f"{amount}000m"}) == plain
    assert parse_resources({"cpu": f"{amount}e0", "memory": amount}) == plain
    assert plain.memory_bytes == amount


@given(st.integers(0, 99), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_durations_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def refusal(read: Callable[[], object]) -> str:
    """The one clear error that reading gives; empty when it was understood. Anything else escapes and fails."""
    try:
        read()
    except InvalidObjectError as error:
        return str(error)
    return ""


@given(st.text(max_size=60))
def test_any_text_is_a_placement_or_one_clear_error(text: str) -> None:
    assert "overspill.dev/placement" in (refusal(lambda: parse_placement(text)) or "overspill.dev/placement")


@given(st.sampled_from(sorted(POD_FIELDS)), st.data())
def test_any_json_in_a_pod_is_read_or_one_clear_error(part: str, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(POD_FIELDS[part]))
    spoilt = orjson.loads(orjson.dumps(POD))
    (spoilt if part == "pod" else spoilt[part])[field] = data.draw(JSON)
    assert (refusal(lambda: parse_pod(spoilt)) or "pod ").startswith("pod ")
