"""The run itself: submit what is due, leap over quiet time, and sum up what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from scheduler.cli.api import ExplainReply, StatusReply
from scheduler.cli.demo import DemoOptions, manifests
from scheduler.cli.demo.arrivals import Arrival
from scheduler.cli.demo.invariants import BOUGHT_NODES_LEFT, BUDGET_EXCEEDED, SPEND_MISMATCH
from scheduler.cli.demo.observer import Observer
from scheduler.cli.demo.pace import Moment, is_stuck, leap_target
from scheduler.cli.demo.processes import Child
from scheduler.cli.demo.remote import Remote
from scheduler.cli.demo.summary import Summary, job_counts, wait_seconds
from scheduler.cli.demo.view import Frame, Screen
from scheduler.model.contract import CRDS, FEDERATED_WORKLOADS, HTTP_ROUTES, JOBS
from scheduler.model.errors import (
    AlreadyExistsError,
    NotFoundError,
    NotServedError,
    OutcomeUnknownError,
    TransientError,
)
from scheduler.model.ids import Instant
from scheduler.model.money import to_cents
from scheduler.model.ports import Clock, KubeApi, RawObject, Resource

_DRAIN_WALL_SECONDS: Final = 120.0
_LEDGER_WALL_SECONDS: Final = 10.0
_STALLED_WALL_SECONDS: Final = 20.0
_STALLED_SECONDS: Final = 7 * 86400.0
_FAILING_WALL_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.02
_EVEN_POLL_SECONDS: Final = 0.1
"""At an even pace nothing is leapt over, so a look now and then is enough."""
_AT_ONCE: Final = 32
_WHOLE_DEMO: Final = 40
"""Jobs. A shorter demo ends with them, wherever its service's day is by then, and promises the service nothing: time
does not wait for it to be measured."""
_STEP_SECONDS: Final = 45.0
"""Of the federation's time beyond the last measurement: one is due every thirty."""


class Course:
    """From the first submission to the last bought machine given back."""

    def __init__(
        self,
        options: DemoOptions,
        arrivals: tuple[Arrival, ...],
        screen: Screen,
        *,
        hub: KubeApi,
        remote: Remote,
        observer: Observer,
        clock: Clock,
        daemon: Child,
        children: tuple[Child, ...],
        members: tuple[str, ...] = (),
    ) -> None:
        """`members`: where the service's requests may go."""
        self._options = options
        self._screen = screen
        self._hub = hub
        self._remote = remote
        self._observer = observer
        self._invariants = observer.invariants
        self._clock = clock
        self._daemon = daemon
        self._children = children
        self._members = members
        self._waiting = deque(arrivals)
        self._total = len(arrivals)
        self._drawn = options.trace is None
        self._began = time.monotonic()
        self._origin = clock.now()
        self._sent_at: dict[str, float] = {}
        """Wall time (monotonic) of submission, by hub UID."""
        self._open: set[str] = set()
        """Of these, those that have not ended."""
        self._status: StatusReply | None = None
        self._rss_mib: float | None = None
        self._phase = "running"
        self._aborted: str | None = None
        self._served_until = self._origin
        """Until then the service is under load."""
        self._clients_in = not self._drawn
        self._held = False
        self._failing_since: float | None = None
        self._moved: tuple[int, int, str] = (0, 0, "")
        self._moved_at = self._origin
        self._moved_wall = self._began

    async def run(self) -> tuple[Summary, ExplainReply | None]:
        """The figures, and why the first burst was decided (None: there was none, or the daemon cannot tell).

        Raises: CommandError when one of the two processes ends meanwhile.
        """
        if self._drawn:
            await self._serve()
        await self._until(self._all_ended, self._began + self._options.timeout_seconds)
        ended_at = self._clock.now()
        self._phase = "giving back"
        day = None
        if self._drawn:
            day = await self._remote.service_day()
            self._served_until = self._origin
            with contextlib.suppress(NotFoundError):
                await self._hub.delete(HTTP_ROUTES, manifests.NAMESPACE, manifests.SERVICE_NAME)
            with contextlib.suppress(NotFoundError):
                await self._hub.delete(FEDERATED_WORKLOADS, manifests.NAMESPACE, manifests.SERVICE_NAME)
        if self._aborted is None:
            await self._until(self._all_given_back, time.monotonic() + _DRAIN_WALL_SECONDS)
        whole = self._total >= _WHOLE_DEMO and not self._options.skip
        promised = whole and self._options.policies is None
        return replace(await self._sum_up(ended_at), service=day, promised=promised), await self._explain_one()

    async def _serve(self) -> None:
        """A model server; its clients come once it answers."""
        await self._create(CRDS, manifests.route_definition(), namespace="")
        await self._create(FEDERATED_WORKLOADS, manifests.service(self._members))
        if self._total >= _WHOLE_DEMO:
            self._served_until = self._origin + manifests.SERVED_SECONDS

    async def _let_clients_in(self) -> None:
        """Make the route that they come by, once the first replicas are ready."""
        with contextlib.suppress(NotFoundError, NotServedError, TransientError):
            name = manifests.SERVICE_NAME
            there = await self._hub.get(FEDERATED_WORKLOADS, manifests.NAMESPACE, name)
            if ((there.get("status") or {}).get("readyReplicas") or 0) >= manifests.LEAST_REPLICAS:
                await self._create(HTTP_ROUTES, manifests.route(self._members))
                self._clients_in = True

    # The loop ----------------------------------------------------------------------------------------------------

    async def _until(self, done: Callable[[], bool], deadline: float) -> None:
        """Let time pass until `done()`; note why when that does not come."""
        while not done():
            for child in self._children:
                child.check()
            if time.monotonic() > deadline:
                self._aborted = f"{self._phase}: not over after {self._options.timeout_seconds:g} s (see --timeout)"
                return
            await self._submit_due()
            if not self._clients_in:
                await self._let_clients_in()
            try:
                moment = await self._look()
                await self._keep_in_step(moment)
                # Of a service under load, what is measured meanwhile counts: time is not leapt over.
                leaps = self._options.skip and moment.now >= self._served_until
                target = leap_target(moment) if leaps else None
                if target is not None:
                    await self._remote.leap(target)
            except TransientError as error:
                await self._bear(error)
                continue
            self._failing_since = None
            if self._is_stalled(moment):
                self._aborted = f"{self._phase}: nothing runs and nothing moves any more{self._who_waits()}"
                return
            self._show()
            await asyncio.sleep(_POLL_SECONDS if self._options.skip else _EVEN_POLL_SECONDS)
        self._show(force=True)

    async def _keep_in_step(self, moment: Moment) -> None:
        """While a service is under load, time waits for the daemon to have measured it: on a slow machine it would else
        see of a spike only what was long ago."""
        progress = self._status.progress if self._status is not None else None
        measured_at = progress.measured_at if progress is not None else None
        if moment.now < self._served_until and measured_at is not None:
            await self._remote.hold(measured_at + _STEP_SECONDS)
            self._held = True
        elif self._held:
            await self._remote.hold(None)
            self._held = False

    async def _look(self) -> Moment:
        """The sandbox first: a daemon that is idle after the sandbox had been quiet has seen everything."""
        state = await self._remote.state()
        self._status = await self._remote.status() or self._status
        progress = self._status.progress if self._status is not None else None
        now = self._clock.now()
        return Moment(
            now=now,
            speed=self._options.speed,
            daemon_idle=progress is not None and progress.idle,
            busy=state.busy,
            quiet_wall_seconds=state.quiet_wall_seconds,
            next_arrival=self._origin + self._waiting[0].at_seconds if self._waiting else None,
            next_event=state.next_event_at,
            wake_at=progress.wake_at if progress is not None else None,
        )

    async def _bear(self, error: TransientError) -> None:
        """The sandbox does not answer: wait a little. Raises: `error` after a while, CommandError when it has ended."""
        await asyncio.sleep(_EVEN_POLL_SECONDS)
        for child in self._children:
            child.check()
        self._failing_since = self._failing_since or time.monotonic()
        if time.monotonic() - self._failing_since > _FAILING_WALL_SECONDS:
            raise error

    def _is_stalled(self, moment: Moment) -> bool:
        """Time passes, no job is to come, none runs, and nothing has moved for long."""
        running, moved = self._running(), (len(self._open), len(self._invariants.running_at), self._phase)
        wall = time.monotonic()
        if moved != self._moved or running or self._waiting:
            self._moved, self._moved_at, self._moved_wall = moved, moment.now, wall
        long = moment.now - self._moved_at > _STALLED_SECONDS or is_stuck(moment)
        return long and wall - self._moved_wall > _STALLED_WALL_SECONDS

    def _who_waits(self) -> str:
        for uid in sorted(self._open):
            record = self._invariants.hub.get(uid)
            if record is not None:
                return f"; {record.name} waits: {record.message or 'no decision'}"
        return ""

    async def _submit_due(self) -> None:
        now = self._clock.now() - self._origin
        while self._waiting and self._waiting[0].at_seconds <= now:
            due: list[Arrival] = []
            while self._waiting and self._waiting[0].at_seconds <= now and len(due) < _AT_ONCE:
                due.append(self._waiting.popleft())
            await asyncio.gather(*(self._submit(arrival) for arrival in due))

    async def _submit(self, arrival: Arrival) -> None:
        sent = time.monotonic()
        created = await self._create(JOBS, manifests.job(arrival))
        uid = created["metadata"]["uid"]
        self._sent_at[uid] = sent
        self._open.add(uid)

    async def _create(
        self, resource: Resource, body: dict[str, Any], namespace: str = manifests.NAMESPACE
    ) -> RawObject:
        """Tried again until the hub has it, once."""
        while True:
            try:
                return await self._hub.create(resource, namespace, body)
            except AlreadyExistsError:
                return await self._hub.get(resource, namespace, body["metadata"]["name"])
            except (TransientError, OutcomeUnknownError):
                await asyncio.sleep(_POLL_SECONDS)

    # What has come of it -----------------------------------------------------------------------------------------

    def _all_ended(self) -> bool:
        self._open = {uid for uid in self._open if not self._has_ended(uid)}
        return not self._waiting and not self._open and self._clock.now() >= self._served_until

    def _running(self) -> int:
        return sum(1 for uid in self._open if uid in self._invariants.running_at)

    def _has_ended(self, uid: str) -> bool:
        record = self._invariants.hub.get(uid)
        return record is not None and (record.complete or record.failed or record.gone)

    def _all_given_back(self) -> bool:
        """No bought machine is there, and none is still on order."""
        clusters = self._status.clusters if self._status is not None else ()
        ordered = any(pool.bought and pool.desired_nodes for cluster in clusters for pool in cluster.pools)
        return not ordered and not self._invariants.bought_nodes()

    def _show(self, *, force: bool = False) -> None:
        if not force and not self._screen.due():
            return
        self._rss_mib = max(self._daemon.resident_mib() or 0.0, self._rss_mib or 0.0) or None
        self._screen.show(
            Frame(
                phase=self._phase,
                virtual_seconds=self._clock.now() - self._origin,
                wall_seconds=time.monotonic() - self._began,
                speed=self._options.speed,
                total=self._total,
                submitted=len(self._sent_at),
                running=self._running(),
                finished=len(self._sent_at) - len(self._open),
                bursts=len(self._bursts()),
                returns=self._returns(),
                bought_nodes=self._invariants.bought_nodes(),
                status=self._status,
                sayings=self._observer.sayings,
            )
        )

    def _bursts(self) -> list[str]:
        return [uid for uid in self._invariants.bursts() if uid in self._sent_at]

    def _returns(self) -> int:
        counted = self._status.counters.get("returns") if self._status is not None else None
        return self._invariants.given_back if counted is None else int(counted)

    async def _sum_up(self, ended_at: Instant) -> Summary:
        wall_seconds = time.monotonic() - self._began
        spend, metered = await self._settle_accounts()
        now = self._clock.now()
        self._invariants.check(now)
        left = self._invariants.bought_nodes()
        if left:
            text = f"{left} bought machines were never given back"
            self._invariants.record(BOUGHT_NODES_LEFT, "federation", text, now)
        if to_cents(spend) != to_cents(metered):
            text = f"the ledger says {to_cents(spend)} USD, the bill {to_cents(metered)} USD"
            self._invariants.record(SPEND_MISMATCH, "federation", text, now)
        for budget in self._status.budgets if self._status is not None else ():
            if budget.spent_usd > budget.limit_usd:
                text = f"{budget.policy}/{budget.budget}: {budget.spent_usd} of {budget.limit_usd} USD spent"
                self._invariants.record(BUDGET_EXCEEDED, f"{budget.policy}/{budget.budget}", text, now)
        submitted = frozenset(self._sent_at)
        finished, lost, duplicated = job_counts(self._invariants, submitted)
        return Summary(
            submitted=len(submitted),
            finished=finished,
            lost=lost + len(self._waiting),
            duplicated=duplicated,
            bursts=len(self._bursts()),
            returns=self._returns(),
            bought_nodes_left=left,
            violations=tuple(self._invariants.violations),
            spend_usd=spend,
            metered_usd=metered,
            waits_seconds=wait_seconds(self._invariants, submitted),
            wall_seconds=wall_seconds,
            virtual_seconds=ended_at - self._origin,
            copy_latencies_seconds=self._latencies(),
            daemon_rss_mib=self._rss_mib,
            aborted=self._aborted,
        )

    async def _settle_accounts(self) -> tuple[Decimal, Decimal]:
        """The daemon's ledger and the sandbox's bill, once they agree to the cent or a few seconds have passed."""
        deadline = time.monotonic() + _LEDGER_WALL_SECONDS
        while True:
            self._status = await self._remote.status() or self._status
            spend = self._status.spend_usd if self._status is not None else Decimal(0)
            metered = await self._remote.bill_usd()
            if to_cents(spend) == to_cents(metered) or time.monotonic() > deadline:
                return spend, metered
            await asyncio.sleep(_POLL_SECONDS)

    def _latencies(self) -> tuple[float, ...]:
        seen = self._observer.copy_seen
        return tuple(
            max(0.0, seen[uid] - sent)
            for uid, sent in self._sent_at.items()
            if uid in seen and uid not in self._invariants.waited
        )

    async def _explain_one(self) -> ExplainReply | None:
        """Of the first job that was burst; None when there was none."""
        records = [record for uid in self._bursts() if (record := self._invariants.hub.get(uid)) is not None]
        if not records:
            return None
        first = min(records, key=lambda record: (record.created_at, record.name))
        return await self._remote.explain(f"{first.kind}/{first.namespace}/{first.name}")
