"""Queries in one order, whatever they say; their own order fails on a GPU model that is told in one only."""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.model.prices import PriceQuery


def in_order(queries: Iterable[PriceQuery]) -> tuple[PriceQuery, ...]:
    """Each once, sorted."""
    return tuple(sorted(set(queries), key=_key))


def _key(query: PriceQuery) -> tuple[object, ...]:
    return (
        query.cluster,
        query.pool,
        query.provider,
        query.region,
        query.zones,
        query.instance_type,
        query.capacity_type,
        query.gpu_model or "",
        query.gpus,
        query.cpu_milli,
        query.memory_bytes,
    )
