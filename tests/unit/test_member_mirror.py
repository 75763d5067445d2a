"""What is kept of a copy, whatever its cluster says beside it."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.kinds.job import Job
from scheduler.model.ids import ClusterId, Uid
from scheduler.model.ports import RawObject
from scheduler.model.workload import Copy
from tests.unit.test_neighbours import Fleet, _copy, shared

SCALED = {"manager": "horizontal-pod-autoscaler", "subresource": "scale"}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        (None, None), (5, None), ("x", None), (["x", 1, None], None), ([{}], None), ({"a": 1}, None),
        ([{"manager": "kubectl"}, SCALED, "x"], [SCALED]),
    ],
)  # fmt: skip
def test_who_scales_a_copy_is_kept_and_garbage_is_not(fields: Any, kept: Any) -> None:
    member = Fleet(shared()).members[ClusterId("c")]
    copy = _copy("train", "u1")
    copy["metadata"]["managedFields"] = fields
    member.apply_copy(Job(), copy)
    (entry,) = member.copies_for(Uid("u1"))
    assert entry.raw["metadata"].get("managedFields") == kept


class Counted(Job):
    """How often copies were read."""

    def __init__(self) -> None:
        self.read = 0

    def parse_copy(self, obj: RawObject, cluster: ClusterId) -> Copy:
        self.read += 1
        return super().parse_copy(obj, cluster)


def test_a_version_that_is_known_is_not_read_again() -> None:
    kind, member = Counted(), Fleet(shared()).members[ClusterId("c")]
    copy = _copy("train", "u1")
    member.apply_copy(kind, copy)
    member.apply_copy(kind, {**copy})
    assert kind.read == 1
    member.apply_copy(kind, _version(copy, "2"))
    assert kind.read == 2
    (entry,) = member.copies_for(Uid("u1"))
    assert entry.raw["metadata"]["resourceVersion"] == "2"


def test_the_same_version_in_other_words_is_read_again() -> None:
    """One of the two was garbled on its way, and nobody knows which."""
    kind, member = Counted(), Fleet(shared()).members[ClusterId("c")]
    copy = _copy("train", "u1")
    member.apply_copy(kind, {**copy, "spec": {**copy["spec"], "suspend": True}})
    member.apply_copy(kind, copy)
    (entry,) = member.copies_for(Uid("u1"))
    assert (kind.read, entry.copy.suspended) == (2, False)


def test_another_object_with_the_same_name_and_version_is_read() -> None:
    kind, member = Counted(), Fleet(shared()).members[ClusterId("c")]
    copy = _copy("train", "u1")
    member.apply_copy(kind, copy)
    member.apply_copy(kind, {**copy, "metadata": {**copy["metadata"], "uid": "another"}})
    (entry,) = member.copies_for(Uid("u1"))
    assert entry.copy.uid == "another"


def test_a_copy_whose_deletion_came_to_nothing_is_there_once_its_member_says_so() -> None:
    kind, member = Counted(), Fleet(shared()).members[ClusterId("c")]
    copy = _copy("train", "u1")
    member.apply_copy(kind, copy)
    (entry,) = member.copies_for(Uid("u1"))
    member.mark_deleting(entry.key, entry.copy.uid)
    assert member.copies_for(Uid("u1"))[0].copy.deleting
    member.apply_copy(kind, copy)
    assert not member.copies_for(Uid("u1"))[0].copy.deleting


def _version(raw: dict[str, Any], version: str) -> dict[str, Any]:
    return {**raw, "metadata": {**raw["metadata"], "resourceVersion": version}}
