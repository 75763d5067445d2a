"""The emulated Job controller with scheduler and kubelets, on a clock turned by hand."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.sandbox.emulation.job_status import format_indexes, parse_indexes
from clusters.sandbox.emulation.objects import condition, condition_true, format_time
from scheduler.model.contract import JOBS, PODS
from tests.unit.emulation_fakes import START, Bench, bench, pool


def _status(b: Bench, name: str) -> dict[str, Any]:
    status: dict[str, Any] = b.api.one(JOBS, name)["status"]
    return status


async def test_a_job_runs_and_completes_at_the_second_its_pod_ends() -> None:
    async with bench() as b:
        await b.create_job("one", run=60)
        await b.pass_time(30)
        status = _status(b, "one")
        assert (status["active"], status["ready"], status["startTime"]) == (1, 1, format_time(START))
        pod = b.api.all(PODS)[0]
        assert pod["status"]["phase"] == "Running"
        assert pod["metadata"]["ownerReferences"][0]["name"] == "one"
        assert pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "one"
        await b.pass_time(60)
        status = _status(b, "one")
        assert [c["type"] for c in status["conditions"]] == ["SuccessCriteriaMet", "Complete"]
        assert status["completionTime"] == format_time(START + 61)  # one second of start-up, sixty of running
        assert (status["succeeded"], status.get("active"), status["ready"]) == (1, None, 0)
        finished = b.api.all(PODS)[0]["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"]
        assert finished == format_time(START + 61)


async def test_a_simple_job_costs_few_writes() -> None:
    async with bench() as b:
        await b.settle()
        before = len(b.api.writes)
        await b.create_job("one", run=60)
        await b.pass_time(100)
        assert len(b.api.writes) - before <= 8  # the job, its pod, binding, two pod and at most three job statuses


async def test_a_leap_over_the_end_keeps_the_true_times() -> None:
    async with bench() as b:
        await b.create_job("one", run=60)
        await b.settle()
        b.clock.advance(START + 5000)
        await b.settle()
        assert _status(b, "one")["completionTime"] == format_time(START + 61)


async def test_a_job_of_another_controller_is_left_alone() -> None:
    async with bench() as b:
        await b.create_job("theirs", managedBy="overspill.dev/federation")
        await b.pass_time(10)
        assert b.api.all(PODS) == []
        assert "status" not in b.api.one(JOBS, "theirs")


async def test_parallelism_and_completions() -> None:
    async with bench() as b:
        await b.create_job("many", run=60, parallelism=2, completions=5)
        await b.pass_time(30)
        assert _status(b, "many")["active"] == 2
        await b.pass_time(70)
        assert _status(b, "many")["succeeded"] == 2
        await b.pass_time(200)
        assert condition_true(b.api.one(JOBS, "many"), "Complete")
        assert _status(b, "many")["succeeded"] == 5
        assert len(b.api.all(PODS)) == 5


async def test_failures_back_off_and_end_at_the_limit() -> None:
    async with bench() as b:
        await b.create_job("bad", run=10, exit_code=3, backoffLimit=2)
        await b.pass_time(12)
        assert len(b.api.all(PODS)) == 1  # the second pod waits for ten seconds
        await b.pass_time(12)
        assert len(b.api.all(PODS)) == 2
        await b.pass_time(200)
        done = b.api.one(JOBS, "bad")
        failed = condition(done, "Failed")
        assert failed is not None
        assert (failed["status"], failed["reason"]) == ("True", "BackoffLimitExceeded")
        assert condition_true(done, "FailureTarget")
        assert done["status"]["failed"] == 3
        assert "completionTime" not in done["status"]


async def test_the_deadline_stops_running_pods_first() -> None:
    async with bench() as b:
        await b.create_job("slow", run=1000, activeDeadlineSeconds=100)
        await b.pass_time(100)
        await b.pass_time(5)
        done = b.api.one(JOBS, "slow")
        failed = condition(done, "Failed")
        assert failed is not None
        assert failed["reason"] == "DeadlineExceeded"
        assert done["status"].get("active") is None
        assert [pod for pod in b.api.all(PODS) if pod["status"]["phase"] == "Running"] == []


async def test_suspend_deletes_pods_and_resume_starts_again() -> None:
    async with bench() as b:
        await b.create_job("stop", run=100)
        await b.pass_time(50)
        await b.api.patch(JOBS, "default", "stop", {"spec": {"suspend": True}})
        await b.pass_time(10)
        status = _status(b, "stop")
        assert b.api.all(PODS) == []
        assert "startTime" not in status
        assert condition_true(b.api.one(JOBS, "stop"), "Suspended")
        assert status.get("failed") is None
        await b.api.patch(JOBS, "default", "stop", {"spec": {"suspend": False}})
        await b.pass_time(50)
        status = _status(b, "stop")
        assert status["startTime"] == format_time(START + 60)
        assert not condition_true(b.api.one(JOBS, "stop"), "Suspended")
        await b.pass_time(100)
        assert condition_true(b.api.one(JOBS, "stop"), "Complete")


async def test_indexed_jobs_complete_each_index_once() -> None:
    async with bench() as b:
        await b.create_job("idx", run=20, parallelism=2, completions=4, completionMode="Indexed")
        await b.pass_time(10)
        pods = b.api.all(PODS)
        assert [pod["spec"]["hostname"] for pod in pods] == ["idx-0", "idx-1"]
        await b.pass_time(15)
        assert _status(b, "idx")["completedIndexes"] == "0,1" or _status(b, "idx")["completedIndexes"] == "0-1"
        await b.pass_time(60)
        status = _status(b, "idx")
        assert (status["completedIndexes"], status["succeeded"]) == ("0-3", 4)
        assert condition_true(b.api.one(JOBS, "idx"), "Complete")


async def test_a_deleted_pod_is_replaced_and_counts_as_failed() -> None:
    async with bench() as b:
        await b.create_job("one", run=100)
        await b.pass_time(20)
        victim = b.api.all(PODS)[0]["metadata"]["name"]
        await b.api.delete(PODS, "default", victim)
        await b.pass_time(30)
        names = [pod["metadata"]["name"] for pod in b.api.all(PODS)]
        assert victim not in names
        assert len(names) == 1
        assert _status(b, "one")["failed"] == 1


async def test_a_succeeded_pod_that_is_removed_still_counts() -> None:
    async with bench() as b:
        await b.create_job("many", run=50, parallelism=1, completions=2)
        await b.pass_time(60)
        done = next(pod for pod in b.api.all(PODS) if pod["status"]["phase"] == "Succeeded")
        await b.api.delete(PODS, "default", done["metadata"]["name"], grace_period_seconds=0)
        await b.pass_time(100)
        assert _status(b, "many")["succeeded"] == 2
        assert condition_true(b.api.one(JOBS, "many"), "Complete")


async def test_deleting_a_job_deletes_its_pods_without_a_collector() -> None:
    async with bench() as b:
        await b.create_job("gone", run=1000, parallelism=3, completions=3)
        await b.pass_time(20)
        await b.api.delete(JOBS, "default", "gone")
        await b.pass_time(20)
        assert b.api.all(PODS) == []


async def test_time_to_live_after_the_end() -> None:
    async with bench() as b:
        await b.create_job("short", run=10, ttlSecondsAfterFinished=100)
        await b.pass_time(100)
        assert len(b.api.all(JOBS)) == 1
        await b.pass_time(20)
        assert b.api.all(JOBS) == []
        assert b.api.all(PODS) == []


async def test_pod_failure_policy_can_ignore_and_can_fail() -> None:
    policy = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]}
    async with bench() as b:
        await b.create_job("fatal", run=5, exit_code=42, podFailurePolicy=policy)
        await b.pass_time(30)
        failed = condition(b.api.one(JOBS, "fatal"), "Failed")
        assert failed is not None
        assert failed["reason"] == "PodFailurePolicy"
        assert b.api.one(JOBS, "fatal")["status"]["failed"] == 1


async def test_restart_on_failure_stays_in_the_pod() -> None:
    async with bench() as b:
        await b.create_job("retry", run=5, exit_code=1, backoffLimit=3, pod={"restartPolicy": "OnFailure"})
        await b.pass_time(20)
        pods = b.api.all(PODS)
        assert len(pods) == 1
        assert pods[0]["status"]["containerStatuses"][0]["restartCount"] == 1
        await b.pass_time(500)
        failed = condition(b.api.one(JOBS, "retry"), "Failed")
        assert failed is not None
        assert failed["reason"] == "BackoffLimitExceeded"


async def test_pods_wait_with_a_reason_and_start_when_there_is_room() -> None:
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.create_job("first", run=50, gpus=8)
        await b.pass_time(5)
        await b.create_job("second", run=50, gpus=8)
        await b.pass_time(5)
        waiting = next(pod for pod in b.api.all(PODS) if not pod["spec"].get("nodeName"))
        scheduled = condition(waiting, "PodScheduled")
        assert scheduled is not None
        assert (scheduled["status"], scheduled["reason"]) == ("False", "Unschedulable")
        assert scheduled["message"] == "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
        await b.pass_time(200)
        assert condition_true(b.api.one(JOBS, "second"), "Complete")


@pytest.mark.parametrize(
    ("indexes", "want"),
    [(set(), ""), ({3}, "3"), ({0, 1}, "0,1"), ({0, 1, 2}, "0-2"), ({0, 2, 3, 4, 7, 8}, "0,2-4,7,8")],
)
def test_indexes_are_written_as_kubernetes_does(indexes: set[int], want: str) -> None:
    assert format_indexes(indexes) == want
    assert parse_indexes(want) == indexes
