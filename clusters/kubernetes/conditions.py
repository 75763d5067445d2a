"""Status conditions: found in objects, and the merge patches that set the Overspill one. Pure.

A merge patch replaces the whole list, so every condition that is not ours is carried over as it stands in `obj`.
Whoever writes twice in a row passes the answer of the first write as the `obj` of the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from clusters.kubernetes.annotations import parse_hints
from clusters.kubernetes.codec import format_time, parse_time
from scheduler.model.contract import CONDITION_PLACED
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant
from scheduler.model.ports import RawObject

_IGNORED: Final = " (ignored: "
_NOTE: Final = " (note: "
_LONGEST_MESSAGE: Final = 2000


def conditions(obj: RawObject) -> list[Mapping[str, Any]]:
    """The status conditions of any object.

    Raises: InvalidObjectError for a status that makes no sense: an end that cannot be read is not the lack of one.
    """
    status = obj.get("status")
    if status is None:
        return []
    if not isinstance(status, Mapping):
        raise InvalidObjectError(f"status is {str(status)[:40]!r}, which is no map")
    listed = status.get("conditions")
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(_is_condition(one) for one in listed):
        raise InvalidObjectError("status.conditions is no list of conditions, each with a type and a status")
    return listed


def _is_condition(one: object) -> bool:
    return (
        isinstance(one, Mapping)
        and isinstance(one.get("type"), str)
        and one.get("status") in ("True", "False", "Unknown")
    )


def find(among: Iterable[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    return next((one for one in among if one.get("type") == kind), None)


def is_true(among: Iterable[Mapping[str, Any]], kind: str) -> bool:
    found = find(among, kind)
    return found is not None and found.get("status") == "True"


def placed_condition(obj: RawObject) -> tuple[str, str] | None:
    """(reason, message) of the Overspill condition, without a note and the ignored hints that are appended."""
    found = find(conditions(obj), CONDITION_PLACED)
    if found is None:
        return None
    message = str(found.get("message") or "")
    return str(found.get("reason") or ""), message.partition(_IGNORED)[0].partition(_NOTE)[0]


def with_note(sentence: str, note: str) -> str:
    """A decision's sentence with what the cycle does not know of; `placed_condition` leaves it out again."""
    return f"{sentence}{_NOTE}{note})" if note else sentence


def placed_patch(
    obj: RawObject, *, reason: str, message: str, placed: bool, now: Instant, generation: int | None = None
) -> RawObject | None:
    """Merge patch for the status that sets the Overspill condition; None when it says that already.

    Hints of the user that could not be read are appended to the message: that is where users look.
    """
    existing = conditions(obj)
    status = "True" if placed else "False"
    said: dict[str, Any] = {
        "type": CONDITION_PLACED,
        "status": status,
        "reason": reason,
        "message": with_ignored_hints(obj, message),
    }
    if generation is not None:
        said["observedGeneration"] = generation
    update = updated(existing, said, now)
    return None if update is None else {"status": {"conditions": merged(existing, [update])}}


def updated(
    existing: Iterable[Mapping[str, Any]], said: Mapping[str, Any], now: Instant, *, retell: bool = True
) -> Mapping[str, Any] | None:
    """The condition as it is to be (`type`, `status`, `reason`, `message`, ...); None: it says so already or, without
    `retell`, differs in its message only."""
    before = find(existing, said["type"])
    if before is not None:
        differs = {name for name, value in said.items() if before.get(name) != value}
        if not differs or (not retell and differs <= {"message"}):
            return None
    same = before is not None and before.get("status") == said["status"]
    kept = before.get("lastTransitionTime") if before is not None and same else None
    return {**said, "lastTransitionTime": kept if isinstance(kept, str) else format_time(now)}


def merged(existing: Iterable[Mapping[str, Any]], changed: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """`existing` with those of the same type replaced in place, new ones at the end."""
    by_type = {one["type"]: one for one in changed}
    result = [by_type.pop(one.get("type"), one) for one in existing]
    return [*result, *by_type.values()]


def with_ignored_hints(obj: RawObject, message: str) -> str:
    """The message of the Placed condition, with what its user said and nobody could read."""
    metadata = obj.get("metadata") or {}
    problems = parse_hints(metadata.get("annotations") or {}, parse_time(metadata["creationTimestamp"])).problems
    ignored = f"{_IGNORED}{'; '.join(problems)})" if problems else ""
    return (message + ignored)[:_LONGEST_MESSAGE]
