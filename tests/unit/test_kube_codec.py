"""Nodes, pods, times and the words on hub objects, read from raw JSON."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.kubernetes.annotations import parse_duration, parse_hints, parse_placement
from clusters.kubernetes.codec import format_time, parse_node, parse_pod, parse_resources, parse_time, pod_requests
from scheduler.model.cluster import Taint
from scheduler.model.errors import InvalidObjectError
from scheduler.model.resources import Resources

GI = 2**30


def container(cpu: str = "1", memory: str = "1Gi", **more: Any) -> dict[str, Any]:
    return {"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory, **more}}}


def sidecar(cpu: str) -> dict[str, Any]:
    return {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}}


@pytest.mark.parametrize(
    ("spec", "want"),
    [
        ({"containers": []}, Resources(pods=1)),
        ({"containers": [container("500m"), container("1.5")]}, Resources(2000, 2 * GI, 0, 1)),
        ({"containers": [container()], "initContainers": [container("4", "512Mi")]}, Resources(4000, GI, 0, 1)),
        ({"containers": [container()], "initContainers": [sidecar("2")]}, Resources(3000, GI, 0, 1)),
        # The sidecar started before the init container counts beside it, the one after does not.
        (
            {"containers": [container("1", "0")], "initContainers": [sidecar("2"), container("5", "0"), sidecar("3")]},
            Resources(7000, 0, 0, 1),
        ),
        ({"containers": [container()], "overhead": {"cpu": "250m"}}, Resources(1250, GI, 0, 1)),
        (
            {
                "containers": [
                    {"name": "c", "resources": {"limits": {"nvidia.com/gpu": 4, "cpu": "2"}, "requests": {"cpu": "1"}}}
                ]
            },
            Resources(1000, 0, 4, 1),
        ),
        ({"containers": [container()], "resources": {"requests": {"cpu": "3"}}}, Resources(3000, GI, 0, 1)),
        (
            {"containers": [container(**{"amd.com/gpu": "1", "rdma/hca": "2", "ephemeral-storage": "9Gi"})]},
            Resources(1000, GI, 1, 1, (("rdma/hca", 2),)),
        ),
    ],
)
def test_a_pods_requests_are_counted_as_the_scheduler_does(spec: dict[str, Any], want: Resources) -> None:
    assert pod_requests(spec) == want


def pod(**changes: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "p",
            "namespace": "ns",
            "uid": "u1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"overspill.dev/origin-uid": "hub-uid"},
            **changes.pop("metadata", {}),
        },
        "spec": {"containers": [container()], "nodeName": "n1", **changes.pop("spec", {})},
        "status": {"phase": "Running", **changes.pop("status", {})},
    }


def test_a_pod_is_read() -> None:
    facts = parse_pod(pod(spec={"priority": 7}))
    assert (facts.namespace, facts.name, facts.uid, facts.node, facts.origin_uid) == ("ns", "p", "u1", "n1", "hub-uid")
    assert facts.created_at == 1767225600.0
    assert facts.priority == 7
    assert (facts.terminal, facts.deleting, facts.daemon_or_static) == (False, False, False)


@pytest.mark.parametrize(
    ("changes", "field", "want"),
    [
        ({"status": {"phase": "Succeeded"}}, "terminal", True),
        ({"status": {"phase": "Failed"}}, "terminal", True),
        ({"spec": {"nodeName": ""}}, "node", None),
        ({"metadata": {"labels": None}}, "origin_uid", None),
        ({"metadata": {"deletionTimestamp": "2026-01-01T00:00:09Z"}}, "deleting", True),
        ({"metadata": {"ownerReferences": [{"kind": "DaemonSet"}]}}, "daemon_or_static", True),
        ({"metadata": {"ownerReferences": [{"kind": "Node"}]}}, "daemon_or_static", True),
        ({"metadata": {"ownerReferences": [{"kind": "Job"}]}}, "daemon_or_static", False),
    ],
)
def test_what_a_pod_says_of_itself(changes: dict[str, Any], field: str, want: object) -> None:
    assert getattr(parse_pod(pod(**changes)), field) == want


def test_a_node_is_read() -> None:
    facts = parse_node(
        {
            "metadata": {
                "name": "n1",
                "uid": "u",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "deletionTimestamp": "2026-01-01T01:00:00Z",
                "labels": {"b": "2", "a": "1"},
                "annotations": {"karpenter.sh/do-not-disrupt": "true"},
            },
            "spec": {
                "providerID": "aws:///i-1",
                "unschedulable": True,
                "taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
            },
            "status": {
                "allocatable": {
                    "cpu": "7910m",
                    "memory": "30Gi",
                    "pods": "110",
                    "nvidia.com/gpu": "8",
                    "hugepages-2Mi": "0",
                },
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }
    )
    assert facts.allocatable == Resources(7910, 30 * GI, 8, 110)
    assert facts.labels == (("a", "1"), ("b", "2"))
    assert facts.taints == (Taint("nvidia.com/gpu", "", "NoSchedule"),)
    assert facts.ready
    assert facts.unschedulable
    assert facts.deleting
    assert facts.do_not_disrupt
    assert facts.deleted_at == facts.created_at + 3600
    assert facts.provider_id == "aws:///i-1"


def test_a_bare_node_is_not_ready_and_has_nothing() -> None:
    facts = parse_node({"metadata": {"name": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}})
    assert not facts.ready
    assert facts.allocatable == Resources()
    assert facts.deleted_at is None


@pytest.mark.parametrize(
    "obj",
    [
        {},
        {"metadata": None},
        {"metadata": []},
        {"metadata": {"name": "bad"}},
        {"metadata": {"name": "bad", "uid": "u", "namespace": "n", "creationTimestamp": "yesterday"}, "spec": {}},
        {"metadata": {"name": "bad", "uid": "u", "namespace": "n", "creationTimestamp": 5}, "spec": {}},
        pod(spec={"containers": 3}),
        pod(spec={"containers": ["text"]}),
        pod(spec={"containers": [container("lots")]}),
        pod(spec={"priority": "high"}),
        pod(metadata={"labels": ["a"]}),
        pod(metadata={"ownerReferences": [{}]}),
    ],
)
def test_a_malformed_pod_is_one_clear_error(obj: dict[str, Any]) -> None:
    with pytest.raises(InvalidObjectError, match=r"^pod ") as caught:
        parse_pod(obj)
    assert "\n" not in str(caught.value)


def test_a_malformed_node_is_named() -> None:
    with pytest.raises(InvalidObjectError, match=r"node n7: field uid is missing"):
        parse_node({"metadata": {"name": "n7"}})


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-01-31T12:00:00+01:00", 1769857200.0),
        ("2026-01-31T11:00:00.250000Z", 1769857200.25),
        ("2026-01-31T11:00:00.123456789Z", 1769857200.123456),
    ],
)
def test_times_are_read(text: str, want: float) -> None:
    assert parse_time(text) == want


@pytest.mark.parametrize(
    "text", ["", "2026-01-31", "20260131T110000Z", "2026-02-30T00:00:00Z", "2026-01-31T11:00:00", "now"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidObjectError, match="RFC 3339"):
        parse_time(text)


def test_times_are_written_in_utc() -> None:
    assert format_time(1769857200.75) == "2026-01-31T11:00:00Z"
    assert format_time(1769857200.75, micro=True) == "2026-01-31T11:00:00.750000Z"
    with pytest.raises(InvalidObjectError):
        format_time(float("inf"))


def test_pods_override_what_a_quantity_map_says() -> None:
    assert parse_resources({"cpu": "1", "pods": "5"}, pods=1) == Resources(1000, 0, 0, 1)


@pytest.mark.parametrize(
    ("text", "want"), [("90m", 5400), ("2h30m", 9000), ("1.5h", 5400), ("7d", 604800), ("250ms", 0.25)]
)
def test_durations(text: str, want: float) -> None:
    assert parse_duration(text) == want


@pytest.mark.parametrize("text", ["", "90", "m", "2h 30m", "-5m", "1w", "1e3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidObjectError, match="not a duration"):
        parse_duration(text)


def test_hints_are_read() -> None:
    read = parse_hints(
        {
            "overspill.dev/expected-duration": "90m",
            "overspill.dev/checkpoint-every": "10m",
            "overspill.dev/deadline": "24h",
            "overspill.dev/priority": "-3",
            "overspill.dev/gpu-models": " H100, A100-80GB,,",
            "overspill.dev/queued-at": "1970-01-01T00:01:00Z",
            "overspill.dev/model": " resnet50 ",
            "overspill.dev/batch-size": "64",
            "overspill.dev/total-steps": "100000",
            "overspill.dev/progress-query": " max(steps) ",
            "overspill.dev/speed-query": "rate(steps[5m])",
        },
        1000.0,
    )
    assert (read.hints.model, read.hints.batch_size, read.hints.total_steps) == ("resnet50", 64, 100_000)
    assert (read.progress_query, read.speed_query) == ("max(steps)", "rate(steps[5m])")
    assert (read.hints.expected_seconds, read.hints.checkpoint_every_seconds) == (5400, 600)
    assert read.hints.deadline_at == 1000 + 86400
    assert (read.priority, read.gpu_models, read.queued_at) == (-3, ("A100-80GB", "H100"), 60.0)
    assert read.problems == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("expected-duration", "soon"),
        ("expected-duration", "0s"),
        ("deadline", "tomorrow"),
        ("priority", "high"),
        ("priority", "99999999999"),
        ("queued-at", "1"),
        ("batch-size", "0"),
        ("batch-size", "6.5"),
        ("total-steps", "-3"),
        ("total-steps", "1e6"),
        ("progress-query", "x" * 1001),
        ("speed-query", "steps\x00"),
    ],
)
def test_a_hint_that_cannot_be_read_is_ignored_and_named(name: str, text: str) -> None:
    read = parse_hints({f"overspill.dev/{name}": text}, 0.0)
    assert len(read.problems) == 1
    assert read.problems[0].startswith(f"overspill.dev/{name}: ")
    assert read.priority is None
    assert read.hints.expected_seconds is None
    assert read.hints.deadline_at is None
    assert read.hints.batch_size is None
    assert read.hints.total_steps is None
    assert (read.progress_query, read.speed_query) == ("", "")


GOOD = (
    '{"version":1,"cluster":"eks","pool":"p","capacityType":"spot","bought":true,"state":"started",'
    '"attempt":2,"decidedAt":"2026-01-01T00:00:00.000000Z","decision":"d1","reason":""}'
)


def test_a_placement_is_read() -> None:
    assert parse_placement(GOOD).attempt == 2


@pytest.mark.parametrize(
    ("change", "want"),
    [
        (("{", "", 1), "not JSON"),
        (('"version":1', '"version":2'), "version 2"),
        (('"version":1', '"version":true'), "version True"),
        (('"attempt":2', '"attempt":true'), "attempt"),
        (('"attempt":2', '"attempt":-1'), "attempt"),
        (('"bought":true', '"bought":1'), "bought"),
        (('"cluster":"eks",', ""), "cluster"),
        (('"cluster":"eks"', '"cluster":""'), "cluster"),
        (('"started"', '"running"'), "none of reserved, started, paused, releasing"),
        (('"reason":""', '"reason":"","extra":1'), "unknown field extra"),
        (("2026-01-01T", "soon"), "RFC 3339"),
    ],
)
def test_a_placement_that_is_not_understood_is_refused(change: tuple[str, ...], want: str) -> None:
    text = GOOD.replace(change[0], change[1], 1)
    with pytest.raises(InvalidObjectError, match=want) as caught:
        parse_placement(text)
    assert "delete it to have the workload placed anew" in str(caught.value)
