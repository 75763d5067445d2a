"""What the watches feed: reflectors call a sink, a sink changes the mirror. Malformed objects stop here."""

from __future__ import annotations

from dataclasses import replace

from scheduler.daemon.state.member_mirror import NODE_EVENTS, NODES, PODS, MemberMirror, outranked
from scheduler.daemon.state.mirror import Mirror, NodeSeen
from scheduler.model.ids import Uid
from scheduler.model.ports import RawObject, WatchEvent, WorkloadKind


class HubSink:
    """Receives one kind's hub objects from a reflector."""

    def __init__(self, mirror: Mirror, kind: WorkloadKind) -> None:
        self._mirror = mirror
        self._kind = kind

    def on_replace(self, objects: tuple[RawObject, ...]) -> None:
        self._mirror.hub_listed(self._kind, objects)

    def on_rewind(self) -> None:
        for uid, entry in self._mirror.hub.items():
            if entry.workload.ref.kind == self._kind.name:
                self._mirror.hub[uid] = replace(entry, raw=outranked(entry.raw))

    def on_event(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK":
            return
        with self._mirror.tolerating("hub", self._kind.name, event.object):
            if event.type == "DELETED":
                self._mirror.drop_hub(Uid(str(event.object["metadata"]["uid"])))
            else:
                self._mirror.apply_hub(self._kind, event.object)

    def on_absent(self, error: str) -> None:
        self._mirror.hub_absent(self._kind, error)

    def on_state(self, reachable: bool, error: str | None) -> None:
        self._mirror.set_hub_reachable(self._kind, reachable, error)


class MemberSink:
    """Receives one resource of one member from a reflector: nodes, pods, or what copies of one kind are."""

    def __init__(self, mirror: Mirror, member: MemberMirror, resource: str, kind: WorkloadKind | None = None) -> None:
        """`resource`: NODES, PODS, or as kubectl names it; then `kind` says whose copies they are."""
        self._mirror = mirror
        self._member = member
        self._resource = resource
        self._kind = kind

    def on_replace(self, objects: tuple[RawObject, ...]) -> None:
        present = set()
        for raw in objects:
            with self._mirror.tolerating(self._member.member.id, self._resource, raw):
                present.add(_name_of(raw))
                self._apply(raw)
        for name in self._known_names() - present:
            self._drop(name)
        for key, entry in self._member.copies.items():
            if key[0] == self._resource:
                # Changed or not: the watch was away, and a look too many costs little.
                self._mirror.on_key(entry.copy.origin)
        if self._resource == NODES:
            self._mirror.on_nodes_listed(self._member.member.id)
        self._mirror.listed(self._member, self._resource)

    def on_rewind(self) -> None:
        for key, entry in self._member.copies.items():
            if key[0] == self._resource:
                self._member.copies[key] = replace(entry, raw=outranked(entry.raw))

    def on_event(self, event: WatchEvent) -> None:
        if event.type == "BOOKMARK":
            return
        with self._mirror.tolerating(self._member.member.id, self._resource, event.object):
            if event.type != "DELETED":
                self._apply(event.object)
            elif self._resource == NODES:
                self._mirror.node_seen(self._member, event.object, gone=True)
            else:
                self._drop(_name_of(event.object), str(event.object["metadata"]["uid"]))

    def on_absent(self, error: str) -> None:
        """A member without this kind takes no copies of it, until its definition is installed and a list succeeds."""
        self._mirror.absent(self._member, self._resource, error)

    def on_state(self, reachable: bool, error: str | None) -> None:
        self._mirror.set_reachable(self._member, self._resource, reachable, error)

    def _apply(self, raw: RawObject) -> None:
        if self._resource == NODES:
            self._mirror.node_seen(self._member, raw, gone=False)
        elif self._resource == PODS:
            self._member.apply_pod(raw, self._mirror.now())
            self._mirror.on_change()
        elif self._kind is not None:
            self._member.apply_copy(self._kind, raw)

    def _known_names(self) -> set[str]:
        if self._resource == NODES:
            return set(self._member.nodes)
        if self._resource == PODS:
            return set(self._member.pods)
        return {f"{namespace}/{name}" for kind, namespace, name in self._member.copies if kind == self._resource}

    def _drop(self, name: str, uid: str | None = None) -> None:
        now = self._mirror.now()
        if self._resource == NODES:
            facts = self._member.nodes[name]
            pool = self._member.pool_of(facts)
            self._member.drop_node(name)
            if pool is not None and pool.bought:
                # It went while nobody was watching: now is the latest that it can have gone.
                ended_at = facts.deleted_at if facts.deleted_at is not None else now
                self._mirror.on_node(
                    NodeSeen(self._member.member.id, facts.uid, name, pool.ref, facts.created_at, ended_at)
                )
        elif self._resource == PODS:
            self._member.drop_pod(name, now)
        else:
            namespace, _, short = name.partition("/")
            self._member.drop_copy((self._resource, namespace, short), uid)
        self._mirror.on_change()


class NodeEventSink:
    """Receives a member's Events about nodes. They only add to what the nodes themselves say, so that nothing waits for
    them and a member that does not let us read them is none the worse for it."""

    def __init__(self, mirror: Mirror, member: MemberMirror) -> None:
        self._mirror = mirror
        self._member = member

    def on_replace(self, objects: tuple[RawObject, ...]) -> None:
        for raw in objects:
            self._apply(raw)

    def on_rewind(self) -> None:
        return None

    def on_event(self, event: WatchEvent) -> None:
        if event.type in ("ADDED", "MODIFIED"):
            self._apply(event.object)

    def on_absent(self, error: str) -> None:
        return None

    def on_state(self, reachable: bool, error: str | None) -> None:
        return None

    def _apply(self, raw: RawObject) -> None:
        with self._mirror.tolerating(self._member.member.id, NODE_EVENTS, raw):
            if self._member.apply_event(raw, self._mirror.now()):
                self._mirror.on_change()


def _name_of(raw: RawObject) -> str:
    meta = raw["metadata"]
    namespace = meta.get("namespace")
    return f"{namespace}/{meta['name']}" if namespace else str(meta["name"])
