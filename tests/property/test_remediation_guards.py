"""Whatever arrives, in whatever order, also when memory is lost: never more disruption than the guards allow.

An emulated fleet lives through a random history: signals come and go, nodes fail, other controllers take nodes,
machines are delivered or not, the switch is thrown, memory is lost, actions are carried out at once, later, or fail.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.aiops.remediation.cases import settle
from scheduler.aiops.remediation.choice import remediate
from scheduler.aiops.remediation.facts import Incident
from scheduler.aiops.remediation.state import RemediationState, from_json, to_json
from scheduler.model.remediation import (
    CORDON,
    DRAIN,
    NODE_ACTIONS,
    NOTIFY,
    REBOOT,
    REPLACE,
    RESET,
    UNDO,
    Action,
    ActionRule,
    Guards,
    Limit,
    RemediationPolicy,
)
from tests.builders.remediation import Emulated, an_incident, ref

POOLS = ("a100", "h100")
KINDS = ("gpu.xid.79", "gpu.xid.48", "node.notReady")
EVENTS = (
    "open", "open", "open", "resolve", "break", "mend", "deliver", "forget", "pause", "resume", "own", "time", "time",
)  # fmt: skip


@st.composite
def rules(draw: st.DrawFn) -> tuple[ActionRule, ...]:
    names = draw(st.lists(st.sampled_from([CORDON, DRAIN, REBOOT, RESET, REPLACE, NOTIFY]), min_size=1, unique=True))
    verify = st.sampled_from([None, 60.0, 600.0])
    return tuple(ActionRule(name, verify_seconds=draw(verify), timeout_seconds=500.0) for name in names)


@st.composite
def guarded(draw: st.DrawFn) -> Guards:
    rate_seconds = draw(st.sampled_from([300.0, 3600.0]))
    return Guards(
        dry_run=False,
        max_unavailable=draw(st.sampled_from([Limit(count=1), Limit(count=2), Limit(percent=30.0)])),
        rate=draw(st.integers(1, 3)),
        rate_seconds=rate_seconds,
        cool_down_seconds=draw(st.sampled_from([rate_seconds, 3 * rate_seconds])),
        healthy_seconds=draw(st.sampled_from([0.0, 100.0])),
        alike=draw(st.sampled_from([2, 4, 100])),
        alike_seconds=600.0,
        failures=draw(st.integers(1, 5)),
        pause_seconds=200.0,
    )


@dataclass
class History:
    """The life of a fleet, and what must hold in it."""

    policies: tuple[RemediationPolicy, ...]
    chance: random.Random
    world: Emulated = field(default_factory=lambda: Emulated(now=1e6))
    state: RemediationState = field(default_factory=lambda: RemediationState(since=-1e9))
    incidents: dict[str, Incident] = field(default_factory=dict)
    closed: dict[tuple[str, str], float] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    @property
    def guards(self) -> Guards:
        return self.policies[0].guards

    def happen(self, event: str) -> None:
        world, chance = self.world, self.chance
        names = sorted(world.nodes)
        node = chance.choice(names) if names else ""
        if event == "open" and node:
            again = [each for each in self.incidents.values() if each.state == "resolved"]
            at = world.now - chance.choice([0.0, 0.0, 5000.0])
            fresh = an_incident(node, chance.choice(KINDS), at=at, name=f"i{len(self.incidents)}")
            if again and chance.random() < 0.3:
                fresh = replace(chance.choice(again), state="open", opened_at=at)
            self.incidents[fresh.id] = fresh
        elif event == "resolve" and self.incidents:
            name = chance.choice(sorted(self.incidents))
            self.incidents[name] = replace(self.incidents[name], state="resolved")
        elif event == "break" and node and not world.nodes[node].held:
            world.change(node, usable=False)
        elif event == "mend" and node and not world.nodes[node].held:
            world.change(node, usable=True, owner="")
        elif event == "deliver":
            world.deliver(ref(chance.choice(POOLS)))
        elif event == "forget":
            self.state = RemediationState(since=world.now)
        elif event in ("pause", "resume"):
            world.paused = event == "pause"
        elif event == "own" and node:
            world.change(node, owner=chance.choice(["", "karpenter"]))
        elif event == "time":
            world.now += chance.choice([1.0, 60.0, 250.0, 700.0, 4000.0])

    def round(self) -> None:
        """Decide, check, and carry some of it out."""
        given_in = list(self.incidents.values())
        fleet = self.world.fleet()
        remedy = remediate(given_in, self.state, self.policies, fleet, self.world.now)
        self.chance.shuffle(given_in)
        shuffled = replace(fleet, nodes=fleet.nodes[::-1], pools=fleet.pools[::-1])
        assert remediate(given_in, self.state, self.policies[::-1], shuffled, self.world.now) == remedy
        self.state = remedy.state
        assert from_json(json.loads(json.dumps(to_json(self.state)))) == self.state
        assert len({action.id for action in remedy.actions}) == len(remedy.actions)
        if self.world.paused:
            assert remedy.actions == ()
        self.check_budget(remedy.actions)
        for action in remedy.actions:
            if action.action == UNDO and action.id not in self.seen and action.target.node in self.world.nodes:
                assert self.incidents[action.incident].state == "resolved"
            self.seen.add(action.id)
            outcome = self.chance.choice(["done", "done", "failed", "slow", "silent"])
            if outcome in ("done", "silent", "failed"):
                self.carry_out(action)
            if outcome in ("done", "failed"):
                self.state = settle(self.state, action.id, done=outcome == "done", now=self.world.now)

    def check_budget(self, actions: tuple[Action, ...]) -> None:
        """With all that this round takes away besides what is away already."""
        for pool in map(ref, POOLS):
            taken = {
                action.target.node_uid
                for action in actions
                if action.action in NODE_ACTIONS
                and action.target.pool == pool.pool
                and not self.world.nodes[action.target.node or ""].held
            }
            if taken:
                away = self.world.away(pool) | taken
                assert len(away) <= self.guards.max_unavailable.of(self.world.size(pool))

    def carry_out(self, action: Action) -> None:
        node = self.world.nodes.get(action.target.node or "")
        fresh = node is not None and not node.held and action.action in NODE_ACTIONS
        if fresh:
            assert node is not None
            assert not node.owner, "somebody else has a hand on it"
            last = self.closed.get((node.cluster, node.name))
            assert last is None or self.world.now - last >= self.guards.cool_down_seconds, "it flaps"
            self.closed[node.cluster, node.name] = self.world.now
        self.world.act(action)

    def check_rate(self) -> None:
        for pool in map(ref, POOLS):
            times = sorted(at for where, _, at in self.world.started if where == pool)
            for first, last in zip(times, times[self.guards.rate :], strict=False):
                assert last - first >= self.guards.rate_seconds, "more than the rate within its window"


def live(history: History, events: list[str]) -> None:
    for event in events:
        history.happen(event)
        history.round()
    history.check_rate()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rules(), guarded(), st.integers(0, 2**32), st.lists(st.sampled_from(EVENTS), min_size=20, max_size=80))
def test_never_more_disruption_than_the_guards_allow(
    actions: tuple[ActionRule, ...], guards: Guards, seed: int, events: list[str]
) -> None:
    history = History((RemediationPolicy("p", actions=actions, guards=guards),), random.Random(seed))
    history.world.add(5, "a100").add(8, "h100")
    live(history, events)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rules(), guarded(), st.integers(0, 2**32), st.lists(st.sampled_from(EVENTS), min_size=20, max_size=60))
def test_in_dry_run_nothing_is_done_and_nothing_is_spent(
    actions: tuple[ActionRule, ...], guards: Guards, seed: int, events: list[str]
) -> None:
    dry = RemediationPolicy("p", actions=actions, guards=replace(guards, dry_run=True))
    history = History((dry,), random.Random(seed))
    history.world.add(5, "a100").add(8, "h100")
    live(history, events)
    assert history.world.done == []
    assert history.state.cases == ()
    assert history.state.disruptions == ()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rules(), guarded(), st.integers(0, 2**32), st.lists(st.sampled_from(EVENTS), min_size=5, max_size=30))
def test_left_alone_it_comes_to_rest(
    actions: tuple[ActionRule, ...], guards: Guards, seed: int, events: list[str]
) -> None:
    """Once the signals are gone and every action is carried out, nothing stays closed for which memory was kept."""
    history = History((RemediationPolicy("p", actions=actions, guards=guards),), random.Random(seed))
    history.world.add(5, "a100").add(8, "h100")
    live(history, [event for event in events if event not in ("forget", "own")])
    history.world.paused = False
    for node in list(history.world.nodes.values()):
        history.world.change(node.name, usable=not node.held)
    history.incidents = {name: replace(each, state="resolved") for name, each in history.incidents.items()}
    for _ in range(20):
        history.world.now += 700.0
        remedy = remediate(
            history.incidents.values(), history.state, history.policies, history.world.fleet(), history.world.now
        )
        history.state = remedy.state
        for action in remedy.actions:
            history.world.act(action)
            history.state = settle(history.state, action.id, done=True, now=history.world.now)
    assert history.state.cases == ()
    assert not any(node.held for node in history.world.nodes.values())
