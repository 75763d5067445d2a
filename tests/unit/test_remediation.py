"""The choice of a remedy: one table for the guards, and the histories that matter."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from scheduler.aiops.remediation.cases import settle
from scheduler.aiops.remediation.choice import Remedy, remediate
from scheduler.aiops.remediation.facts import Incident, Subject, family, subject_key
from scheduler.aiops.remediation.order import chance, ordered
from scheduler.aiops.remediation.state import Outcome, RemediationState, from_json, to_json
from scheduler.model.remediation import (
    CORDON,
    DRAIN,
    EXCLUDE_NODE,
    NOTIFY,
    PAUSE_BURSTING,
    QUARANTINE_CLUSTER,
    QUARANTINE_POOL,
    REBOOT,
    REPLACE,
    RESTART,
    SCALE_UP,
    UNDO,
    ActionRule,
    Limit,
    MaintenanceWindow,
    Mark,
    RemediationPolicy,
)
from tests.builders.remediation import CLUSTER, FEDERATION, XID, Emulated, a_policy, a_workload, an_incident, ref

LONG_AGO = -1e8


class Story:
    """Rounds one after another over an emulated fleet; every action that is given out is done and settled."""

    def __init__(self, world: Emulated, *policies: RemediationPolicy) -> None:
        self.world = world
        self.policies = policies
        self.state = RemediationState(since=LONG_AGO)
        self.incidents: dict[str, Incident] = {}
        self.fails: set[str] = set()

    def open(self, incident: Incident) -> None:
        self.incidents[incident.id] = incident

    def resolve(self, name: str) -> None:
        self.incidents[name] = replace(self.incidents[name], state="resolved")

    def look(self) -> Remedy:
        return remediate(self.incidents.values(), self.state, self.policies, self.world.fleet(), self.world.now)

    def round(self, seconds: float = 0.0) -> list[str]:
        """One round, `seconds` later; what it did, as "action subject"."""
        self.world.now += seconds
        remedy = self.look()
        self.state = remedy.state
        self.notes = remedy.notes
        did = remedy.actions
        for action in did:
            done = action.action not in self.fails
            if done:
                self.world.act(action)
            self.state = settle(self.state, action.id, done=done, now=self.world.now)
        return [
            f"{each.action} {each.target.node or each.target.workload or each.target.pool}" for each in remedy.actions
        ]

    def codes(self) -> set[str]:
        return {note.reason.code for note in self.notes}


def verified(action: str, seconds: float = 300.0, **more: Any) -> ActionRule:
    return ActionRule(action, verify_seconds=seconds, **more)


def test_one_step_after_another_until_the_signal_is_gone_then_the_node_is_opened_again() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", NOTIFY, CORDON, DRAIN, verified(REBOOT)))
    story.open(an_incident())
    assert [story.round(1) for _ in range(4)] == [["notify n0"], ["cordon n0"], ["drain n0"], ["request-reboot n0"]]
    assert story.round(60) == []
    assert story.world.nodes["n0"].held
    story.resolve("gpu.xid.79-n0")
    assert story.round(60) == [], "it must stay gone for a while"
    assert story.round(601) == ["undo n0"]
    assert story.world.away(ref()) == set()
    assert story.round(1) == []
    assert story.state.cases == ()
    assert [(outcome.action, outcome.helped) for outcome in story.state.outcomes] == [(REBOOT, True)]


def test_what_does_not_help_is_followed_by_the_next_step_and_then_by_a_person() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", DRAIN, verified(REBOOT, 300), verified(REPLACE, 600)))
    story.world.replaceable = True
    story.fails = {REPLACE}
    story.open(an_incident())
    assert story.round() == ["drain n0"]
    assert story.round(1) == ["request-reboot n0"]
    assert story.round(299) == []
    assert story.round(2) == ["replace-node n0"], "the signal has not recovered in time"
    assert story.round(1) == []
    assert {(o.action, o.helped) for o in story.state.outcomes} == {(REBOOT, False), (REPLACE, False)}
    assert story.state.cases[0].phase == "exhausted"
    assert story.world.nodes["n0"].held, "a node that nothing helped stays closed"
    story.resolve("gpu.xid.79-n0")
    story.round(1)
    assert story.round(601) == ["undo n0"]


def test_a_replaced_node_counts_as_recovered_once_it_is_gone() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", DRAIN, verified(REPLACE, 900)))
    story.open(an_incident())
    assert story.round() == ["drain n0"]
    assert story.round(1) == ["replace-node n0"]
    assert story.round(1) == []
    assert [(o.action, o.helped) for o in story.state.outcomes] == [(REPLACE, True)]
    story.world.deliver(ref())
    story.round(601)
    assert story.round(1) == []
    assert story.state.cases == ()


def test_a_step_that_does_not_end_in_time_has_failed() -> None:
    policy = a_policy("gpu", verified(DRAIN, 60, timeout_seconds=100), NOTIFY)
    world = Emulated().add(4)
    incident = an_incident()
    first = remediate([incident], RemediationState(LONG_AGO), [policy], world.fleet(), 0)
    again = remediate([incident], first.state, [policy], world.fleet(), 99)
    assert [each.id for each in again.actions] == [each.id for each in first.actions], "given out until it is settled"
    late = remediate([incident], again.state, [policy], world.fleet(), 100)
    assert [each.action for each in late.actions] == [NOTIFY]
    assert [outcome.helped for outcome in late.state.outcomes] == [False]


NODE = an_incident(at=0.0)
GUARDED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    # name, guards of the policy, change of node n0, want
    ("nothing in the way", {}, {}, ""),
    ("dry run", {"dry_run": True}, {}, "DryRun"),
    ("karpenter", {}, {"owner": "karpenter"}, "OtherOwner"),
    ("do not disrupt", {}, {"do_not_disrupt": True}, "DoNotDisrupt"),
    ("another federation", {}, {"held": True, "mark": Mark("other", "i", XID, CORDON, 0)}, "OtherOwner"),
    ("ours for something else", {}, {"held": True, "mark": Mark(FEDERATION, "i", "gpu.ecc", CORDON, 0)}, "OtherOwner"),
    ("ours for the same", {}, {"held": True, "usable": False, "mark": Mark(FEDERATION, "i", XID, CORDON, 0)}, ""),
    ("not long enough", {"persist_seconds": 3600.0}, {}, "NotYet"),
    ("long enough", {"persist_seconds": 1000.0}, {}, ""),
    ("its mark says not long ago", {}, {"mark": Mark(FEDERATION, "i", XID, CORDON, 900)}, "CoolDown"),
    ("its mark says long ago", {}, {"mark": Mark(FEDERATION, "i", XID, CORDON, -9000)}, ""),
    ("no rate", {"rate": 0}, {}, "OverRate"),
    ("no budget", {"max_unavailable": Limit(count=0)}, {}, "OverBudget"),
    ("too many alike", {"alike": 1, "alike_seconds": 2000.0}, {}, "BreakerOpen"),
    ("maintenance on Friday", {"windows": (MaintenanceWindow((4,), 0, 86399),)}, {}, "OutsideWindow"),
    ("maintenance on Thursday", {"windows": (MaintenanceWindow((3,), 0, 86399),)}, {}, ""),
    ("a person must say yes", {"approval": True}, {}, "ApprovalNeeded"),
    ("of no pool", {}, {"pool": None}, "NotOurs"),
]


@pytest.mark.parametrize(("name", "guards", "change", "want"), GUARDED, ids=[row[0] for row in GUARDED])
def test_guards(name: str, guards: dict[str, Any], change: dict[str, Any], want: str) -> None:
    story = Story(Emulated(now=1000.0).add(4), a_policy("gpu", CORDON, **guards))
    story.world.change("n0", **change)
    story.open(NODE)
    did = story.round()
    assert story.codes() == ({want} if want else set())
    assert did == ([] if want else ["cordon n0"])


def test_a_pause_stops_everything_also_what_is_under_way_and_no_time_passes() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", verified(DRAIN, 100), REPLACE))
    story.open(an_incident())
    assert story.round() == ["drain n0"]
    story.world.paused = True
    assert [story.round(seconds) for seconds in (1, 500, 500)] == [[], [], []]
    assert story.codes() == {"Paused"}
    story.world.paused = False
    assert story.round(1) == [], "a hundred seconds to recover, pause apart"
    assert story.round(150) == ["replace-node n0"]


def test_the_budget_counts_nodes_that_others_took_away_and_machines_that_are_missing() -> None:
    for spoil in ("not ready", "missing"):
        story = Story(Emulated().add(10), a_policy("gpu", CORDON, max_unavailable=Limit(percent=20)))
        if spoil == "missing":
            story.world.missing[ref()] = 1
        else:
            story.world.change("n9", usable=False)
        story.open(an_incident("n0"))
        story.open(an_incident("n1"))
        assert story.round() == ["cordon n0"]
        assert story.round(1) == []
        assert story.codes() == {"OverBudget"}


def test_the_rate_slides() -> None:
    story = Story(Emulated().add(10), a_policy("gpu", CORDON, max_unavailable=Limit(count=9), rate=2, rate_seconds=100))
    for index in range(4):
        story.open(an_incident(f"n{index}"))
    assert story.round() == ["cordon n0", "cordon n1"]
    assert story.round(99) == []
    assert story.codes() == {"OverRate"}
    assert story.round(2) == ["cordon n2", "cordon n3"]


def test_a_flapping_node_is_not_disrupted_twice() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", DRAIN))
    for turn in range(4):
        name = f"flap-{turn}"
        story.open(an_incident(name=name, at=story.world.now))
        story.round(1)
        story.resolve(name)
        story.round(1)
        story.round(601)
        story.round(1)
    drains = [action for action in story.world.done if action.action == DRAIN]
    assert len(drains) == 1
    story.open(an_incident(name="late", at=story.world.now))
    assert story.round(3600) == ["drain n0"], "after the cool-down it may be"


def test_a_signal_that_comes_back_while_its_node_is_closed_keeps_it_closed() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", DRAIN))
    story.open(an_incident())
    story.round()
    story.resolve("gpu.xid.79-n0")
    story.round(1)
    story.open(an_incident())
    assert story.round(300) == []
    assert story.codes() == {"Flapping"}
    story.resolve("gpu.xid.79-n0")
    assert story.round(400) == [], "healthy for 10 minutes in a row, not in all"
    assert story.round(601) == ["undo n0"]


def outage(story: Story, nodes: int, at: float) -> None:
    for index in range(nodes):
        story.world.change(f"n{index}", usable=False)
        story.open(an_incident(f"n{index}", "node.notReady", at=at))


def test_a_zone_outage_stops_at_the_breaker_and_nothing_stampedes_when_it_closes() -> None:
    wide = Limit(count=99)
    policy = a_policy("nodes", DRAIN, verified(REBOOT, 300), max_unavailable=wide, alike=4, pause_seconds=600)
    story = Story(Emulated().add(12), policy)
    outage(story, 8, at=0)
    assert [story.round(60) for _ in range(100)] == [[]] * 100
    assert story.codes() == {"BreakerOpen"}
    for index in range(7):
        story.resolve(f"node.notReady-n{index}")
        story.world.change(f"n{index}", usable=True)
    for index in (9, 10, 11):
        story.open(an_incident(f"n{index}", "node.notReady", at=story.world.now - 5000))
    began = story.world.now
    moved: list[str] = []
    while not moved:
        moved = story.round(60)
    assert len(moved) == 1, "one tries, the rest waits for what comes of it"
    assert story.world.now - began >= 600
    for _ in range(4):
        moved += story.round(60)
    assert len({line.split()[1] for line in moved}) == 1


def test_actions_that_do_not_help_open_the_breaker_and_its_pause_doubles() -> None:
    policy = a_policy("gpu", verified(REBOOT, 60), max_unavailable=Limit(count=99), failures=2, pause_seconds=600)
    story = Story(Emulated().add(9), policy)
    for index in range(9):
        story.open(an_incident(f"n{index}", at=-5000))
        story.world.change(f"n{index}", mark=None)
    policy_slow = replace(policy, guards=replace(policy.guards, rate=2, rate_seconds=60))
    story.policies = (policy_slow,)
    assert len(story.round()) == 2
    assert story.round(61) == [], "both have failed"
    assert story.codes() >= {"BreakerOpen"}
    assert story.round(500) == []
    assert len(story.round(200)) == 1, "half open: one tries"
    assert story.round(61) == [], "and fails"
    assert story.round(1100) == [], "twice the pause"
    assert len(story.round(200)) == 1


def test_an_approval_speaks_for_one_action_of_one_incident() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", CORDON, ActionRule(REPLACE, approval=True)))
    story.open(an_incident())
    assert story.round() == ["cordon n0"]
    assert story.round(1) == []
    assert story.codes() == {"ApprovalNeeded"}
    story.world.approved = {"gpu.xid.79-n0/cordon", "other/replace-node"}
    assert story.round(1) == []
    story.world.approved = {"gpu.xid.79-n0/replace-node"}
    assert story.round(1) == ["replace-node n0"]


def test_steps_that_do_not_apply_are_left_out_and_said() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", RESTART, EXCLUDE_NODE, REPLACE, CORDON))
    story.world.replaceable = False
    story.open(an_incident())
    assert story.round() == ["cordon n0"]
    assert [(note.action, note.reason.code) for note in story.notes] == [
        (EXCLUDE_NODE, "NotApplicable"),
        (REPLACE, "NotApplicable"),
        (RESTART, "NotApplicable"),
    ]


def test_a_workload_is_restarted_once_and_a_pool_is_closed_while_its_signal_lasts() -> None:
    subject = Subject(str(CLUSTER), "a100", None, None, "w1")
    world = Emulated().add(4).add(2, "h100").add(2, "v100")
    world.workloads = (a_workload(),)
    story = Story(world, a_policy("slow", RESTART, QUARANTINE_POOL))
    story.open(Incident("slow", "straggler", "warning", subject, 0.0))
    assert story.round() == ["restart-workload w1"]
    assert story.round(1) == ["quarantine-pool w1"]
    assert story.state.quarantined_pools == {ref()}
    story.resolve("slow")
    story.round(1)
    assert story.state.quarantined_pools == {ref()}
    assert story.round(601) == ["undo w1"]
    assert story.state.quarantined_pools == frozenset()
    story.open(Incident("again", "straggler", "warning", subject, story.world.now))
    assert story.round() == []
    assert story.codes() == {"CoolDown"}


def test_never_are_all_pools_quarantined() -> None:
    world = Emulated().add(2).add(2, "h100")
    story = Story(world, a_policy("all", QUARANTINE_CLUSTER, max_quarantined=Limit(percent=100)))
    story.open(Incident("bad", "network", "critical", Subject(str(CLUSTER)), 0.0))
    assert story.round() == []
    assert story.codes() == {"OverQuarantine"}


def test_a_pause_of_bursting_ends_with_its_signal_or_with_its_policy() -> None:
    story = Story(Emulated().add(2), a_policy("spend", PAUSE_BURSTING))
    story.open(Incident("spend", "cost.spike", "critical", Subject(), 0.0))
    story.round()
    assert story.state.bursting_paused
    gone = remediate(story.incidents.values(), story.state, [], story.world.fleet(), 5)
    assert not gone.state.bursting_paused
    story.resolve("spend")
    story.round(1)
    story.round(601)
    assert not story.state.bursting_paused


def test_scaling_up_spends_the_rate() -> None:
    story = Story(Emulated().add(2), a_policy("ahead", ActionRule(SCALE_UP, nodes=2), rate=1))
    for name in ("a", "b"):
        story.open(Incident(name, "queue.forecast", "warning", Subject(str(CLUSTER), "a100"), 0.0))
    assert story.round() == ["scale-up a100"]
    assert story.round(1) == []


def test_a_pool_that_was_scaled_up_keeps_its_size_while_the_signal_lasts_but_not_for_ever() -> None:
    story = Story(Emulated().add(2), a_policy("ahead", ActionRule(SCALE_UP, nodes=2), healthy_seconds=60.0))
    story.open(Incident("a", "queue.forecast", "warning", Subject(str(CLUSTER), "a100"), 0.0))
    assert story.state.enlarged_pools(story.world.now) == frozenset()
    story.round()
    began = story.world.now
    assert story.state.enlarged_pools(began) == {ref("a100")}
    assert story.state.enlarged_pools(began + 7199.0) == {ref("a100")}
    assert story.state.enlarged_pools(began + 7200.0) == frozenset()
    story.resolve("a")
    story.round(1)
    assert story.state.enlarged_pools(began + 1.0) == frozenset()


def test_the_same_thing_is_remedied_for_one_incident_at_a_time() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", DRAIN, max_unavailable=Limit(count=4)))
    story.open(an_incident(name="a"))
    story.open(an_incident(name="b", kind="gpu.ecc.doubleBit"))
    assert story.round() == ["drain n0"]
    assert story.codes() == {"Busy"}


def test_nothing_is_decided_about_a_cluster_that_does_not_answer() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", NOTIFY, DRAIN))
    story.world.available = False
    story.open(an_incident())
    assert story.round() == ["notify n0"]
    assert story.round(1) == []
    assert story.codes() == {"ClusterUnavailable"}
    story.world.available = True
    assert story.round(1) == ["drain n0"]


def test_lost_memory_counts_what_the_nodes_show() -> None:
    policy = a_policy("gpu", DRAIN, max_unavailable=Limit(count=9), rate=2, rate_seconds=3600.0)
    story = Story(Emulated().add(9), policy)
    story.open(an_incident("n0"))
    assert story.round() == ["drain n0"]
    story.state = RemediationState(since=story.world.now)
    story.open(an_incident("n1", "gpu.ecc"))
    story.open(an_incident("n2", "gpu.ecc"))
    did = story.round(10)
    assert sorted(did) == ["drain n0", "drain n1"], "n0 is still closed for it: that goes on; of new ones, one more"
    story.state = RemediationState(since=story.world.now)
    assert "drain n2" not in story.round(10)
    assert "OverRate" in story.codes()


def test_what_has_just_come_is_not_replaced_again_so_that_lost_memory_hides_nothing() -> None:
    """Found by hypothesis: of two replacements in one place only one shows after a loss of memory."""
    policy = a_policy("gpu", REPLACE, max_unavailable=Limit(count=9), rate=2, rate_seconds=3600.0)
    story = Story(Emulated().add(9), policy)
    story.open(an_incident("n0"))
    assert story.round() == ["replace-node n0"]
    story.world.deliver(ref())
    story.open(an_incident("n9", "gpu.ecc"))
    assert story.round(10) == []
    assert "JustCome" in story.codes()
    assert "replace-node n9" in story.round(3600)


def test_outcomes_shift_the_order() -> None:
    policy = a_policy("gpu", NOTIFY, DRAIN, verified(REBOOT), verified(REPLACE))
    assert ordered(policy, XID, ()) == (NOTIFY, DRAIN, REBOOT, REPLACE)
    failed = tuple(Outcome(XID, "gpu", REBOOT, float(at), False) for at in range(4))
    assert chance(failed, XID, REBOOT) == (4, 1 / 6)
    assert ordered(policy, XID, failed) == (NOTIFY, DRAIN, REPLACE, REBOOT)
    assert ordered(policy, "gpu.xid.48", failed) == (NOTIFY, DRAIN, REBOOT, REPLACE)
    assert ordered(policy, XID, (*failed, Outcome(XID, "gpu", REBOOT, 9.0, True))) == (NOTIFY, DRAIN, REBOOT, REPLACE)


def test_maintenance_windows_run_over_midnight() -> None:
    day = 86400.0
    friday_night = MaintenanceWindow((4,), 22 * 3600, 6 * 3600)  # 1970-01-02 was a Friday
    cases = [
        (day + 21.9 * 3600, False),
        (day + 22 * 3600, True),
        (2 * day + 5.9 * 3600, True),
        (2 * day + 6 * 3600, False),
    ]
    assert [friday_night.holds(at) for at, _ in cases] == [want for _, want in cases]
    assert MaintenanceWindow((), 22 * 3600, 6 * 3600).holds(3 * 3600)


def test_memory_is_json_and_garbage_is_as_good_as_lost() -> None:
    story = Story(
        Emulated().add(12), a_policy("gpu", DRAIN, verified(REBOOT, 60), alike=3, max_unavailable=Limit(count=9))
    )
    story.open(an_incident("n0"))
    for _ in range(4):
        story.round(100)
    outage(story, 5, at=story.world.now)
    story.round()
    assert story.state.cases
    assert story.state.breakers
    written = json.dumps(to_json(story.state))
    assert from_json(json.loads(written)) == story.state
    spoiled = to_json(story.state)
    wrong: list[dict[str, Any]] = [
        {"cases": 7},
        {"since": "x"},
        {"version": 2},
        {"disruptions": [1]},
        {"breakers": None},
    ]
    values: list[object] = [None, [], {}, {"version": 1}, *({**spoiled, **one} for one in wrong)]
    for each in values:
        assert from_json(each) is None


def test_what_counts_as_one_thing() -> None:
    gpu = Subject("c", "p", "n", "3", "w")
    assert subject_key(gpu) == subject_key(replace(gpu, gpu="4", workload=None))
    assert subject_key(Subject("c", "p", None, None, "w")) == "workload/w"
    assert family("gpu.xid.79") == family("gpu.xid.48") == "gpu.xid"
    assert family("straggler") == "straggler"


@dataclass(frozen=True, slots=True)
class Part(Incident):
    """An incident that became part of another one."""

    merged_into: str = ""


def test_an_incident_that_became_part_of_another_recovers_with_it() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", DRAIN))
    story.open(an_incident(name="part"))
    assert story.round() == ["drain n0"]
    old = story.incidents["part"]
    story.open(Part(old.id, old.kind, old.severity, old.subject, old.opened_at, "suppressed", merged_into="whole"))
    story.open(an_incident("n1", "pool.power", name="whole"))
    assert story.round(1000) == []
    assert story.world.nodes["n0"].held
    story.resolve("whole")
    story.round(1)
    assert story.round(601) == ["undo n0"]


def test_undo_is_not_given_out_while_paused_or_unreachable() -> None:
    story = Story(Emulated().add(4), a_policy("gpu", CORDON, healthy_seconds=10))
    story.open(an_incident())
    story.round()
    story.resolve("gpu.xid.79-n0")
    story.round(1)
    story.world.available = False
    assert story.round(100) == []
    story.world.available = True
    assert story.round(1) == [f"{UNDO} n0"]
