"""The query templates: the shipped file, users' files over it, and what is said about mistakes in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clusters.metrics import load_metrics_source, metrics_source_names
from clusters.metrics._promql import filled
from clusters.metrics._selectors import Selector, parse_sum
from clusters.metrics.queries import load_queries
from scheduler.model.errors import InvalidObjectError
from scheduler.model.metrics import MetricQuery

HEAD = "apiVersion: overspill.dev/v1alpha1\nkind: MetricQueries\n"


def own(tmp_path: Path, text: str) -> dict[str, MetricQuery]:
    path = tmp_path / "queries.yaml"
    path.write_text(HEAD + text)
    return {query.name: query for query in load_queries(path)}


SHIPPED = {query.name: query for query in load_queries()}


def test_sources_are_found_by_name() -> None:
    assert metrics_source_names() == ("prometheus", "scrape")
    assert load_metrics_source("scrape").Settings.model_fields["type"].annotation is not None
    with pytest.raises(InvalidObjectError, match="metrics type 'promethius' is not known; did you mean 'prometheus'"):
        load_metrics_source("promethius")
    with pytest.raises(InvalidObjectError, match="known: prometheus, scrape"):
        load_metrics_source("queries")


def test_every_shipped_query_can_be_asked() -> None:
    assert len(SHIPPED) >= 40
    assert list(SHIPPED) == sorted(SHIPPED)
    for query in SHIPPED.values():
        assert query.promql
        assert query.help
        assert query.name.endswith(query.unit), "a name ends in its unit"
        assert "$selector" in query.promql
        assert "$window" in query.promql or not (query.rate or query.quantile is not None), query.name
        assert all(factor > 0 for _, factor in query.families)
        for name, _ in query.families:
            assert all(isinstance(term, Selector) for term in parse_sum(name))


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("gpu_utilization_ratio", {"DCGM_FI_DEV_GPU_UTIL_RATIO": 1, "DCGM_FI_DEV_GPU_UTIL": 0.01}),
        ("gpu_memory_used_bytes", {"DCGM_FI_DEV_FB_USED_BYTES": 1, "DCGM_FI_DEV_FB_USED": 2**20}),
        ("gpu_sm_clock_hertz", {"DCGM_FI_DEV_SM_CLOCK_HERTZ": 1, "DCGM_FI_DEV_SM_CLOCK": 1e6}),
        ("gpu_energy_joules", {"DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL": 1, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 1e-3}),
        (
            "gpu_clock_event_reasons_code",
            {"DCGM_FI_DEV_CLOCKS_EVENT_REASONS": 1, "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": 1},
        ),
    ],
)
def test_both_spellings_of_dcgm_exporter_are_asked_for(name: str, want: dict[str, float]) -> None:
    families = dict(SHIPPED[name].families)
    assert {family: families[family] for family in want} == want
    for family in want:
        assert f"{family}{{$selector}}" in SHIPPED[name].promql


def test_the_promql_of_families(tmp_path: Path) -> None:
    text = """
labels: {pod: [exported_pod, pod]}
metrics:
  a_bytes: {unit: bytes, labels: [pod], from: [{family: new}, {family: used + free, factor: 1024}]}
  b_per_second: {unit: per_second, kind: rate, from: [{family: 'c_total{ok!="no"}'}]}
  c_seconds: {unit: seconds, kind: quantile, quantile: 0.95, labels: [pod], from: [{family: h, factor: 0.001}]}
"""
    queries = own(tmp_path, text)
    mark = 'label_replace({}, "overspill_part", "{}", "overspill_part", "")'
    by = "by (exported_pod,pod)"
    value = (
        f"(max {by} (new{{$selector}})) * 1.0 or (max {by} (used{{$selector}}) + max {by} (free{{$selector}})) * 1024.0"
    )
    times = f"max {by} (timestamp(new{{$selector}})) or max {by} (timestamp(used{{$selector}}))"
    assert queries["a_bytes"].promql == f"{mark.format(value, 'value')} or {mark.format(times, 'time')}"
    assert '(sum by () (rate(c_total{ok!="no",$selector}[$window]))) * 1.0' in queries["b_per_second"].promql
    quantile = "(histogram_quantile(0.95, sum by (exported_pod,pod,le) (rate(h_bucket{$selector}[$window])))) * 0.001"
    assert quantile in queries["c_seconds"].promql
    assert f"max {by} (timestamp(h_count{{$selector}}))" in queries["c_seconds"].promql


def test_placeholders() -> None:
    assert filled("x{$selector}[$window]", {}, 300) == "x{}[300s]"
    assert filled('x{a="b",$selector}', {"c": 'd"\\', "b": "e"}, 1) == 'x{a="b",b="e",c="d\\"\\\\"}'


def test_a_users_file_adds_replaces_single_keys_and_removes(tmp_path: Path) -> None:
    text = """
labels:
  node: [k8s_node]
metrics:
  gpu_utilization_ratio: {required: true, maxAgeSeconds: 30}
  gpu_xid_code:
  workload_throughput_per_second:
    from: [{family: my_samples_total, factor: 64}]
  serving_latency_mean_seconds: {kind: value, from: [{family: my_latency_ms, factor: 0.001}]}
  my_count: {unit: count, promql: 'count(x{$selector})'}
"""
    queries = own(tmp_path, text)
    changed = queries["gpu_utilization_ratio"]
    assert (changed.required, changed.max_age_seconds) == (True, 30)
    assert changed.families == SHIPPED["gpu_utilization_ratio"].families
    assert dict(changed.spellings)["node"] == ("k8s_node",)
    assert "gpu_xid_code" not in queries
    assert queries["workload_throughput_per_second"].families == (("my_samples_total", 64.0),)
    assert queries["workload_throughput_per_second"].rate
    assert "my_samples_total" in queries["workload_throughput_per_second"].promql
    assert "my_latency_ms" in queries["serving_latency_mean_seconds"].promql
    assert queries["my_count"].promql == "count(x{$selector})"
    assert queries["my_count"].families == ()
    assert len(queries) == len(SHIPPED)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("metrics:\n  a_count: {unit: count}\n", "4:3: says not where it is found; write from or promql"),
        ("metrics:\n  a_count:\n    unit: count\n    form: []\n", "6:5: unknown key 'form'; did you mean 'from'?"),
        ("metrics:\n  a_count:\n    promql: x\n", "4:3: missing key 'unit'; add it"),
        ("metrics:\n  a_count: {unit: furlongs, promql: x}\n", "4:19: unit: input should be 'ratio', 'bytes'"),
        ("metrics:\n  a_count: {unit: count, from: [{family: 'x{'}]}\n", "4:42: 'x{' names no metric family; write"),
        (
            "metrics:\n  a_count: {unit: count, from: [{family: x, factor: 0}]}\n",
            "4:53: factor: input should be greater",
        ),
        ("metrics:\n  a_count: {unit: count, from: [{family: x, factor: '2'}]}\n", "; write a number"),
        ("metrics:\n  a_count: {unit: count, promql: x, kind: quantile}\n", "kind: quantile and quantile go together"),
        ("metrics:\n  gpu_xid_code: {most: high}\n", "4:24: most: input should be a valid number; write a number"),
        ("metrics:\n  A-b: {unit: count, promql: x}\n", "4:3: 'A-b' is no name of a metric; write lower-case"),
        ("metrics: [x]\n", "3:1: metrics: input should be a valid dictionary; write a mapping"),
        ("labels: {node: [a-b]}\n", "3:17: no name of a label; write letters"),
        ("metrics:\n  a_count: {unit: count, unit: count, promql: x}\n", "4:26: duplicate key 'unit'; remove one"),
        ("metrics:\n  a_count: &a {unit: count, promql: x}\n  b_count: *a\n", "5:12: aliases are not supported"),
        ("metrics: !!python/name:os.system x\n", "3:10: tags are not supported"),
        ("metrics: [\n", "not YAML: "),
        ("metrics: {a: {b: {c: {d: {e: {f: {g: {h: {i: {j: {k: {l: {m: {}}}}}}}}}}}}}}\n", "nested too deeply"),
    ],
)
def test_mistakes_are_told_with_their_place_and_a_remedy(tmp_path: Path, text: str, want: str) -> None:
    with pytest.raises(InvalidObjectError) as caught:
        own(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'queries.yaml'}:")
    assert want in line
    assert "\n" not in line


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidObjectError) as caught:
        own(tmp_path, "metrics:\n  a_count: {unit: count}\n  b_count: {unit: x, promql: y}\n")
    assert [line.split(":")[1] for line in str(caught.value).split("\n")] == ["4", "5"]


@pytest.mark.parametrize(
    ("content", "want"),
    [
        (b"", "1:1: empty; write apiVersion, kind and metrics"),
        (b"\xff", "1:1: not UTF-8"),
        (b"x: 1\n", "unknown key 'x'"),
        (b"a" * (1 << 20) + b"b", "1:1: larger than 1 MiB"),
        (b"kind: \x00\n", "not YAML"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, want: str) -> None:
    path = tmp_path / "queries.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidObjectError) as caught:
        load_queries(path)
    assert want in str(caught.value)
    path.unlink()
    with pytest.raises(InvalidObjectError, match="cannot be read"):
        load_queries(path)
