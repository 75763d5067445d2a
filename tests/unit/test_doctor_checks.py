"""What the doctor makes of what it is told: versions, clocks, credentials, clouds."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusters.clock import SystemClock
from clusters.kubernetes.credentials import certificate_end, token_end
from clusters.kubernetes.probing import Probe, _skew
from scheduler.daemon.config.federation import Member
from scheduler.daemon.doctor.clouds import check_cloud
from scheduler.daemon.doctor.finding import FAIL, OK, WARN, Finding, Report, in_order
from scheduler.daemon.doctor.history import check_history
from scheduler.daemon.doctor.kubernetes import _clock, _version
from scheduler.daemon.history.store import History
from scheduler.daemon.permissions import Permission, permissions_of
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.cloud import AccessCheck, CloudCluster, ClusterLogin
from scheduler.model.cluster import NodePool, Shortage
from scheduler.model.errors import AuthError, ThrottledError
from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.model.ports import PoolStatus
from scheduler.model.resources import Resources

PROBE = Probe((1, 33), "v1.33.1", 0.01, 0.0)


@pytest.mark.parametrize(
    ("version", "place", "shadow", "want_state"),
    [
        ((1, 32), "hub", False, OK),
        ((1, 31), "hub", False, FAIL),
        ((1, 31), "hub", True, WARN),
        ((2, 0), "hub", False, OK),
        ((1, 24), "member", False, OK),
        ((1, 23), "member", False, WARN),
        (None, "hub", False, WARN),
    ],
)
def test_versions(version: tuple[int, int] | None, place: str, shadow: bool, want_state: str) -> None:
    report = Report("hub")
    _version(report, replace(PROBE, version=version), place, shadow=shadow)
    assert [one.state for one in report.findings] == [want_state]
    assert bool(report.findings[0].remedy) == (want_state != OK)


@pytest.mark.parametrize(
    ("skew", "want_state"),
    [(0.0, OK), (5.0, OK), (-5.1, WARN), (30.0, WARN), (30.1, FAIL), (-4000.0, FAIL), (None, WARN)],
)
def test_clocks(skew: float | None, want_state: str) -> None:
    report = Report("hub")
    _clock(report, replace(PROBE, clock_skew_seconds=skew))
    assert [one.state for one in report.findings] == [want_state]


NOON = 1785758400.0  # Mon, 03 Aug 2026 12:00:00 GMT


@pytest.mark.parametrize(
    ("date", "asked_at", "took", "want"),
    [
        ("Mon, 03 Aug 2026 12:00:00 GMT", NOON + 0.4, 0.1, 0.0),
        ("Mon, 03 Aug 2026 12:00:00 GMT", NOON + 0.99, 0.1, 0.0),
        ("Mon, 03 Aug 2026 12:00:10 GMT", NOON, 1.0, 9.0),
        ("Mon, 03 Aug 2026 12:00:00 GMT", NOON + 41, 0.1, -40.0),
        ("yesterday", NOON, 0.1, None),
        (None, NOON, 0.1, None),
    ],
)
def test_the_skew_is_the_least_that_the_header_allows(
    date: str | None, asked_at: float, took: float, want: float | None
) -> None:
    assert _skew(date, asked_at, took) == want


@pytest.mark.parametrize(
    ("token", "want"),
    [
        ("e30.eyJleHAiOjE3MDAwMDAwMDB9.c2ln", 1_700_000_000.0),
        ("e30.eyJleHAiOiJzb29uIn0.c2ln", None),
        ("e30.eyJleHAiOnRydWV9.c2ln", None),
        ("e30.W10.c2ln", None),
        ("e30.%%%.c2ln", None),
        ("opaque", None),
        ("", None),
    ],
)
def test_a_tokens_end_is_read_and_never_guessed(token: str, want: float | None) -> None:
    assert token_end(token) == want


def test_a_certificates_end(tmp_path: Path) -> None:
    from clusters.sandbox.apiserver.certificates import authority

    file = tmp_path / "ca.pem"
    file.write_bytes(authority().ca_pem)
    end = certificate_end(file)
    assert end is not None
    assert end > SystemClock().now()
    assert certificate_end(tmp_path / "none.pem") is None


# Clouds ---------------------------------------------------------------------------------------------------------------


def a_pool(name: str, **more: Any) -> NodePool:
    made = NodePool(
        ref=PoolRef(ClusterId("eks"), PoolId(name)),
        capacity_type="spot",
        scaling="managed",
        instance_type="g5.xlarge",
        min_nodes=0,
        max_nodes=4,
        desired_nodes=None,
        node_resources=Resources(1000, 1000, 1),
        gpu_model=None,
        gpu_memory_bytes=None,
        labels=(),
        selector=(("pool", name),),
        taints=(),
        price=None,
        provisioning_seconds=None,
    )
    return replace(made, **more)


def a_status(name: str, **more: Any) -> PoolStatus:
    return replace(PoolStatus(PoolId(name), "g5.xlarge", "spot", 0, 4, 0, (("pool", name),), busy=False), **more)


class Cloud:
    """A provider that says what it is told to say."""

    def __init__(self, **said: Any) -> None:
        cluster = CloudCluster("gpu-burst", "us-east-1", "1.33", "https://x", "ACTIVE")
        self.said = {
            "log_in": ClusterLogin("https://x", b"", "hidden-token", 900.0),
            "check_access": (AccessCheck("eks:DescribeNodegroup", True),),
            "list_clusters": (cluster,),
            "list_pools": (a_status("a"), a_status("b")),
        } | said

    def __getattr__(self, name: str) -> Any:
        async def call() -> Any:
            answer = self.said[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


async def findings(login: str = "provider", pools: tuple[NodePool, ...] = (), **said: Any) -> list[Finding]:
    settings = {"type": "eks", "clusterName": "gpu-burst"}
    pools = pools or (a_pool("a"), a_pool("b"))
    member = Member(ClusterId("eks"), "us-east-1", (), login, None, None, "eks", settings, Path(), None, pools)
    report = Report("eks cloud")
    await check_cloud(member, Cloud(**said), report, SystemClock())
    return report.findings


async def test_a_cloud_with_which_all_is_well() -> None:
    assert [(one.state, one.what) for one in await findings()] == [
        (OK, "logs in to the cluster, by tokens good for 15 min"),
        (OK, "may eks:DescribeNodegroup"),
        (OK, "has all 2 pools as the file says"),
    ]


CASES: list[tuple[str, dict[str, Any], str, str]] = [
    # what is said, the provider's words, want_state, want (in the line)
    ("no login", {"log_in": AuthError("eks: no credentials")}, FAIL, "login: eks: no credentials"),
    ("denied", {"check_access": (AccessCheck("a:B", False, "explicit deny", "attach it"),)}, FAIL,
     "may not a:B: explicit deny  -> attach it"),
    ("denied without a remedy", {"check_access": (AccessCheck("a:B", False),)}, FAIL, "deploy/iam"),
    ("not told", {"check_access": (AccessCheck("a:B", None),)}, WARN, "may a:B: not known"),
    ("cannot be asked", {"check_access": ThrottledError("slow down")}, FAIL, "cannot be asked: slow down"),
    ("pool lacks", {"list_pools": (a_status("a"), a_status("c"))}, FAIL,
     "b: the cloud has no such pool; there are a, c"),
    ("no pools", {"list_pools": ()}, FAIL, "there are none"),
    ("other machine", {"list_pools": (a_status("a", instance_type="g6.xlarge"), a_status("b"))}, WARN,
     "a: instanceType: the file says g5.xlarge, the cloud g6.xlarge"),
    ("smaller limit", {"list_pools": (a_status("a", max_nodes=2), a_status("b"))}, WARN,
     "a: maxNodes: the file says 4, the cloud allows 2"),
    ("autoscaled", {"list_pools": (a_status("a", autoscaled=True), a_status("b"))}, WARN, "scaling: external"),
    ("short", {"list_pools": (a_status("a", shortage=Shortage("capacity", "no g5 in zone a", 0.0)), a_status("b"))},
     WARN, "a: no g5 in zone a"),
    ("other cluster", {"list_clusters": (CloudCluster("x", "us-east-1", "1.33", None, "ACTIVE"),)}, FAIL,
     "the account sees no cluster 'gpu-burst'; it sees x"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "want_state", "want"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_what_a_cloud_may_say(said: dict[str, Any], want_state: str, want: str) -> None:
    found = [one for one in await findings(**said) if want in one.line]
    assert [one.state for one in found][:1] == [want_state]
    assert found[0].remedy


async def test_nobody_logs_in_by_a_cloud_that_need_not_be_logged_in_by() -> None:
    told = await findings("kubeconfig", log_in=AuthError("not permitted"))
    assert not [one for one in told if one.state == FAIL]


async def test_a_pool_that_the_file_does_not_name_is_no_trouble() -> None:
    told = await findings(list_pools=(a_status("a"), a_status("b"), a_status("system")))
    assert {one.state for one in told} == {OK}


# Findings -------------------------------------------------------------------------------------------------------------


async def test_what_hangs_is_a_finding() -> None:
    report = Report("eks")
    assert await report.attempt("ping", asyncio.Event().wait(), 0.01, "wait") is None
    assert [one.line for one in report.findings] == ["fail  eks  ping: no answer within 0.01 s  -> wait"]


def test_findings_are_sorted_by_state_and_one_line_each() -> None:
    report = Report("b")
    report.ok("fine\nindeed")
    report.warn("w", "r")
    report.fail("f", "r\nr")
    other = Report("a")
    other.fail("f", "r")
    assert [one.line for one in in_order([*report.findings, *other.findings])] == [
        "fail  a  f  -> r",
        "fail  b  f  -> r r",
        "warn  b  w  -> r",
        "ok    b  fine indeed",
    ]


async def test_a_history_of_no_use_is_told_without_its_password() -> None:
    report = Report("history")
    await check_history("postgresql+asyncpg://over:hunter2@127.0.0.1:1/x", report)
    (finding,) = report.findings
    assert finding.state == FAIL
    assert "hunter2" not in finding.line


async def test_a_history_that_is_not_there_yet_is_left_for_the_daemon(tmp_path: Path) -> None:
    report = Report("history")
    await check_history(f"sqlite+aiosqlite:///{tmp_path}/new.db", report)
    assert [one.state for one in report.findings] == [OK]
    assert not (tmp_path / "new.db").exists()


def change(file: Path, script: str) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.executescript(script)


async def test_a_history_is_only_looked_at(tmp_path: Path) -> None:
    """One that is current, one of an older version, one of a newer one, one of something else."""
    file = tmp_path / "history.db"
    url = f"sqlite+aiosqlite:///{file}"
    report = Report("history")
    await (await History.open(url, Telemetry())).close()
    await check_history(url, report)
    change(file, "UPDATE alembic_version SET version_num = 'of-tomorrow'")
    await check_history(url, report)
    change(file, "DROP TABLE alembic_version; DROP TABLE memories")
    as_it_was, files = file.read_bytes(), sorted(os.listdir(tmp_path))
    await check_history(url, report)
    assert (file.read_bytes(), sorted(os.listdir(tmp_path))) == (as_it_was, files)
    file.write_bytes(b"no database" * 1000)
    await check_history(url, report)
    assert [one.state for one in report.findings] == [OK, WARN, OK, FAIL]
    told = [one.what for one in report.findings]
    assert told[0].endswith("can be written")
    assert "newer version (step of-tomorrow)" in told[1]
    assert "made or changed when the daemon starts (0001" in told[2]
    assert "not a database" in told[3]


async def test_a_history_that_the_daemon_has_open_is_looked_at_meanwhile(tmp_path: Path) -> None:
    url, report = f"sqlite+aiosqlite:///{tmp_path}/history.db", Report("history")
    history = await History.open(url, Telemetry())
    await check_history(url, report)
    await history.close()
    assert [one.state for one in report.findings] == [OK]


def test_permissions_are_read_from_roles() -> None:
    rules = [{"apiGroups": ["batch"], "resources": ["jobs", "jobs/status"], "verbs": ["get"], "resourceNames": ["x"]}]
    role = {"kind": "Role", "metadata": {"name": "r", "namespace": "n"}, "rules": rules}
    assert permissions_of([role, {"kind": "RoleBinding"}]) == {
        Permission("get", "batch", "jobs", "n", "x"),
        Permission("get", "batch", "jobs/status", "n", "x"),
    }
    assert str(Permission("get", "batch", "jobs", "n", "x")) == "get jobs.batch x in n"
