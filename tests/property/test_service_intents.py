"""A division survives being written and read back; what is written elsewhere is read or refused in one line."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.kubernetes.divisions import format_intent, pack, parse_intent, unpack
from scheduler.model.contract import ANNOTATION_DIVISION, ANNOTATION_REVISIONS
from scheduler.model.division import ReplicaTarget
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, DecisionId, PoolId, PoolRef
from scheduler.model.service_intent import Adopted, ServiceIntent, StoredRevision
from scheduler.model.serving import TrafficWeight

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
TIMES = st.integers(0, 4_000_000_000).map(float)
COUNTS = st.integers(0, 100_000)
POOLS = st.builds(PoolRef, NAMES.map(ClusterId), NAMES.map(PoolId))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
INTENTS = st.builds(
    ServiceIntent,
    slo=NAMES | st.just(""),
    decision=NAMES.map(DecisionId),
    decided_at=TIMES,
    targets=st.lists(
        st.builds(ReplicaTarget, POOLS, NAMES, COUNTS, st.none() | st.tuples(COUNTS, COUNTS)), max_size=4
    ).map(tuple),
    weights=st.lists(st.builds(TrafficWeight, NAMES.map(ClusterId), NAMES, COUNTS), max_size=4).map(tuple),
    revisions=st.lists(st.builds(StoredRevision, NAMES, TIMES, NAMES), max_size=3).map(tuple),
    adopted=st.lists(st.builds(Adopted, NAMES.map(ClusterId), NAMES.map(PoolId), NAMES, NAMES), max_size=2).map(tuple),
    silent=st.lists(NAMES.map(ClusterId), max_size=2).map(tuple),
    memory=st.just("") | st.dictionaries(NAMES, JSON, max_size=3).map(lambda each: orjson.dumps(each).decode()),
)


@given(INTENTS)
def test_a_division_is_read_back_as_it_was_written(intent: ServiceIntent) -> None:
    assert parse_intent(format_intent(intent)) == intent


@given(JSON)
def test_what_is_packed_is_unpacked(content: Any) -> None:
    assert unpack(pack(content)) == content


@given(INTENTS, st.sampled_from(["targets", "weights", "decidedAt", "version", "silent", "adopted", "slo"]), JSON)
def test_a_garbled_division_is_read_or_refused(intent: ServiceIntent, name: str, junk: Any) -> None:
    said = format_intent(intent)
    fields = orjson.loads(said[ANNOTATION_DIVISION]) | {name: junk}
    refusal = ""
    try:
        parse_intent(said | {ANNOTATION_DIVISION: orjson.dumps(fields).decode()})
    except InvalidObjectError as error:
        refusal = str(error)
    assert not refusal or (ANNOTATION_DIVISION in refusal and "\n" not in refusal)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", '"x"', "{}"])
def test_what_is_no_division_is_refused(text: str) -> None:
    with pytest.raises(InvalidObjectError):
        parse_intent({ANNOTATION_DIVISION: text})
    assert parse_intent({ANNOTATION_REVISIONS: text}) is None


@pytest.mark.parametrize("text", ["", "not base64!", "YWJj", pack("x" * (5 * 2**20))])
def test_what_cannot_be_unpacked_is_refused(text: str) -> None:
    with pytest.raises(InvalidObjectError):
        unpack(text)
