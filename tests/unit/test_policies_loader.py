"""Policy files become the policies that the engine uses; reloads keep the last good set."""

from __future__ import annotations

import asyncio
import os
from decimal import Decimal
from pathlib import Path

import pytest

import policies
from policies.durations import parse_duration
from policies.errors import PolicyErrors
from policies.expressions import CelExpression
from policies.loader import FederationNames, check_bytes, check_policies, load_policies
from policies.reload import PolicyFolder
from scheduler.daemon.config.watch_files import changes
from scheduler.model.errors import InvalidObjectError
from scheduler.model.policy import (
    Budget,
    BurstRule,
    Constraints,
    DisruptionRule,
    ExplorationRule,
    Match,
    PlacementPolicy,
    PolicySet,
    PreemptionRule,
    QueueSpec,
    Quota,
    ReservationRule,
    ReturnRule,
)

EXAMPLES = Path(policies.__file__).parent / "examples"
QUEUE = "apiVersion: overspill.dev/v1alpha1\nkind: Queue\nmetadata: {name: %s}\nspec: {}\n"

EVERYTHING = """
apiVersion: overspill.dev/v1alpha1
kind: PlacementPolicy
metadata: {name: all, labels: {a: b}, annotations: {c: d}}
spec:
  precedence: -3
  match: {queues: [q], kinds: [job], labels: {b: "2", a: "1"}, expression: workload.gpus > 0}
  objective: completion-time
  constraints:
    clusters: [c1]
    excludedClusters: [c2]
    providers: [eks]
    regions: [r]
    residency: [eu]
    capacityTypes: [spot, owned]
    gpuModels: [H100]
    minGpuMemory: 80Gi
    maxUsdPerGpuHour: 0.1
    maxUsdPerRun: 1e2
    deadline: 1d2h3m4.5s
    maxRoundTrip: 40ms
  burst: {afterWait: 1h30m, maxNodes: 0, expression: workload.pods > 1}
  return: {idle: 0s}
  budgets:
    - {name: b, limitUsd: "123456789012345.000000001", window: week, queues: [q], clusters: [c1], capacityTypes: [spot]}
  disruption: {memberLost: never}
  reservation: {afterWait: never}
  exploration: {limitUsd: 2.5, window: week, atOnce: 3, maxPremium: 0.25}
---
apiVersion: overspill.dev/v1alpha1
kind: Queue
metadata: {name: q}
spec:
  cohort: co
  weight: 0.30
  strictFifo: true
  preemption: {reclaim: borrowed, priority: lower, maxLostWork: 30m}
  quotas:
    - {resource: rdma/hca, nominal: 8}
    - {resource: memory, nominal: 1.5Ti, borrowingLimit: 1Gi, lendingLimit: 0}
    - {resource: cpu, nominal: 1500m, borrowingLimit: 2}
    - {resource: gpu, nominal: "1k"}
    - {resource: pods, nominal: 1e2}
"""
WANT_EVERYTHING = (
    PlacementPolicy(
        name="all",
        precedence=-3,
        match=Match(("q",), ("job",), (("a", "1"), ("b", "2")), CelExpression("workload.gpus > 0")),
        objective="completion-time",
        constraints=Constraints(
            clusters=("c1",),
            excluded_clusters=("c2",),
            providers=("eks",),
            regions=("r",),
            residency=("eu",),
            capacity_types=("spot", "owned"),
            gpu_models=("H100",),
            min_gpu_memory_bytes=80 * 2**30,
            max_usd_per_gpu_hour=Decimal("0.1"),
            max_usd_per_run=Decimal(100),
            deadline_seconds=86400 + 2 * 3600 + 3 * 60 + 4.5,
            max_round_trip_seconds=0.04,
        ),
        burst=BurstRule(5400.0, 0, CelExpression("workload.pods > 1")),
        give_back=ReturnRule(0.0),
        budgets=(Budget("b", Decimal("123456789012345.000000001"), "week", ("q",), ("c1",), ("spot",)),),
        disruption=DisruptionRule(None),
        reservation=ReservationRule(None),
        exploration=ExplorationRule(Decimal("2.5"), "week", 3, 0.25),
    ),
)
WANT_QUEUES = (
    QueueSpec(
        id="q",  # type: ignore[arg-type]
        cohort="co",
        weight=Decimal("0.30"),
        quotas=(
            Quota("cpu", 1500, 2000, None),
            Quota("gpu", 1000),
            Quota("memory", 3 * 2**39, 2**30, 0),
            Quota("pods", 100),
            Quota("rdma/hca", 8),
        ),
        strict_fifo=True,
        preemption=PreemptionRule(True, True, 1800.0),
    ),
)


def loaded(text: str) -> PolicySet:
    checked = check_bytes(text.encode(), "p.yaml")
    assert checked.policies is not None, checked.errors
    return checked.policies


def test_every_field_can_be_written() -> None:
    found = loaded(EVERYTHING)
    assert (found.policies, found.queues) == (WANT_EVERYTHING, WANT_QUEUES)


def test_what_is_left_out_has_the_models_defaults() -> None:
    head = "apiVersion: overspill.dev/v1alpha1\nkind: %s\nmetadata: {name: x}\n"
    found = loaded(head % "PlacementPolicy" + "---\n" + head % "Queue")
    assert found.policies == (PlacementPolicy("x"),)
    assert found.queues == (QueueSpec("x"),)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "want"), [("never", None), ("0s", 0.0), ("10m", 600.0)])
def test_room_may_be_kept_from_the_start_or_never(text: str, want: float | None) -> None:
    head = "apiVersion: overspill.dev/v1alpha1\nkind: PlacementPolicy\nmetadata: {name: x}\n"
    found = loaded(f"{head}spec: {{reservation: {{afterWait: {text}}}}}\n")
    assert found.policies == (PlacementPolicy("x", reservation=ReservationRule(want)),)


SAME = [
    ("other key order and comments", "kind: Queue # c\nspec: {weight: 2, cohort: a}\nmetadata: {name: q}\n"),
    ("quoted and with trailing zeros", 'kind: "Queue"\nspec:\n  cohort: "a"\n  weight: "2.00"\nmetadata:\n  name: q\n'),
    ("aliases", "metadata: {name: &q q}\nkind: Queue\nspec: {cohort: a, weight: 2e0}\n"),
    ("windows line ends", "kind: Queue\r\nmetadata: {name: q}\r\nspec: {cohort: a, weight: 2}\r\n"),
    ("byte order mark", "\ufeffkind: Queue\nmetadata: {name: q}\nspec: {cohort: a, weight: 2}\n"),
]


@pytest.mark.parametrize("text", [case[1] for case in SAME], ids=[case[0] for case in SAME])
def test_the_digest_depends_on_meaning_only(text: str) -> None:
    version = "apiVersion: overspill.dev/v1alpha1\n"
    want = loaded(version + "kind: Queue\nmetadata: {name: q}\nspec: {cohort: a, weight: 2}\n").digest
    assert loaded(text + version).digest == want
    assert loaded(version + "kind: Queue\nmetadata: {name: q}\nspec: {cohort: a, weight: 3}\n").digest != want


def test_the_digest_does_not_depend_on_how_files_are_split(tmp_path: Path) -> None:
    one, two = QUEUE % "a", QUEUE % "b"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1.yaml").write_text(two)
    (tmp_path / "x" / "2.yml").write_text(one)
    assert load_policies([tmp_path / "x"]).digest == loaded(one + "---\n" + two).digest


@pytest.mark.parametrize("file", sorted(EXAMPLES.iterdir()), ids=lambda path: path.stem)
def test_each_example_loads_and_says_what_it_is_for(file: Path) -> None:
    checked = check_policies([file])
    assert checked.errors == ()
    assert checked.policies is not None
    found = checked.policies
    names = [policy.name for policy in found.policies[:1]] + [policy.name for policy in found.remediation]
    names += [slo.name for slo in found.serving]
    assert file.stem in names
    comment = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert file.read_text().startswith(comment[0])
    assert any("Use it" in line for line in comment)


def test_all_examples_load_together() -> None:
    checked = check_policies([EXAMPLES])
    assert (checked.errors, checked.warnings) == ((), ())
    assert checked.policies is not None
    assert len(checked.policies.policies) == 6


def test_names_are_unique_across_files_but_kinds_do_not_mix(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(QUEUE % "x")
    (tmp_path / "b.yaml").write_text((QUEUE % "x") + "---\n" + (QUEUE % "x").replace("Queue", "PlacementPolicy"))
    errors = check_policies([tmp_path]).errors
    assert [str(error) for error in errors] == [
        f'{tmp_path}/b.yaml:3:18: metadata.name: Queue "x" is already defined at {tmp_path}/a.yaml:3; '
        "rename or remove one"
    ]


def test_only_visible_yaml_files_of_a_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(QUEUE % "a")
    (tmp_path / ".b.yaml").write_text("bad: [")
    (tmp_path / "c.txt").write_text("bad: [")
    (tmp_path / "d.yaml").mkdir()
    assert [queue.id for queue in load_policies([tmp_path, tmp_path / "a.yaml"]).queues] == ["a"]


@pytest.mark.parametrize("make", ["missing", "fifo", "dangling"])
def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path, make: str) -> None:
    path = tmp_path / "p.yaml"
    if make == "fifo":
        os.mkfifo(path)
    elif make == "dangling":
        path.symlink_to(tmp_path / "nothing")
    errors = check_policies([path]).errors
    assert [str(error) for error in errors] == [f"{path}:1:1: not a regular file; name a YAML file or a folder of them"]


def test_a_policy_that_names_what_the_federation_lacks_gets_a_warning() -> None:
    names = FederationNames(
        frozenset({"c1"}), frozenset({"eks"}), frozenset({"r"}), frozenset({"eu"}), frozenset({"A100"})
    )
    checked = check_bytes(EVERYTHING.replace("queues: [q], kinds", "queues: [p], kinds").encode(), "p.yaml", names)
    assert checked.policies is not None
    assert [str(warning) for warning in checked.warnings] == [
        'p.yaml:7:20: match.queues[0]: no Queue object has queue "p"; write one of q',
        'p.yaml:11:24: constraints.excludedClusters[0]: nothing in the federation has cluster "c2"; did you mean "c1"?',
        'p.yaml:16:17: constraints.gpuModels[0]: nothing in the federation has GPU model "H100"; did you mean "A100"?',
    ]


def test_reload_keeps_the_last_good_set(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(QUEUE % "a")
    folder = PolicyFolder([tmp_path])
    first = folder.current

    file.write_text("# the same\n" + QUEUE % "a")
    assert folder.reload().outcome == "unchanged"

    file.write_text((QUEUE % "a") + "wrong: 1\nalso: 2\n")
    refused = folder.reload()
    assert (refused.outcome, refused.changed, refused.policies) == ("refused", False, first)
    assert [error.line for error in refused.errors] == [5, 6]
    assert folder.current is first
    assert folder.error is not None
    assert folder.error.startswith(f'{file}:5:1: unknown key "wrong"')
    assert folder.error.endswith("(and 1 more)")

    file.unlink()
    (tmp_path / "q.yaml").write_text(QUEUE % "b")
    changed = folder.reload()
    assert (changed.outcome, changed.changed) == ("changed", True)
    assert folder.reload().outcome == "unchanged"
    assert PolicyFolder([tmp_path]).error is None
    assert [queue.id for queue in folder.current.queues] == ["b"]


def test_a_folder_that_is_bad_from_the_start_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("a: 1")
    with pytest.raises(PolicyErrors, match=r"p\.yaml:1:1: no \"apiVersion\""):
        PolicyFolder([tmp_path])


async def test_changes_are_told(tmp_path: Path) -> None:
    stop = asyncio.Event()
    seen = changes(tmp_path, stop=stop)
    async with asyncio.timeout(30):
        told = asyncio.ensure_future(anext(seen))
        number = 0
        while not told.done():  # the watch begins some time after it is asked for
            number += 1
            (tmp_path / "p.yaml").write_text(QUEUE % f"q{number}")
            await asyncio.wait([told], timeout=0.1)
        assert told.result() is None
        stop.set()
        async for _ in seen:
            pass


@pytest.mark.parametrize(
    ("text", "want"),
    [("10m", 600), ("1h30m", 5400), ("24h", 86400), ("7d", 604800), ("250ms", 0.25), ("1.5h", 5400), ("0s", 0)],
)
def test_durations(text: str, want: float) -> None:
    assert parse_duration(text) == want


@pytest.mark.parametrize(
    "text", ["", "10", "m", "-1m", "1m1h", "1m 1s", "1e3s", "\u0661s", "1mm", "9999d", "1.s", "9" * 40]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidObjectError, match="write"):
        parse_duration(text)


def test_a_queue_may_say_how_long_its_workloads_are_meant_to_wait_at_most() -> None:
    text = "apiVersion: overspill.dev/v1alpha1\nkind: Queue\nmetadata: {name: research}\nspec: {waitObjective: 2h}\n"
    (queue,) = loaded(text).queues
    assert (queue.wait_objective_seconds, queue.latency_objective_seconds) == (7200.0, None)
    said = loaded(text.replace("waitObjective: 2h", "latencyObjective: 400ms"))
    assert said.queues[0].latency_objective_seconds == 0.4
    assert said.digest != loaded(text).digest
