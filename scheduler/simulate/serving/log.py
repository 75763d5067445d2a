"""A log of requests: when, how long a worker was busy with it, and from where; and the same made larger."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scheduler.model.errors import InvalidObjectError

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
PEAK_SECONDS: Final = 300.0
"""The busiest so many seconds are the peak."""
MOST_REQUESTS: Final = 5_000_000
_ALIKE: Final = 12
"""Neighbours on each side whose service times a copy may have."""


@dataclass(frozen=True, slots=True)
class RequestLog:
    """Arrays have one entry per request, in the order of time."""

    name: str
    at: Floats
    """Arrival, seconds from the log's origin."""
    service_seconds: Floats
    """How long one worker of the recorded kind was busy with it; NaN: not recorded."""
    clients: tuple[str, ...]
    """Who asked, or from which region; "": not recorded."""
    client: Whole
    """Index into `clients`."""
    weight: Floats
    """How many requests a line stands for."""
    located: bool = False
    """Whether `clients` are regions."""

    def __len__(self) -> int:
        return len(self.at)

    @property
    def duration_seconds(self) -> float:
        return float(self.at[-1] - self.at[0]) if len(self) else 0.0

    def window(self, first_seconds: float, seconds: float | None) -> RequestLog:
        """A part of it, times counted from its beginning. Raises: InvalidObjectError when nothing is there."""
        last = np.inf if seconds is None else first_seconds + seconds
        chosen = (self.at >= first_seconds) & (self.at < last)
        if not chosen.any():
            raise InvalidObjectError(f"{self.name}: no request from second {first_seconds:g} to {last:g}")
        return replace(
            self, at=self.at[chosen] - first_seconds, service_seconds=self.service_seconds[chosen],
            client=self.client[chosen], weight=self.weight[chosen],
        )  # fmt: skip


def request_log(
    name: str, rows: Sequence[tuple[float, float | None, str, float]], *, located: bool = False
) -> RequestLog:
    """From (at, service seconds, client, weight), the same for every order of rows."""
    ordered = sorted(rows, key=lambda row: (row[0], -1.0 if row[1] is None else row[1], row[2], row[3]))
    clients = tuple(sorted({client for _, _, client, _ in ordered}))
    index = {client: number for number, client in enumerate(clients)}
    return RequestLog(
        name,
        np.array([row[0] for row in ordered], dtype=np.float64),
        np.array([np.nan if row[1] is None else row[1] for row in ordered], dtype=np.float64),
        clients,
        np.array([index[row[2]] for row in ordered], dtype=np.int64),
        np.array([row[3] for row in ordered], dtype=np.float64),
        located,
    )


def with_service(log: RequestLog, seconds: float) -> RequestLog:
    """Where no service time was recorded, this one."""
    return replace(log, service_seconds=np.where(np.isnan(log.service_seconds), seconds, log.service_seconds))


def located(log: RequestLog, shares: Sequence[tuple[str, float]]) -> RequestLog:
    """Clients that have no region get one, by a hash of their name in these shares; a log that has regions keeps them.

    The same client is always in the same place.
    """
    if log.located:
        return log
    regions = tuple(name for name, _ in shares)
    edges = np.cumsum([share for _, share in shares])
    names = log.clients if log.clients != ("",) else ("",)
    points = [zlib.crc32(name.encode()) / 2**32 * float(edges[-1]) for name in names]
    of_client = np.searchsorted(edges, np.array(points), side="right").clip(max=len(regions) - 1)
    return replace(log, clients=regions, client=of_client[log.client], located=True)


def peak_load(log: RequestLog) -> float:
    """Workers that are busy on average in the busiest PEAK_SECONDS (offered load, erlangs)."""
    if not len(log):
        return 0.0
    work = np.bincount((log.at // PEAK_SECONDS).astype(np.int64), weights=log.service_seconds * log.weight)
    return float(work.max() / PEAK_SECONDS)


def scaled(log: RequestLog, factor: float, seed: int, speed: float = 1.0) -> RequestLog:
    """Each request `factor` times: copies within half of PEAK_SECONDS of it (so that bursts stay bursts), each with the
    service time of one of its neighbours, all service times divided by `speed`.

    Raises: InvalidObjectError when that is too many.
    """
    rng = np.random.default_rng([seed, 1])
    count = log.weight * factor
    if count.sum() > MOST_REQUESTS:
        raise InvalidObjectError(f"{log.name}: {count.sum():.3g} requests are too many; at most {MOST_REQUESTS}")
    copies = np.floor(count).astype(np.int64) + (rng.random(len(log)) < count % 1.0)
    source = np.repeat(np.arange(len(log)), copies)
    at = log.at[source] + rng.uniform(-PEAK_SECONDS / 2, PEAK_SECONDS / 2, len(source))
    neighbour = (source + rng.integers(-_ALIKE, _ALIKE + 1, len(source))).clip(0, len(log) - 1)
    order: Any = np.argsort(at, kind="stable")
    return replace(
        log,
        at=np.maximum(at, 0.0)[order],
        service_seconds=(log.service_seconds[neighbour] / speed)[order],
        client=log.client[source][order],
        weight=np.ones(len(source)),
    )
