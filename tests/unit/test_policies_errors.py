"""Every mistake in a policy file has its line, column, path and remedy."""

from __future__ import annotations

from itertools import pairwise

import pytest

from policies.errors import nearest
from policies.loader import check_bytes

ANY_KIND = "PlacementPolicy, Queue, RemediationPolicy or ServingSLO"
HEAD = "apiVersion: overspill.dev/v1alpha1\nkind: PlacementPolicy\nmetadata:\n  name: p\nspec:\n"
QUEUE = "apiVersion: overspill.dev/v1alpha1\nkind: Queue\nmetadata:\n  name: q\nspec:\n"


def errors_of(text: str | bytes) -> list[str]:
    data = text if isinstance(text, bytes) else text.encode()
    return [str(error) for error in check_bytes(data, "p.yaml").errors]


CASES = [
    # what, text, want_
    (
        "misspelt key",
        HEAD + "  burst:\n    aferWait: 10m\n",
        'p.yaml:7:5: unknown key "aferWait" in burst; did you mean "afterWait"?',
    ),
    (
        "key that is like nothing",
        HEAD + "  return:\n    zzz: 1\n",
        'p.yaml:7:5: unknown key "zzz" in return; write one of idle',
    ),
    (
        "key at the top",
        HEAD.replace("spec:", "spce:"),
        'p.yaml:5:1: unknown key "spce" in the document; did you mean "spec"?',
    ),
    (
        "unknown key at the top",
        HEAD + "  precedence: 1\nstatus: {}\n",
        'p.yaml:7:1: unknown key "status" in the document; write one of apiVersion, kind, metadata, spec',
    ),
    (
        "key of a list item",
        HEAD + "  budgets:\n    - name: a\n      limitUSd: 5\n      window: day\n",
        'p.yaml:8:7: unknown key "limitUSd" in budgets[0]; did you mean "limitUsd"?',
    ),
    (
        "time slices without a value of time",
        HEAD + "  timeSlice: {every: 6m}\n",
        "timeSlice: needs valueOfTime, by which the workloads are weighed",
    ),
    (
        "time slices of what is to be bought",
        HEAD + "  valueOfTime: {usdPerHour: 1}\n  burst: {}\n  timeSlice: {every: 6m}\n",
        "timeSlice: shares what is there, so nothing is bought for it; leave burst out",
    ),
    (
        "exploration of time slices",
        HEAD + "  valueOfTime: {usdPerHour: 1}\n  timeSlice: {every: 6m}\n  exploration: {limitUsd: 5, window: day}\n",
        "exploration: does not go with timeSlice; leave one of them out",
    ),
    (
        "a budget with the name of the exploration's own",
        HEAD
        + "  budgets: [{name: exploration, limitUsd: 5, window: day}]\n  exploration: {limitUsd: 5, window: day}\n",
        "budgets: exploration is the name of the exploration's own; choose another",
    ),
    (
        "exploration without a limit",
        HEAD + "  exploration: {window: day}\n",
        'exploration: missing key "limitUsd"; add it',
    ),
    (
        "bare number as a duration",
        HEAD + "  burst: {afterWait: 10}\n",
        'p.yaml:6:22: burst.afterWait: "10" is not a duration; write for example 10s, 10m or 10h',
    ),
    (
        "deadline of nothing",
        HEAD + "  constraints:\n    deadline: 0s\n",
        'p.yaml:7:15: constraints.deadline: "0s" must be more than nothing; write for example 10m',
    ),
    (
        "never, misspelt",
        HEAD + "  disruption: {memberLost: nver}\n",
        'p.yaml:6:28: disruption.memberLost: "nver" is not a duration; write for example 15m, or never',
    ),
    (
        "reclaim from nobody",
        QUEUE + "  preemption: {reclaim: borrowed}\n",
        "p.yaml:6:25: preemption.reclaim: has nobody to reclaim from without a cohort; "
        "name one in cohort or write never",
    ),
    (
        "reclaim what is not its own",
        QUEUE + "  cohort: c\n  preemption: {reclaim: borrowed}\n",
        "p.yaml:7:25: preemption.reclaim: has nothing of its own without a quota for gpu or cpu; "
        "add one in quotas or write never",
    ),
    (
        "a limit on nothing",
        QUEUE + "  preemption: {maxLostWork: 30m}\n",
        "p.yaml:6:29: preemption.maxLostWork: limits nothing; allow reclaim or priority, or remove it",
    ),
    (
        "reclaim, misspelt",
        QUEUE + "  cohort: c\n  preemption: {reclaim: borowed}\n",
        'p.yaml:7:25: preemption.reclaim: "borowed" is not allowed; did you mean "borrowed"?',
    ),
    (
        "negative money",
        HEAD + "  constraints:\n    maxUsdPerRun: -1\n",
        'p.yaml:7:19: constraints.maxUsdPerRun: "-1" must not be negative; write an amount of USD such as 4.50',
    ),
    (
        "money that is no number",
        HEAD + "  constraints:\n    maxUsdPerRun: .nan\n",
        'p.yaml:7:19: constraints.maxUsdPerRun: ".nan" is not an amount of USD; '
        "write one such as 4.50 (at most 9 decimals)",
    ),
    (
        "quantity",
        HEAD + "  constraints:\n    minGpuMemory: 40GB\n",
        'p.yaml:7:19: constraints.minGpuMemory: "40GB" is not a Kubernetes quantity; write for example 500m, 4 or 16Gi',
    ),
    (
        "word of a fixed set",
        HEAD + "  constraints:\n    capacityTypes: [spot, ondemand]\n",
        'p.yaml:7:27: constraints.capacityTypes[1]: "ondemand" is not allowed; did you mean "on-demand"?',
    ),
    (
        "objective",
        HEAD + "  objective: cots\n",
        'p.yaml:6:14: objective: unknown objective "cots"; did you mean "cost"?',
    ),
    (
        "number as text",
        HEAD + "  match:\n    queues: [7]\n",
        'p.yaml:7:14: match.queues[0]: "7" is not text; write text, in quotes if it looks like a number or true',
    ),
    (
        "text as list",
        HEAD + "  match:\n    queues: research\n",
        'p.yaml:7:13: match.queues: "research" is not a list; write for example [a, b]',
    ),
    (
        "negative count",
        HEAD + "  burst:\n    maxNodes: -1\n",
        'p.yaml:7:15: burst.maxNodes: "-1" is not allowed; write 0 or more',
    ),
    (
        "no value",
        HEAD + "  burst:\n    afterWait:\n",
        "p.yaml:7:5: burst.afterWait: no value; give it one or remove the key",
    ),
    (
        "missing key",
        HEAD + "  budgets:\n    - name: a\n      window: day\n",
        'p.yaml:7:7: budgets[0]: missing key "limitUsd"; add it',
    ),
    (
        "two budgets of one name",
        HEAD + "  budgets:\n    - {name: a, limitUsd: 1, window: day}\n    - {name: a, limitUsd: 1, window: week}\n",
        'p.yaml:8:14: budgets[1].name: duplicate budget "a"; rename or remove one',
    ),
    (
        "yes is text",
        QUEUE + "  strictFifo: yes\n",
        'p.yaml:6:15: strictFifo: "yes" is not true or false; write one of these without quotes',
    ),
    ("weight", QUEUE + "  weight: 0\n", 'p.yaml:6:11: weight: "0" must be more than 0; write for example 1'),
    (
        "resource",
        QUEUE + "  quotas:\n    - {resource: gpus, nominal: 1}\n",
        'p.yaml:7:18: quotas[0].resource: unknown resource "gpus"; did you mean "gpu"? '
        "(or an extended one such as rdma/hca)",
    ),
    (
        "GPUs by the device plugin's name",
        QUEUE + "  quotas:\n    - {resource: nvidia.com/gpu, nominal: 1}\n",
        'p.yaml:7:18: quotas[0].resource: "nvidia.com/gpu" is counted as gpu; write "gpu"',
    ),
    (
        "half a GPU",
        QUEUE + "  quotas:\n    - {resource: gpu, nominal: 500m}\n",
        'p.yaml:7:32: quotas[0].nominal: "500m" is not whole; write a whole number of gpu',
    ),
    (
        "two quotas of one resource",
        QUEUE + "  quotas:\n    - {resource: gpu, nominal: 1}\n    - {resource: gpu, nominal: 2}\n",
        'p.yaml:8:18: quotas[1].resource: duplicate quota for "gpu"; rename or remove one',
    ),
    (
        "lends more than it has",
        QUEUE + "  quotas:\n    - {resource: gpu, nominal: 1, lendingLimit: 2}\n",
        "p.yaml:7:49: quotas[0].lendingLimit: more than nominal; lend at most what is the queue's own",
    ),
    (
        "name",
        QUEUE.replace("name: q", "name: -q"),
        'p.yaml:4:9: metadata.name: "-q" is not a name; use at most 63 letters, digits, - _ and .',
    ),
    (
        "duplicate key",
        HEAD + "  precedence: 1\n  precedence: 2\n",
        'p.yaml:7:3: duplicate key "precedence" (first on line 6); remove one',
    ),
    ("merge key", HEAD + "  <<: {}\n", "p.yaml:6:3: merge keys (<<) are not supported; write the keys out"),
    ("tag", HEAD + "  precedence: !!python/none\n", 'tag "tag:yaml.org,2002:python/none" is not allowed; remove it'),
    (
        "empty file",
        "# nothing\n",
        "p.yaml:1:1: empty file; write a PlacementPolicy, Queue, RemediationPolicy or ServingSLO, or remove it",
    ),
    (
        "empty document",
        QUEUE + "  weight: 1\n---\n",
        "p.yaml:8:1: empty document; write a PlacementPolicy, Queue, RemediationPolicy or ServingSLO",
    ),
    ("no map", "- a\n", "p.yaml:1:1: not a map; write a PlacementPolicy, Queue, RemediationPolicy or ServingSLO"),
    (
        "another kind",
        HEAD.replace("PlacementPolicy", "PlacmentPolicy"),
        'p.yaml:2:7: unsupported kind "PlacmentPolicy"; did you mean "PlacementPolicy"?',
    ),
    (
        "a remedy without actions",
        HEAD.replace("PlacementPolicy", "RemediationPolicy") + "  precedence: 1\n",
        'p.yaml:5:1: spec: missing key "actions"; add it',
    ),
    ("the other file", HEAD.replace("PlacementPolicy", "Federation"), "p.yaml:2:7: a Federation is no policy; give"),
    (
        "another version",
        HEAD.replace("v1alpha1", "v2"),
        'p.yaml:1:13: unsupported apiVersion "overspill.dev/v2"; write overspill.dev/v1alpha1',
    ),
    ("no version", "kind: Queue\n", 'p.yaml:1:1: no "apiVersion"; write apiVersion: overspill.dev/v1alpha1'),
    ("not YAML", HEAD + "  a: b: c\n", "p.yaml:6:7: not YAML: mapping values are not allowed in this context"),
    ("tabs", HEAD + "\tburst: {}\n", "p.yaml:6:1: not YAML: found character that cannot start any token"),
    (
        "not UTF-8",
        HEAD.encode() + b"  objective: \xff\n",
        "p.yaml:6:14: byte 0xff is not UTF-8; save the file as UTF-8",
    ),
    ("control character", HEAD + "  objective: \x07\n", "p.yaml:6:14: control character U+0007 is not allowed in YAML"),
    ("too deep", HEAD + "  match: " + "[" * 60, "nested deeper than 32 levels; flatten it"),
    (
        "alias bomb",
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in pairwise("abcdefghi")),
        "more than 20000 values (aliases expanded); split the file",
    ),
    ("alias to itself", "a: &a [*a]\n", 'p.yaml:1:8: alias "*a" refers to what it stands in; write the value out'),
    ("alias to nothing", "a: *b\n", 'p.yaml:1:4: alias "*b" has no anchor before it; write the value out'),
    ("too large", b"#" * (1 << 20) + b"\n", "p.yaml:1:1: larger than 1 MiB; split the file"),
    ("documents", "---\na\n" * 201, "p.yaml:401:1: more than 200 documents; split the file"),
    ("huge number", HEAD + "  precedence: " + "9" * 5000 + "\n", "p.yaml:6:15: precedence:"),
    ("huge exponent", QUEUE + "  weight: 1e999999999\n", "p.yaml:6:11: weight:"),
]


@pytest.mark.parametrize(("text", "want"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_mistake_is_told_with_place_and_remedy(text: str | bytes, want: str) -> None:
    told = errors_of(text)
    assert any(want in line for line in told), told
    assert all("\n" not in line for line in told)


def test_all_mistakes_of_a_file_are_told_in_order() -> None:
    text = HEAD + "  objective: cots\n  burst:\n    maxNodes: x\n    aferWait: 1m\n---\nkind: Quue\n"
    places = [(error.line, error.column) for error in check_bytes(text.encode(), "p.yaml").errors]
    assert places == [(6, 14), (8, 15), (9, 5), (11, 1), (11, 7)]


EXPRESSIONS = [
    # what, line of YAML, want_
    ("plain", "    expression: workload.gps > 0\n", '7:17: match.expression: unknown variable "workload.gps"; did you'),
    ("quoted", "    expression: 'workload.gps > 0'\n", "7:18: match.expression: unknown variable"),
    (
        "block",
        "    expression: |\n      workload.gpus > 0 &&\n        workload.gps > 0\n",
        "9:9: match.expression: unknown",
    ),
    ("folded", "    expression: >\n      workload.gps\n      > 0\n", "7:17: match.expression: unknown"),
    (
        "types",
        "    expression: workload.cpu > 3\n",
        '7:30: match.expression: ">" cannot be applied to (double, int); write',
    ),
    ("not bool", "    expression: workload.gpus\n", "7:17: match.expression: expression gives int; it must give bool"),
    ("syntax", "    expression: workload.gpus >\n", "7:32: match.expression: bad expression: Syntax error"),
    ("empty", "    expression: ' '\n", "7:18: match.expression: empty expression; write one"),
    ("long", f"    expression: '{'true || ' * 700}true'\n", "7:18: match.expression: expression longer than 4000"),
    ("deep", f"    expression: {'(' * 500}true{')' * 500}\n", "7:17: match.expression: bad expression"),
    ("not text", "    expression: true\n", '7:17: match.expression: "true" is not an expression; write CEL'),
]


@pytest.mark.parametrize(("line", "want"), [case[1:] for case in EXPRESSIONS], ids=[case[0] for case in EXPRESSIONS])
def test_an_expression_is_checked_at_its_place(line: str, want: str) -> None:
    told = errors_of(HEAD + "  match:\n" + line)
    assert len(told) >= 1
    assert any(entry.startswith(f"p.yaml:{want}") for entry in told), told


@pytest.mark.parametrize(
    ("word", "known", "want"),
    [
        ("aferWait", ["afterWait", "maxNodes"], "afterWait"),
        ("maxnodes", ["afterWait", "maxNodes"], "maxNodes"),
        ("afterWiat", ["afterWait", "after"], "afterWait"),
        ("clock", ["clockFile", "lock"], "clockFile"),
        ("zz", ["idle"], None),
        ("x" * 5000, ["idle"], None),
        ("a", [], None),
    ],
)
def test_the_nearest_name(word: str, known: list[str], want: str | None) -> None:
    assert nearest(word, known) == want


@pytest.mark.parametrize(
    "body",
    [
        "".join(f"  k{number}: 1\n" for number in range(9000)),
        "".join(f"  k{number}:\n" for number in range(9000)),
        "  precedence: 1\n" * 9000,
        "  match: {queues: [" + "1, " * 15000 + "]}\n",
        f"  ? {'k' * 900_000}\n  : 1\n",
        f"  objective: {'c' * 900_000}\n",
        "  budgets:\n" + "  - {name: a, limitUsd: 1, window: day}\n" * 2500,
    ],
    ids=["unknown keys", "no values", "duplicates", "items", "long key", "long value", "equal names"],
)
def test_a_file_full_of_mistakes_tells_a_bounded_number_of_them(body: str) -> None:
    told = errors_of(HEAD + body)
    assert 1 <= len(told) <= 202
    assert max(map(len, told)) < 500
