"""What follows from deletions: grace periods, finalizers, owner references, namespaces and CRDs going away.

The real cluster does this in its controller manager, a moment later; here it happens before the request returns.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from clusters.sandbox.apiserver.failures import Json
from clusters.sandbox.apiserver.kinds import CRDS, NAMESPACES, PODS, Kind
from clusters.sandbox.apiserver.store import Entry

if TYPE_CHECKING:
    from clusters.sandbox.apiserver.registry import Deletion, Registry

_FOREGROUND: Final = "foregroundDeletion"
_ORPHAN: Final = "orphan"
_POLICY_FINALIZERS: Final = {"Foreground": _FOREGROUND, "Orphan": _ORPHAN}
_ORPHANS_BY_DEFAULT: Final = frozenset({("batch", "jobs")})
"""As the real batch/v1 does, for compatibility with its first clients."""


class Collector:
    """Carries out deletions. Work that one deletion causes is queued, so that long chains do not recurse."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._queue: deque[tuple[Kind, Entry]] = deque()
        self._draining = False

    # Requests

    def delete(self, kind: Kind, old: Entry, how: Deletion) -> tuple[Entry, bool]:
        """(the object's last state, whether it is gone at once)."""
        if how.dry_run:
            return old, True
        obj = self._with_policy(kind, old.obj, how.propagation)
        meta = obj["metadata"]
        grace = self._grace(kind, obj, how.grace_period_seconds)
        terminating = bool(meta.get("deletionTimestamp"))
        if terminating and grace and grace >= (meta.get("deletionGracePeriodSeconds") or 0):
            grace = meta.get("deletionGracePeriodSeconds") or 0
            marked = obj
        else:
            stamp = {"deletionTimestamp": self._registry.later(grace), "deletionGracePeriodSeconds": grace}
            if terminating and not grace:
                stamp["deletionTimestamp"] = meta["deletionTimestamp"]
            bumped = {"generation": meta["generation"] + 1} if "generation" in meta and not terminating else {}
            marked = {**obj, "metadata": {**meta, **stamp, **bumped}}
        if kind.key == NAMESPACES:
            return self._delete_namespace(kind, old, marked)
        if kind.key == CRDS:
            self._delete_customs(marked)
        if not grace and not meta.get("finalizers"):
            return self._registry.remove(kind, old.namespace, old.name), True
        changed = marked["metadata"] != old.obj["metadata"]
        entry = self._registry.store.put(kind.key, old.namespace, old.name, marked) if changed else old
        self._process_policy(kind, entry)
        current = self._registry.store.get(kind.key, old.namespace, old.name)
        return current or entry, current is None

    def _with_policy(self, kind: Kind, obj: Json, propagation: str) -> Json:
        """`obj` with the finalizer that its propagation policy stands for, and without the others'."""
        if not propagation:
            propagation = "Orphan" if kind.key in _ORPHANS_BY_DEFAULT else "Background"
            if any(name in (_FOREGROUND, _ORPHAN) for name in obj["metadata"].get("finalizers") or ()):
                return obj
        had = obj["metadata"].get("finalizers") or []
        wanted = _POLICY_FINALIZERS.get(propagation)
        finalizers = [name for name in had if name not in (_FOREGROUND, _ORPHAN)] + ([wanted] if wanted else [])
        if finalizers == had:
            return obj
        meta = {**obj["metadata"], "finalizers": finalizers}
        if not finalizers:
            del meta["finalizers"]
        return {**obj, "metadata": meta}

    def _grace(self, kind: Kind, obj: Json, asked: int | None) -> int:
        """Seconds that a pod has left; 0 for everything else, and for pods that nothing runs."""
        if kind.key != PODS:
            return 0
        spec, phase = obj.get("spec") or {}, (obj.get("status") or {}).get("phase")
        if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
            return 0
        seconds: Any = spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked
        return max(0, int(seconds))

    # Consequences

    def created(self, kind: Kind, entry: Entry) -> None:
        """An object that came with owners: it goes again when none of them is there."""
        owners = entry.obj["metadata"].get("ownerReferences") or []
        for owner in owners:
            known = self._registry.kinds.by_kind(owner["apiVersion"], owner["kind"])
            if known is None or self._registry.store.by_uid(owner["uid"]) is not None:
                return
        self._delete_quietly(kind, entry)

    def removed(self, kind: Kind, entry: Entry) -> None:
        """An object has left the store: see to its dependents, its foreground-deleted owners and its namespace."""
        self._queue.append((kind, entry))
        if self._draining:
            return
        self._draining = True
        try:
            while self._queue:
                self._after(*self._queue.popleft())
        finally:
            self._draining = False

    def _after(self, kind: Kind, entry: Entry) -> None:
        store = self._registry.store
        uid = entry.obj["metadata"]["uid"]
        for key, dependent in store.dependents(uid):
            self._release(key, dependent, uid)
        for reference in entry.obj["metadata"].get("ownerReferences") or ():
            found = store.by_uid(reference["uid"])
            if found is not None and _FOREGROUND in (found[1].obj["metadata"].get("finalizers") or ()):
                owner_kind = self._registry.kinds.by_key(found[0])
                if owner_kind is not None and found[1].obj["metadata"].get("deletionTimestamp"):
                    self._process_policy(owner_kind, found[1])
        if entry.namespace and not store.objects_in(entry.namespace):
            self._finish_namespace(entry.namespace)

    def _release(self, key: tuple[str, str], dependent: Entry, owner_uid: str) -> None:
        """A dependent of something gone: deleted when no other owner lives, else it forgets that owner."""
        kind = self._registry.kinds.by_key(key)
        if kind is None:
            return
        store = self._registry.store
        owners = dependent.obj["metadata"].get("ownerReferences") or []
        left = [owner for owner in owners if owner["uid"] != owner_uid and store.by_uid(owner["uid"]) is not None]
        if left:
            self._put_metadata(kind, dependent, "ownerReferences", left)
        elif not dependent.obj["metadata"].get("deletionTimestamp"):
            self._delete_quietly(kind, dependent)

    def _process_policy(self, kind: Kind, entry: Entry) -> None:
        """Carry out the orphan or foreground finalizer of an object that is being deleted."""
        meta = entry.obj["metadata"]
        finalizers = meta.get("finalizers") or []
        store = self._registry.store
        if _ORPHAN in finalizers:
            for key, dependent in store.dependents(meta["uid"]):
                dependent_kind = self._registry.kinds.by_key(key)
                if dependent_kind is not None:
                    owners = dependent.obj["metadata"].get("ownerReferences") or []
                    left = [owner for owner in owners if owner["uid"] != meta["uid"]]
                    self._put_metadata(dependent_kind, dependent, "ownerReferences", left)
            self._put_metadata(kind, entry, "finalizers", [name for name in finalizers if name != _ORPHAN])
        elif _FOREGROUND in finalizers:
            self._delete_dependents(meta["uid"])
            if not any(_blocks(dependent, meta["uid"]) for _, dependent in store.dependents(meta["uid"])):
                current = store.get(kind.key, entry.namespace, entry.name)
                if current is not None and current.obj["metadata"]["uid"] == meta["uid"]:
                    self._put_metadata(kind, current, "finalizers", [n for n in finalizers if n != _FOREGROUND])

    def _delete_dependents(self, uid: str) -> None:
        for key, dependent in self._registry.store.dependents(uid):
            kind = self._registry.kinds.by_key(key)
            if kind is not None and not dependent.obj["metadata"].get("deletionTimestamp"):
                policy = (
                    "Foreground" if self._registry.store.dependents(dependent.obj["metadata"]["uid"]) else "Background"
                )
                self._delete_quietly(kind, dependent, policy)

    def _put_metadata(self, kind: Kind, entry: Entry, field: str, value: list[Any]) -> None:
        meta = {**entry.obj["metadata"], field: value}
        if not value:
            del meta[field]
        self._registry.put(kind, entry, {**entry.obj, "metadata": meta})

    def _delete_quietly(self, kind: Kind, entry: Entry, policy: str = "Background") -> None:
        from clusters.sandbox.apiserver.registry import Deletion  # the two modules need each other's types

        current = self._registry.store.get(kind.key, entry.namespace, entry.name)
        if current is not None and current.obj["metadata"]["uid"] == entry.obj["metadata"]["uid"]:
            self.delete(kind, current, Deletion(propagation=policy))

    # Namespaces and CRDs

    def _delete_namespace(self, kind: Kind, old: Entry, marked: Json) -> tuple[Entry, bool]:
        marked = {**marked, "status": {**(marked.get("status") or {}), "phase": "Terminating"}}
        entry = self._registry.store.put(kind.key, "", old.name, marked)
        for key in self._registry.store.storage_keys():
            inside = self._registry.kinds.by_key(key)
            if inside is not None and inside.namespaced:
                for content in self._registry.store.select(key, old.name, None):
                    if not content.obj["metadata"].get("deletionTimestamp"):
                        self._delete_quietly(inside, content)
        if not self._registry.store.objects_in(old.name):
            self._finish_namespace(old.name)
        current = self._registry.store.get(kind.key, "", old.name)
        return current or entry, current is None

    def _finish_namespace(self, name: str) -> None:
        """Drop the namespace's own finalizer once it is empty and being deleted."""
        entry = self._registry.store.get(NAMESPACES, "", name)
        kind = self._registry.kinds.by_key(NAMESPACES)
        if entry is None or kind is None or not entry.obj["metadata"].get("deletionTimestamp"):
            return
        spec = {**(entry.obj.get("spec") or {}), "finalizers": []}
        self._registry.put(kind, entry, {**entry.obj, "spec": spec})

    def _delete_customs(self, crd: Json) -> None:
        """All objects of a CRD that goes away go first."""
        key = (crd["spec"]["group"], crd["spec"]["names"]["plural"])
        kind = self._registry.kinds.by_key(key)
        if kind is not None:
            for entry in self._registry.store.select(key, "", None):
                self._delete_quietly(kind, entry)


def _blocks(dependent: Entry, owner_uid: str) -> bool:
    owners = dependent.obj["metadata"].get("ownerReferences") or ()
    return any(owner["uid"] == owner_uid and owner.get("blockOwnerDeletion") for owner in owners)
