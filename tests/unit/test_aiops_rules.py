"""Rules: what each makes a finding of, and what not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.metrics.queries import load_queries
from scheduler.aiops.findings import ORIGINS, SEVERITIES, Subject, Table, findings
from scheduler.aiops.rules import SCOPES, Memory, check, load_rule, new_memory, rearrange, rule_names
from scheduler.aiops.rules._xids import XIDS, xid
from scheduler.aiops.series import Floats, empty
from scheduler.model.errors import InvalidObjectError

NAN = float("nan")
_GIB = 2.0**30


def table(at: float, columns: Mapping[str, Sequence[float] | Floats], **groups: Sequence[int]) -> Table:
    rows = max(len(one) for one in columns.values())
    arrays = {name: np.asarray(one, dtype=np.float64) for name, one in columns.items()}
    return Table(at, rows, arrays, {name: np.asarray(one, dtype=np.int64) for name, one in groups.items()})


def told(name: str, rounds: Sequence[Mapping[str, float]], step_seconds: float = 60.0) -> list[tuple[int, str, str]]:
    """(round, kind, severity) of what a rule says of one thing, round by round."""
    rule = load_rule(name)
    columns = empty(rule.FIELDS, 1)
    found = []
    for number, values in enumerate(rounds):
        now = table(1000.0 + step_seconds * number, {key: [value] for key, value in values.items()} or {"none": [NAN]})
        columns, hits = rule.step(columns, now)
        found += [(number, one.kind, one.severity) for one in hits]
    return found


def of(metric: str, values: Sequence[float], **others: float) -> list[dict[str, float]]:
    return [{metric: value, **others} for value in values]


XID = "gpu_xid_code"
THERMAL = "gpu.throttle.thermal"


@pytest.mark.parametrize(
    ("codes", "want"),
    [
        ([0, 79], [(1, "gpu.xid.79", "critical")]),
        ([79, 79, 79], []),  # there at the start: it happened before
        ([0, 79, 79, 79], [(1, "gpu.xid.79", "critical")]),  # holds the last code
        ([0, 79, 0, 79], [(1, "gpu.xid.79", "critical"), (3, "gpu.xid.79", "critical")]),  # again after a reset
        ([0, 31, 43], [(1, "gpu.xid.31", "info"), (2, "gpu.xid.43", "info")]),
        ([NAN, 79, 79], []),  # nothing was known before
        ([0, NAN, 79], [(2, "gpu.xid.79", "critical")]),  # a sample that is missing hides nothing
        ([79, NAN, 79], []),
        ([0, 999], [(1, "gpu.xid.999", "warning")]),  # not in the catalogue
        ([0, -1], []),
        ([0, 1e15], []),
        ([0, 79.5], []),
    ],
)
def test_an_xid_is_an_event_when_the_gauge_changes(codes: list[float], want: list[tuple[int, str, str]]) -> None:
    assert told("xid", of(XID, codes)) == want


@pytest.mark.parametrize(
    ("code", "bucket", "origin", "remedy"),
    [
        (13, "RESTART_APP", "application", "restart-workload"),
        (31, "RESTART_APP", "application", "restart-workload"),
        (43, "IGNORE", "application", "notify"),
        (48, "WORKFLOW_XID_48", "hardware", "request-reset"),
        (63, "IGNORE", "hardware", "notify"),
        (64, "RESET_GPU", "hardware", "request-reset"),
        (74, "WORKFLOW_NVLINK_ERR", "hardware", "request-reset"),
        (79, "RESTART_BM", "hardware", "request-reboot"),
        (94, "RESTART_APP", "hardware", "restart-workload"),
        (95, "RESET_GPU", "hardware", "request-reset"),
        (119, "RESET_GPU", "hardware", "request-reset"),
    ],
)
def test_the_catalogue_says_what_nvidia_says(code: int, bucket: str, origin: str, remedy: str) -> None:
    row = xid(code)
    assert (row.bucket, row.origin, row.remedy) == (bucket, origin, remedy)


def test_every_row_of_the_catalogue_is_whole_and_there_once() -> None:
    assert all(row.means and row.severity in SEVERITIES and row.origin in ORIGINS for row in XIDS.values())
    assert all(code == row.code for code, row in XIDS.items())
    assert len(XIDS) > 90


@pytest.mark.parametrize(
    ("metric", "values", "want"),
    [
        ("gpu_ecc_double_bit_errors_count", [0, 0, 1, 1], [(2, "gpu.ecc.double", "critical")]),
        ("gpu_ecc_double_bit_errors_count", [5, 5], []),
        ("gpu_ecc_double_bit_errors_count", [5, 0, 0], []),  # the driver was loaded again
        ("gpu_ecc_double_bit_errors_count", [5, 2], [(1, "gpu.ecc.double", "critical")]),  # and has counted since
        ("gpu_ecc_single_bit_errors_count", [0, 1, 1, 2], []),
        ("gpu_remapped_rows_uncorrectable_count", [0, 1, 1], [(1, "gpu.remap.pending", "high")]),
        ("gpu_row_remap_pending_count", [0, 1, 1], [(1, "gpu.remap.pending", "high")]),
        ("gpu_row_remap_failed_count", [0, 1, 1], [(1, "gpu.remap.failed", "critical")]),
        ("gpu_row_remap_failed_count", [1, 1], []),
    ],
)
def test_memory_errors(metric: str, values: list[float], want: list[tuple[int, str, str]]) -> None:
    assert told("memory_errors", of(metric, values)) == want


def test_corrected_errors_count_when_there_are_many() -> None:
    found = told("memory_errors", of("gpu_ecc_single_bit_errors_count", [30.0 * n for n in range(20)]))
    assert found
    assert {kind for _, kind, _ in found} == {"gpu.ecc.single"}


@pytest.mark.parametrize(
    ("masks", "want"),
    [
        ([0x40, 0x40], [(1, THERMAL, "high")]),
        ([0x20, 0x20], [(1, THERMAL, "warning")]),
        ([0x20, 0, 0x20], []),
        ([0x48, 0x48], [(1, THERMAL, "high")]),  # the general slowdown bit comes with it
        ([0x88, 0x88], [(1, "gpu.throttle.power-brake", "critical")]),
        ([0x8, 0x8], [(1, "gpu.throttle.slowdown", "high")]),
        ([0x4, 0x4, 0x1, 0x2, 0x10, 0x100], []),  # power cap, idle, application clocks, sync boost, display
        ([0x40, NAN, 0x40], [(2, THERMAL, "high")]),
        ([NAN, NAN, -5, 1e300], []),
    ],
)
def test_throttle_reasons_are_a_bit_mask(masks: list[float], want: list[tuple[int, str, str]]) -> None:
    assert told("throttle", of("gpu_clock_event_reasons_code", masks)) == want


@pytest.mark.parametrize(
    ("metric", "values", "want"),
    [
        ("gpu_nvlink_crc_errors_count", [0, 6000], [(1, "gpu.nvlink.crc", "high")]),
        ("gpu_nvlink_crc_errors_count", [0, 120, 240, 360], [(3, "gpu.nvlink.crc", "warning")]),
        ("gpu_nvlink_crc_errors_count", [0, 20, 20, 40], []),
        ("gpu_nvlink_crc_errors_count", [9000, 9000], []),
        ("gpu_pcie_replays_count", [0, 8, 16], [(2, "gpu.pcie.replays", "high")]),
        ("gpu_pcie_replays_count", [0, 7, 14, 21], []),
        ("gpu_pcie_replays_count", [0, 100, 100], []),
        ("gpu_pcie_replays_count", [0, NAN, NAN, 24, 40], [(4, "gpu.pcie.replays", "high")]),
    ],
)
def test_link_errors_count_by_rate(metric: str, values: list[float], want: list[tuple[int, str, str]]) -> None:
    assert told("links", of(metric, values)) == want


def busy(use: float, power: float, tensor: float = NAN) -> dict[str, float]:
    return {"gpu_utilization_ratio": use, "gpu_power_watts": power, "gpu_tensor_active_ratio": tensor}


@pytest.mark.parametrize(
    ("rounds", "hangs"),
    [
        ([busy(0.95, 600, 0.4), *[busy(1.0, 160, 0.0)] * 3], True),
        ([busy(0.95, 600, 0.4), *[busy(1.0, 160, 0.0)] * 2], False),
        ([busy(0.95, 600, 0.4), *[busy(1.0, 380, 0.002)] * 9], False),  # decode, bound by memory
        ([busy(0.95, 600, 0.4), *[busy(1.0, 160, 0.05)] * 9], False),  # some tensor work
        ([busy(0.95, 600, 0.4), *[busy(0.3, 160, 0.0)] * 9], False),
        ([busy(0.95, 600), *[busy(1.0, 160)] * 3], True),  # tensor activity not known: less power is asked for
        ([busy(0.95, 600), *[busy(1.0, 240)] * 9], False),
        ([*[busy(1.0, 90, 0.0)] * 9], False),  # never seen at work
        ([busy(0.95, 600, 0.4), *[busy(1.0, NAN, 0.0)] * 9], False),
    ],
)
def test_a_hang_is_busy_without_power_and_tensor_work(rounds: list[dict[str, float]], hangs: bool) -> None:
    assert bool(told("hang", rounds)) == hangs


@pytest.mark.parametrize(
    ("rounds", "want"),
    [
        (of("node_ready_count", [1, 0, 0]), [(2, "node.not-ready", "critical")]),
        (of("node_ready_count", [1, 0, 1]), []),
        (of("node_ready_count", [1, 0, 0], node_unschedulable_count=1.0), [(2, "node.not-ready", "info")]),
        (of("node_ready_count", [1, NAN, NAN]), []),
        (of("node_reclaim_notice_count", [0, 1, 1]), [(1, "node.spot-notice", "warning")]),
        (of("node_reclaim_notice_count", [1, 1]), []),
        (of("node_disk_pressure_count", [0, 1, 1]), [(2, "node.pressure", "warning")]),
        (of("node_ready_count", [1, 0, 1, 0, 1]), [(4, "node.flapping", "high")]),
    ],
)
def test_node_conditions(rounds: list[dict[str, float]], want: list[tuple[int, str, str]]) -> None:
    assert told("node_state", rounds)[: len(want) or None] == want


@pytest.mark.parametrize(
    ("counts", "kinds"),
    [
        ([8, *[0] * 6], {"node.exporter-gone"}),
        ([8, *[0] * 5, 8], set()),
        ([0] * 20, set()),  # it never reported
        ([8, *[7] * 6], {"node.gpu-missing"}),
        ([7] * 20, set()),  # it never had more
        ([8, *[NAN] * 20], set()),
    ],
)
def test_an_exporter_that_goes_silent(counts: list[float], kinds: set[str]) -> None:
    found = told("exporter", of("gpu_reporting_count", counts, gpu_expected_count=8.0))
    assert {kind for _, kind, _ in found} == kinds


def p95_forecasts(
    values: Sequence[float], made: Sequence[float], now: float = 0.4, objective: float = 0.5
) -> list[dict[str, float]]:
    """Forecasts and when each was made; what p95 is now."""
    return [
        {
            "serving_latency_p95_forecast_seconds": value, "serving_latency_p95_objective_seconds": objective,
            "serving_latency_p95_forecast_at_seconds": NAN if np.isnan(value) else at,
            "serving_latency_p95_seconds": now,
        }
        for value, at in zip(values, made, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rounds", "kinds"),
    [
        (of("finish_forecast_seconds", [100, 120, 120], deadline_seconds=110.0), ["workload.deadline"]),
        (of("finish_forecast_seconds", [100, 120, 100], deadline_seconds=110.0), []),
        (of("finish_forecast_seconds", [100, 120, 120]), []),
        (of("queue_wait_forecast_seconds", [700, 700], queue_wait_objective_seconds=600.0), ["workload.queue-wait"]),
        (p95_forecasts([0.6, 0.6], [0, 300]), ["workload.latency-slo"]),
        (p95_forecasts([0.6, 0.6, 0.6], [0, 0, 0]), []),  # one forecast, seen three times
        (p95_forecasts([0.6, 0.6, 0.6, 0.6], [0, 0, 300, 300]), ["workload.latency-slo"] * 2),
        (p95_forecasts([0.6, 0.4, 0.6], [0, 300, 600]), []),
        (p95_forecasts([0.6, 0.6], [0, 300], objective=NAN), []),
        (p95_forecasts([0.6, NAN, 0.6], [0, 300, 600]), ["workload.latency-slo"]),  # unknown changes nothing
    ],
)
def test_forecasts_that_break_a_promise(rounds: list[dict[str, float]], kinds: list[str]) -> None:
    assert [kind for _, kind, _ in told("forecast", rounds)] == kinds


def test_an_objective_that_is_broken_already_is_more_urgent_than_one_that_will_be() -> None:
    for now, want in ((0.4, "warning"), (0.55, "high"), (NAN, "warning")):
        found = told("forecast", p95_forecasts([0.6] * 5, [0, 0, 300, 300, 300], now))
        assert found[-1] == (4, "workload.latency-slo", want)
    unforeseen = told("forecast", p95_forecasts([NAN] * 5, [0] * 5, now=0.55))
    assert [number for number, _, _ in unforeseen] == [3, 4], "what was not foretold is told when it lasts"
    assert told("forecast", p95_forecasts([NAN] * 3, [0] * 3, now=0.55)) == []


TWO_JOBS = [0] * 8 + [1] * 8


def beside_siblings(
    changed: dict[int, float], *, metric: str = "gpu_power_watts", rounds: int = 360, from_round: int = 300
) -> dict[str, set[int]]:
    """Two jobs of eight GPUs, no two alike; from `from_round` on some show that share of their power, or of another
    metric that moves as it does. Kind -> rows."""
    rule, rng = load_rule("siblings"), np.random.default_rng(12)
    columns, usual = empty(rule.FIELDS, 16), np.exp(rng.normal(0.0, 0.05, 16))
    found: dict[str, set[int]] = {}
    for minute in range(rounds):
        # What the jobs do changes all the time, for all of their GPUs at once.
        load = np.where(np.array(TWO_JOBS) == 0, 1.0 - 0.6 * (minute % 90 < 8), 0.5 + 0.4 * (minute > 200))
        power = 500.0 * load * usual * np.exp(rng.normal(0.0, 0.04, 16))
        if minute >= from_round:
            power[list(changed)] *= list(changed.values())
        columns, hits = rule.step(columns, table(60.0 * minute, {metric: power.tolist()}, workload=TWO_JOBS))
        for one in hits:
            found.setdefault(one.kind, set()).update(one.rows.tolist())
    return found


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        ({3: 0.7}, {"gpu.differs.power": {3}}),
        ({3: 0.7, 12: 1.3}, {"gpu.differs.power": {3, 12}}),
        ({}, {}),
        ({3: 0.97}, {}),  # nobody's concern
        (dict.fromkeys(range(8), 0.7), {}),  # what all do at once is no difference
        (dict.fromkeys(range(4), 0.7), {}),  # nobody knows which half is well
    ],
)
def test_a_gpu_that_comes_to_differ_from_its_siblings_is_told(
    changed: dict[int, float], want: dict[str, set[int]]
) -> None:
    assert beside_siblings(changed) == want


@pytest.mark.parametrize(
    ("metric", "share", "kind"),
    [
        ("gpu_sm_clock_hertz", 0.7, "gpu.differs.clock"),
        ("gpu_sm_clock_hertz", 1.4, None),
        ("gpu_temperature_celsius", 1.4, "gpu.differs.temperature"),
        ("gpu_temperature_celsius", 0.7, None),
    ],
)
def test_a_gpu_that_is_faster_or_cooler_than_its_siblings_is_no_trouble(
    metric: str, share: float, kind: str | None
) -> None:
    assert beside_siblings({3: share}, metric=metric) == ({} if kind is None else {kind: {3}})


def test_a_gpu_that_was_always_different_is_none_that_has_come_to_differ() -> None:
    assert beside_siblings({3: 0.7}, rounds=300, from_round=0) == {}


@pytest.mark.parametrize(("slower", "rank"), [(0.1, 3), (0.3, 0), (0.0, None), (-0.3, None)])
def test_a_straggler_is_the_rank_that_computes_longer(slower: float, rank: int | None) -> None:
    rule, rng = load_rule("straggler"), np.random.default_rng(4)
    columns = empty(rule.FIELDS, 16)
    job = [0] * 8 + [1] * 8
    rows: list[int] = []
    for minute in range(60):
        steps = np.where(np.arange(16) < 8, 2.0, 5.0) * np.exp(rng.normal(0.0, 0.015, 16))
        if minute >= 40:
            steps[rank if rank is not None else 2] *= 1.0 + slower
        columns, hits = rule.step(columns, table(60.0 * minute, {"workload_step_compute_seconds": steps}, workload=job))
        rows += [row for one in hits for row in one.rows.tolist()]
    assert set(rows) == (set() if rank is None else {rank})


def test_few_ranks_have_no_median_to_speak_of() -> None:
    values = [{"workload_step_compute_seconds": 1.0}] * 20 + [{"workload_step_compute_seconds": 9.0}] * 20
    assert told("straggler", values) == []


def memory(used: np.ndarray) -> list[dict[str, float]]:
    total = 1000 * _GIB
    return [
        {"node_memory_total_bytes": total, "node_memory_available_bytes": total * (1.0 - one)} for one in used.tolist()
    ]


_MINUTES = np.arange(300)


@pytest.mark.parametrize(
    ("used", "leaks"),
    [
        (0.4 + 0.08 * _MINUTES / 60, True),
        (0.4 + 0.5 * _MINUTES / 60, True),
        (np.full(300, 0.4), False),
        (np.where(_MINUTES < 100, 0.1, 0.8), False),  # a job starts
        (0.3 + 0.2 * (1 - np.exp(-_MINUTES / 30)), False),  # a cache fills up
        (0.6 - 0.05 * _MINUTES / 60, False),
        (0.4 + 0.005 * _MINUTES / 60, False),  # it will take five days
        (0.5 + 0.02 * np.sin(_MINUTES / 40), False),
    ],
)
def test_a_leak_grows_in_a_line_towards_its_limit(used: np.ndarray, leaks: bool) -> None:
    noisy = np.clip(used + np.random.default_rng(2).normal(0.0, 0.003, len(used)), 0.0, 0.99)
    assert bool(told("node_leak", memory(noisy))) == leaks


@pytest.mark.parametrize(
    ("factor", "rollout", "kinds"),
    [
        (1.0, None, set()),
        (1.5, 600, {"workload.latency.rollout"}),
        (2.0, None, {"workload.latency"}),
        (1.05, 600, set()),
        (0.5, 600, set()),
    ],
)
def test_latency_is_judged_by_what_the_load_explains(factor: float, rollout: int | None, kinds: set[str]) -> None:
    rng = np.random.default_rng(8)
    rounds = []
    for minute in range(640):
        load = 10.0 + 8.0 * np.sin(minute / 100)
        latency = 0.5 * np.exp(0.03 * load + rng.normal(0.0, 0.06)) * (factor if minute >= 600 else 1.0)
        since = NAN if rollout is None or minute < rollout else 1000.0 + 60.0 * rollout
        rounds.append({
            "serving_latency_p95_seconds": float(latency), "serving_requests_per_second": load,
            "workload_rolled_out_at_seconds": since,
        })  # fmt: skip
    assert {kind for _, kind, _ in told("latency", rounds)} == kinds


@pytest.mark.parametrize(("spend", "work", "spikes"), [(1.6, 1.0, True), (1.6, 1.6, False), (0.8, 0.5, False)])
def test_a_cost_spike_is_more_money_for_the_same_work(spend: float, work: float, spikes: bool) -> None:
    rng = np.random.default_rng(9)
    rounds = []
    for minute in range(500):
        busy_gpus = 50.0 + 20.0 * np.sin(minute / 60)
        late = minute >= 450
        rounds.append({
            "spend_usd_per_hour": 3.0 * busy_gpus * float(np.exp(rng.normal(0.0, 0.02))) * (spend if late else 1.0),
            "busy_gpus_count": busy_gpus * (work if late else 1.0),
        })  # fmt: skip
    assert bool(told("spend", rounds)) == spikes


METRICS = sorted({
    "gpu_xid_code", "gpu_ecc_double_bit_errors_count", "gpu_ecc_single_bit_errors_count", "gpu_row_remap_failed_count",
    "gpu_remapped_rows_uncorrectable_count", "gpu_row_remap_pending_count", "gpu_clock_event_reasons_code",
    "gpu_nvlink_crc_errors_count", "gpu_pcie_replays_count", "gpu_utilization_ratio", "gpu_power_watts",
    "gpu_tensor_active_ratio", "workload_step_compute_seconds", "gpu_memory_used_bytes", "gpu_memory_total_bytes",
    "node_ready_count", "node_memory_total_bytes", "node_memory_available_bytes", "gpu_reporting_count",
    "gpu_expected_count", "serving_latency_p95_seconds", "serving_requests_per_second", "spend_usd_per_hour",
    "busy_gpus_count", "workload_rolled_out_at_seconds", "finish_forecast_seconds", "deadline_seconds",
    "serving_latency_p95_forecast_seconds", "serving_latency_p95_objective_seconds",
    "serving_latency_p95_forecast_at_seconds",
})  # fmt: skip
ANYTHING = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, -1.0, 79.0, 0x88, 1e300, -1e300])


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(SCOPES),
    st.lists(
        st.tuples(st.floats(-1e6, 1e6), st.dictionaries(st.sampled_from(METRICS), st.lists(ANYTHING, min_size=3,
                                                                                           max_size=3))),
        max_size=8,
    ),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_telemetry_breaks_a_rule(scope: str, rounds: list[tuple[float, dict[str, list[float]]]]) -> None:
    memory = new_memory(scope, 3)
    subjects = [Subject(cluster="c", node=str(row)) for row in range(3)]
    for at, columns in rounds:
        now = table(at, {**columns, "none": [NAN] * 3}, workload=[0, 0, -1])
        memory, hits = check(memory, now)
        for one in findings(hits, subjects, at):
            assert one.severity in SEVERITIES
            assert one.origin in ORIGINS
            assert all(np.isfinite(value) for _, value in one.evidence)


@pytest.mark.parametrize("name", rule_names())
def test_what_is_not_known_makes_no_finding(name: str) -> None:
    rule = load_rule(name)
    columns = empty(rule.FIELDS, 2)
    nothing = table(0.0, {"none": [NAN, NAN]})
    for at in range(40):
        columns, hits = rule.step(columns, Table(60.0 * at, 2, nothing.columns, {}))
        assert hits == ()
    assert set(columns) == {field.name for field in rule.FIELDS}


def test_a_memory_follows_its_rows() -> None:
    memory = new_memory("gpu", 2)
    memory, _ = check(memory, table(0.0, {XID: [0, 13]}))
    memory = rearrange(memory, [1, -1, 0])
    _, hits = check(memory, table(60.0, {XID: [13, 79, 79]}))
    assert [(one.kind, one.rows.tolist()) for one in hits] == [("gpu.xid.79", [2])]
    with pytest.raises(InvalidObjectError, match="3 rows of telemetry for rules that remember 2"):
        check(Memory("gpu", 2, {}), table(0.0, {XID: [0, 0, 0]}))


def test_a_rule_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidObjectError, match="rule 'nope' cannot be imported"):
        load_rule("nope")


class Asked(dict[str, Floats]):
    """Columns that note which of them are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, name: str, default: Floats | None = None) -> Floats | None:  # type: ignore[override]
        self.names.add(name)
        return default


def names_asked(rule_name: str) -> set[str]:
    rule, asked = load_rule(rule_name), Asked()
    rule.step(empty(rule.FIELDS, 1), Table(0.0, 1, asked, {}))
    return asked.names


NOT_GATHERED = {
    "workload_step_compute_seconds", "workload_rolled_out_at_seconds", "spend_usd_per_hour", "busy_gpus_count",
    "gpu_reporting_count", "gpu_expected_count", "node_reclaim_notice_count", "node_memory_pressure_count",
    "node_disk_pressure_count", "node_pid_pressure_count", "node_network_unavailable_count",
    "queue_wait_forecast_seconds", "queue_wait_objective_seconds", "finish_forecast_seconds", "deadline_seconds",
    "serving_latency_p95_forecast_seconds", "serving_latency_p95_objective_seconds",
    "serving_latency_p95_forecast_at_seconds",
}  # fmt: skip
"""What comes from the daemon's own state (nodes, money, forecasts) or is not gathered yet."""


@pytest.mark.parametrize("name", rule_names())
def test_rules_ask_for_metrics_that_are_gathered(name: str) -> None:
    asked = names_asked(name)
    assert asked
    assert asked <= {query.name for query in load_queries()} | NOT_GATHERED


@pytest.mark.parametrize(
    ("metric", "old", "new"),
    [
        ("gpu_clock_event_reasons_code", ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", 1.0),
         ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 1.0)),
        ("gpu_xid_code", ("DCGM_FI_DEV_XID_ERRORS", 1.0), ("DCGM_FI_DEV_XID_ERROR", 1.0)),
        ("gpu_sm_clock_hertz", ("DCGM_FI_DEV_SM_CLOCK", 1e6), ("DCGM_FI_DEV_SM_CLOCK_HERTZ", 1.0)),
        ("gpu_utilization_ratio", ("DCGM_FI_DEV_GPU_UTIL", 0.01), ("DCGM_FI_DEV_GPU_UTIL_RATIO", 1.0)),
        ("gpu_memory_used_bytes", ("DCGM_FI_DEV_FB_USED", 2.0**20), ("DCGM_FI_DEV_FB_USED_BYTES", 1.0)),
    ],
)  # fmt: skip
def test_rules_see_one_name_and_unit_whatever_the_exporter_says(
    metric: str, old: tuple[str, float], new: tuple[str, float]
) -> None:
    (query,) = [one for one in load_queries() if one.name == metric]
    assert old in query.families
    assert new in query.families
