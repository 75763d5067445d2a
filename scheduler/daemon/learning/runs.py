"""What became of each workload: when it came, first started and ended, what it asked for and where it ran, kept in the
history so that `overspill simulate --history` can replay it.

A row is written when a workload is first seen, when an attempt starts, and when it has ended; each replaces the last.
Times are the federation's clock. What happened while no daemon looked is not known, and is not guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import sqlalchemy as sql
import structlog
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from scheduler.daemon.history.store import History, first_line, read_runs
from scheduler.daemon.history.tables import RUNS
from scheduler.daemon.state.mirror import Mirror
from scheduler.model.errors import InvalidObjectError, OverspillError
from scheduler.model.ids import Instant, Uid
from scheduler.model.ports import Clock
from scheduler.model.workload import Copy, CopyState, Hints, Placement, PlacementState, Workload

log = structlog.get_logger(__name__)
DELETED: Final = "deleted"
UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class RunStarted:
    """An attempt whose copy has started where the hub's placement says."""

    workload: Workload
    placement: Placement
    at: Instant
    bought_seconds: float | None
    """From the decision to buy its nodes to the start; None: they were there."""


@dataclass(frozen=True, slots=True)
class RunEnded:
    uid: Uid
    at: Instant
    seconds: float | None
    """Its own whole length; None where it has none to tell: it failed, was deleted, was paused meanwhile, or went on
    from a checkpoint of an earlier attempt."""
    ran_seconds: float | None = None
    """How long its last attempt ran; None: it never did, it was paused, or nobody saw its end."""
    succeeded: bool = False
    restarts: int = 0
    """Starts that were seen, beyond the first: after a reclaim, a failed node, a move."""


@dataclass(slots=True, eq=False)
class _Open:
    """A workload that has not ended yet."""

    first_started_at: Instant | None = None
    last_started_at: Instant | None = None
    attempts: int = 0
    """Starts that were seen."""
    attempt: int = -1
    pool: str = ""
    gpu_model: str | None = None
    ended: Copy | None = None
    """The copy that ended, when one did."""
    row: dict[str, Any] = field(default_factory=dict)
    reserved: tuple[int, Instant] | None = None
    """The attempt for which nodes were bought, and when that was decided."""
    paused: bool = False
    """This attempt was, at least once."""


class RunLog:
    """Listens to the mirror. Belongs to the event loop."""

    def __init__(self, mirror: Mirror, history: History, clock: Clock) -> None:
        self._mirror = mirror
        self._history = history
        self._clock = clock
        self.on_start: Callable[[RunStarted], None] = lambda started: None
        self.on_end: Callable[[RunEnded], None] = lambda ended: None
        self._open: dict[Uid, _Open] = {}
        self._listed: set[str] = set()
        """Kinds that the hub had listed when all open runs were last looked at."""
        self._models = {pool.ref: pool.gpu_model for member in mirror.federation.members for pool in member.pools}

    async def load(self) -> None:
        """Take up what had not ended when the last daemon stopped. A history that cannot be read costs the starts that
        it knew, and that is logged."""
        try:
            rows = await self._history.open_runs()
        except OverspillError as error:
            log.error("runs_not_restored", error=str(error))
            return
        for row in rows:
            known = _Open(row["first_started_at"], row["last_started_at"], row["attempts"], row["attempt"], row["pool"])
            known.gpu_model, known.row = row["gpu_model"], row
            self._open[Uid(row["uid"])] = known

    def look(self, uid: Uid) -> None:
        """Something about the workload, or one of its copies, has changed."""
        if self._listed != self._mirror.hub_served:
            # Some may have gone while no daemon looked.
            self._listed = set(self._mirror.hub_served)
            for each in list(self._open):
                self._look(each)
        self._look(uid)

    def _look(self, uid: Uid) -> None:
        entry, known = self._mirror.hub.get(uid), self._open.get(uid)
        if entry is None:
            # What is not listed yet is not gone.
            if known is not None and known.row["kind"] in self._mirror.hub_served:
                self._end(uid, known, self._clock.now(), DELETED)
            return
        workload = entry.workload
        if known is None:
            if workload.finished or workload.deleting or workload.unmanaged is not None:
                return
            known = self._open[uid] = _Open()
            self._save(workload, known)
        self._look_at_copy(workload, known)
        if workload.finished:
            ended = known.ended
            at = self._clock.now() if ended is None or ended.finished_at is None else ended.finished_at
            self._end(uid, known, at, UNKNOWN if ended is None else ended.state.value)

    def _look_at_copy(self, workload: Workload, known: _Open) -> None:
        placement = workload.placement
        if placement is not None and placement.state is PlacementState.RESERVED:
            known.reserved = known.reserved or (placement.attempt, placement.decided_at)
        known.paused |= workload.suspended and known.attempt >= 0
        for entry in self._mirror.copies(workload.ref.uid):
            copy = entry.copy
            if copy.finished:
                known.ended = copy
            if copy.started_at is None or copy.state is CopyState.SUSPENDED or copy.attempt == known.attempt:
                continue
            known.attempt, known.attempts, known.last_started_at = copy.attempt, known.attempts + 1, copy.started_at
            known.first_started_at = copy.started_at if known.first_started_at is None else known.first_started_at
            known.paused = False
            if placement is not None and placement.attempt == copy.attempt:
                known.pool, known.gpu_model = str(placement.pool_ref), self._models.get(placement.pool_ref)
                self._tell_start(workload, placement, known, copy.started_at)
            self._save(workload, known)

    def _tell_start(self, workload: Workload, placement: Placement, known: _Open, at: Instant) -> None:
        bought = known.reserved
        seconds = at - bought[1] if bought is not None and bought[0] == placement.attempt else None
        known.reserved = None
        self.on_start(RunStarted(workload, placement, at, seconds))

    def _save(self, workload: Workload, known: _Open) -> None:
        ref = workload.ref
        known.row = {
            "uid": ref.uid,
            "kind": ref.kind,
            "namespace": ref.namespace,
            "name": ref.name,
            "queue": workload.queue,
            "priority": workload.priority,
            "arrived_at": workload.created_at,
            "pod_sets": workload.pod_sets,
            "labels": workload.labels,
            "hints": workload.hints,
            "runs_forever": workload.runs_forever,
            "finished_at": None,
            "outcome": None,
        }
        self._write(known)

    def _end(self, uid: Uid, known: _Open, at: Instant, outcome: str) -> None:
        del self._open[uid]
        started = known.last_started_at
        ran = None if started is None or known.paused or outcome == UNKNOWN else max(0.0, at - started)
        done = outcome == CopyState.SUCCEEDED.value
        self.on_end(RunEnded(uid, at, _own_seconds(known, at, outcome), ran, done, max(0, known.attempts - 1)))
        known.row = known.row | {"finished_at": at, "outcome": outcome}
        self._write(known)

    def _write(self, known: _Open) -> None:
        row = known.row | {
            "first_started_at": known.first_started_at,
            "last_started_at": known.last_started_at,
            "attempts": known.attempts,
            "attempt": known.attempt,
            "pool": known.pool,
            "gpu_model": known.gpu_model,
        }
        told = {column.name: row[column.name] for column in RUNS.columns if column.name != "body"}
        self._history.record(RUNS, told | {"body": orjson.dumps(row, default=_plain).decode()})


def _plain(value: Any) -> Any:
    """Named tuples, which are no plain tuples to the encoder: a hint may name pools."""
    if isinstance(value, tuple):
        return list(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _own_seconds(known: _Open, at: Instant, outcome: str) -> float | None:
    started, hints = known.last_started_at, known.row["hints"]
    if outcome != CopyState.SUCCEEDED.value or started is None or known.paused or known.row["runs_forever"]:
        return None
    # A row that was read from the history has its hints as JSON.
    checkpoint = hints.checkpoint_every_seconds if isinstance(hints, Hints) else hints["checkpoint_every_seconds"]
    return at - started if known.attempts == 1 or checkpoint is None else None


async def recorded_runs(url: str, since: Instant) -> list[dict[str, Any]]:
    """The runs of workloads that arrived at `since` or later, oldest first, read from a history without changing it.

    Raises: InvalidObjectError when there is no such database, or it was written by a version that kept no runs.
    """
    shown = make_url(url).render_as_string(hide_password=True)
    try:
        engine = create_async_engine(url)
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        raise InvalidObjectError(f"history.url {shown}: {first_line(error)}") from error
    try:
        async with engine.connect() as connection:
            if not await connection.run_sync(lambda sync: sql.inspect(sync).has_table(RUNS.name)):
                raise InvalidObjectError(
                    f"history.url {shown}: holds no runs yet; a daemon of this version records them"
                )
            return await read_runs(connection, RUNS.c.arrived_at >= since)
    except (SQLAlchemyError, OSError) as error:
        raise InvalidObjectError(f"history.url {shown}: {first_line(error)}") from error
    finally:
        await engine.dispose()
