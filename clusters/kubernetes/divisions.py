"""The words of a division on its hub object, in two annotations. Pure.

Strict and versioned, as a placement is: what is not understood is refused, never guessed at. Revisions are packed, for
all annotations of an object together may not take more than 256 KiB.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from typing import Any, Final

import orjson

from clusters.kubernetes.codec import format_time, parse_time
from scheduler.model.contract import ANNOTATION_DIVISION, ANNOTATION_REVISIONS
from scheduler.model.division import ReplicaTarget
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, DecisionId, PoolId, PoolRef
from scheduler.model.service_intent import Adopted, ServiceIntent, StoredRevision
from scheduler.model.serving import TrafficWeight

_VERSION: Final = 1
_LARGEST_BYTES: Final = 4 * 2**20
"""Of a revision, unpacked."""
_MALFORMED: Final = (KeyError, TypeError, ValueError, AttributeError, InvalidObjectError)


def format_intent(intent: ServiceIntent) -> dict[str, str]:
    """Both annotations; `parse_intent` reads them back, microseconds kept."""
    division = {
        "version": _VERSION,
        "slo": intent.slo,
        "decision": intent.decision,
        "decidedAt": format_time(intent.decided_at, micro=True),
        "targets": [_target(one) for one in intent.targets],
        "weights": [[one.cluster, one.revision, one.weight] for one in intent.weights],
        "adopted": [[one.cluster, one.pool, one.revision, one.name] for one in intent.adopted],
        "silent": list(intent.silent),
        "memory": orjson.loads(intent.memory) if intent.memory else None,
    }
    revisions = [
        {"name": one.name, "createdAt": format_time(one.created_at, micro=True), "content": one.content}
        for one in intent.revisions
    ]
    return {
        ANNOTATION_DIVISION: orjson.dumps(division).decode(),
        ANNOTATION_REVISIONS: orjson.dumps(revisions).decode(),
    }


def parse_intent(annotations: Mapping[str, str]) -> ServiceIntent | None:
    """None: it is not divided. Raises: InvalidObjectError naming the annotation and what is wrong with it."""
    said = annotations.get(ANNOTATION_DIVISION)
    if said is None:
        return None
    try:
        fields = orjson.loads(said)
        if fields["version"] != _VERSION:
            raise ValueError(f"version {fields['version']!r}, not {_VERSION}")
        revisions = orjson.loads(annotations.get(ANNOTATION_REVISIONS) or "[]")
        return ServiceIntent(
            slo=_text(fields["slo"]),
            decision=DecisionId(_text(fields["decision"])),
            decided_at=parse_time(fields["decidedAt"]),
            targets=tuple(map(_read_target, fields["targets"])),
            weights=tuple(TrafficWeight(ClusterId(_text(c)), _text(r), _count(w)) for c, r, w in fields["weights"]),
            revisions=tuple(
                StoredRevision(_text(one["name"]), parse_time(one["createdAt"]), _text(one["content"]))
                for one in revisions
            ),
            adopted=tuple(
                Adopted(ClusterId(_text(cluster)), PoolId(_text(pool)), _text(revision), _text(name))
                for cluster, pool, revision, name in fields["adopted"]
            ),
            silent=tuple(ClusterId(_text(one)) for one in fields["silent"]),
            memory="" if fields["memory"] is None else orjson.dumps(fields["memory"]).decode(),
        )
    except _MALFORMED as error:
        why = str(error)[:120] if str(error) else type(error).__name__
        raise InvalidObjectError(
            f"annotation {ANNOTATION_DIVISION} is not understood ({why}); remove it, and the service is divided anew"
        ) from error


def _target(one: ReplicaTarget) -> dict[str, Any]:
    bounds = {} if one.bounds is None else {"bounds": list(one.bounds)}
    plain = {"cluster": one.pool.cluster, "pool": one.pool.pool, "revision": one.revision, "replicas": one.replicas}
    return plain | bounds


def _read_target(fields: Mapping[str, Any]) -> ReplicaTarget:
    pool = PoolRef(ClusterId(_text(fields["cluster"])), PoolId(_text(fields["pool"])))
    bounds = fields.get("bounds")
    return ReplicaTarget(
        pool,
        _text(fields["revision"]),
        _count(fields["replicas"]),
        None if bounds is None else (_count(bounds[0]), _count(bounds[1])),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is no text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{str(value)[:40]!r} is no whole number from 0")
    return value


def pack(content: Any) -> str:
    """JSON values as short text."""
    return base64.b64encode(zlib.compress(orjson.dumps(content, option=orjson.OPT_SORT_KEYS), 9)).decode()


def unpack(text: str) -> Any:
    """What was packed. Raises: InvalidObjectError."""
    try:
        reader = zlib.decompressobj()
        plain = reader.decompress(base64.b64decode(text, validate=True), _LARGEST_BYTES)
        if not reader.eof:
            raise ValueError("cut off, or too large")
        return orjson.loads(plain)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise InvalidObjectError(f"annotation {ANNOTATION_REVISIONS} cannot be unpacked: {error}") from error
