"""What a pod or a copy of a service is of: by the division that is in force, as the mirror knows it."""

from __future__ import annotations

from clusters.kubernetes.codec import PodFacts
from scheduler.daemon.services.replicas import Place
from scheduler.daemon.state.member_mirror import CopyEntry
from scheduler.daemon.state.mirror import HubEntry, Mirror
from scheduler.engine.serving.parts import slot_of
from scheduler.engine.serving.slots import Slot
from scheduler.model.ids import ClusterId
from scheduler.model.ports import DivisibleKind


class MirroredPlaces:
    """See `replicas.Places`."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def of_pod(self, cluster: ClusterId, pod: PodFacts) -> Place | None:
        """Of a service that is not divided: its node's pool, and no revision."""
        member = self._mirror.members.get(cluster)
        if member is None or pod.origin_uid is None:
            return None
        for entry in member.copies_for(pod.origin_uid):
            if entry.copy.owner == pod.owner and (slot := self._slot(entry)) is not None:
                return Place(slot.pool.pool, slot.revision)
        facts = None if pod.node is None else member.nodes.get(pod.node)
        pool = None if facts is None else member.pool_of(facts)
        return Place(None if pool is None else pool.ref.pool, "")

    def of_copy(self, entry: CopyEntry) -> str:
        """Its revision; "": not known."""
        slot = self._slot(entry)
        return "" if slot is None else slot.revision

    def current_revision(self, entry: HubEntry) -> str:
        """The one that the template asks for now; "": its kind has none."""
        kind = self._mirror.kinds.get(entry.workload.ref.kind)
        return kind.revision(entry.raw)[0] if isinstance(kind, DivisibleKind) else ""

    def _slot(self, entry: CopyEntry) -> Slot | None:
        workload = self._mirror.workload(entry.copy.origin)
        return None if workload is None or workload.intent is None else slot_of(entry.copy, workload.intent)
