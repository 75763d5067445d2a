"""Patches, field ownership, quantities and selectors of the emulated API server, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.sandbox.apiserver import names, selectors
from clusters.sandbox.apiserver.failures import StatusError
from clusters.sandbox.apiserver.patch import json_patch, merge, strategic
from clusters.sandbox.apiserver.registry import Request
from clusters.sandbox.apiserver.schema import type_of
from clusters.sandbox.apiserver.tables import human_duration
from tests.builders.apiserver import World, deployment, widget_crd

DEPLOYMENTS = ("apps", "v1", "deployments")
CONFIG_MAPS = ("", "v1", "configmaps")


@pytest.mark.parametrize(
    ("target", "patch", "want"),
    [
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": 1}, {"a": None}, {}),
        ({"a": {"b": 1}}, {"a": {"c": 2}}, {"a": {"b": 1, "c": 2}}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        ({"a": 1}, {"a": {"b": None, "c": 1}}, {"a": {"c": 1}}),
        ({"a": 1}, {"a": True}, {"a": True}),
        ({}, {"a": {"b": {"c": None}}}, {"a": {"b": {}}}),
    ],
)
def test_merge(target: Any, patch: Any, want: Any) -> None:
    before = repr(target)
    merged = merge(target, patch)
    assert repr(merged) == repr(want)
    assert repr(target) == before


@pytest.mark.parametrize(
    ("operations", "want"),
    [
        ([{"op": "add", "path": "/c", "value": 3}], {"a": [1, 2], "b": {"x/y": 1}, "c": 3}),
        ([{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1, 2], "b": {"x/y": 1}}),
        ([{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3], "b": {"x/y": 1}}),
        ([{"op": "replace", "path": "/b/x~1y", "value": 2}], {"a": [1, 2], "b": {"x/y": 2}}),
        ([{"op": "remove", "path": "/a/0"}], {"a": [2], "b": {"x/y": 1}}),
        ([{"op": "move", "from": "/a", "path": "/b/a"}], {"b": {"x/y": 1, "a": [1, 2]}}),
        ([{"op": "copy", "from": "/a/1", "path": "/c"}], {"a": [1, 2], "b": {"x/y": 1}, "c": 2}),
        ([{"op": "test", "path": "/a/0", "value": 1}], {"a": [1, 2], "b": {"x/y": 1}}),
        ([{"op": "test", "path": "/a/0", "value": 9}], 422),
        ([{"op": "remove", "path": "/none"}], 422),
        ([{"op": "add", "path": "/a/9", "value": 1}], 422),
        ([{"op": "jump", "path": "/a"}], 400),
        ([{"op": "add", "path": "a", "value": 1}], 400),
        ({"op": "add"}, 400),
        ([{"op": "copy", "from": "/a", "path": "/a/-"}] * 60, 413),
    ],
)
def test_json_patch(operations: Any, want: Any) -> None:
    target = {"a": [1, 2], "b": {"x/y": 1}}
    if isinstance(want, int):
        with pytest.raises(StatusError) as refusal:
            json_patch(target, operations)
        assert refusal.value.code == want
    else:
        assert json_patch(target, operations) == want
    assert target == {"a": [1, 2], "b": {"x/y": 1}}


def containers(*items: dict[str, Any]) -> dict[str, Any]:
    return {"spec": {"containers": list(items)}}


@pytest.mark.parametrize(
    ("target", "patch", "want"),
    [
        pytest.param(
            containers({"name": "a", "image": "1"}, {"name": "b", "image": "1"}),
            containers({"name": "b", "image": "2"}),
            containers({"name": "a", "image": "1"}, {"name": "b", "image": "2"}),
            id="merged by key",
        ),
        pytest.param(
            containers({"name": "a"}, {"name": "b"}),
            containers({"name": "a", "$patch": "delete"}),
            containers({"name": "b"}),
            id="item deleted",
        ),
        pytest.param(
            containers({"name": "a"}),
            containers({"name": "b"}, {"$patch": "replace"}),
            containers({"name": "b"}),
            id="list replaced",
        ),
        pytest.param(
            containers({"name": "a"}, {"name": "b"}),
            {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": []}},
            containers({"name": "b"}, {"name": "a"}),
            id="ordered",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["a/b", "c/d"]}},
            {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/b"]}},
            {"metadata": {"finalizers": ["c/d"]}},
            id="taken from a plain list",
        ),
        pytest.param(
            {"metadata": {"finalizers": ["a/b"]}},
            {"metadata": {"finalizers": ["c/d"]}},
            {"metadata": {"finalizers": ["a/b", "c/d"]}},
            id="added to a plain list",
        ),
        pytest.param(
            {"spec": {"securityContext": {"runAsUser": 1, "fsGroup": 2}}},
            {"spec": {"securityContext": {"$patch": "replace", "fsGroup": 3}}},
            {"spec": {"securityContext": {"fsGroup": 3}}},
            id="map replaced",
        ),
        pytest.param(
            {"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}},
            {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}},
            {"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}},
            id="one of a union",
        ),
        pytest.param(
            {"spec": {"nodeName": "a", "hostNetwork": True}},
            {"spec": {"nodeName": None}},
            {"spec": {"hostNetwork": True}},
            id="null deletes",
        ),
    ],
)
def test_strategic_merge(target: Any, patch: Any, want: Any) -> None:
    before = repr(target)
    assert strategic(target, patch, type_of("", "v1", "Pod")) == want
    assert repr(target) == before


def test_strategic_merge_needs_the_merge_key() -> None:
    with pytest.raises(StatusError, match="declared merge key: name"):
        strategic({}, containers({"image": "1"}), type_of("", "v1", "Pod"))


# Server-side apply


def owners(obj: Any) -> dict[str, Any]:
    return {entry["manager"]: entry["fieldsV1"] for entry in obj["metadata"]["managedFields"]}


def config(**data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}


def test_apply_creates_owns_and_gives_up() -> None:
    world = World()
    made = world.apply(CONFIG_MAPS, config(a="1", b="1"), "me")
    assert owners(made) == {"me": {"f:data": {"f:a": {}, "f:b": {}}}}
    writes = world.store.writes
    assert world.apply(CONFIG_MAPS, config(a="1", b="1"), "me") is made
    assert world.store.writes == writes
    less = world.apply(CONFIG_MAPS, config(a="1"), "me")
    assert less["data"] == {"a": "1"}
    assert owners(less) == {"me": {"f:data": {"f:a": {}}}}


def test_apply_conflicts_name_the_owner_and_force_takes_over() -> None:
    world = World()
    world.apply(CONFIG_MAPS, config(a="1", b="1"), "first")
    with pytest.raises(StatusError) as refusal:
        world.apply(CONFIG_MAPS, config(a="2"), "second")
    assert refusal.value.code == 409
    assert refusal.value.body()["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "first"', "field": ".data.a"}
    ]
    taken = world.apply(CONFIG_MAPS, config(a="2"), "second", force=True)
    assert taken["data"] == {"a": "2", "b": "1"}
    assert owners(taken) == {"first": {"f:data": {"f:b": {}}}, "second": {"f:data": {"f:a": {}}}}


def test_apply_shares_equal_values_and_keeps_what_another_owns() -> None:
    world = World()
    world.apply(CONFIG_MAPS, config(a="1", b="1"), "first")
    world.apply(CONFIG_MAPS, config(a="1"), "second")
    left = world.apply(CONFIG_MAPS, config(b="1"), "first")
    assert left["data"] == {"a": "1", "b": "1"}
    assert owners(left)["second"] == {"f:data": {"f:a": {}}}


def test_an_update_takes_fields_over_and_apply_then_conflicts() -> None:
    world = World()
    world.apply(CONFIG_MAPS, config(a="1"), "me")
    kind = world.registry.kind(*CONFIG_MAPS)
    request = Request(manager="editor")
    body = {"data": {"a": "9"}}
    changed = world.registry.patch(kind, "default", "c", body, "application/merge-patch+json", request).obj
    assert owners(changed) == {"editor": {"f:data": {"f:a": {}}}}
    with pytest.raises(StatusError, match=r'conflict with "editor" using v1 at .*: \.data\.a'):
        world.apply(CONFIG_MAPS, config(a="1"), "me")


def test_apply_merges_lists_by_their_keys() -> None:
    world = World()
    world.apply(DEPLOYMENTS, deployment(), "base")
    sidecar = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"containers": [{"name": "side", "image": "example.com/side:1"}]}}},
    }
    both = world.apply(DEPLOYMENTS, sidecar, "mesh")
    assert [c["name"] for c in both["spec"]["template"]["spec"]["containers"]] == ["main", "side"]
    empty = {**sidecar, "spec": {}}
    one = world.apply(DEPLOYMENTS, empty, "mesh")
    assert [c["name"] for c in one["spec"]["template"]["spec"]["containers"]] == ["main"]
    assert "mesh" not in owners(one) or owners(one)["mesh"] == {"f:spec": {}}


def test_a_status_applier_and_a_spec_applier_do_not_meet() -> None:
    world = World()
    world.registry.create(
        world.registry.kind("apiextensions.k8s.io", "v1", "customresourcedefinitions"), "", widget_crd(), Request()
    )
    path = ("example.com", "v1", "widgets")
    body = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}}
    world.apply(path, {**body, "spec": {"size": 2}}, "me")
    request = Request(manager="me", subresource="status")
    kind = world.registry.kind(*path)
    status = {**body, "status": {"phase": "Up"}}
    world.registry.patch(kind, "default", "w", status, "application/apply-patch+yaml", request)
    both = world.apply(path, {**body, "spec": {"size": 3}}, "me")
    assert (both["spec"]["size"], both["status"]) == (3, {"phase": "Up"})


# Quantities, selectors, ages


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("1", "1"), ("1000m", "1"), ("0.5", "500m"), ("1.5Gi", "1536Mi"), ("1024Mi", "1Gi"), ("1024", "1024"),
        ("1000", "1k"), ("1e3", "1e3"), ("0", "0"), ("-2", "-2"), ("100Ki", "100Ki"), ("1500m", "1500m"),
        ("512Mi", "512Mi"), ("12E", "12E"), ("0.0000000001", "1n"),
    ],
)  # fmt: skip
def test_canonical_quantities(text: str, want: str) -> None:
    assert names.canonical_quantity(text) == want


@pytest.mark.parametrize(
    ("selector", "labels", "want"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b,c!=d", {"a": "b"}, True),
        ("a!=b", {"a": "b"}, False),
        ("a in (b, c)", {"a": "c"}, True),
        ("a notin (b,c),x", {"x": ""}, True),
        ("!a", {"a": ""}, False),
        ("a", {"a": ""}, True),
        ("example.com/a-b in (x)", {"example.com/a-b": "x"}, True),
        ("n>3", {"n": "4"}, True),
        ("n<3", {"n": "x"}, False),
    ],
)
def test_label_selectors(selector: str, labels: dict[str, str], want: bool) -> None:
    assert selectors.parse_labels(selector).matches(labels) is want


@pytest.mark.parametrize("text", ["a in b", "=", "a b", "a=b c", "a in (", "-a=b", "a>x", ",,"])
def test_bad_label_selectors(text: str) -> None:
    with pytest.raises(StatusError, match="unable to parse requirement"):
        selectors.parse_labels(text)


@pytest.mark.parametrize(
    ("seconds", "want"),
    [(5, "5s"), (119, "119s"), (120, "2m"), (130, "2m10s"), (3600, "60m"), (11_400, "3h10m"), (90_000, "25h"),
     (200_000, "2d7h"), (1_000_000, "11d"), (-5, "<invalid>")],
)  # fmt: skip
def test_ages(seconds: int, want: str) -> None:
    assert human_duration(seconds) == want
