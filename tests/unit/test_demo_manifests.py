"""The demo's objects as the daemon's own plugins read them, and its policies as the loader does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusters.kinds import load_kinds
from policies.loader import load_policies
from scheduler.cli.demo.arrivals import Arrival, draw_jobs
from scheduler.cli.demo.manifests import LEAST_REPLICAS, RUN_SECONDS, job, service, write_policies
from scheduler.model.ports import RawObject
from scheduler.model.resources import Resources

ONE = Arrival("train-1", 0.0, 90.5, 1, "research", 120.4)
GIB = 2**30


def created(obj: dict[str, Any]) -> RawObject:
    """As the API server would hand it back."""
    stamped = {"uid": "u1", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1}
    return {**obj, "metadata": {**obj["metadata"], **stamped}}


@pytest.mark.parametrize(
    ("gpus", "want_pods", "want_each"),
    [(1, 1, 1), (8, 1, 8), (9, 2, 8), (16, 2, 8), (32, 4, 8)],
)
def test_a_job_is_a_gang_of_pods_with_at_most_eight_gpus(gpus: int, want_pods: int, want_each: int) -> None:
    workload = load_kinds()["job"].parse(created(job(replace(ONE, gpus=gpus))))
    assert workload.invalid is None
    (pods,) = workload.pod_sets
    assert pods.count == want_pods
    assert pods.requests == Resources(4000 * want_each, 32 * GIB * want_each, want_each, 1)


def test_a_job_says_how_long_it_runs_and_how_long_its_user_believes() -> None:
    made = job(ONE)
    assert made["spec"]["template"]["metadata"]["annotations"] == {RUN_SECONDS: "90.500"}
    workload = load_kinds()["job"].parse(created(made))
    assert workload.hints.expected_seconds == 120.0
    assert workload.queue == "research"


def test_the_service_is_a_workload_without_an_end() -> None:
    workload = load_kinds()["federatedworkload"].parse(created(service()))
    assert workload.invalid is None
    assert workload.runs_forever
    assert workload.requests.gpus == LEAST_REPLICAS


def test_the_shipped_policies_load_and_cover_the_drawn_queues(tmp_path: Path) -> None:
    jobs = draw_jobs(60)
    write_policies(tmp_path / "policies", jobs, drawn=True, gpus=0)
    loaded = load_policies([tmp_path / "policies"])
    assert {job.queue for job in jobs} <= {queue.id for queue in loaded.queues}
    assert any(policy.burst is not None for policy in loaded.policies)


def test_a_trace_gets_one_queue_for_each_virtual_cluster(tmp_path: Path) -> None:
    """Names such as 6214e9 are text, not a number in scientific notation."""
    jobs = [replace(ONE, queue=queue) for queue in ("6214e9", "b436b2", "true", "b436b2")]
    write_policies(tmp_path / "policies", jobs, drawn=False, gpus=100)
    loaded = load_policies([tmp_path / "policies"])
    assert [queue.id for queue in loaded.queues] == ["6214e9", "b436b2", "true"]
    assert {queue.cohort for queue in loaded.queues} == {"trace"}
    assert sum(queue.quotas[0].nominal for queue in loaded.queues) >= 100
