"""CEL over workloads: checked when loaded, total when evaluated."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from policies.expressions import VOCABULARIES, CelExpression, ExpressionError
from scheduler.model.ids import QueueId, Uid, WorkloadRef
from scheduler.model.remediation import Signal
from scheduler.model.resources import Resources
from scheduler.model.workload import Hints, PodSet, Workload

WORKLOAD = Workload(
    ref=WorkloadRef("job", "team", "train", Uid("u")),
    queue=QueueId("research"),
    priority=5,
    created_at=0.0,
    queued_at=0.0,
    pod_sets=(
        PodSet("head", 1, Resources(cpu_milli=1500, memory_bytes=2**30, pods=1)),
        PodSet("worker", 4, Resources(cpu_milli=8000, memory_bytes=64 * 2**30, gpus=8, pods=1)),
    ),
    labels=(("team", "nlp"),),
    hints=Hints(expected_seconds=7200.0),
)

CASES = [
    # expression, want, wanted errors
    ("workload.name == 'train' && workload.namespace == 'team' && workload.kind == 'job'", True, 0),
    ("workload.queue in ['research', 'batch']", True, 0),
    ("workload.priority >= 5 && workload.gpus == 32 && workload.gpus_per_pod == 8 && workload.pods == 5", True, 0),
    ("workload.cpu == 33.5 && workload.memory_gib == 257.0", True, 0),
    ("workload.labels['team'] == 'nlp' && workload.labels.team.startsWith('n')", True, 0),
    ("has(workload.labels.team) && !has(workload.labels.other)", True, 0),
    ("workload.labels['other'] == 'x'", False, 1),
    ("workload.labels['other'] == 'x' || workload.gpus > 0", True, 0),
    ("workload.expected_seconds != null && workload.expected_seconds > 3600.0", True, 0),
    ("workload.runs_forever", False, 0),
    ("workload.gpus / 0 == 1", False, 1),
    ("workload.name.matches('^tr.*n$')", True, 0),
    ("[1, 2].exists(n, n * 16 == workload.gpus)", True, 0),
    ("true", True, 0),
]


@pytest.mark.parametrize(("source", "want", "want_errors"), CASES, ids=[case[0] for case in CASES])
def test_evaluation(source: str, want: bool, want_errors: int) -> None:
    expression = CelExpression(source)
    assert (expression.matches(WORKLOAD), expression.errors) == (want, want_errors)
    assert (expression.matches(WORKLOAD), expression.errors) == (want, 2 * want_errors)


def test_a_duration_that_is_not_known_is_null() -> None:
    unknown = replace(WORKLOAD, hints=Hints())
    guarded = CelExpression("workload.expected_seconds != null && workload.expected_seconds > 3600.0")
    assert (guarded.matches(unknown), guarded.errors) == (False, 0)
    assert CelExpression("workload.expected_seconds == null").matches(unknown)
    unguarded = CelExpression("workload.expected_seconds > 3600.0")
    assert (unguarded.matches(unknown), unguarded.errors) == (False, 1)


def test_what_it_remembers_never_outlives_what_it_reads() -> None:
    expression = CelExpression("workload.priority > 3 && 'team' in workload.labels")
    answers = [
        expression.matches(replace(WORKLOAD, priority=priority, labels=labels))
        for _ in range(2)
        for priority in range(6000)
        for labels in (WORKLOAD.labels, ())
    ]
    want = [priority > 3 and bool(labels) for _ in range(2) for priority in range(6000) for labels in ("x", "")]
    assert answers == want


@pytest.mark.parametrize("field", ["name", "priority"])
def test_values_that_cel_cannot_hold_are_no_match(field: str) -> None:
    odd = replace(WORKLOAD, priority=2**80, ref=replace(WORKLOAD.ref, name="\ud800"))
    source = {"name": "workload.name == 'train'", "priority": "workload.priority > 0"}[field]
    expression = CelExpression(source)
    assert (expression.matches(odd), expression.errors) == (False, 1)


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("workload.gps > 0", 'did you mean "workload.gpus"?'),
        ("workload", 'did you mean "workload.'),
        ("workload.gpus == 'a'", "use matching types"),
        ("workload.gpus > 1.5", "write 3.0 rather than 3"),
        ("workload.expected_seconds == 'a'", "use matching types"),
        ("workload.gpus", "it must give bool"),
        ("dyn(workload.gpus)", "it must give bool"),
        ("workload.gpus >", "Syntax error"),
        ("f(1)", "f"),
        ("", "empty expression"),
        ("é", "Syntax error"),
        ("a\0b", "Syntax error"),
        ("\ud800", "bad expression"),
        ("(" * 100 + "true" + ")" * 100, "recursion limit"),
        ("x" * 5000, "shorten it"),
    ],
)
def test_refused_when_loaded(source: str, want: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        CelExpression(source)
    assert want in str(caught.value)
    assert all(problem.line >= 1 and problem.column >= 1 for problem in caught.value.problems)


def test_an_expression_that_would_never_end_is_no_match() -> None:
    source = "true"
    numbers = "[" + ",".join(["1"] * 60) + "]"
    for depth in range(5):
        source = f"{numbers}.all(x{depth}, {source})"
    expression = CelExpression(f"{source} && workload.gpus > 0")
    assert (expression.matches(WORKLOAD), expression.errors) == (False, 1)


def test_every_variable_is_explained_to_users() -> None:
    from policies import expressions

    for about, known in VOCABULARIES.items():
        assert all(f"{about}.{name}" in str(expressions.__doc__) for name in known.fields)


def test_equal_by_source_and_picklable() -> None:
    expression = CelExpression("workload.gpus > 0")
    again = pickle.loads(pickle.dumps(expression))
    assert again == expression == CelExpression("workload.gpus > 0")
    assert hash(again) == hash(expression)
    assert again != CelExpression("workload.gpus > 1")
    assert again.matches(WORKLOAD)


def test_an_expression_over_an_incident() -> None:
    signal = Signal("gpu.xid.79", "critical", cluster="eks", gpus=8, age_seconds=90.0)
    expression = CelExpression("incident.kind.startsWith('gpu.') && incident.age_seconds > 60.0", "incident")
    assert expression.matches(signal)
    assert not CelExpression("incident.cluster != 'eks'", "incident").matches(signal)
    assert expression != CelExpression("incident.gpus > 0", "incident")
    assert pickle.loads(pickle.dumps(expression)).matches(signal)
    with pytest.raises(ExpressionError, match=r'unknown variable "incident.nod"; did you mean "incident.node"\?'):
        CelExpression("incident.nod == 'a'", "incident")
    with pytest.raises(ExpressionError, match="unknown variable"):
        CelExpression("workload.gpus > 0", "incident")


def test_every_variable_of_an_incident_can_be_read() -> None:
    signal = Signal("a", "b", workload="job/default/w", queue="q")
    for name, (_, read) in VOCABULARIES["incident"].fields.items():
        assert read(signal) == getattr(signal, name)
