"""The loop that remedies incidents: facts and incidents in, the pure choice, its actions carried out, outcomes back in.

What is remembered goes into the history; losing it is safe (see `scheduler.aiops.remediation.guards`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson
import structlog

from scheduler.aiops.remediation.cases import settle
from scheduler.aiops.remediation.choice import Note, remediate
from scheduler.aiops.remediation.facts import RESOLVED, SEVERITIES, IncidentLike
from scheduler.aiops.remediation.state import RemediationState, from_json, to_json
from scheduler.daemon.config.live_policies import LivePolicies
from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import MEMORIES, REMEDIES
from scheduler.daemon.incidents.control import Control
from scheduler.daemon.incidents.effects import Effects
from scheduler.daemon.incidents.fleet_facts import fleet_of
from scheduler.daemon.placing.planning import Planner
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.errors import (
    AuthError,
    CapacityError,
    FencedError,
    InvalidObjectError,
    OverspillError,
    QuotaError,
    RefusedError,
)
from scheduler.model.ids import Instant, Uid
from scheduler.model.ports import Clock
from scheduler.model.remediation import DRAIN, REPLACE, Action
from scheduler.model.workload import PlacementState

log = structlog.get_logger(__name__)
_ROUND_SECONDS: Final = 5.0
"""Between two rounds, in the federation's time."""
_AT_LEAST_WALL_SECONDS: Final = 0.25
_CALL_WALL_SECONDS: Final = 60.0
_AT_ONCE: Final = 8
_OFF_LOOP_SECONDS: Final = 0.05
_STRANDED_SECONDS: Final = 1800.0
"""How long a workload whose pods were evicted may lack room where it is before it is placed anew: a machine that is
bought for it has come by then."""
_FOR_GOOD: Final = (RefusedError, AuthError, InvalidObjectError, CapacityError, QuotaError)
"""Trying the same again is no use."""
_NAME: Final = "remediation"


@dataclass(frozen=True, slots=True)
class _Begun:
    at: Instant
    action: Action


class Remedies:
    """Belongs to the event loop. `sources` give the incidents as they are now."""

    def __init__(
        self,
        mirror: Mirror,
        policies: LivePolicies,
        planner: Planner,
        effects: Effects,
        control: Control,
        history: History,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._mirror = mirror
        self._policies = policies
        self._planner = planner
        self._effects = effects
        self._control = control
        self._history = history
        self._clock = clock
        self._telemetry = telemetry
        self.on_done: Callable[[Action], None] = lambda action: None
        self.sources: list[Callable[[], Iterable[IncidentLike]]] = []
        self.state = RemediationState(since=clock.now())
        self.notes: tuple[Note, ...] = ()
        self.rounds = 0
        self._told: dict[tuple[str, str], tuple[str, str]] = {}
        self._begun: dict[str, _Begun] = {}
        self._evicted: dict[Uid, Instant] = {}
        self._saved: RemediationState | None = None
        self._took = 0.0

    async def load(self) -> None:
        """Take up what was remembered when the daemon stopped; without it memory begins now."""
        try:
            found = from_json(await self._history.memory(_NAME))
        except OverspillError as error:
            log.error("remediation_not_restored", error=str(error))
            found = None
        self.state = found if found is not None else RemediationState(since=self._clock.now())

    async def run(self) -> None:
        """A round every few seconds, for ever; only the leader runs it."""
        while True:
            due = self._clock.now() + _ROUND_SECONDS
            if self._mirror.ever_synced and self._mirror.hub_synced:
                await self.round()
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(_AT_LEAST_WALL_SECONDS))
                group.create_task(self._clock.sleep(max(0.0, due - self._clock.now())))

    def incidents(self) -> list[IncidentLike]:
        """All that the sources tell of."""
        return [incident for source in self.sources for incident in source()]

    async def round(self) -> None:
        """Choose, and take every action as far as it goes now."""
        switches = self._control.switches
        fleet = fleet_of(self._mirror, paused=switches.paused, approved=switches.approved)
        incidents, now = self.incidents(), self._clock.now()
        clock = asyncio.get_running_loop().time
        given, began = (incidents, self.state, self._policies.current.remediation, fleet, now), clock()
        # Frozen values and a pure function: a long round does not hold up the event loop.
        remedy = await asyncio.to_thread(remediate, *given) if self._took > _OFF_LOOP_SECONDS else remediate(*given)
        self._took = clock() - began
        self.state, self.notes = remedy.state, remedy.notes
        self.rounds += 1
        self._take_effect(bursting_paused=switches.bursting_paused)
        if not switches.paused:
            await self._carry_out(remedy.actions)
            self._place_stranded_anew(now)
        self._take_effect(bursting_paused=switches.bursting_paused)
        self._tell(remedy.notes)
        self._measure(incidents)
        self._save()

    # -- acting ----------------------------------------------------------------------------------------------------

    async def _carry_out(self, actions: tuple[Action, ...]) -> None:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(action: Action) -> None:
            async with turns:
                await self._advance(action)

        async with asyncio.TaskGroup() as group:
            for action in actions:
                group.create_task(one(action))
        current = {case.action_id for case in self.state.cases}
        for begun in [begun for name, begun in self._begun.items() if name not in current]:
            self._end(begun.action, "overtaken")

    async def _advance(self, action: Action) -> None:
        if action.id not in self._begun:
            self._begun[action.id] = _Begun(self._clock.now(), action)
            log.info("remedy", incident=action.incident, policy=action.policy, action=action.action, why=action.reason)
            self._record(action, None)
        before = self._pods_of(action)
        try:
            async with asyncio.timeout(_CALL_WALL_SECONDS):
                done = await self._effects.carry_out(action)
        except _FOR_GOOD as error:
            log.warning("remedy_failed", incident=action.incident, action=action.action, error=str(error)[:300])
            self._settle(action, done=False)
            return
        except FencedError:
            raise
        except (OverspillError, TimeoutError) as error:
            log.warning("remedy_waits", incident=action.incident, action=action.action, error=str(error)[:300])
            return
        for uid in before:
            self._evicted.setdefault(uid, self._clock.now())
        if done:
            self._settle(action, done=True)

    def _settle(self, action: Action, *, done: bool) -> None:
        self.state = settle(self.state, action.id, done=done, now=self._clock.now())
        if done:
            self.on_done(action)
        self._end(action, "done" if done else "failed")

    def _end(self, action: Action, outcome: str) -> None:
        """`overtaken`: the signal or the node was gone before the action had come to its end."""
        self._telemetry.remedies.labels(action.policy, action.action, outcome).inc()
        self._record(action, outcome)
        self._begun.pop(action.id, None)

    def _pods_of(self, action: Action) -> set[Uid]:
        """Our workloads that have pods on a node which is being emptied."""
        target = action.target
        member = self._mirror.members.get(target.cluster) if target.cluster is not None else None
        if member is None or action.action not in (DRAIN, REPLACE):
            return set()
        return {
            Uid(pod.origin_uid)
            for pod in member.pods.values()
            if pod.node == target.node and pod.origin_uid is not None and not pod.terminal
        }

    def _place_stranded_anew(self, now: Instant) -> None:
        """Where there is no room left for evicted pods, their workload goes elsewhere as a whole."""
        for uid, since in list(self._evicted.items()):
            workload = self._mirror.workload(uid)
            placement = workload.placement if workload is not None else None
            if workload is None or placement is None or placement.state is not PlacementState.STARTED:
                del self._evicted[uid]
                continue
            copies = [entry.copy for entry in self._mirror.copies(uid) if entry.copy.cluster == placement.cluster]
            member = self._mirror.members.get(placement.cluster)
            bound = member.pods_bound(uid) if member is not None else 0
            wanted = max((copy.pods_wanted for copy in copies if not copy.deleting), default=0)
            if bound >= wanted:
                if now - since > _STRANDED_SECONDS:
                    del self._evicted[uid]
            elif now - since > _STRANDED_SECONDS:
                self._effects.release(uid, f"stranded-{uid}", at=now)
                del self._evicted[uid]

    # -- what follows from the state -------------------------------------------------------------------------------

    def _take_effect(self, *, bursting_paused: bool) -> None:
        paused = bursting_paused or self.state.bursting_paused
        if paused != self._planner.bursting_paused:
            self._planner.bursting_paused = paused
            log.warning("bursting_paused" if paused else "bursting_resumed")
            self._planner.trigger()
        self._mirror.quarantine(self.state.quarantined_pools, self.state.quarantined_clusters)
        self._mirror.keep_sizes(self.state.enlarged_pools(self._clock.now()))

    def _tell(self, notes: tuple[Note, ...]) -> None:
        """Log a refusal when it is new, not each time."""
        current: dict[tuple[str, str], tuple[str, str]] = {}
        for note in notes:
            key, said = (note.incident, note.action), (note.reason.code, note.reason.text)
            current[key] = said
            if self._told.get(key) != said:
                what = {"incident": note.incident, "policy": note.policy, "action": note.action}
                log.info("remedy_refused", **what, reason=note.reason.code, why=note.reason.text)
        self._told = current

    def _measure(self, incidents: list[IncidentLike]) -> None:
        telemetry = self._telemetry
        for gauge in (
            telemetry.remedies_refused, telemetry.remedy_cases, telemetry.breakers_open, telemetry.incidents_open,
        ):  # fmt: skip
            gauge.clear()
        for (policy, action, reason), count in Counter(
            (note.policy, note.action, note.reason.code) for note in self.notes
        ).items():
            telemetry.remedies_refused.labels(policy, action, reason).set(count)
        for phase, count in Counter(case.phase for case in self.state.cases).items():
            telemetry.remedy_cases.labels(phase).set(count)
        for labels, count in Counter((each.policy, each.cause) for each in self.state.breakers).items():
            telemetry.breakers_open.labels(*labels).set(count)
        opened = (each for each in incidents if each.state != RESOLVED)
        for labels, count in Counter((self._severity(each), self._cluster(each)) for each in opened).items():
            telemetry.incidents_open.labels(*labels).set(count)
        telemetry.paused.labels("remediation").set(self._control.switches.paused)
        telemetry.paused.labels("bursting").set(self._planner.bursting_paused)

    def _severity(self, incident: IncidentLike) -> str:
        """Bounded, for a label, whatever an incident says."""
        return incident.severity if incident.severity in SEVERITIES else SEVERITIES[-1]

    def _cluster(self, incident: IncidentLike) -> str:
        cluster = incident.subject.cluster or ""
        return cluster if cluster in self._mirror.members else ""

    def _record(self, action: Action, outcome: str | None) -> None:
        begun = self._begun[action.id].at if action.id in self._begun else self._clock.now()
        self._history.record(
            REMEDIES,
            {
                "id": action.id,
                "incident": action.incident,
                "signal": action.signal,
                "policy": action.policy,
                "action": action.action,
                "began_at": begun,
                "ended_at": None if outcome is None else self._clock.now(),
                "outcome": outcome,
                "body": orjson.dumps(_json(action)).decode(),
            },
        )

    def _save(self) -> None:
        # The time at which each incident was last seen changes every round, and is not worth a write.
        shown = replace(self.state, cases=tuple(replace(case, seen_at=0.0) for case in self.state.cases))
        if shown == self._saved:
            return
        self._saved = shown
        body = orjson.dumps(to_json(self.state)).decode()
        self._history.record(MEMORIES, {"name": _NAME, "at": self._clock.now(), "body": body})


def _json(action: Action) -> dict[str, Any]:
    target = action.target
    return {
        "reason": action.reason,
        "cluster": target.cluster,
        "pool": target.pool,
        "node": target.node,
        "gpu": target.gpu,
        "workload": target.workload,
        "undoes": list(action.undoes),
    }
