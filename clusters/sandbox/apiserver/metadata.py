"""Rules for metadata that all kinds share: names, labels, annotations, finalizers, owners, and what never changes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from typing import Any, Final

from clusters.sandbox.apiserver import names
from clusters.sandbox.apiserver.failures import (
    Cause,
    Json,
    duplicate,
    forbidden_field,
    invalid,
    invalid_plain,
    required,
)
from clusters.sandbox.apiserver.kinds import Kind

_ANNOTATIONS_BYTES: Final = 256 * 1024
_SUFFIX_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"
IMMUTABLE: Final = "field is immutable"


def generate_name(prefix: str) -> str:
    """`prefix` (cut to fit) and five random letters, as the real server makes names."""
    return prefix[:58] + "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(5))


def labels_causes(labels: Mapping[str, Any], path: str) -> Iterator[Cause]:
    for key, value in labels.items():
        for fault in names.label_key_faults(key):
            yield invalid(path, key, fault)
        for fault in names.label_value_faults(value):
            yield invalid(path, value, fault)


def create_causes(kind: Kind, metadata: Json) -> Iterator[Cause]:
    """What is wrong with the metadata of a new object."""
    for fault in kind.name_faults(metadata["name"]):
        yield invalid("metadata.name", metadata["name"], fault)
    yield from common_causes(metadata)


def common_causes(metadata: Json) -> Iterator[Cause]:
    if labels := metadata.get("labels"):
        yield from labels_causes(labels, "metadata.labels")
    if annotations := metadata.get("annotations"):
        size = 0
        for key, value in annotations.items():
            size += len(key) + len(value)
            for fault in names.label_key_faults(key.lower()):
                yield invalid("metadata.annotations", key, fault)
        if size > _ANNOTATIONS_BYTES:
            yield Cause("FieldValueTooLong", "metadata.annotations", "Too long: may not be more than 262144 bytes")
    for finalizer in metadata.get("finalizers") or ():
        for fault in names.label_key_faults(finalizer):
            yield invalid("metadata.finalizers", finalizer, fault)
        if "/" not in finalizer and finalizer not in ("orphan", "foregroundDeletion", "kubernetes"):
            yield invalid(
                "metadata.finalizers", finalizer, "name is neither a standard finalizer name nor is it fully qualified"
            )
    if owners := metadata.get("ownerReferences"):
        yield from _owner_causes(owners)


def _owner_causes(owners: list[Json]) -> Iterator[Cause]:
    controllers = []
    for index, owner in enumerate(owners):
        path = f"metadata.ownerReferences[{index}]"
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                yield invalid(
                    f"{path}.{key}",
                    owner.get(key) or "",
                    f"{'version' if key == 'apiVersion' else key} must not be empty",
                )
        if owner.get("controller"):
            controllers.append(owner)
    if len(controllers) > 1:
        yield invalid_plain(
            "metadata.ownerReferences",
            'Only one reference can have Controller set to true. Found "true" in references for '
            + " and ".join(f"{owner.get('kind')}/{owner.get('name')}" for owner in controllers),
        )


def update_causes(old: Json, new: Json) -> Iterator[Cause]:
    """What is wrong with metadata that replaces `old` (identity fields are compared before, by the registry)."""
    yield from common_causes(new)
    if old.get("deletionTimestamp"):
        added = set(new.get("finalizers") or ()) - set(old.get("finalizers") or ())
        if added:
            listed = ", ".join(f'"{name}"' for name in sorted(added))
            yield forbidden_field(
                "metadata.finalizers",
                "no new finalizers can be added if the object is being deleted, found new finalizers "
                f"[]string{{{listed}}}",
            )


def template_causes(metadata: Json, path: str) -> Iterator[Cause]:
    """What is wrong with the metadata of a pod template."""
    if labels := metadata.get("labels"):
        yield from labels_causes(labels, f"{path}.labels")
    for key in metadata.get("annotations") or {}:
        for fault in names.label_key_faults(key.lower()):
            yield invalid(f"{path}.annotations", key, fault)


def unique_names(items: list[Json], path: str, seen: set[str]) -> Iterator[Cause]:
    """Each item of a list must have a name, an RFC 1123 label that no other item has."""
    for index, item in enumerate(items):
        name = item.get("name") or ""
        at = f"{path}[{index}].name"
        if not name:
            yield required(at)
            continue
        for fault in names.label_faults(name):
            yield invalid(at, name, fault)
        if name in seen:
            yield duplicate(at, name)
        seen.add(name)
