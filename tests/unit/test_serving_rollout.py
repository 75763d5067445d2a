"""A new revision takes over, is judged, and is taken back: step by step, and the judge by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scheduler.aiops.canary import CanaryJudge
from scheduler.engine.serving import Memory, serve
from scheduler.engine.serving.rollout import BACK, JUDGING, KEEPING, STARTING
from scheduler.model import division as reasons
from scheduler.model.division import Division
from scheduler.model.ids import ClusterId
from scheduler.model.serving import CanaryVerdict, ReplicaGroup, ReplicaSpeed, RevisionMetrics, ServiceView
from scheduler.model.serving_policy import RolloutRule
from tests.builders.serving import NOW, POOLED, a_group, a_service, a_view, an_offer, an_slo

RULE = RolloutRule(steps=(0.25, 1.0), step_seconds=60.0, keep_old_seconds=120.0)
GOOD = CanaryVerdict("r2", "good", "all well", 100)
BAD = CanaryVerdict("r2", "bad", "latency +31 %", 100)


class World:
    """Obeys, at once or not at all."""

    def __init__(self, rule: RolloutRule = RULE, revision: str = "r2") -> None:
        self.groups: tuple[ReplicaGroup, ...] = (a_group("onprem/a10", 8), a_group("aws/g5", 4))
        self.memory, self.now = Memory(stable="r1"), NOW
        self.rule, self.revision = rule, revision

    def look(self, verdict: CanaryVerdict | None = None, *, ready: bool = True, after: float = 30.0) -> Division:
        self.now += after
        service = a_service(*self.groups, demand=6.0, revision=self.revision)
        service = replace(service, demand=tuple(replace(one, at=self.now) for one in service.demand))
        slo = an_slo(rollout=self.rule)
        view: ServiceView = a_view(service, an_offer(most_replicas=20), an_offer("aws/g5"), slo=slo, now=self.now)
        division, self.memory = serve(replace(view, verdict=verdict), self.memory, use_milp=False)
        if ready:
            self.groups = tuple(
                ReplicaGroup(one.pool, one.revision, one.replicas, one.replicas) for one in division.targets
            )
        return division

    def phase(self) -> tuple[str, int, int] | None:
        """Phase, cluster and step."""
        rollout = self.memory.rollout
        return None if rollout is None else (rollout.phase, rollout.cluster, rollout.step)

    def share(self, division: Division, revision: str = "r2") -> int:
        return sum(one.weight for one in division.weights if one.revision == revision)


def test_a_canary_goes_step_by_step_and_becomes_the_stable_one() -> None:
    world = World()
    division = world.look()
    assert world.phase() == (STARTING, 0, 0)
    assert world.share(division) == 0  # nothing of it is ready yet
    world.look()
    division = world.look()
    assert world.phase() == (JUDGING, 0, 0)
    assert {one.cluster for one in division.weights if one.revision == "r2"} == {"onprem"}
    assert 0 < world.share(division) < 300
    assert division.conditions[0].reason == reasons.ROLLING_OUT
    seen = set()
    for _ in range(60):
        division = world.look(GOOD)
        assert sum(one.weight for one in division.weights) == 1000
        seen.add(world.phase())
        if world.memory.stable == "r2":
            break
    assert (JUDGING, 0, 1) in seen
    assert any(phase is not None and phase[0] == KEEPING for phase in seen)
    assert world.memory == replace(world.memory, stable="r2", rollout=None, rejected=())
    for _ in range(5):
        division = world.look()
    assert {one.revision for one in division.targets} == {"r2"}
    assert world.share(division) == 1000


def test_a_bad_verdict_takes_it_back_at_once_and_for_good() -> None:
    world = World()
    for _ in range(3):
        world.look()
    division = world.look(BAD)
    assert world.phase() == (BACK, 0, 0)
    assert world.share(division) == 0
    assert "r2 was taken back: latency +31 %; r1 serves" in division.conditions[0].message
    for _ in range(4):
        division = world.look()
    assert world.phase() is None
    assert {one.revision for one in division.targets} == {"r1"}
    assert world.memory.rejected == ("r2",)
    world.revision = "r3"  # a third one is tried again
    world.look()
    assert world.phase() == (STARTING, 0, 0)


def test_nothing_moves_on_without_a_verdict_or_before_its_time() -> None:
    world = World()
    for _ in range(3):
        world.look()
    for _ in range(5):
        world.look(CanaryVerdict("r2", "undecided", "", 100))
    assert world.phase() == (JUDGING, 0, 0)
    few = replace(GOOD, requests=3)
    world.look(few)
    assert world.phase() == (JUDGING, 0, 0)
    world.look(few, after=700.0)  # nobody asks for long enough
    assert world.phase() == (STARTING, 0, 1)


def test_one_that_never_gets_ready_is_taken_back() -> None:
    world = World()
    world.look(ready=False)
    world.look(ready=False, after=1000.0)
    assert world.memory.rejected == ("r2",)


def test_blue_green_changes_everywhere_and_keeps_the_old_beside() -> None:
    world = World(RolloutRule(steps=(1.0,), step_seconds=60.0, keep_old_seconds=600.0))
    world.look()
    world.look()
    division = world.look()
    assert world.share(division) == 1000
    old = sum(one.replicas for one in division.targets if one.revision == "r1")
    assert old == 12
    assert world.share(division, "r1") == 0
    division = world.look(BAD)
    assert world.share(division, "r1") == 1000  # back at once


def test_its_user_takes_it_back_without_a_mark() -> None:
    world = World()
    for _ in range(3):
        world.look()
    world.revision = "r1"
    for _ in range(4):
        division = world.look()
    assert world.memory.rejected == ()
    assert world.memory.rollout is None
    assert {one.revision for one in division.targets} == {"r1"}


def metrics(revision: str, mean: float, requests: int, **changes: object) -> RevisionMetrics:
    one = RevisionMetrics(ClusterId("onprem"), revision, NOW, 15.0, requests=requests, mean_latency_seconds=mean)
    return replace(one, **changes)  # type: ignore[arg-type]


def judged(slower: float, errors: float = 0.0, usd: float = 1.0, *, seed: int = 1, looks: int = 20) -> CanaryVerdict:
    """Log-normal requests, 300 of the old one and 30 of the new one each look."""
    rng = np.random.default_rng(seed)
    judge = CanaryJudge("r1", "r2", RolloutRule(max_slower=0.2))
    for _ in range(looks):
        old = rng.lognormal(0.0, 0.6, 300).mean()
        new = slower * rng.lognormal(0.0, 0.6, 30).mean()
        judge.learn(
            [
                metrics("r1", old, 300, errors=int(rng.binomial(300, 0.002)), usd_per_request=1.0),
                metrics("r2", new, 30, errors=int(rng.binomial(30, 0.002 + errors)), usd_per_request=usd),
            ]
        )
    return judge.verdict()


@pytest.mark.parametrize(
    ("verdict", "want", "words"),
    [
        (judged(1.0), "good", "at the same load"),
        (judged(1.45), "bad", "allowed +20 %"),
        (judged(1.0, errors=0.1), "bad", "errors"),
        (judged(1.0, usd=1.5), "bad", "cost +50 %"),
        (judged(1.1), "good", "latency +"),
        (judged(1.17), "undecided", "latency"),
        (judged(0.7), "good", "latency -"),
    ],
)
def test_the_judge(verdict: CanaryVerdict, want: str, words: str) -> None:
    assert verdict.outcome == want, verdict
    assert words in verdict.text
    assert verdict.requests == 600


def test_a_healthy_one_is_never_bad_at_any_look() -> None:
    for seed in range(40):
        for looks in (2, 5, 10):
            assert judged(1.0, seed=seed, looks=looks).outcome != "bad"


def test_the_judge_compares_at_the_same_load_and_in_one_place() -> None:
    judge = CanaryJudge("r1", "r2", RolloutRule())
    speed = ReplicaSpeed(10.0, 1.0)
    for _ in range(10):  # half loaded against hardly loaded: the same replica
        judge.learn(
            [metrics("r1", 2.0, 750, replicas=10), metrics("r2", 1.0 / 0.9, 150, replicas=10)],
            {ClusterId("onprem"): speed},
        )
    assert judge.verdict().outcome == "good"
    pooled = CanaryJudge("r1", "r2", RolloutRule())
    for _ in range(10):  # a small group waits longer, which is not the revision's fault
        pooled.learn(
            [
                metrics("r1", 1.0, 300, mean_first_token_seconds=0.0),
                metrics("r2", 1.6, 30, mean_first_token_seconds=0.6),
            ],
            {ClusterId("onprem"): POOLED},
        )
    assert pooled.verdict().outcome == "good"
    elsewhere = CanaryJudge("r1", "r2", RolloutRule())
    elsewhere.learn([metrics("r1", 1.0, 300), metrics("r2", 9.0, 300, cluster=ClusterId("aws"))])
    assert elsewhere.verdict().outcome == "undecided"
    elsewhere.learn([metrics("r2", float("nan"), 300), metrics("r2", -1.0, -4)])
    assert elsewhere.verdict().outcome == "undecided"
