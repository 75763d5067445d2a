"""Deletes what a deleted owner leaves behind. Idle where the API server has a collector; a bare one has none."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.objects import controller_uid, is_deleting, key_of, split_key
from clusters.sandbox.emulation.work import WorkQueue
from scheduler.model.ports import KubeApi, RawObject

_FOREGROUND = "foregroundDeletion"


class GarbageCollector:
    """Watches `owners`; their dependents are searched in `dependents` (by controlling owner reference) and in `shared`,
    of which each has several owners and goes with the last of them."""

    def __init__(
        self, api: KubeApi, owners: Sequence[Informer], dependents: Sequence[Informer], shared: Sequence[Informer] = ()
    ) -> None:
        self._api = api
        self._owners = {owner.resource.plural: owner for owner in owners}
        self._dependents = {kind.resource.plural: (kind, kind.index(controller_uid)) for kind in dependents}
        self._shared = {kind.resource.plural: kind for kind in shared}
        self.queue = WorkQueue("garbage", self._collect, workers=4)
        for owner in owners:
            owner.handle(partial(self._on_owner, owner.resource.plural))
        for dependent in dependents:
            dependent.handle(partial(self._on_child, dependent.resource.plural))
        for each in shared:
            each.handle(partial(self._on_shared, each.resource.plural))

    def _on_owner(self, plural: str, kind: str, old: RawObject | None, owner: RawObject) -> None:
        if kind == "DELETED":
            for child_plural, (_, index) in self._dependents.items():
                for key in index.get(owner["metadata"]["uid"]):
                    self.queue.add(f"{child_plural} {key}")
            for shared_plural, informer in self._shared.items():
                for key, child in informer.objects.items():
                    if owner["metadata"]["uid"] in _owner_uids(child):
                        self.queue.add(f"{shared_plural} {key}")
        elif is_deleting(owner) and _FOREGROUND in (owner["metadata"].get("finalizers") or ()):
            self.queue.add(f"{plural} {key_of(owner)}")

    def _on_shared(self, plural: str, kind: str, old: RawObject | None, child: RawObject) -> None:
        if kind != "DELETED" and self._is_left(child):
            self.queue.add(f"{plural} {key_of(child)}")

    def _is_left(self, child: RawObject) -> bool:
        uids = _owner_uids(child)
        return bool(uids) and all(any(owner.was_deleted(uid) for owner in self._owners.values()) for uid in uids)

    def _on_child(self, plural: str, kind: str, old: RawObject | None, child: RawObject) -> None:
        """A child that appears after its owner has gone, or goes while its owner waits for that."""
        uid = controller_uid(child)
        if uid is None:
            return
        if kind == "DELETED":
            for owner_plural, owner in self._owners.items():
                for reference in child["metadata"].get("ownerReferences") or ():
                    key = f"{child['metadata'].get('namespace')}/{reference.get('name')}"
                    found = owner.get(key)
                    if found is not None and found["metadata"]["uid"] == uid and is_deleting(found):
                        self.queue.add(f"{owner_plural} {key}")
        elif kind == "ADDED" and any(owner.was_deleted(uid) for owner in self._owners.values()):
            self.queue.add(f"{plural} {key_of(child)}")

    async def _collect(self, item: str) -> None:
        plural, _, key = item.partition(" ")
        owner = self._owners.get(plural)
        found = owner.get(key) if owner is not None else None
        if owner is not None and found is not None and is_deleting(found):
            await self._collect_foreground(owner, found)
            return
        if plural in self._shared:
            left = self._shared[plural].get(key)
            if left is not None and not is_deleting(left) and self._is_left(left):
                await self._api.delete(self._shared[plural].resource, *split_key(key), uid=left["metadata"]["uid"])
            return
        if plural not in self._dependents:
            return
        informer, _ = self._dependents[plural]
        child = informer.get(key)
        if child is None or is_deleting(child):
            return
        uid = controller_uid(child)
        if uid is None or not any(owner.was_deleted(uid) for owner in self._owners.values()):
            return
        await self._api.delete(informer.resource, *split_key(key), uid=child["metadata"]["uid"])

    async def _collect_foreground(self, informer: Informer, owner: RawObject) -> None:
        """Dependents first; then the owner's finalizer goes."""
        uid, left = owner["metadata"]["uid"], 0
        for dependent, index in self._dependents.values():
            for key, child in tuple(index.get(uid).items()):
                left += 1
                if not is_deleting(child):
                    await self._api.delete(dependent.resource, *split_key(key), uid=child["metadata"]["uid"])
        finalizers = list(owner["metadata"].get("finalizers") or ())
        if not left and _FOREGROUND in finalizers:
            finalizers.remove(_FOREGROUND)
            metadata = {
                "uid": uid,
                "resourceVersion": owner["metadata"]["resourceVersion"],
                "finalizers": finalizers or None,
            }
            await self._api.patch(informer.resource, *split_key(key_of(owner)), {"metadata": metadata})


def _owner_uids(child: RawObject) -> frozenset[str]:
    return frozenset(str(one.get("uid")) for one in child["metadata"].get("ownerReferences") or ())
