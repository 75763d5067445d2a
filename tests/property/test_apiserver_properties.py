"""What must always hold of the emulated API server: field ownership, patches, lists, selectors and watches."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from clusters.sandbox.apiserver import fieldsets, selectors
from clusters.sandbox.apiserver.failures import StatusError
from clusters.sandbox.apiserver.names import canonical_quantity
from clusters.sandbox.apiserver.patch import merge
from clusters.sandbox.apiserver.registry import Request
from clusters.sandbox.apiserver.schema import ANYTHING
from scheduler.model.resources import parse_quantity
from tests.builders.apiserver import World

KEYS = st.sampled_from(["a", "b", "c", "d"])
DATA = st.dictionaries(KEYS, st.sampled_from(["1", "2", "3"]), max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("xyz", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)
PATH = ("", "v1", "configmaps")


def config(data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["x", "y"]), DATA, st.booleans()), min_size=1, max_size=8))
def test_apply_holds_what_each_manager_last_applied(steps: list[tuple[str, dict[str, str], bool]]) -> None:
    """After a forced apply the object has it all; a refused one changes nothing; nobody's fields linger unowned."""
    world = World()
    world.apply(PATH, config({}), "owner")
    for manager, data, force in steps:
        kind = world.registry.kind(*PATH)
        before = world.registry.get(kind, "default", "c").obj
        try:
            after = world.apply(PATH, config(data), manager, force=force)
        except StatusError as error:
            assert not force
            assert error.code == 409  # noqa: PT017
            assert world.registry.get(kind, "default", "c").obj is before
            continue
        stored = after.get("data") or {}
        assert data.items() <= stored.items()
        owned: fieldsets.Fields = {}
        for entry in after["metadata"]["managedFields"]:
            owned = fieldsets.union(owned, entry["fieldsV1"].get("f:data") or {})
        assert {f"f:{key}" for key in stored} == set(owned) - {fieldsets.SELF}
        assert world.apply(PATH, config(data), manager) is after


@given(OBJECTS, OBJECTS)
def test_a_merge_patch_does_what_it_says_and_twice_is_once(target: dict[str, Any], patch: dict[str, Any]) -> None:
    once = merge(target, patch)
    assert merge(once, patch) is once
    for key, value in patch.items():
        if value is None:
            assert key not in once
        elif not isinstance(value, dict):
            assert once[key] == value
    for key in target.keys() - patch.keys():
        assert once[key] is target[key]


@given(OBJECTS, OBJECTS)
def test_changes_and_losses_tell_two_objects_apart(old: dict[str, Any], new: dict[str, Any]) -> None:
    old, new = without_nulls(old), without_nulls(new)
    changed, gone = fieldsets.changed_fields(ANYTHING, old, new)
    assert (not changed and not gone) == (old == new)


@given(OBJECTS, OBJECTS)
def test_field_sets_are_sets(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = (fieldsets.fields_of(ANYTHING, without_nulls(value)) for value in (one, other))
    in_a, in_b = set(fieldsets.members(a)), set(fieldsets.members(b))
    assert set(fieldsets.members(fieldsets.union(a, b))) == in_a | in_b
    assert set(fieldsets.members(fieldsets.difference(a, b))) == in_a - in_b
    assert set(fieldsets.members(fieldsets.intersection(a, b))) == in_a & in_b


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 30), st.integers(1, 7), st.lists(st.integers(0, 40), max_size=5))
def test_pages_are_one_consistent_snapshot(count: int, limit: int, disturbances: list[int]) -> None:
    world = World()
    kind = world.registry.kind(*PATH)
    for index in range(count):
        world.registry.create(kind, "default", {"metadata": {"name": f"c{index:02}"}}, Request())
    page = world.registry.find(kind, "default", "", "", limit)
    found = list(page.entries)
    while page.next_start:
        for index in disturbances:
            name = f"c{index:02}"
            if world.store.get(kind.key, "default", name):
                world.store.remove(kind.key, "default", name)
            else:
                world.registry.create(kind, "default", {"metadata": {"name": name}}, Request())
        following = world.store.next_page(kind.key, "default", ("", ""), page.version, page.next_start, limit)
        assert following is not None
        assert following.remaining == count - len(found) - len(following.entries)
        page = following
        found.extend(page.entries)
    assert [entry.name for entry in found] == [f"c{index:02}" for index in range(count)]


TERM = st.one_of(
    st.builds(lambda k, v: (f"{k}={v}", lambda ls: ls.get(k) == v), KEYS, KEYS),
    st.builds(lambda k, v: (f"{k}!={v}", lambda ls: ls.get(k) != v), KEYS, KEYS),
    st.builds(lambda k, vs: (f"{k} in ({','.join(vs)})", lambda ls: ls.get(k) in vs), KEYS, st.lists(KEYS, min_size=1)),
    st.builds(
        lambda k, vs: (f"{k} notin ({','.join(vs)})", lambda ls: ls.get(k) not in vs), KEYS, st.lists(KEYS, min_size=1)
    ),
    st.builds(lambda k: (k, lambda ls: k in ls), KEYS),
    st.builds(lambda k: (f"!{k}", lambda ls: k not in ls), KEYS),
)


@given(st.lists(TERM, max_size=4), st.dictionaries(KEYS, KEYS))
def test_selectors_mean_what_their_terms_mean(terms: list[tuple[str, Any]], labels: dict[str, str]) -> None:
    text = ",".join(text for text, _ in terms)
    assert selectors.parse_labels(text).matches(labels) == all(holds(labels) for _, holds in terms)


@given(st.text(max_size=30))
def test_any_selector_text_is_parsed_or_refused(text: str) -> None:
    try:
        selectors.parse_labels(text).matches({"a": "b"})
    except StatusError as error:
        assert error.code == 400  # noqa: PT017


@example(2**40, "Mi")
@given(st.integers(0, 10**15), st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi"]))
def test_canonical_quantities_keep_their_value(number: int, suffix: str) -> None:
    text = f"{number}{suffix}"
    canonical = canonical_quantity(text)
    assert parse_quantity(canonical) == parse_quantity(text)
    assert canonical_quantity(canonical) == canonical


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "label", "unlabel", "delete"])), max_size=25))
def test_a_watch_rebuilds_what_a_list_shows(steps: list[tuple[str, str]]) -> None:
    """Whoever follows a selected watch from a list has, at any time, what a new list would show."""
    world = World()
    kind = world.registry.kind(*PATH)
    watcher = world.registry.watch(kind, "default", world.store.resource_version, "on=yes")
    for number, (name, step) in enumerate(steps):
        there = world.store.get(kind.key, "default", name)
        if step == "put" and there is None:
            world.registry.create(kind, "default", {"metadata": {"name": name}}, Request())
        elif step == "delete" and there is not None:
            world.store.remove(kind.key, "default", name)
        elif there is not None:
            label = {"on": "yes" if step == "label" else None, "n": str(number)}
            patch = {"metadata": {"labels": label}}
            world.registry.patch(kind, "default", name, patch, "application/merge-patch+json", Request())
    world.registry.create(kind, "default", {"metadata": {"name": "last", "labels": {"on": "yes"}}}, Request())
    seen: dict[str, Any] = {}
    for type_, entry in asyncio.run(watcher.batch(None)):
        assert (type_ == "ADDED") == (entry.name not in seen)
        if type_ == "DELETED":
            del seen[entry.name]
        else:
            seen[entry.name] = entry.obj
    assert seen == {entry.name: entry.obj for entry in world.registry.find(kind, "default", "on=yes").entries}
