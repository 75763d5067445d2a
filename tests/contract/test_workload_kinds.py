"""What every workload kind must do, whichever module it comes from: discovered, not listed.

A new kind is tested once `SAMPLES` can make one of its hub objects; a kind without a sample fails here by name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.kinds import load_kinds
from clusters.kubernetes.annotations import format_placement
from clusters.kubernetes.hubobjects import resource_of
from scheduler.model.contract import LABEL_ORIGIN_UID, LABEL_QUEUE, copy_name
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import RawObject, WorkloadKind
from scheduler.model.workload import PlacementState
from tests.unit.test_kinds_federatedworkload import federated
from tests.unit.test_kinds_job import MEMBER, PLACEMENT, applied, job

KINDS = load_kinds()
SAMPLES: dict[str, Callable[[], dict[str, Any]]] = {"job": job, "federatedworkload": federated}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> WorkloadKind:
    found: WorkloadKind = KINDS[request.param]
    return found


def sample(kind: WorkloadKind) -> dict[str, Any]:
    assert kind.name in SAMPLES, f"give tests/contract/test_workload_kinds.py a sample of kind {kind.name}"
    return SAMPLES[kind.name]()


def stored_copy(kind: WorkloadKind, obj: RawObject) -> Any:
    made: Any = kind.make_copy(obj, kind.parse(obj), PLACEMENT, MEMBER)
    stored = copy.deepcopy(made)
    stored["metadata"] |= {"uid": "copy-uid", "creationTimestamp": "2026-01-01T00:10:00Z", "resourceVersion": "1"}
    return stored


def test_the_name_is_the_modules(kind: WorkloadKind) -> None:
    assert KINDS[kind.name] is kind
    assert type(kind).__module__ == f"clusters.kinds.{kind.name}"


def test_a_hub_object_is_read(kind: WorkloadKind) -> None:
    obj = sample(kind)
    workload = kind.parse(obj)
    assert workload.invalid is None
    assert workload.ref.kind == kind.name
    assert workload.ref.uid == obj["metadata"]["uid"]
    assert workload.queue == obj["metadata"]["labels"][LABEL_QUEUE]
    assert workload.requests.pods >= 1


def test_nothing_given_is_changed(kind: WorkloadKind) -> None:
    obj = sample(kind)
    made = stored_copy(kind, obj)
    before = orjson.dumps([obj, made])
    workload = kind.parse(obj)
    kind.refresh_copy(obj, workload, PLACEMENT, MEMBER, made)
    kind.parse_copy(made, ClusterId("eks"))
    kind.suspend_patch(made, suspend=True)
    kind.mirror_status(obj, made)
    kind.condition_patch(obj, reason="Held", message="m", placed=False, now=0.0)
    assert orjson.dumps([obj, made]) == before


def test_the_copy_tells_where_it_comes_from(kind: WorkloadKind) -> None:
    obj = sample(kind)
    made = stored_copy(kind, obj)
    meta = obj["metadata"]
    assert made["metadata"]["name"] == copy_name(meta["name"], meta["uid"])
    assert made["metadata"]["namespace"] == meta["namespace"]
    resource = resource_of(kind, made)
    assert kind.parse(obj).runs_as == resource.key
    assert not made["metadata"].keys() & {"ownerReferences", "finalizers", "managedFields"}
    assert LABEL_QUEUE not in made["metadata"]["labels"]
    copied = kind.parse_copy(made, ClusterId("eks"))
    assert (copied.origin, copied.attempt, copied.origin_cluster) == (meta["uid"], PLACEMENT.attempt, MEMBER.hub)
    assert (copied.cluster, copied.kind, copied.suspended, copied.finished) == ("eks", kind.name, False, False)
    assert copied.pods_wanted == kind.parse(obj).requests.pods


def test_the_same_input_gives_the_same_copy(kind: WorkloadKind) -> None:
    assert orjson.dumps(stored_copy(kind, sample(kind))) == orjson.dumps(stored_copy(kind, sample(kind)))


def test_its_pods_carry_the_origin_and_are_pinned(kind: WorkloadKind) -> None:
    obj = sample(kind)
    template = stored_copy(kind, obj)["spec"]["template"]
    assert template["metadata"]["labels"][LABEL_ORIGIN_UID] == obj["metadata"]["uid"]
    assert dict(MEMBER.pool_selector).items() <= template["spec"]["nodeSelector"].items()
    assert {taint[0] for taint in MEMBER.pool_taints} <= {one.get("key") for one in template["spec"]["tolerations"]}


def test_a_fresh_copy_needs_no_refresh(kind: WorkloadKind) -> None:
    obj = sample(kind)
    assert kind.refresh_copy(obj, kind.parse(obj), PLACEMENT, MEMBER, stored_copy(kind, obj)) is None


def test_suspending_and_resuming_settle(kind: WorkloadKind) -> None:
    made = stored_copy(kind, sample(kind))
    assert kind.suspend_patch(made, suspend=False) is None
    down = kind.suspend_patch(made, suspend=True)
    assert down is not None
    asleep = applied(made, down)
    assert kind.suspend_patch(asleep, suspend=True) is None
    assert kind.parse_copy(asleep, ClusterId("eks")).suspended
    assert kind.parse_copy(asleep, ClusterId("eks")).pods_wanted == 0
    up = kind.suspend_patch(asleep, suspend=False)
    assert up is not None
    assert not kind.parse_copy(applied(asleep, up), ClusterId("eks")).suspended


@pytest.mark.parametrize("placed", [True, False])
def test_the_condition_settles_and_is_read_back(kind: WorkloadKind, placed: bool) -> None:
    obj = sample(kind)
    patch = kind.condition_patch(obj, reason="Because", message="one sentence", placed=placed, now=5.0)
    assert patch is not None
    after = applied(obj, patch)
    assert kind.parse(after).condition == ("Because", "one sentence")
    assert kind.condition_patch(after, reason="Because", message="one sentence", placed=placed, now=9.0) is None


def test_mirroring_settles_and_keeps_the_condition(kind: WorkloadKind) -> None:
    obj = sample(kind)
    patch = kind.condition_patch(obj, reason="Because", message="m", placed=True, now=5.0)
    assert patch is not None
    hub = applied(obj, patch)
    for made in (stored_copy(kind, obj), None):
        if (mirrored := kind.mirror_status(hub, made)) is not None:
            hub = applied(hub, mirrored)
        assert kind.mirror_status(hub, made) is None
        assert kind.parse(hub).condition == ("Because", "m")


@pytest.mark.parametrize("state", PlacementState)
def test_the_placement_is_read_back(kind: WorkloadKind, state: PlacementState) -> None:
    obj = sample(kind)
    wanted = type(PLACEMENT)(**{name: getattr(PLACEMENT, name) for name in PLACEMENT.__slots__} | {"state": state})
    obj["metadata"].setdefault("annotations", {})["overspill.dev/placement"] = format_placement(wanted)
    assert kind.parse(obj).placement == wanted


FIELDS = (
    ("metadata",), ("spec",), ("status",), ("metadata", "labels"), ("metadata", "annotations"), ("metadata", "uid"),
    ("metadata", "creationTimestamp"), ("metadata", "finalizers"), ("spec", "template"), ("spec", "suspend"),
    ("spec", "template", "spec"), ("spec", "template", "metadata"), ("spec", "parallelism"), ("spec", "completions"),
    ("status", "conditions"), ("status", "active"), ("status", "startTime"), ("status", "succeeded"),
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(KINDS))
@given(path=st.sampled_from(FIELDS), junk=JSON)
def test_any_json_is_understood_or_refused_in_one_line(name: str, path: tuple[str, ...], junk: Any) -> None:
    kind = KINDS[name]
    good = sample(kind)
    made = stored_copy(kind, good)
    workload = kind.parse(good)
    calls: tuple[Callable[[Any], object], ...] = (
        kind.parse,
        lambda obj: kind.make_copy(obj, workload, PLACEMENT, MEMBER),
        lambda obj: kind.refresh_copy(obj, workload, PLACEMENT, MEMBER, made),
        lambda obj: kind.mirror_status(obj, made),
        lambda obj: kind.mirror_status(good, obj),
        lambda obj: kind.parse_copy(obj, ClusterId("eks")),
        lambda obj: kind.suspend_patch(obj, suspend=True),
        lambda obj: kind.condition_patch(obj, reason="r", message="m", placed=True, now=0.0),
    )
    for base in (good, made):
        spoilt: Any = orjson.loads(orjson.dumps(base))
        inner = spoilt
        for part in path[:-1]:
            inner = inner.setdefault(part, {})
        inner[path[-1]] = junk
        for call in calls:
            assert "\n" not in refusal(call, spoilt)


def refusal(call: Callable[[Any], object], obj: Any) -> str:
    """The one line that the call is refused with; empty when it was understood. Anything else escapes and fails."""
    try:
        call(obj)
    except InvalidObjectError as error:
        return str(error)
    return ""
