"""Overrides by member: JSON Patch and strategic merge over any JSON; what they change, and what they say."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.kinds.templates._overrides import applied, check
from clusters.kinds.templates._patches import json_patch, strategic_merge
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId

HERE, LABELS = ClusterId("eks"), (("tier", "cloud"), ("zone", "b"))
NAMES = st.sampled_from(["a", "b", "containers", "env", "volumes", "spec", "~x", "p/q"])
SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3)
ITEMS = st.fixed_dictionaries({"name": st.sampled_from("abc")}, optional={"value": SCALARS})
JSON = st.recursive(
    SCALARS | st.lists(ITEMS, max_size=3, unique_by=lambda one: one["name"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)
MAPS = st.dictionaries(NAMES, JSON, max_size=4)
PATHS = st.lists(NAMES | st.sampled_from(["0", "1", "-"]), max_size=4).map(
    lambda parts: "".join(f"/{part.replace('~', '~0').replace('/', '~1')}" for part in parts)
)
OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]), "path": PATHS},
    optional={"value": JSON, "from": PATHS},
)
OVERRIDES = st.lists(
    st.fixed_dictionaries({"clusters": st.sampled_from([["eks"], ["gke"], []]), "merge": MAPS})
    | st.fixed_dictionaries({"selector": st.sampled_from([{}, {"tier": "cloud"}, {"tier": "x"}]), "merge": MAPS})
    | st.fixed_dictionaries({"clusters": st.just(["eks"]), "patch": st.lists(OPERATIONS, max_size=3)}),
    max_size=3,
)


def outcome(call: Any, *arguments: Any) -> Any:
    """What it gives, or the one line that it refuses with."""
    try:
        return call(*arguments)
    except InvalidObjectError as error:
        return str(error)


@settings(max_examples=40)
@given(MAPS, OVERRIDES)
def test_the_same_input_gives_the_same_and_is_not_changed(template: dict[str, Any], overrides: list[Any]) -> None:
    before = copy.deepcopy((template, overrides))
    first = outcome(applied, template, overrides, HERE, LABELS)
    assert (template, overrides) == before
    assert not isinstance(first, str) or "\n" not in first
    assert outcome(applied, copy.deepcopy(template), copy.deepcopy(overrides), HERE, LABELS) == first


@settings(max_examples=40)
@given(MAPS)
def test_nothing_changes_nothing(template: dict[str, Any]) -> None:
    for overrides in (None, [], [{"clusters": ["gke"], "merge": {"a": 1}}], [{"selector": {"zone": "a"}, "patch": []}]):
        assert applied(template, overrides, HERE, LABELS) is template
    assert json_patch(template, [], "p") == template
    assert strategic_merge(template, {}, "m") == template


@settings(max_examples=40)
@given(MAPS, st.lists(OPERATIONS, max_size=4))
def test_operations_one_by_one_are_the_operations_together(template: dict[str, Any], operations: list[Any]) -> None:
    together = outcome(json_patch, template, operations, "p")
    document: Any = template
    for number, operation in enumerate(operations):
        document = outcome(lambda d, o: json_patch(d, [o], "p"), document, operation)
        if isinstance(document, str) and document.startswith("p["):
            assert together == document.replace("p[0]", f"p[{number}]", 1)
            return
    assert together == document


@settings(max_examples=40)
@given(MAPS, MAPS)
def test_a_merge_done_twice_is_done_once(template: dict[str, Any], patch: dict[str, Any]) -> None:
    once = outcome(strategic_merge, template, patch, "m")
    if isinstance(once, dict):
        assert outcome(strategic_merge, once, patch, "m") == once


@settings(max_examples=40)
@given(st.lists(ITEMS, max_size=3, unique_by=lambda one: one["name"]), ITEMS)
def test_a_merged_list_keeps_its_order_and_each_name_once(items: list[Any], item: dict[str, Any]) -> None:
    merged = strategic_merge({"containers": items}, {"containers": [item]}, "m")["containers"]
    names = [one["name"] for one in merged]
    assert names[: len(items)] == [one["name"] for one in items]
    assert sorted(names) == sorted({*names, item["name"]})


POD: dict[str, Any] = {
    "containers": [
        {"name": "main", "image": "a/x:1", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}
    ],
    "nodeSelector": {"zone": "a"},
    "volumeClaimTemplates": [{"metadata": {"name": "cache"}, "spec": {"storageClassName": "slow", "size": 1}}],
    "tolerations": [{"key": "a"}],
}


@pytest.mark.parametrize(
    ("merge", "path", "want"),
    [
        ({"containers": [{"name": "main", "image": "eu/x:1"}]}, ["containers", 0, "image"], "eu/x:1"),
        ({"containers": [{"name": "main", "image": "eu/x:1"}]}, ["containers", 0, "env", 1, "value"], "2"),
        ({"containers": [{"name": "main", "env": [{"name": "B", "value": "3"}]}]}, ["containers", 0, "env", 1],
         {"name": "B", "value": "3"}),
        ({"containers": [{"name": "main", "env": [{"name": "A", "$patch": "delete"}]}]}, ["containers", 0, "env"],
         [{"name": "B", "value": "2"}]),
        ({"containers": [{"name": "side"}]}, ["containers", 1], {"name": "side"}),
        ({"nodeSelector": {"zone": None, "disk": "ssd"}}, ["nodeSelector"], {"disk": "ssd"}),
        ({"nodeSelector": {"$patch": "replace", "disk": "ssd"}}, ["nodeSelector"], {"disk": "ssd"}),
        ({"volumeClaimTemplates": [{"metadata": {"name": "cache"}, "spec": {"storageClassName": "fast"}}]},
         ["volumeClaimTemplates", 0, "spec"], {"storageClassName": "fast", "size": 1}),
        ({"tolerations": [{"key": "b"}]}, ["tolerations"], [{"key": "b"}]),
    ],
)  # fmt: skip
def test_strategic_merge(merge: dict[str, Any], path: list[Any], want: Any) -> None:
    found: Any = strategic_merge(POD, merge, "m")
    for part in path:
        found = found[part]
    assert found == want


OBJECT = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "n"}, "spec": {"l": [1, 2], "m": {"a/b": 1}}}


@pytest.mark.parametrize(
    ("operation", "want"),
    [
        ({"op": "add", "path": "/spec/l/-", "value": 3}, {"l": [1, 2, 3], "m": {"a/b": 1}}),
        ({"op": "add", "path": "/spec/l/0", "value": 0}, {"l": [0, 1, 2], "m": {"a/b": 1}}),
        ({"op": "replace", "path": "/spec/m/a~1b", "value": 2}, {"l": [1, 2], "m": {"a/b": 2}}),
        ({"op": "remove", "path": "/spec/l/1"}, {"l": [1], "m": {"a/b": 1}}),
        ({"op": "move", "from": "/spec/l/0", "path": "/spec/n"}, {"l": [2], "m": {"a/b": 1}, "n": 1}),
        ({"op": "copy", "from": "/spec/l", "path": "/spec/n"}, {"l": [1, 2], "m": {"a/b": 1}, "n": [1, 2]}),
        ({"op": "test", "path": "/spec/l/0", "value": 1}, {"l": [1, 2], "m": {"a/b": 1}}),
        ({"op": "test", "path": "/spec/l/0", "value": 9}, "/spec/l/0: the value there is another"),
        ({"op": "replace", "path": "/spec/none", "value": 1}, "/spec/none: there is nothing to replace"),
        ({"op": "remove", "path": "/spec/l/2"}, "/spec/l/2: the list has no such place to remove"),
        ({"op": "add", "path": "/spec/l/01", "value": 1}, "/spec/l/01: the list has no such place to add"),
        ({"op": "add", "path": "/none/a", "value": 1}, "/none: there is nothing"),
        ({"op": "add", "path": "spec", "value": 1}, "write a JSON pointer"),
        ({"op": "add", "path": "/spec/x"}, "spec.overrides[0].patch[0].value is missing"),
        ({"op": "bend", "path": "/spec"}, "spec.overrides[0].patch[0].op: write one of add"),
        ({"op": "move", "from": "/spec", "path": "/spec/x"}, "lies within what is moved"),
        ({"op": "replace", "path": "/kind", "value": "Y"}, "spec.overrides[0]: kind cannot be overridden"),
        ({"op": "remove", "path": ""}, "the whole template cannot be removed"),
    ],
)  # fmt: skip
def test_json_patch(operation: dict[str, Any], want: Any) -> None:
    told = outcome(applied, OBJECT, [{"clusters": ["eks"], "patch": [operation]}], HERE, LABELS)
    if isinstance(want, str):
        assert want in told
    else:
        assert told["spec"] == want


@pytest.mark.parametrize(
    ("override", "want"),
    [
        ("text", "spec.overrides[0] is no map"),
        ({"cluster": ["a"], "merge": {}}, "spec.overrides[0].cluster is not known; known: clusters, merge, patch"),
        ({"merge": {}}, "write either clusters or selector"),
        ({"clusters": [], "selector": {}, "merge": {}}, "write either clusters or selector"),
        ({"clusters": ["a"]}, "write either patch or merge"),
        ({"clusters": "a", "merge": {}}, "clusters is no list of names"),
        ({"selector": {"a": 1}, "merge": {}}, "selector is no map of labels"),
        ({"clusters": ["a"], "patch": {}}, "patch is no list of JSON Patch operations"),
        ({"clusters": ["a"], "merge": []}, "merge is no map"),
    ],
)
def test_what_cannot_be_meant_is_refused(override: Any, want: str) -> None:
    assert want in outcome(check, [override])


def test_an_item_without_its_name_is_told_with_its_path() -> None:
    override = {"selector": {"tier": "cloud"}, "merge": {"spec": {"containers": [{"image": "x"}]}}}
    told = outcome(applied, OBJECT, [override], HERE, LABELS)
    assert told == "spec.overrides[0].merge.spec.containers[0].name is missing; it tells which item is meant"
