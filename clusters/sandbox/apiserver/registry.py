"""The one code path of all reads and writes, for HTTP requests and for the sandbox's own controllers alike.

decode -> metadata -> defaults -> admission -> validation -> managedFields -> store -> garbage collection.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from clusters.sandbox.apiserver import (
    apply,
    crds,
    defaults,
    failures,
    jobs,
    metadata,
    rules,
    schema,
    selectors,
    validation,
)
from clusters.sandbox.apiserver.collector import Collector
from clusters.sandbox.apiserver.failures import Cause, Json, StatusError
from clusters.sandbox.apiserver.kinds import CRDS, NAMESPACES, PODS, Kind, KindTable
from clusters.sandbox.apiserver.patch import json_patch, merge, strategic
from clusters.sandbox.apiserver.schema import Decoding
from clusters.sandbox.apiserver.store import Entry, Matches, Page, Store, Watcher
from scheduler.model.ports import Clock

MERGE: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"

_KEPT: Final = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink")
"""Metadata that only the server sets."""
_STATUS_ON_CREATE: Final = frozenset({("", "nodes"), ("", "events"), ("events.k8s.io", "events")})
"""Kinds whose creator may bring a status (a kubelet registers its node with one)."""

_PROTECTED: Final = frozenset({"default", "kube-system", "kube-public"})
SCALE: Final = "scale"
"""A subresource by which the object itself is written, replicas only."""


@dataclass(slots=True)
class Request:
    """What a write asks for besides its body. `warnings` fills up as it is carried out."""

    manager: str = "unknown"
    dry_run: bool = False
    field_validation: str = "Warn"
    """Strict, Warn or Ignore."""
    force: bool = False
    subresource: str = ""
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Deletion:
    """How to delete. `propagation` "": the kind's default."""

    uid: str = ""
    resource_version: str = ""
    propagation: str = ""
    grace_period_seconds: int | None = None
    dry_run: bool = False


@functools.lru_cache(maxsize=256)
def rfc3339(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Registry:
    """All kinds of one emulated cluster on its store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store = store
        self.kinds = KindTable()
        self._clock = clock
        self._collector = Collector(self)

    def now(self) -> str:
        """The clock's time in RFC 3339, whole seconds."""
        return rfc3339(int(self._clock.now()))

    def later(self, seconds: int) -> str:
        return rfc3339(int(self._clock.now()) + seconds)

    # Reading

    def kind(self, group: str, version: str, plural: str) -> Kind:
        """Raises: StatusError 404 for a kind that is not served."""
        found = self.kinds.find(group, version, plural)
        if found is None:
            raise failures.no_such_path()
        return found

    def get(self, kind: Kind, namespace: str, name: str) -> Entry:
        """Raises: StatusError 404."""
        entry = self.store.get(kind.key, namespace, name)
        if entry is None:
            raise failures.not_found(kind.group, kind.plural, name)
        return entry

    def matcher(self, kind: Kind, label_selector: str, field_selector: str) -> Matches | None:
        """A test of entries; None when everything matches. Raises: StatusError 400."""
        labels = selectors.parse_labels(label_selector) if label_selector else None
        fields = selectors.parse_fields(field_selector, kind.readers, kind.path) if field_selector else None
        if labels is not None and fields is not None:
            return lambda entry: labels.matches(entry.labels) and fields.matches(entry.obj)
        if labels is not None:
            return lambda entry: labels.matches(entry.labels)
        if fields is not None:
            return lambda entry: fields.matches(entry.obj)
        return None

    def find(self, kind: Kind, namespace: str, labels: str = "", fields: str = "", limit: int = 0) -> Page:
        return self.store.first_page(kind.key, namespace, self.matcher(kind, labels, fields), limit, (labels, fields))

    def watch(self, kind: Kind, namespace: str, after: int, labels: str = "", fields: str = "") -> Watcher:
        """Raises: StatusError 410 when changes after that version are no longer known."""
        watcher = None
        if after <= self.store.resource_version:
            watcher = self.store.watch(kind.key, namespace, self.matcher(kind, labels, fields), after)
        if watcher is None:
            current = self.store.resource_version
            raise failures.expired(f"too old resource version: {after} ({current})")
        return watcher

    # Creating

    def create(self, kind: Kind, namespace: str, body: Any, request: Request) -> Entry:
        """Store a new object. Raises: StatusError."""
        given = self._new(kind, namespace, self._decode(kind, body, request))
        obj = self._finish_new(kind, given)
        writer = apply.Writer(request.manager, apply.UPDATE, kind.api_version)
        skip = "status" if kind.has_status and kind.key not in _STATUS_ON_CREATE else ""
        stamp = given["metadata"]["creationTimestamp"]
        # Defaults of custom resources are filled in as they are read, before anybody owns fields.
        custom = kind.custom is not None
        owned = self._defaulted(kind, given) if custom else given
        fields = apply.on_create(kind.type, owned, writer, stamp, skip=skip, custom=custom)
        obj["metadata"]["managedFields"] = fields
        return self._store_new(kind, namespace, obj, request)

    def _new(self, kind: Kind, namespace: str, obj: Json) -> Json:
        """`obj` with its metadata prepared: named, placed, stamped."""
        meta: Json = {k: v for k, v in (obj.get("metadata") or {}).items() if k not in _KEPT}
        if meta.pop("resourceVersion", ""):
            raise StatusError(500, "InternalError", "resourceVersion should not be set on objects to be created")
        self._place(kind, namespace, meta)
        if not meta.get("name"):
            prefix = meta.get("generateName")
            if not prefix:
                cause = failures.required("metadata.name", "name or generateName is required")
                raise failures.unprocessable(kind.group, kind.kind, "", [cause])
            meta["name"] = metadata.generate_name(prefix)
            while self.store.get(kind.key, namespace, meta["name"]) is not None:
                meta["name"] = metadata.generate_name(prefix)
        meta["uid"] = str(uuid.uuid4())
        meta["creationTimestamp"] = self.now()
        if kind.generation:
            meta["generation"] = 1
        return {**obj, "metadata": meta}

    def _place(self, kind: Kind, namespace: str, meta: Json) -> None:
        given = meta.get("namespace") or ""
        if not kind.namespaced:
            meta.pop("namespace", None)
            return
        if given and given != namespace:
            raise failures.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        meta["namespace"] = namespace

    def _finish_new(self, kind: Kind, obj: Json) -> Json:
        """Defaults, generated fields, admission and validation of a new object."""
        self._admit_namespace(kind, obj["metadata"])
        obj = self._defaulted(kind, obj)
        if kind.has_status and kind.key not in _STATUS_ON_CREATE:
            status = defaults.fresh_status(kind.key, obj)
            obj = {key: value for key, value in obj.items() if key != "status"}
            if status:
                obj["status"] = status
        if kind.key == ("batch", "jobs"):
            obj = jobs.with_selector(obj)
        elif kind.key == PODS:
            obj = self._with_priority(obj)
        validation.check_create(kind, obj, self._create_causes(kind, obj))
        if kind.key == NAMESPACES:
            obj = {**obj, "spec": {"finalizers": ["kubernetes"]}}
        elif kind.key == CRDS:
            obj = {**obj, "status": crds.established_status(obj, obj["metadata"]["creationTimestamp"])}
        return obj

    def _create_causes(self, kind: Kind, obj: Json) -> Iterator[Cause]:
        yield from metadata.create_causes(kind, obj["metadata"])
        if kind.custom is not None:
            yield from _custom_causes(kind.custom, obj, None)
        elif kind.key == CRDS:
            yield from crds.definition_causes(obj)

    def _store_new(self, kind: Kind, namespace: str, obj: Json, request: Request) -> Entry:
        name = obj["metadata"]["name"]
        if self.store.get(kind.key, namespace, name) is not None:
            raise failures.already_exists(kind.group, kind.plural, name)
        if request.dry_run:
            return Entry(namespace, name, obj, 0)
        entry = self.store.put(kind.key, namespace, name, obj)
        if kind.key == CRDS:
            self._serve(obj)
        if obj["metadata"].get("ownerReferences"):
            self._collector.created(kind, entry)
        return entry

    def _admit_namespace(self, kind: Kind, meta: Json) -> None:
        if not kind.namespaced:
            return
        name = meta["namespace"]
        namespace = self.store.get(NAMESPACES, "", name)
        if namespace is None:
            raise failures.not_found("", "namespaces", name)
        if namespace.obj["metadata"].get("deletionTimestamp"):
            why = f"unable to create new content in namespace {name} because it is being terminated"
            cause = Cause("NamespaceTerminating", "metadata.namespace", f"namespace {name} is being terminated")
            raise failures.forbidden(kind.group, kind.plural, meta.get("name") or "", why, [cause])

    def _with_priority(self, obj: Json) -> Json:
        """Admission of priority classes: the pod gets its class's value."""
        name = obj["spec"].get("priorityClassName")
        if not name:
            return obj
        found = self.store.get(("scheduling.k8s.io", "priorityclasses"), "", name)
        builtin = {"system-node-critical": 2000001000, "system-cluster-critical": 2000000000}
        if found is None and name not in builtin:
            why = f"no PriorityClass with name {name} was found"
            raise failures.forbidden("", "pods", obj["metadata"]["name"], why)
        value = (found.obj.get("value") or 0) if found is not None else builtin[name]
        return {**obj, "spec": {**obj["spec"], "priority": value}}

    # Changing

    def update(self, kind: Kind, namespace: str, name: str, body: Any, request: Request) -> Entry:
        """Replace an object, or its status. Raises: StatusError."""
        old = self.get(kind, namespace, name)
        obj = self._decode(kind, body, request)
        given = (obj.get("metadata") or {}).get("name")
        if given and given != name:
            raise failures.bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
        self._place(kind, namespace, dict(obj.get("metadata") or {}))
        if not kind.unconditional and not (obj.get("metadata") or {}).get("resourceVersion"):
            cause = failures.invalid_plain("metadata.resourceVersion", "0x0: must be specified for an update")
            raise failures.unprocessable(kind.group, kind.kind, name, [cause])
        return self._replace(kind, old, obj, request, self._writer(kind, request, apply.UPDATE), None)

    def patch(self, kind: Kind, namespace: str, name: str, body: Any, media: str, request: Request) -> Entry:
        """Change an object by one of the four patches; apply creates it when it is not there. Raises: StatusError."""
        if media == APPLY:
            return self._apply(kind, namespace, name, body, request)
        old = self.get(kind, namespace, name)
        if media == MERGE:
            if not isinstance(body, dict):
                raise failures.bad_request("a merge patch must be an object")
            new = merge(old.obj, body)
        elif media == JSON_PATCH:
            new = json_patch(old.obj, body)
        elif media == STRATEGIC and kind.custom is None:
            new = strategic(old.obj, body, kind.type)
        else:
            accepted = (JSON_PATCH, MERGE, *((STRATEGIC,) if kind.custom is None else ()), APPLY)
            raise failures.unsupported_media(accepted)
        if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
            raise failures.bad_request("the patched object has no metadata")
        if new["metadata"].get("name") != name:
            given = new["metadata"].get("name")
            raise failures.bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
        obj = self._decode(kind, new, request)
        self._check_patched(kind, old, obj["metadata"])
        return self._replace(kind, old, obj, request, self._writer(kind, request, apply.UPDATE), None)

    def _apply(self, kind: Kind, namespace: str, name: str, body: Any, request: Request) -> Entry:
        config = self._decode(kind, body, request)
        meta = dict(config.get("metadata") or {})
        if meta.get("managedFields"):
            raise failures.bad_request("metadata.managedFields must be nil")
        if meta.get("name", name) != name:
            raise failures.bad_request(
                f"the name of the object ({meta['name']}) does not match the name on the URL ({name})"
            )
        writer = self._writer(kind, request, apply.APPLY)
        live = self.store.get(kind.key, namespace, name)
        skip, only = ("", "status") if request.subresource == "status" else ("status" if kind.has_status else "", "")
        if live is None:
            if request.subresource or meta.get("uid"):
                raise failures.not_found(kind.group, kind.plural, name)
            obj = self._new(kind, namespace, {**config, "metadata": {**meta, "name": name}})
            applied = apply.apply(kind.type, None, obj, writer, self.now(), force=request.force, skip=skip, only=only)
            obj["metadata"]["managedFields"] = applied.managed
            return self._store_new(kind, namespace, self._finish_new(kind, obj), request)
        applied = apply.apply(
            kind.type, live.obj, config, writer, self.now(), force=request.force, skip=skip, only=only
        )
        given = {key: meta[key] for key in ("uid", "resourceVersion") if key in meta}
        obj = {**applied.obj, "metadata": {**applied.obj["metadata"], **given}}
        self._check_patched(kind, live, obj["metadata"])
        return self._replace(kind, live, obj, request, writer, applied.managed)

    def _writer(self, kind: Kind, request: Request, operation: str) -> apply.Writer:
        return apply.Writer(request.manager, operation, kind.api_version, request.subresource)

    def _replace(
        self, kind: Kind, old: Entry, obj: Json, request: Request, writer: apply.Writer, managed: list[Json] | None
    ) -> Entry:
        """Put `obj` in the place of `old`. `managed`: its managedFields, when server-side apply has made them."""
        before = old.obj
        self._check_preconditions(kind, old, obj.get("metadata") or {})
        new = self._carried_over(kind, before, obj, request.subresource)
        if request.subresource in ("", SCALE):
            new = self._defaulted(kind, new)
            if kind.generation and not _same_spec(kind, before, new):
                new["metadata"]["generation"] = (before["metadata"].get("generation") or 0) + 1
        causes = metadata.update_causes(before["metadata"], new["metadata"])
        if request.subresource == "status":
            validation.check_status(kind, before, new, self._custom_causes(kind, before, new, causes))
        elif request.subresource != "binding":
            validation.check_update(kind, before, new, self._custom_causes(kind, before, new, causes))
        kept = before["metadata"].get("managedFields") or []
        cleared = managed is None and (obj.get("metadata") or {}).get("managedFields") == []
        if managed is None:
            managed = [] if cleared else apply.on_update(kind.type, before, new, writer, self.now())
        if managed == kept and _same(before, new):
            return old
        new["metadata"]["managedFields"] = managed
        if request.dry_run:
            return Entry(old.namespace, old.name, new, old.version)
        return self._store_changed(kind, old, new)

    def _store_changed(self, kind: Kind, old: Entry, new: Json) -> Entry:
        meta = new["metadata"]
        gone = (
            meta.get("deletionTimestamp") and not meta.get("finalizers") and not meta.get("deletionGracePeriodSeconds")
        )
        if gone and not (kind.key == NAMESPACES and (new.get("spec") or {}).get("finalizers")):
            self.store.put(kind.key, old.namespace, old.name, new)
            return self.remove(kind, old.namespace, old.name)
        if kind.key == CRDS and new.get("spec") != old.obj.get("spec"):
            new = {**new, "status": crds.established_status(new, self.now())}
        entry = self.store.put(kind.key, old.namespace, old.name, new)
        if kind.key == CRDS:
            self._serve(new)
        return entry

    def _custom_causes(self, kind: Kind, old: Json, new: Json, more: Iterator[Cause]) -> Iterator[Cause]:
        yield from more
        if kind.custom is not None:
            yield from _custom_causes(kind.custom, new, old)
        elif kind.key == CRDS and new.get("spec") != old.get("spec"):
            yield from crds.definition_causes(new)

    def _check_patched(self, kind: Kind, old: Entry, given: Json) -> None:
        """To a patch another UID is no failed precondition, but a change of what cannot change."""
        uid = given.get("uid")
        self._check_preconditions(kind, old, {"resourceVersion": given.get("resourceVersion")})
        if uid and uid != old.obj["metadata"]["uid"]:
            cause = failures.invalid("metadata.uid", uid, metadata.IMMUTABLE)
            raise failures.unprocessable(kind.group, kind.kind, old.name, [cause])

    def _check_preconditions(self, kind: Kind, old: Entry, given: Json) -> None:
        meta = old.obj["metadata"]
        uid, version = given.get("uid"), given.get("resourceVersion")
        if uid and uid != meta["uid"]:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {meta['uid']}"
            raise failures.conflict(kind.group, kind.plural, old.name, why)
        if version and version != meta["resourceVersion"]:
            if not str(version).isdecimal():
                cause = failures.invalid("metadata.resourceVersion", version, "must be an unsigned integer")
                raise failures.unprocessable(kind.group, kind.kind, old.name, [cause])
            raise failures.conflict(kind.group, kind.plural, old.name, failures.STALE)

    def _carried_over(self, kind: Kind, old: Json, obj: Json, subresource: str) -> Json:
        """`obj` with everything that this endpoint may not change taken from `old`; a new top level and metadata."""
        was = old["metadata"]
        meta = {k: v for k, v in (obj.get("metadata") or {}).items() if k not in _KEPT and k != "managedFields"}
        if subresource and kind.custom is not None:
            meta = {k: v for k, v in was.items() if k not in _KEPT and k != "managedFields"}
        for key in (*_KEPT, "name", "namespace", "resourceVersion", "generateName", "managedFields"):
            if key in was:
                meta[key] = was[key]
        if subresource == "status":
            out = {key: value for key, value in old.items() if key not in ("status", "metadata")}
            if "status" in obj:
                out["status"] = obj["status"]
            return {**out, "metadata": meta}
        out = {key: value for key, value in obj.items() if key != "metadata"}
        if kind.has_status:
            out.pop("status", None)
            if "status" in old:
                out["status"] = old["status"]
        return {**out, "metadata": meta}

    # Deleting

    def delete(self, kind: Kind, namespace: str, name: str, how: Deletion) -> tuple[Entry, bool]:
        """Ask for deletion: (the last state, whether it is gone at once). Raises: StatusError."""
        old = self.get(kind, namespace, name)
        self._check_preconditions(kind, old, {"uid": how.uid, "resourceVersion": how.resource_version})
        if kind.key == NAMESPACES and name in _PROTECTED:
            raise failures.forbidden("", "namespaces", name, "this namespace may not be deleted")
        return self._collector.delete(kind, old, how)

    def remove(self, kind: Kind, namespace: str, name: str) -> Entry:
        """Take an object out of the store, with all that follows from its going."""
        entry = self.store.remove(kind.key, namespace, name)
        if kind.key == CRDS:
            self._unserve(entry.obj)
        self._collector.removed(kind, entry)
        return entry

    def put(self, kind: Kind, old: Entry, obj: Json) -> Entry:
        """Store the server's own change of `old` (no validation), removing it when that was all it waited for."""
        return self._store_changed(kind, old, obj)

    # Decoding and kinds

    def _decode(self, kind: Kind, body: Any, request: Request) -> Json:
        """`body` as the kind holds it, unknown fields dropped (refused, or warned of, as the request says)."""
        if not isinstance(body, dict):
            raise failures.bad_request("the request body is not a JSON object")
        for key, wanted in (("kind", kind.kind), ("apiVersion", kind.api_version)):
            if body.get(key, wanted) != wanted:
                given = f"{body.get('apiVersion')}, Kind={body.get('kind')}"
                raise failures.bad_request(
                    f"{given} in the body does not match the expected {kind.api_version}, Kind={kind.kind}"
                )
        found = Decoding()
        try:
            if kind.custom is not None:
                obj = self._decode_custom(kind, body, found)
            else:
                obj = schema.decode(kind.type, body, "", found)
        except schema.DecodeError as error:
            prefix = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}'
            raise failures.bad_request(f"{prefix}: {error}") from None
        if found.unknown and request.field_validation != "Ignore":
            unknown = [f'unknown field "{path}"' for path in found.unknown]
            if request.field_validation == "Strict":
                prefix = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}'
                raise failures.bad_request(f"{prefix}: strict decoding error: {', '.join(unknown)}")
            request.warnings.extend(unknown)
        out: Json = {"apiVersion": kind.api_version, "kind": kind.kind}
        out.update((key, value) for key, value in obj.items() if key not in out)
        return out

    def _decode_custom(self, kind: Kind, body: Json, found: Decoding) -> Json:
        assert kind.custom is not None
        meta = schema.decode(schema.object_meta(), body.get("metadata") or {}, "metadata", found)
        obj: Json = crds.pruned(kind.custom, {**body, "metadata": meta}, "", found.unknown)
        return {key: _plain(value) for key, value in obj.items()}

    def _defaulted(self, kind: Kind, obj: Json) -> Json:
        if kind.custom is not None:
            made: Json = crds.with_defaults(kind.custom, obj)
            return made
        rule: Callable[[Json], Json] | None = defaults.DEFAULTS.get(kind.key)
        return rule(obj) if rule is not None else obj

    def _serve(self, crd: Json) -> None:
        key = (crd["spec"]["group"], crd["spec"]["names"]["plural"])
        self.kinds.drop(key)
        for kind in crds.kinds_of(crd):
            self.kinds.add(kind)

    def _unserve(self, crd: Json) -> None:
        key = (crd["spec"]["group"], crd["spec"]["names"]["plural"])
        self.kinds.drop(key)
        self.store.drop_collection(key)


def _plain(value: Any) -> Any:
    """As JSON is written again by a server in Go: whole numbers without a fraction."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    return value


def _custom_causes(made: schema.Type, new: Json, old: Json | None) -> Iterator[Cause]:
    """What the schema says, and only when that is content, what its rules say."""
    found = list(crds.causes(made, new, ""))
    yield from found or rules.causes(made, new, old, "")


def _same_spec(kind: Kind, old: Json, new: Json) -> bool:
    """Whether nothing changed that counts as desired state."""
    if kind.custom is None:
        return bool(old.get("spec") == new.get("spec"))
    skipped = ("metadata", "status") if kind.has_status else ("metadata",)
    return {k: v for k, v in old.items() if k not in skipped} == {k: v for k, v in new.items() if k not in skipped}


def _same(old: Json, new: Json) -> bool:
    """Whether a write changed nothing (managedFields aside)."""
    was = {key: value for key, value in old["metadata"].items() if key != "managedFields"}
    now = {key: value for key, value in new["metadata"].items() if key != "managedFields"}
    if was != now:
        return False
    return {k: v for k, v in old.items() if k != "metadata"} == {k: v for k, v in new.items() if k != "metadata"}
