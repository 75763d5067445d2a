"""Identities. A workload is identified by the UID of its hub object; names are for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, NewType

ClusterId = NewType("ClusterId", str)
PoolId = NewType("PoolId", str)
QueueId = NewType("QueueId", str)
NodeName = NewType("NodeName", str)
Uid = NewType("Uid", str)
DecisionId = NewType("DecisionId", str)

Instant = float
"""A point in time: seconds since the Unix epoch, UTC."""


class PoolRef(NamedTuple):
    """A node pool; pool names are unique within their cluster only. A named tuple, for it is the key of most tables: a
    tuple's hash and comparison are ten times faster than a dataclass's."""

    cluster: ClusterId
    pool: PoolId

    def __str__(self) -> str:
        return f"{self.cluster}/{self.pool}"


def owner_uid(uid: Uid, part: str) -> Uid:
    """Whose pods are counted together: those of a workload or, where a service is divided, of one of its parts."""
    return Uid(f"{uid}/{part}") if part else uid


def whole_uid(owner: Uid) -> Uid:
    """Of the workload that the part is of, or that it is itself."""
    return Uid(owner.partition("/")[0])


@dataclass(frozen=True, slots=True, order=True)
class WorkloadRef:
    """A workload's hub object. `kind` is the name of the plugin that speaks for it ("job")."""

    kind: str
    namespace: str
    name: str
    uid: Uid

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"
