"""RemediationPolicy files: what they mean, and what is wrong with them, with the place and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

import policies
from policies.loader import check_bytes, check_policies
from scheduler.model.remediation import ActionRule, Guards, Limit, MaintenanceWindow, RemediationPolicy, Signal

EXAMPLES = Path(policies.__file__).parent / "examples"
HEAD = "apiVersion: overspill.dev/v1alpha1\nkind: RemediationPolicy\nmetadata: {name: r}\nspec:\n"
SPEC = HEAD + "  actions: [{action: drain}]\n"

EVERYTHING = """
apiVersion: overspill.dev/v1alpha1
kind: RemediationPolicy
metadata: {name: all}
spec:
  precedence: 7
  match: {signals: [gpu.xid.79, "node.*"], severities: [critical], expression: incident.gpus > 0}
  actions:
    - {action: notify}
    - {action: drain, grace: 5m, timeout: 40m, approval: true, when: incident.node != ''}
    - {action: replace-node, verifyAfter: 20m}
    - {action: scale-up, nodes: 3}
  guards:
    dryRun: false
    maxUnavailable: 12.5%
    rate: {disruptions: 2, within: 30m}
    persist: 1m
    healthyFor: 5m
    coolDown: 2h
    alike: {things: 9, within: 5m}
    breaker: {failures: 4, within: 2h, pause: 20m}
    maxQuarantined: 3
    approval: true
    windows: [{days: [sun, fri], begin: "22:00", end: "06:30"}]
"""


def load(text: str) -> RemediationPolicy:
    checked = check_bytes(text.encode(), "p.yaml")
    assert checked.errors == ()
    assert checked.policies is not None
    (found,) = checked.policies.remediation
    return found


def test_every_key_reaches_the_choice() -> None:
    found = load(EVERYTHING)
    assert (found.name, found.precedence, found.signals) == ("all", 7, ("gpu.xid.79", "node.*"))
    assert found.severities == ("critical",)
    assert found.expression is not None
    assert found.expression.matches(Signal("gpu.xid.79", "critical", gpus=8))
    notify, drain, replace, scale = found.actions
    assert notify == ActionRule("notify")
    assert (drain.grace_seconds, drain.timeout_seconds, drain.approval) == (300.0, 2400.0, True)
    assert drain.expression is not None
    assert drain.expression.source == "incident.node != ''"
    assert replace == ActionRule("replace-node", verify_seconds=1200.0)
    assert scale == ActionRule("scale-up", nodes=3)
    assert found.guards == Guards(
        dry_run=False,
        max_unavailable=Limit(percent=12.5),
        rate=2,
        rate_seconds=1800.0,
        persist_seconds=60.0,
        healthy_seconds=300.0,
        cool_down_seconds=7200.0,
        alike=9,
        alike_seconds=300.0,
        failures=4,
        failure_seconds=7200.0,
        pause_seconds=1200.0,
        max_quarantined=Limit(count=3),
        approval=True,
        windows=(MaintenanceWindow((4, 6), 22 * 3600, 6 * 3600 + 1800),),
    )


def test_what_is_left_out_is_the_model_s_default_and_that_is_dry_run() -> None:
    found = load(SPEC)
    assert found.guards == Guards()
    assert found.guards.dry_run


def test_no_shipped_example_acts_before_somebody_says_so() -> None:
    checked = check_policies([EXAMPLES])
    assert checked.policies is not None
    assert len(checked.policies.remediation) >= 5
    assert all(policy.guards.dry_run for policy in checked.policies.remediation)


def test_the_digest_names_remedies_too_and_is_as_it_was_without() -> None:
    queue = b"apiVersion: overspill.dev/v1alpha1\nkind: Queue\nmetadata: {name: q}\n"
    alone, both = (check_bytes(queue + more, "p.yaml").policies for more in (b"", b"---\n" + SPEC.encode()))
    other = check_bytes(queue + b"---\n" + SPEC.replace("drain", "cordon").encode(), "p.yaml").policies
    assert alone is not None
    assert both is not None
    assert other is not None
    assert len({alone.digest, both.digest, other.digest}) == 3


WRONG = [
    (
        "an unknown action",
        "  actions: [{action: drian}]\n",
        'actions[0].action: "drian" is not allowed; did you mean "drain"?',
    ),
    (
        "an unknown key",
        "  actions: [{action: drain, grase: 5m}]\n",
        '5:29: unknown key "grase" in actions[0]; did you mean "grace"?',
    ),
    ("no actions", "  actions: []\n", "actions: must not be empty; write at least one"),
    (
        "an action twice",
        "  actions: [{action: drain}, {action: drain}]\n",
        '5:39: actions[1].action: duplicate action "drain"',
    ),
    (
        "cordon after drain",
        "  actions: [{action: drain}, {action: cordon}]\n",
        "5:39: actions[1].action: cordon does nothing after drain",
    ),
    (
        "grace of what has none",
        "  actions: [{action: cordon, grace: 5m}]\n",
        "5:37: actions[0].grace: is not used by cordon",
    ),
    ("grace too long", "  actions: [{action: drain, grace: 40m}]\n", "actions[0].timeout: must be longer than grace"),
    (
        "nodes of what has none",
        "  actions: [{action: drain, nodes: 2}]\n",
        "5:36: actions[0].nodes: is not used by drain",
    ),
    (
        "a signal",
        "  match: {signals: ['gpu xid']}\n  actions: [{action: drain}]\n",
        '5:21: match.signals[0]: "gpu xid" is not a signal; write for example gpu.xid.79',
    ),
    (
        "a share",
        "  actions: [{action: drain}]\n  guards: {maxUnavailable: 0%}\n",
        '6:28: guards.maxUnavailable: "0%" is neither a number nor a share; write for example 2 or 10%',
    ),
    (
        "a day",
        "  actions: [{action: drain}]\n  guards: {windows: [{days: [friday], begin: '22:00', end: '23:00'}]}\n",
        '"friday" is not allowed; write one of fri, mon',
    ),
    (
        "a time of day",
        "  actions: [{action: drain}]\n  guards: {windows: [{begin: '25:00', end: '23:00'}]}\n",
        '"25:00" is not a time of day; write for example "22:00", in quotes',
    ),
    (
        "a short cool-down",
        "  actions: [{action: drain}]\n  guards: {coolDown: 1m}\n",
        "6:22: guards.coolDown: must not be shorter than rate.within; write at least that",
    ),
    (
        "a variable",
        "  match: {expression: incident.gpu > 0}\n  actions: [{action: drain}]\n",
        "cannot be applied to (string, int)",
    ),
    (
        "another's variable",
        "  match: {expression: workload.gpus > 0}\n  actions: [{action: drain}]\n",
        '5:23: match.expression: unknown variable "workload.gpus"',
    ),
]


@pytest.mark.parametrize(("name", "spec", "want"), WRONG, ids=[row[0] for row in WRONG])
def test_mistakes_are_told_with_their_place_and_remedy(name: str, spec: str, want: str) -> None:
    checked = check_bytes((HEAD + spec).encode(), "p.yaml")
    assert checked.policies is None
    assert want in "\n".join(map(str, checked.errors))
    assert all(str(error).startswith("p.yaml:") and "\n" not in str(error) for error in checked.errors)
