"""What is kept of a copy, whatever its cluster says beside it."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.kinds.job import Job
from scheduler.model.ids import ClusterId, Uid
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
