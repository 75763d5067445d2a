"""The members' metrics page: valid text, right labels, pure in its input."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clusters.sandbox.emulation.dcgm import SPELLINGS
from clusters.sandbox.emulation.exporters import render, wave
from scheduler.model.contract import DEPLOYMENTS, NODES, PODS
from tests.unit.emulation_fakes import Bench, bench, pool
from tests.unit.test_emulation_scheduling import _deployment

Samples = dict[str, list[tuple[dict[str, str], float]]]


def _samples(b: Bench, at: float | None = None) -> Samples:
    now = b.clock.now() if at is None else at
    found: Samples = {}
    for family in text_string_to_metric_families(render(b.api.all(NODES), b.api.all(PODS), now, 0)):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


async def test_every_gpu_is_reported_with_the_pod_that_holds_it() -> None:
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.create_job('odd"name', gpus=3, run=500)
        await b.pass_time(10)
        samples = _samples(b)
        util = samples["DCGM_FI_DEV_GPU_UTIL"]
        assert len(util) == 8
        held = [(labels, value) for labels, value in util if labels["pod"]]
        assert [labels["gpu"] for labels, _ in held] == ["0", "1", "2"]
        assert all(70 <= value <= 100 for _, value in held)
        assert all(labels["modelName"] == "A100-80GB" for labels, _ in util)
        assert held[0][0]["pod"].startswith('odd"name-')
        assert len({labels["UUID"] for labels, _ in util}) == 8
        for used, free in zip(samples["DCGM_FI_DEV_FB_USED"], samples["DCGM_FI_DEV_FB_FREE"], strict=True):
            assert used[1] + free[1] == 81920
        for name in (
            "DCGM_FI_DEV_POWER_USAGE",
            "DCGM_FI_DEV_GPU_TEMP",
            "DCGM_FI_DEV_SM_CLOCK",
            "DCGM_FI_DEV_XID_ERRORS",
        ):
            assert len(samples[name]) == 8
        assert samples["node_load1"][0][1] > 0
        assert samples["node_memory_MemAvailable_bytes"][0][1] < samples["node_memory_MemTotal_bytes"][0][1]
        phases = {labels["phase"]: value for labels, value in samples["kube_pod_status_phase"]}
        assert (phases["Running"], phases["Failed"]) == (1, 0)


async def test_served_models_report_requests_and_latency_that_only_grow() -> None:
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.api.create(DEPLOYMENTS, "default", _deployment(2))
        await b.pass_time(100)
        early, late = _samples(b), _samples(b, b.clock.now() + 1000)
        assert len(early["vllm:num_requests_running"]) == 2
        for name in early:
            if name.endswith(("_bucket", "_count", "_total")):
                for before, after in zip(early[name], late[name], strict=True):
                    assert after[1] >= before[1]
        buckets = [value for labels, value in late["vllm:time_to_first_token_seconds_bucket"][:9]]
        assert buckets == sorted(buckets)
        count: dict[str, Any] = {
            labels["pod"]: value for labels, value in late["vllm:time_to_first_token_seconds_count"]
        }
        assert buckets[-1] == next(iter(count.values())) > 0


async def test_the_page_is_a_pure_function() -> None:
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.create_job("one", run=500)
        await b.pass_time(10)
        pages = {render(b.api.all(NODES), reversed(b.api.all(PODS)), b.clock.now(), 0) for _ in range(3)}
        assert len(pages) == 1
        assert pages != {render(b.api.all(NODES), b.api.all(PODS), b.clock.now(), 1)}


async def test_both_versions_of_dcgm_exporter_say_the_same_in_their_own_words() -> None:
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.create_job("one", gpus=2, run=500)
        await b.pass_time(10)
        old, new = (
            {
                sample.name.removesuffix("_total"): (sample.labels, sample.value)
                for family in text_string_to_metric_families(
                    render(b.api.all(NODES), b.api.all(PODS), b.clock.now(), 0, spelling)
                )
                for sample in family.samples
                if sample.name.startswith("DCGM")
            }
            for spelling in SPELLINGS
        )
    for before, after, factor in (
        ("DCGM_FI_DEV_SM_CLOCK", "DCGM_FI_DEV_SM_CLOCK_HERTZ", 1e6),
        ("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_GPU_UTIL_RATIO", 0.01),
        ("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_USED_BYTES", 2**20),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", 0.001),
        ("DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_XID_ERROR", 1),
        ("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "DCGM_FI_DEV_NVLINK_THROUGHPUT_BYTES_PER_SECOND", 1_024_000),
    ):
        assert new[after][1] == pytest.approx(old[before][1] * factor)
        assert (before in new, after in old) == (False, False)
    assert new["DCGM_FI_DEV_FB_CAPACITY_BYTES"][1] == 80 * 2**30
    assert old["DCGM_FI_DEV_SM_CLOCK"][0]["Hostname"] == new["DCGM_FI_DEV_SM_CLOCK_HERTZ"][0]["hostname"]


def test_wave_stays_between_its_limits() -> None:
    values = [wave("key", at * 37.0, 0.2, 0.9) for at in range(2000)]
    assert min(values) >= 0.2
    assert max(values) <= 0.9
    assert max(values) - min(values) > 0.4
