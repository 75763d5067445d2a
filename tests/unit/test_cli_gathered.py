"""`clusters`, `prices` and `metrics` against a scripted daemon: what they show, whole, and how they refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from scheduler.cli import metric_views
from scheduler.cli.main import invoke

NOW = 1_700_000_000.0
SUMMARY: dict[str, Any] = {
    "id": "eks",
    "provider": "eks",
    "region": "us-east-1",
    "labels": {"overspill.dev/residency": "us"},
    "login": "provider",
    "available": True,
    "synced": True,
    "unreachable_since": None,
    "error": None,
    "round_trip_seconds": 0.0421,
    "round_trip_at": NOW - 15,
    "version": "1.33",
    "status": "ACTIVE",
    "nodes": 3,
    "nodes_ready": 2,
    "gpus": 24,
    "gpus_used": 8,
    "pools_at": NOW - 12,
    "pools_error": None,
    "clusters_at": NOW - 300,
    "clusters_error": None,
    "warning_count": 1,
}
SILENT = {
    **SUMMARY,
    "id": "gke",
    "available": False,
    "unreachable_since": NOW - 130,
    "error": "cluster gke: cannot connect",
    "round_trip_seconds": None,
    "nodes": None,
    "nodes_ready": None,
    "gpus": None,
    "gpus_used": None,
    "version": None,
    "pools_at": None,
    "pools_error": "gke: ListNodePools: throttled",
}
CLUSTERS = {"now": NOW, "clusters": [SUMMARY, SILENT]}
DETAIL: dict[str, Any] = {
    **SUMMARY,
    "now": NOW,
    "cloud": {
        "name": "gpu-burst",
        "region": "us-east-1",
        "version": "1.33",
        "endpoint": "https://ABCDEF.gr7.us-east-1.eks.amazonaws.com",
        "status": "ACTIVE",
        "health": [],
    },
    "other_clusters": ["staging"],
    "pools": [
        {
            "pool": "a-very-long-name-of-a-pool-in-a-cloud",
            "capacity_type": "on-demand",
            "scaling": "managed",
            "instance_type": "p4d.24xlarge",
            "gpu_model": "A100-40GB",
            "nodes": 3,
            "nodes_ready": 2,
            "desired_nodes": 4,
            "max_nodes": 8,
            "usd_per_hour": "21.957642",
            "price_source": "aws-list us-east-1",
            "price_as_of": NOW - 7200,
            "shortage": "InsufficientInstanceCapacity",
            "provider": {
                "instance_type": "p4d.24xlarge",
                "gpus": 8,
                "gpu_model": "A100",
                "min_nodes": 0,
                "max_nodes": 8,
                "desired_nodes": 4,
                "taints": ["nvidia.com/gpu=present:NoSchedule"],
                "zones": ["us-east-1a", "us-east-1b"],
                "version": "1.32",
                "busy": True,
            },
        },
        {"pool": "unpriced", "capacity_type": "spot", "scaling": "external", "usd_per_hour": None, "provider": None},
    ],
    "warnings": ["a-very-long-name-of-a-pool-in-a-cloud: gpus: the file says 8 a node, the cloud 4"],
}
GPU = {
    "cluster": "eks",
    "metric": "gpu_utilization_ratio",
    "unit": "ratio",
    "state": "ok",
    "source": "prometheus https://prom.example",
    "asked_at": NOW - 5,
    "newest_at": NOW - 20,
    "error": None,
    "sample_count": 2,
    "samples": [
        {"labels": {"node": "n1", "gpu": "0"}, "value": 0.25, "at": NOW - 20},
        {"labels": {"node": "n1", "gpu": "1"}, "value": 0.75, "at": NOW - 25},
    ],
}
FAILED = {
    **GPU,
    "cluster": "gke",
    "state": "failed",
    "newest_at": None,
    "sample_count": 0,
    "samples": [],
    "error": "503 from prom",
}
METRICS = {
    "now": NOW,
    "readings": [
        GPU,
        FAILED,
        {**FAILED, "metric": "gpu_memory_used_bytes"},
        {**FAILED, "metric": "queue_depth", "state": "absent", "error": None},
    ],
    "samples_left_out": 0,
}


PRICE: dict[str, Any] = {
    "cluster": "eks",
    "pool": "p4d",
    "provider": "eks",
    "region": "us-east-1",
    "instance_type": "p4d.24xlarge",
    "capacity_type": "on-demand",
    "gpus": 8,
    "usd_per_hour": "21.957642",
    "usd_per_gpu_hour": "2.744705250",
    "source": "aws-list us-east-1",
    "as_of": NOW - 7200,
    "winner": "aws",
    "why_unknown": "",
    "answers": [{"source": "aws", "state": "fresh", "usd_per_hour": "21.957642", "as_of": NOW - 7200, "text": ""}],
}
STALE: dict[str, Any] = {
    **PRICE,
    "pool": "p4d-spot",
    "capacity_type": "spot",
    "usd_per_hour": None,
    "usd_per_gpu_hour": None,
    "source": None,
    "as_of": None,
    "winner": None,
    "why_unknown": "aws: 3 h old, allowed are 2 h",
    "answers": [{"source": "aws", "state": "stale", "usd_per_hour": "6.2890", "as_of": NOW - 10800, "text": "3 h old"}],
}
PRICES = {
    "now": NOW,
    "prices": [PRICE, STALE],
    "sources": [
        {"name": "aws", "read_at": NOW - 60, "error": None, "problems": ["g9.xlarge: no offer"]},
        {"name": "azure", "read_at": None, "error": "no answer within 120 s", "problems": []},
    ],
    "egress": [
        {
            "cluster": "eks",
            "destination": "internet",
            "tiers": [{"up_to_gib": 10240, "usd_per_gib": "0.0900"}, {"up_to_gib": None, "usd_per_gib": "0.085"}],
            "source": "AWS price list",
            "as_of": NOW - 86400,
        }
    ],
}


class Daemon:
    """Answers what the test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: Any = {}
        self.code = 200
        self.asked: list[str] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.raw_path)
        return web.json_response(self.answer, status=self.code)


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[Daemon]:
    scripted = Daemon()
    app = web.Application()
    app.router.add_get("/{path:.*}", scripted.handle)
    async with TestServer(app) as server:
        scripted.url = str(server.make_url("/")).rstrip("/")
        yield scripted


CASES = [
    # command, answer, path that is asked, what is shown
    (
        ["clusters", "list"],
        CLUSTERS,
        "/api/v1/clusters",
        [
            *("eks", "us-east-1", "1.33", "2/3", "8/24", "42 ms", "12s ago", "1 warning", "silent 2m10s", "never"),
            *("gke: its API: cluster gke: cannot connect", "gke: its node pools: gke: ListNodePools: throttled"),
        ],
    ),
    (
        ["clusters", "show", "eks"],
        DETAIL,
        "/api/v1/clusters/eks",
        [
            *("login: provider", "2/3 ready, 8/24 GPUs used", "42 ms measured 15s ago", "gpu-burst, us-east-1, ACTIVE"),
            *("eks, asked 5m ago", "sizes: eks, asked 12s ago", "2/4", "managed", "21.9576"),
            *("InsufficientInstanceCapacity", "8 x", "the file says 8 a node, the cloud 4", "staging"),
        ],
    ),
    (
        ["metrics"],
        METRICS,
        "/api/v1/metrics",
        [
            *(
                "gpu_utilization_ratio",
                "25.0%",
                "50.0%",
                "75.0%",
                "ok",
                "20s ago",
                "failed",
                "gke: 1 absent: queue_depth",
            ),
            *("eks: 1 from prometheus https://prom.example, asked 5s ago", "gke: 2 metrics: 503 from prom"),
        ],
    ),
    (
        ["metrics", "--metric", "gpu_utilization_ratio", "--cluster", "eks"],
        {**METRICS, "readings": [GPU]},
        "/api/v1/metrics?cluster=eks&metric=gpu_utilization_ratio",
        ["node=n1 gpu=0", "25.0%", "node=n1 gpu=1", "75.0%", "25s ago"],
    ),
    (
        ["prices"],
        PRICES,
        "/api/v1/prices",
        [
            *("eks/p4d", "21.9576", "2.7447", "2h00m ago", "(6.2890)", "stale", "3h00m ago"),
            *("eks/p4d-spot: unknown: aws: 3 h old, allowed are 2 h", "1m ago", "never"),
            *("no answer within 120 s", "aws: g9.xlarge: no offer", "0.09 to 10,240 GiB, 0.085", "1d00h ago"),
            "[1] AWS price list",
        ],
    ),
    (["metrics"], {"now": NOW, "readings": []}, "/api/v1/metrics", ["no readings yet"]),
    (["metrics"], {**METRICS, "samples_left_out": 7}, "/api/v1/metrics", ["7 samples left out"]),
]


@pytest.mark.parametrize(("command", "answer", "path", "want"), CASES)
async def test_what_is_shown(
    daemon: Daemon,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    answer: Any,
    path: str,
    want: list[str],
) -> None:
    daemon.answer = answer
    assert await asyncio.to_thread(invoke, [*command, "--url", daemon.url]) == 0
    shown = capsys.readouterr().out
    assert daemon.asked == [path]
    assert "…" not in shown, "nothing is cut"
    assert max(map(len, shown.splitlines())) <= 80
    for text in want:
        assert text in " ".join(shown.split()), text


@pytest.mark.parametrize("command", [case[0] for case in CASES])
async def test_json_is_the_daemons_answer(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    daemon.answer = {"now": NOW, "any": [1]}
    assert await asyncio.to_thread(invoke, [*command, "--json", "--url", daemon.url]) == 0
    assert json.loads(capsys.readouterr().out) == daemon.answer


async def test_what_is_wide_is_folded_and_whole(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answer = DETAIL
    await asyncio.to_thread(invoke, ["clusters", "show", "eks", "--url", daemon.url])
    shown = "".join(capsys.readouterr().out.split())
    assert "taint" in shown
    for part in ("https://ABCDEF.gr7.us-east-1.eks.amazonaws.com",):
        assert part in shown


@pytest.mark.parametrize("command", [["clusters", "list"], ["clusters", "show", "x"], ["prices"], ["metrics"]])
@pytest.mark.parametrize(
    ("code", "answer", "want"),
    [
        (404, {"error": "no cluster 'x' is a member; there are eks"}, "no cluster 'x' is a member; there are eks"),
        (503, {}, "answered HTTP 503"),
        (200, [], "the daemon's answer is not understood"),
        (200, {"now": "soon"}, "the daemon's answer is not understood"),
    ],
)
async def test_wrong_answers_are_one_line(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], command: list[str], code: int, answer: Any, want: str
) -> None:
    daemon.code, daemon.answer = code, answer
    assert await asyncio.to_thread(invoke, [*command, "--url", daemon.url]) == 1
    told = capsys.readouterr().err
    assert want in told
    assert told.count("\n") == 1


COMMANDS = [["clusters", "list"], ["clusters", "show", "m"], ["prices"], ["metrics"]]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("content", "want"),
    [
        (None, "no such file"),
        ("nonsense: [", "f.yaml:2:1: not YAML"),
        ("apiVersion: overspill.dev/v1alpha1\nkind: Queue\n", "unsupported kind"),
    ],
)
def test_a_wrong_federation_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], content: str | None, want: str
) -> None:
    path = tmp_path / "f.yaml"
    if content is not None:
        path.write_text(content)
    assert invoke([*command, "--config", str(path)]) == 2
    told = capsys.readouterr().err
    assert want in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "unit", "want"),
    [
        (0.5, "ratio", "50.0%"),
        (3 * 2**30, "bytes", "3 GiB"),
        (-2.0, "bytes", "-2 B"),
        (1.41e9, "hertz", "1.41 GHz"),
        (0.0123, "seconds", "12.3 ms"),
        (61.5, "seconds", "61.50 s"),
        (401.2, "watts", "401 W"),
        (65.0, "celsius", "65 C"),
        (12.0, "count", "12"),
        (1234.5, "per_second", "1,234/s"),
        (1.5, "parsecs", "1.5 parsecs"),
    ],
)
def test_amounts(value: float, unit: str, want: str) -> None:
    assert metric_views.amount(value, unit) == want
