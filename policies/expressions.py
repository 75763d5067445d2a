"""CEL expressions over a workload or an incident, type-checked when they are loaded.

An expression of a PlacementPolicy sees these variables (`overspill policy schema` prints them too):

    workload.name, workload.namespace, workload.queue, workload.kind     string
    workload.priority, workload.gpus, workload.gpus_per_pod, workload.pods     int
    workload.cpu (cores), workload.memory_gib     double, of all its pods together
    workload.labels     map(string, string): 'team' in workload.labels && workload.labels['team'] == 'nlp'
    workload.expected_seconds     double, or null when its user did not say:
                                  workload.expected_seconds != null && workload.expected_seconds > 7200.0
    workload.runs_forever     bool

and one of a RemediationPolicy these, empty text for what is not known or not there:

    incident.kind, incident.severity     string: the signal, such as gpu.xid.79; critical, high, warning or info
    incident.cluster, incident.provider, incident.region, incident.pool, incident.capacity_type     string
    incident.node, incident.gpu     string
    incident.workload (kind/namespace/name), incident.queue     string
    incident.gpus     int, of the node, else of the workload
    incident.age_seconds     double, since it was opened

CEL never mixes int and double: compare a double with 3.0, not with 3. Language: https://cel.dev
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any, Final

from cel_expr_python import cel

from policies.errors import did_you_mean, one_line, shown
from scheduler.model.errors import InvalidObjectError

MAX_LENGTH: Final = 4000
_MEMO_SIZE: Final = 4096
_GIB: Final = 2**30
_T: Final = cel.Type

Reader = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The variables that expressions about one kind of thing see, each with its type and how it is read."""

    fields: dict[str, tuple[Any, Reader]]
    example: str
    nullable: frozenset[str] = frozenset()


_WORKLOAD: Final[dict[str, tuple[Any, Reader]]] = {
    "name": (_T.STRING, lambda w: w.ref.name),
    "namespace": (_T.STRING, lambda w: w.ref.namespace),
    "queue": (_T.STRING, lambda w: w.queue),
    "kind": (_T.STRING, lambda w: w.ref.kind),
    "priority": (_T.INT, lambda w: w.priority),
    "gpus": (_T.INT, lambda w: w.requests.gpus),
    "gpus_per_pod": (_T.INT, lambda w: max((pods.requests.gpus for pods in w.pod_sets), default=0)),
    "pods": (_T.INT, lambda w: sum(pods.count for pods in w.pod_sets)),
    "cpu": (_T.DOUBLE, lambda w: w.requests.cpu_milli / 1000),
    "memory_gib": (_T.DOUBLE, lambda w: w.requests.memory_bytes / _GIB),
    "labels": (_T.Map(_T.STRING, _T.STRING), lambda w: w.labels),
    "expected_seconds": (_T("google.protobuf.DoubleValue"), lambda w: w.hints.expected_seconds),
    "runs_forever": (_T.BOOL, lambda w: w.runs_forever),
}
_TEXTS: Final = (
    "kind", "severity", "cluster", "provider", "region", "pool", "capacity_type", "node", "gpu", "workload", "queue",
)  # fmt: skip
_INCIDENT: Final[dict[str, tuple[Any, Reader]]] = {
    **{name: (_T.STRING, attrgetter(name)) for name in _TEXTS},
    "gpus": (_T.INT, attrgetter("gpus")),
    "age_seconds": (_T.DOUBLE, attrgetter("age_seconds")),
}
WORKLOAD: Final = "workload"
INCIDENT: Final = "incident"
VOCABULARIES: Final = {
    WORKLOAD: Vocabulary(_WORKLOAD, "workload.gpus > 0", frozenset({"expected_seconds"})),
    INCIDENT: Vocabulary(_INCIDENT, "incident.gpus > 0"),
}
_ERROR: Final = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): ([^\n]*)")
_UNDECLARED: Final = re.compile(r"undeclared reference to '([^']*)'")
_OVERLOAD: Final = re.compile(r"found no matching overload for '([^']*)' applied to '\((.*)\)'")


@dataclass(frozen=True, slots=True)
class ExpressionProblem:
    """`line` and `column` count from 1 within the expression's text."""

    line: int
    column: int
    message: str


class ExpressionError(InvalidObjectError):
    """The expression does not compile to a boolean; `problems` has at least one."""

    def __init__(self, problems: tuple[ExpressionProblem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(problem.message for problem in problems))


class CelExpression:
    """A compiled boolean expression. Equal when the source is equal; `errors` counts evaluations that failed."""

    __slots__ = ("_compiled", "_memo", "_reads", "about", "errors", "source")

    def __init__(self, source: str, about: str = WORKLOAD) -> None:
        """`about`: workload or incident. Raises: ExpressionError."""
        self.source = source
        self.about = about
        self.errors = 0
        _check(source, about)
        self._compiled = _environments(about)[1].compile(source)
        used = set(re.findall(rf"\b{about}\s*\.\s*(\w+)", source))
        fields = VOCABULARIES[about].fields
        self._reads = tuple((f"{about}.{name}", read) for name, (_, read) in fields.items() if name in used)
        self._memo: dict[tuple[Any, ...], bool | None] = {}

    def matches(self, subject: Any) -> bool:
        """Whether it holds. An evaluation that fails (a missing label, null compared) is no match, and is counted."""
        key = tuple([read(subject) for _, read in self._reads])
        try:
            verdict = self._memo[key]
        except KeyError:
            verdict = self._evaluate(key)
            if len(self._memo) >= _MEMO_SIZE:
                self._memo.clear()
            self._memo[key] = verdict
        if verdict is None:
            self.errors += 1
        return verdict is True

    def _evaluate(self, key: tuple[Any, ...]) -> bool | None:
        data = {
            variable: dict(value) if variable == "workload.labels" else value
            for (variable, _), value in zip(self._reads, key, strict=True)
        }
        try:
            verdict = self._compiled.eval(data=data).value()
        except (RuntimeError, ValueError, TypeError, OverflowError):  # what the C++ binding raises, budget included
            return None
        return verdict if isinstance(verdict, bool) else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CelExpression) and (other.source, other.about) == (self.source, self.about)

    def __hash__(self) -> int:
        return hash(self.source)

    def __repr__(self) -> str:
        return f"CelExpression({self.source!r})"

    def __reduce__(self) -> tuple[type[CelExpression], tuple[str, str]]:
        return CelExpression, (self.source, self.about)


@cache
def _environments(about: str) -> tuple[Any, Any]:
    """For checking and for evaluating. The binding checks a nullable double as its wrapper type but does not accept
    Python's None or float as a value of it, so that one is dynamic in the second."""
    known = VOCABULARIES[about]
    checking = {f"{about}.{name}": kind for name, (kind, _) in known.fields.items()}
    evaluating = checking | {f"{about}.{name}": _T.DYN for name in known.nullable}
    return cel.NewEnv(variables=checking), cel.NewEnv(variables=evaluating)


def _check(source: str, about: str) -> None:
    example = VOCABULARIES[about].example
    if not source.strip():
        raise ExpressionError((ExpressionProblem(1, 1, f"empty expression; write one such as {example}"),))
    if len(source) > MAX_LENGTH:
        message = f"expression longer than {MAX_LENGTH} characters; shorten it"
        raise ExpressionError((ExpressionProblem(1, 1, message),))
    try:
        result = _environments(about)[0].compile(source).return_type()
    except (RuntimeError, TypeError, ValueError) as error:
        raise ExpressionError(_problems(str(error), about)) from error
    if result != _T.BOOL:
        message = f"expression gives {str(result).lower()}; it must give bool, as {example} does"
        raise ExpressionError((ExpressionProblem(1, 1, message),))


def _problems(text: str, about: str) -> tuple[ExpressionProblem, ...]:
    found = [
        ExpressionProblem(max(1, int(line)), max(1, int(column) - _overshoot(message)), _reworded(message, about))
        for line, column, message in _ERROR.findall(text)
    ]
    return tuple(dict.fromkeys(found)) or (ExpressionProblem(1, 1, f"bad expression: {one_line(text)[:200]}"),)


def _overshoot(message: str) -> int:
    """CEL points at the last dot of an unknown a.b.c; people look for its beginning."""
    undeclared = _UNDECLARED.search(message)
    return len(undeclared[1].rpartition(".")[0]) if undeclared else 0


def _reworded(message: str, about: str) -> str:
    if undeclared := _UNDECLARED.search(message):
        name = undeclared[1]
        known = [f"{about}.{field}" for field in VOCABULARIES[about].fields]
        return f"unknown variable {shown(name)}; {did_you_mean(name, known)}"
    if overload := _OVERLOAD.search(message):
        operator, types = overload[1].strip("@").replace("_", ""), overload[2]
        numbers = {part.strip() for part in types.split(",")}
        remedy = "write 3.0 rather than 3 next to a double" if {"int", "double"} <= numbers else "use matching types"
        return f"{shown(operator)} cannot be applied to ({types}); {remedy}"
    return f"bad expression: {one_line(message)[:200]}"
