"""Leader election by Lease, and the fence that every write passes.

Times are the field's usual ones (15 s lease, 10 s to renew, 2 s between tries; client-go's `leaderelection`). Expiry is
judged by how long the Lease has not changed under our own clock since boot, never by comparing clocks of two machines:
nobody sets that clock, and it counts the time for which the machine was suspended.

Who could not renew in time is fenced for good, even where nobody else came: another may have led and gone meanwhile,
and what this process remembers would be old. It ends, and starts again with what is true then.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, NoneType
from typing import Any, Final

import structlog

from clusters.clock import BootClock
from clusters.kubernetes.codec import format_time
from scheduler.model.contract import LEASES
from scheduler.model.errors import (
    AlreadyExistsError,
    ConflictError,
    ExternalError,
    FencedError,
    NotFoundError,
    TransientError,
)
from scheduler.model.ports import Clock, KubeApi, RawObject

log = structlog.get_logger(__name__)


_NUMBER: Final = (int, float, NoneType)
_FIELDS: Final = {"holderIdentity": (str, NoneType), "leaseTransitions": _NUMBER, "leaseDurationSeconds": _NUMBER}
"""What is read of the spec of a Lease, and what it may be."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    namespace: str = "kube-system"
    name: str = "overspill"
    duration_seconds: float = 15.0
    renew_deadline_seconds: float = 10.0
    retry_seconds: float = 2.0


class Leader:
    """Holds, or tries to hold, one Lease."""

    def __init__(
        self,
        api: KubeApi,
        identity: str,
        clock: Clock,
        tell: Callable[[float], None],
        settings: LeaseSettings = LeaseSettings(),
        own_clock: Clock | None = None,
        annotations: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`own_clock` times the Lease (default: since boot); `clock` only dates it, for people. `tell` is told 1 while
        it is held, else 0. `annotations` are laid over those of the Lease."""
        self._api = api
        self._identity = identity
        self._clock = clock
        self._tell = tell
        self._annotations = annotations
        self._settings = settings
        self._own = own_clock or BootClock()
        self._renewed_at: float | None = None
        self._observed: tuple[str, float] | None = None
        self.acquired = asyncio.Event()

    @property
    def is_leader(self) -> bool:
        """Whether a write may go out now: the Lease was renewed within the renewal deadline."""
        return self._age < self._settings.renew_deadline_seconds

    @property
    def seconds_left(self) -> float:
        """Until the Lease may be another's; what was sent before must have ended by then. 0 when it may be now."""
        return max(0.0, self._settings.duration_seconds - self._age)

    @property
    def _age(self) -> float:
        """Seconds since the last renewal was asked for."""
        return math.inf if self._renewed_at is None else self._own.now() - self._renewed_at

    def check(self) -> None:
        """Raises: FencedError when the Lease may be another's by now."""
        if not self.is_leader:
            raise FencedError("the leader Lease was lost; stopping so that its new holder can go on")

    async def run(self) -> None:
        """Acquire, then renew for ever. Raises: FencedError once a held Lease is lost."""
        while True:
            held = self._renewed_at is not None
            if held:
                self.check()
            try:
                async with asyncio.timeout(self._settings.renew_deadline_seconds):
                    await self._try_once()
            except (ExternalError, TimeoutError) as error:
                log.warning("lease_not_renewed", error=str(error)[:200])
            self._tell(1 if self.is_leader else 0)
            if self.is_leader:
                self.acquired.set()
            elif held:
                self.check()
            await self._own.sleep(self._settings.retry_seconds)

    async def release(self) -> None:
        """Give the Lease up, so that a standby need not wait for it to expire."""
        if not self.is_leader:
            return
        self._renewed_at = None
        self._tell(0)
        try:
            async with asyncio.timeout(self._settings.retry_seconds):
                lease = await self._read()
                if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                    spec = {"holderIdentity": None, "leaseDurationSeconds": 1}
                    version = lease["metadata"]["resourceVersion"]
                    body = {"metadata": {"resourceVersion": version}, "spec": spec}
                    await self._api.patch(LEASES, self._settings.namespace, self._settings.name, body)
        except (ExternalError, TimeoutError) as error:
            log.warning("lease_not_released", error=str(error)[:200])

    async def look(self) -> RawObject | None:
        """The Lease as it is now; None: there is none. Raises: ExternalError."""
        try:
            lease = await self._read()
        except NotFoundError:
            return None
        version = str(lease["metadata"]["resourceVersion"])
        if self._observed is None or self._observed[0] != version:
            self._observed = (version, self._own.now())
        return lease

    def held_by(self, lease: RawObject | None) -> str:
        """Whose it is, as `look` gave it; empty: nobody's, for it is free or has run out."""
        holder = str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")
        return "" if holder != self._identity and self.has_run_out(lease) else holder

    def has_run_out(self, lease: RawObject | None) -> bool:
        """Whether it has not changed for its duration, as `look` gave it."""
        if lease is None or self._observed is None:
            return lease is None
        lasts = float((lease.get("spec") or {}).get("leaseDurationSeconds") or self._settings.duration_seconds)
        return self._own.now() - self._observed[1] > lasts

    async def take(self, lease: RawObject | None, without: Iterable[str] = ()) -> None:
        """Acquire or renew it, as `look` gave it a moment ago, less some annotations. Raises: ExternalError."""
        asked_at = self._own.now()
        namespace, name = self._settings.namespace, self._settings.name
        if lease is None:
            body = self._body(None, 0)
            await self._write(lambda: self._api.create(LEASES, namespace, body), asked_at)
            return
        spec = lease.get("spec") or {}
        is_ours = spec.get("holderIdentity") == self._identity
        body = self._body(lease, int(spec.get("leaseTransitions") or 0) + (0 if is_ours else 1))
        for annotation in without:
            (body["metadata"].get("annotations") or {}).pop(annotation, None)
        await self._write(lambda: self._api.update(LEASES, namespace, name, body), asked_at)

    async def _try_once(self) -> None:
        lease = await self.look()
        if self._renewed_at is not None:
            self.check()  # The process may have stood still since it asked: what it was told is as old.
        if self.held_by(lease) in ("", self._identity):
            await self.take(lease)
        else:
            self._renewed_at = None

    async def _read(self) -> RawObject:
        """The Lease as it is. Raises: ExternalError, also for an answer that is none."""
        lease = await self._api.get(LEASES, self._settings.namespace, self._settings.name)
        metadata, spec = lease.get("metadata"), lease.get("spec") or {}
        known = isinstance(metadata, dict) and "resourceVersion" in metadata and isinstance(spec, dict)
        if not known or not all(isinstance(spec.get(name), kinds) for name, kinds in _FIELDS.items()):
            where = f"Lease {self._settings.namespace}/{self._settings.name}"
            raise TransientError(f"{where}: the answer is no Lease; look what stands between here and the API server")
        return lease

    async def _write(self, call: Callable[[], Any], asked_at: float) -> None:
        """A conflict says only that somebody wrote first, if but a label: the next try sees who holds it now. What was
        renewed before that is ours until its deadline, for nobody takes a Lease over that changed a moment ago."""
        try:
            await call()
        except (ConflictError, AlreadyExistsError):
            return
        self._renewed_at = asked_at

    def _body(self, lease: RawObject | None, transitions: int) -> dict[str, Any]:
        now = format_time(self._clock.now(), micro=True)
        old = (lease or {}).get("spec") or {}
        acquired = old.get("acquireTime") if old.get("holderIdentity") == self._identity else None
        # Labels and annotations of others stay.
        theirs = {name: what for name, what in ((lease or {}).get("metadata") or {}).items() if name != "managedFields"}
        metadata: dict[str, Any] = {**theirs, "name": self._settings.name, "namespace": self._settings.namespace}
        if self._annotations:
            metadata["annotations"] = {**(metadata.get("annotations") or {}), **self._annotations}
        return {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(self._settings.duration_seconds),
                "acquireTime": acquired or now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }
