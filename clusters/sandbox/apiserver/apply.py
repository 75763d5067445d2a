"""Who owns which field: server-side apply, and the bookkeeping of managedFields for every other write.

Rules from kubernetes.io "Server-Side Apply" and sigs.k8s.io/structured-merge-diff: an apply owns exactly what it
lists, gives up (and, when nobody else owns it, removes) what it no longer lists, and conflicts when it would change
the value of a field that another manager owns; any other write takes over what it changes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from clusters.sandbox.apiserver import fieldsets
from clusters.sandbox.apiserver.failures import Cause, Json, apply_conflict
from clusters.sandbox.apiserver.fieldsets import Fields
from clusters.sandbox.apiserver.schema import ANYTHING, LIST, Type

APPLY: Final = "Apply"
UPDATE: Final = "Update"
_ROOT_SKIPPED: Final = frozenset({"apiVersion", "kind"})
_BARE: Final = ("f:metadata", "f:spec", "f:status")
_META_TRACKED: Final = frozenset({"labels", "annotations", "finalizers", "ownerReferences"})


@dataclass(frozen=True, slots=True)
class Writer:
    """On whose behalf a write happens."""

    manager: str
    operation: str
    api_version: str
    subresource: str = ""

    def owns(self, entry: Json) -> bool:
        return (
            entry.get("manager") == self.manager
            and entry.get("operation") == self.operation
            and (entry.get("subresource") or "") == self.subresource
        )

    def entry(self, fields: Fields, time: str) -> Json:
        made = {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        }
        return {**made, "subresource": self.subresource} if self.subresource else made


def tracked(obj: Json, *, skip: str = "", only: str = "") -> Json:
    """The part of an object whose fields are owned. `skip`, `only`: a top-level field left out, or alone taken in."""
    metadata = {key: value for key, value in obj["metadata"].items() if key in _META_TRACKED}
    out = {
        key: value
        for key, value in obj.items()
        if key not in _ROOT_SKIPPED and key not in ("metadata", skip) and (not only or key == only)
    }
    if metadata and not only:
        out["metadata"] = metadata
    return out


def on_create(made: Type, obj: Json, writer: Writer, time: str, *, skip: str, custom: bool = False) -> list[Json]:
    """managedFields of an object that a plain POST creates. `custom`: of a custom resource, without a spec before."""
    fields = fieldsets.fields_of(made, tracked(obj, skip=skip))
    if custom:
        meta = {key: _with_containers(node) for key, node in fields.items() if key == "f:metadata"}
        fields = {**_with_containers(fields), **meta}
    else:
        fields = _with_containers(fields, _BARE)
    return [writer.entry(fields, time)] if fields else []


def _with_containers(fields: Fields, bare: Collection[str] = ()) -> Fields:
    """A non-apply write owns the containers that it brings, too, but for `bare` ones, which are there before."""
    return {
        key: {fieldsets.SELF: {}, **_with_containers(node, bare)}
        if node and key not in bare
        else _with_containers(node, bare)
        for key, node in fields.items()
    }


def on_update(made: Type, old: Json, new: Json, writer: Writer, time: str) -> list[Json]:
    """managedFields after a plain write turned `old` into `new`."""
    entries: list[Json] = old["metadata"].get("managedFields") or []
    before, after = tracked(old), tracked(new)
    changed, gone = fieldsets.changed_fields(made, before, after)
    if not changed and not gone:
        return entries
    out = []
    mine: Fields = {}
    for entry in entries:
        fields = entry.get("fieldsV1") or {}
        if gone:
            fields = fieldsets.difference(fields, gone)
        if writer.owns(entry):
            mine = fields
            continue
        if changed:
            fields = fieldsets.difference(fields, changed)
        if fields:
            out.append(entry if fields == entry.get("fieldsV1") else {**entry, "fieldsV1": fields})
    mine = fieldsets.union(mine, changed)
    if mine:
        out.append(writer.entry(mine, time))
    return out


@dataclass(frozen=True, slots=True)
class Applied:
    obj: Json
    managed: list[Json]


def apply(
    made: Type, live: Json | None, config: Json, writer: Writer, time: str, *, force: bool, skip: str, only: str
) -> Applied:
    """Merge the applied configuration into the live object (None: there is none).

    `skip`/`only` name the top-level field (status) that this endpoint resets or alone may change.
    Raises: StatusError 409 naming the owners of fields that it would change, unless `force`.
    """
    wanted = tracked(config, skip=skip, only=only)
    wanted_fields = fieldsets.fields_of(made, wanted)
    if live is None:
        return Applied(config, [writer.entry(wanted_fields, time)])
    entries: list[Json] = live["metadata"].get("managedFields") or []
    if not entries:
        everything = fieldsets.fields_of(made, tracked(live))
        entries = [Writer("before-first-apply", UPDATE, writer.api_version).entry(everything, time)]
    merged = _merge(made, tracked(live), wanted)
    changed, _ = fieldsets.changed_fields(made, tracked(live), merged)
    previous = next((entry.get("fieldsV1") or {} for entry in entries if writer.owns(entry)), {})
    others = _yielded([entry for entry in entries if not writer.owns(entry)], changed, force=force)
    released = fieldsets.difference(previous, wanted_fields)
    if released:
        kept = wanted_fields
        for entry in others:
            kept = fieldsets.union(kept, entry["fieldsV1"])
        merged = fieldsets.without(made, merged, released, kept) or {}
    obj = _reassembled(live, merged)
    same = previous == wanted_fields and merged == tracked(live)
    if not wanted_fields:
        return Applied(obj, others)
    own = next((entry for entry in entries if writer.owns(entry)), None)
    if same and own is not None and len(others) == len(entries) - 1:
        return Applied(obj, entries)
    return Applied(obj, [*others, writer.entry(wanted_fields, time)])


def _yielded(entries: list[Json], changed: Fields, *, force: bool) -> list[Json]:
    """Other managers' entries less the fields that are being changed. Raises: StatusError 409, unless `force`."""
    left: list[Json] = []
    causes: list[Cause] = []
    for entry in entries:
        fields = entry.get("fieldsV1") or {}
        contested = fieldsets.intersection(fields, changed)
        if not contested:
            left.append(entry)
            continue
        causes.extend(_conflicts(entry, contested))
        if fields := fieldsets.difference(fields, contested):
            left.append({**entry, "fieldsV1": fields})
    if causes and not force:
        raise apply_conflict(causes)
    return left


def _conflicts(entry: Json, fields: Fields) -> list[Cause]:
    who = f'conflict with "{entry.get("manager")}"'
    if entry.get("subresource"):
        who += f' with subresource "{entry["subresource"]}"'
    if entry.get("operation") == UPDATE:
        who += f" using {entry.get('apiVersion')}"
        if entry.get("time"):
            who += f" at {entry['time']}"
    return [Cause("FieldManagerConflict", path, who) for path in fieldsets.members(fields)]


def _reassembled(live: Json, merged: Json) -> Json:
    """`live` with its tracked part replaced by `merged`."""
    metadata = {key: value for key, value in live["metadata"].items() if key not in _META_TRACKED}
    metadata.update(merged.get("metadata") or {})
    out: Json = {key: value for key, value in live.items() if key in _ROOT_SKIPPED}
    out.update({key: value for key, value in merged.items() if key != "metadata"})
    out["metadata"] = metadata
    return out


def _merge(made: Type, live: Any, config: Any) -> Any:
    """`config` over `live`: maps by field, associative lists by item, everything else replaced."""
    if live == config and type(live) is type(config):
        return live
    if not fieldsets.is_granular(made, config) or type(live) is not type(config):
        return config
    if isinstance(config, dict):
        out = dict(live)
        for key, value in config.items():
            out[key] = _merge(fieldsets.child_type(made, key), live[key], value) if key in live else value
        return out
    return _merge_list(made, live, config)


def _merge_list(made: Type, live: list[Any], config: list[Any]) -> list[Any]:
    inner = made.value or ANYTHING
    assert made.form == LIST
    was, wanted = fieldsets.keyed(live, made), fieldsets.keyed(config, made)
    out = {key: _merge(inner, item, wanted[key]) if key in wanted else item for key, item in was.items()}
    out.update({key: item for key, item in wanted.items() if key not in out})
    return list(out.values())
