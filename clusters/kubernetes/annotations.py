"""The words on hub objects: the placement annotation (our intent) and the users' hints. Pure.

A placement is strict and versioned: what is not understood is refused, never guessed at. A hint that cannot be read is
ignored and reported (`HintsRead.problems`, which kinds append to the message of the Overspill condition): a typing
mistake in an estimate must not keep a job from running.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from clusters.kubernetes.codec import format_time, parse_time
from scheduler.model.contract import (
    ANNOTATION_AVOIDED_POOLS,
    ANNOTATION_BATCH_SIZE,
    ANNOTATION_CHECKPOINT,
    ANNOTATION_CLIENT_LATENCY_QUERY,
    ANNOTATION_DATA,
    ANNOTATION_DEADLINE,
    ANNOTATION_DEMAND_FROM,
    ANNOTATION_DEMAND_QUERY,
    ANNOTATION_EXCLUDED_NODES,
    ANNOTATION_EXPECTED,
    ANNOTATION_FRAMEWORK,
    ANNOTATION_GPU_MODELS,
    ANNOTATION_LATENCY_QUERY,
    ANNOTATION_MODEL,
    ANNOTATION_PARAMETERS,
    ANNOTATION_PLACEMENT,
    ANNOTATION_PRECISION,
    ANNOTATION_PRIORITY,
    ANNOTATION_PROGRESS_QUERY,
    ANNOTATION_QUEUED_AT,
    ANNOTATION_REPLICA_SPEED,
    ANNOTATION_SEQUENCE_LENGTH,
    ANNOTATION_SPEED_QUERY,
    ANNOTATION_STEPS,
    ANNOTATION_TOPOLOGY,
    TOPOLOGIES,
)
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, Instant, NodeName, PoolId, PoolRef
from scheduler.model.money import Usd
from scheduler.model.resources import quantity_units
from scheduler.model.serving import ReplicaSpeed
from scheduler.model.traits import PRECISIONS, Traits
from scheduler.model.workload import DataSet, Hints, Placement, PlacementState

_PLACES: Final = 64
_VERSION: Final = 1
_FIELDS: Final[dict[str, type]] = {
    "version": int,
    "cluster": str,
    "pool": str,
    "capacityType": str,
    "bought": bool,
    "state": str,
    "attempt": int,
    "decidedAt": str,
    "decision": str,
    "reason": str,
}
_OPTIONAL_FIELDS: Final = frozenset({"movedFrom", "domain", "keptOff", "explorationUsd", "part"})
_LABEL: Final = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_NODE: Final = re.compile(r"[a-z0-9][-a-z0-9.]{0,252}")
_SPEED: Final = re.compile(r"([A-Za-z0-9*][-A-Za-z0-9_. ]{0,62})=([0-9]{1,9}(?:\.[0-9]{1,9})?)@([0-9a-z.]{1,20})")
_USD: Final = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")
_DURATION: Final = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:ms|[dhms]))+")
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|[dhms])")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PARAMETERS: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMBT]?)", re.IGNORECASE)
_SIZES: Final = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_MOST_PARAMETERS: Final = 1e15
_LARGEST_PRIORITY: Final = 2**31 - 1
_MOST_DATA_SETS: Final = 16
_LARGEST_DATA_BYTES: Final = 2**60
_LONGEST_NAME: Final = 253
_LONGEST_QUERY: Final = 1000


@dataclass(frozen=True, slots=True)
class HintsRead:
    """A hub object's user annotations. `priority` and `gpu_models`: None and empty when not said."""

    hints: Hints
    priority: int | None
    gpu_models: tuple[str, ...]
    topology: str
    """A node label; "": none."""
    excluded_nodes: tuple[tuple[ClusterId, NodeName], ...]
    queued_at: Instant | None
    progress_query: str
    speed_query: str
    problems: tuple[str, ...]
    """One line for each annotation that could not be read and was ignored."""


@dataclass(frozen=True, slots=True)
class ServingQueries:
    """What a service's user would have a Prometheus API asked; "": nothing."""

    demand: str = ""
    latency: str = ""
    client_latency: str = ""
    demand_from: str = ""
    """The member that tells the whole demand; "": all do together."""
    problems: tuple[str, ...] = ()
    """One line for each annotation that could not be read and was ignored."""


def parse_serving_queries(annotations: Mapping[str, Any]) -> ServingQueries:
    """Of a service's annotations; what cannot be read is left out and named in `problems`."""
    problems: list[str] = []
    return ServingQueries(
        demand=_query(annotations, ANNOTATION_DEMAND_QUERY, problems),
        latency=_query(annotations, ANNOTATION_LATENCY_QUERY, problems),
        client_latency=_query(annotations, ANNOTATION_CLIENT_LATENCY_QUERY, problems),
        demand_from=str(annotations.get(ANNOTATION_DEMAND_FROM, "")).strip()[:_LONGEST_NAME],
        problems=tuple(problems),
    )


def parse_replica_speeds(annotations: Mapping[str, Any]) -> tuple[Mapping[str, ReplicaSpeed], tuple[str, ...]]:
    """What a service's user says of a replica, by GPU model; and a line for each part that could not be read."""
    found: dict[str, ReplicaSpeed] = {}
    problems = []
    for part in filter(None, (each.strip() for each in str(annotations.get(ANNOTATION_REPLICA_SPEED, "")).split(","))):
        match = _SPEED.fullmatch(part)
        try:
            most, idle = (float(match[2]), parse_duration(match[3])) if match else (0.0, 0.0)
        except InvalidObjectError:
            most, idle = 0.0, 0.0
        if match is None or most <= 0 or idle <= 0:
            problems.append(f"{ANNOTATION_REPLICA_SPEED} {part[:40]!r}: write for example A10G=4@500ms")
            continue
        found[match[1].strip()] = ReplicaSpeed(most, idle, idle)
    return found, tuple(problems)


def format_placement(placement: Placement) -> str:
    """The text of the `overspill.dev/placement` annotation; `parse_placement` reads it back, microseconds kept."""
    return orjson.dumps(
        {
            "version": _VERSION,
            "cluster": placement.cluster,
            "pool": placement.pool,
            "capacityType": placement.capacity_type,
            "bought": placement.bought,
            "state": placement.state.value,
            "attempt": placement.attempt,
            "decidedAt": format_time(placement.decided_at, micro=True),
            "decision": placement.decision,
            "reason": placement.reason,
            **({} if placement.moved_from is None else {"movedFrom": placement.moved_from}),
            **({} if placement.domain is None else {"domain": "=".join(placement.domain)}),
            **({"keptOff": ",".join(placement.kept_off)} if placement.kept_off else {}),
            **({} if placement.exploration_usd is None else {"explorationUsd": f"{placement.exploration_usd:f}"}),
            **({"part": placement.part} if placement.part else {}),
        }
    ).decode()


def parse_placement(text: str) -> Placement:
    """Raises: InvalidObjectError naming the annotation and what is wrong with it."""
    fields = _placement_fields(text)
    try:
        state = PlacementState(fields["state"])
    except ValueError as error:
        raise _bad_placement(f"state {fields['state']!r} is none of {', '.join(PlacementState)}") from error
    if fields["attempt"] < 0 or not fields["cluster"] or not fields["pool"]:
        raise _bad_placement("cluster and pool must be named and attempt not negative")
    try:
        decided_at = parse_time(fields["decidedAt"])
    except InvalidObjectError as error:
        raise _bad_placement(str(error)) from error
    return Placement(
        cluster=ClusterId(fields["cluster"]),
        pool=PoolId(fields["pool"]),
        capacity_type=fields["capacityType"],
        bought=fields["bought"],
        state=state,
        attempt=fields["attempt"],
        decided_at=decided_at,
        decision=fields["decision"],
        reason=fields["reason"],
        moved_from=ClusterId(fields["movedFrom"]) if "movedFrom" in fields else None,
        domain=_domain(fields["domain"]) if "domain" in fields else None,
        kept_off=_node_names(fields["keptOff"]) if "keptOff" in fields else (),
        exploration_usd=_usd(fields["explorationUsd"]) if "explorationUsd" in fields else None,
        part=fields.get("part", ""),
    )


def parse_duration(text: str) -> float:
    """Seconds of a duration such as 90m, 2h30m, 1.5h or 7d. Raises: InvalidObjectError."""
    if not _DURATION.fullmatch(text):
        raise InvalidObjectError(f"{text[:40]!r} is not a duration; write for example 90m, 2h30m or 7d")
    # fsum: exact to the last bit whatever the order of the parts.
    return math.fsum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def parse_hints(annotations: Mapping[str, Any], created_at: Instant) -> HintsRead:
    """What the user says in annotations; what cannot be read is left out and named in `problems`."""
    problems: list[str] = []
    return HintsRead(
        hints=Hints(
            expected_seconds=_positive_duration(annotations, ANNOTATION_EXPECTED, problems),
            checkpoint_every_seconds=_positive_duration(annotations, ANNOTATION_CHECKPOINT, problems),
            deadline_at=_deadline(annotations, created_at, problems),
            data=_data(annotations, problems),
            avoided_pools=tuple(
                PoolRef(ClusterId(cluster), PoolId(pool))
                for cluster, pool in parse_places(annotations.get(ANNOTATION_AVOIDED_POOLS))
            ),
            model=str(annotations.get(ANNOTATION_MODEL, "")).strip()[:_LONGEST_NAME] or None,
            batch_size=_positive_count(annotations, ANNOTATION_BATCH_SIZE, problems),
            total_steps=_positive_count(annotations, ANNOTATION_STEPS, problems),
            traits=_traits(annotations, problems),
        ),
        priority=_priority(annotations, problems),
        gpu_models=tuple(
            sorted(
                {
                    model
                    for part in str(annotations.get(ANNOTATION_GPU_MODELS, "")).split(",")
                    if (model := part.strip())
                }
            )
        ),
        topology=_topology(annotations, problems),
        excluded_nodes=tuple(
            (ClusterId(cluster), NodeName(node))
            for cluster, node in parse_places(annotations.get(ANNOTATION_EXCLUDED_NODES))
        ),
        queued_at=_time(annotations, ANNOTATION_QUEUED_AT, problems),
        progress_query=_query(annotations, ANNOTATION_PROGRESS_QUERY, problems),
        speed_query=_query(annotations, ANNOTATION_SPEED_QUERY, problems),
        problems=tuple(problems),
    )


def parse_places(said: object) -> tuple[tuple[str, str], ...]:
    """("eks", "p4d") for each eks/p4d of a comma-separated list, sorted, at most 64; what is not of that form is left
    out."""
    found: set[tuple[str, str]] = set()
    for part in (said if isinstance(said, str) else "").split(","):
        cluster, _, name = part.strip().partition("/")
        if cluster and name:
            found.add((cluster, name))
    return tuple(sorted(found)[:_PLACES])


def format_places(places: Iterable[tuple[str, str]]) -> str:
    """What `parse_places` reads."""
    return ",".join(f"{cluster}/{name}" for cluster, name in sorted(set(places))[:_PLACES])


def _placement_fields(text: str) -> dict[str, Any]:
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _bad_placement(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise _bad_placement("not a JSON object")
    if fields.get("version") != _VERSION or isinstance(fields.get("version"), bool):
        raise _bad_placement(f"version {fields.get('version')!r} is not the {_VERSION} that this release writes")
    for name, kind in _FIELDS.items():
        # bool is an int to isinstance, but not to the people who wrote 1 for true.
        if not isinstance(fields.get(name), kind) or (kind is int and isinstance(fields[name], bool)):
            raise _bad_placement(f"field {name} is missing or no {kind.__name__}")
    for name in _OPTIONAL_FIELDS:
        if name in fields and (not isinstance(fields[name], str) or not fields[name]):
            raise _bad_placement(f"field {name} is no text")
    if unknown := sorted(fields.keys() - _FIELDS.keys() - _OPTIONAL_FIELDS):
        raise _bad_placement(f"unknown field {unknown[0][:40]}")
    return fields


def _bad_placement(why: str) -> InvalidObjectError:
    return InvalidObjectError(
        f"annotation {ANNOTATION_PLACEMENT} cannot be read ({why}); delete it to have the workload placed anew"
    )


def _positive_count(annotations: Mapping[str, Any], name: str, problems: list[str]) -> int | None:
    if (text := annotations.get(name)) is None:
        return None
    stripped = str(text).strip()
    if not re.fullmatch(r"[0-9]{1,15}", stripped) or int(stripped) == 0:
        problems.append(f"{name}: {stripped[:40]!r} is not a whole number above 0")
        return None
    return int(stripped)


def _traits(annotations: Mapping[str, Any], problems: list[str]) -> Traits:
    """As declared."""
    precision = str(annotations.get(ANNOTATION_PRECISION, "")).strip().lower()
    if precision and precision not in PRECISIONS:
        problems.append(f"{ANNOTATION_PRECISION}: {precision[:40]!r} is none of {', '.join(PRECISIONS)}")
    return Traits(
        _parameters(annotations, problems),
        _positive_count(annotations, ANNOTATION_SEQUENCE_LENGTH, problems),
        precision if precision in PRECISIONS else None,
        str(annotations.get(ANNOTATION_FRAMEWORK, "")).strip().lower()[:_LONGEST_NAME] or None,
    )


def _parameters(annotations: Mapping[str, Any], problems: list[str]) -> float | None:
    if (text := annotations.get(ANNOTATION_PARAMETERS)) is None:
        return None
    said = str(text).strip()
    match = _PARAMETERS.fullmatch(said)
    if match is None or not 0 < (number := float(match[1]) * _SIZES[match[2].upper()]) <= _MOST_PARAMETERS:
        problems.append(f"{ANNOTATION_PARAMETERS}: {said[:40]!r} is no number of parameters, such as 7B or 350M")
        return None
    return number


def _query(annotations: Mapping[str, Any], name: str, problems: list[str]) -> str:
    text = str(annotations.get(name, "")).strip()
    if len(text) > _LONGEST_QUERY or any(not char.isprintable() and char not in "\n\t" for char in text):
        problems.append(f"{name}: longer than {_LONGEST_QUERY} characters, or not text; use a recording rule")
        return ""
    return text


def _positive_duration(annotations: Mapping[str, Any], name: str, problems: list[str]) -> float | None:
    if (text := annotations.get(name)) is None:
        return None
    try:
        seconds = parse_duration(str(text).strip())
    except InvalidObjectError as error:
        problems.append(f"{name}: {error}")
        return None
    if seconds <= 0:
        problems.append(f"{name}: {text!r} is not longer than nothing")
        return None
    return seconds


def _deadline(annotations: Mapping[str, Any], created_at: Instant, problems: list[str]) -> Instant | None:
    if (text := annotations.get(ANNOTATION_DEADLINE)) is None:
        return None
    said = str(text).strip()
    if _DURATION.fullmatch(said):
        return created_at + parse_duration(said)
    try:
        return parse_time(said)
    except InvalidObjectError:
        problems.append(
            f"{ANNOTATION_DEADLINE}: {said[:40]!r} is neither a time (2026-01-31T12:00:00Z) nor a duration (24h)"
        )
        return None


def _data(annotations: Mapping[str, Any], problems: list[str]) -> tuple[DataSet, ...]:
    """Sorted; one of each cluster, what is said twice of it added up."""
    if (text := annotations.get(ANNOTATION_DATA)) is None:
        return ()
    parts = [part.strip() for part in str(text).split(",") if part.strip()]
    found: Counter[ClusterId] = Counter()
    for part in parts[:_MOST_DATA_SETS]:
        size, at, cluster = part.partition("@")
        try:
            amount = quantity_units(size.strip())
        except InvalidObjectError:
            amount = None
        if not at or not cluster.strip() or amount is None or not 0 < amount <= _LARGEST_DATA_BYTES:
            problems.append(f"{ANNOTATION_DATA}: {part[:60]!r} is not a size at a member, such as 500Gi@onprem")
            continue
        found[ClusterId(cluster.strip())] += int(amount)
    if len(parts) > _MOST_DATA_SETS:
        problems.append(f"{ANNOTATION_DATA}: only the first {_MOST_DATA_SETS} data sets are read")
    return tuple(DataSet(cluster, size) for cluster, size in sorted(found.items()))


def _usd(text: str) -> Usd:
    if not _USD.fullmatch(text):
        raise _bad_placement(f"field explorationUsd {text[:40]!r} is no amount of USD")
    return Usd(text)


def _domain(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not _LABEL.fullmatch(key):
        raise _bad_placement(f"field domain {text[:40]!r} is no label with its value")
    return key, value


def _node_names(text: str) -> tuple[NodeName, ...]:
    names = text.split(",")
    for name in names:
        if not _NODE.fullmatch(name):
            raise _bad_placement(f"field keptOff: {name[:40]!r} is no name of a node")
    return tuple(NodeName(name) for name in names)


def _topology(annotations: Mapping[str, Any], problems: list[str]) -> str:
    said = str(annotations.get(ANNOTATION_TOPOLOGY, "")).strip()
    if not said or said in TOPOLOGIES:
        return TOPOLOGIES.get(said, "")
    if "/" in said and _LABEL.fullmatch(said):
        return said
    problems.append(
        f"{ANNOTATION_TOPOLOGY}: {said[:60]!r} is neither node, zone nor a node label such as example.com/rack"
    )
    return ""


def _time(annotations: Mapping[str, Any], name: str, problems: list[str]) -> Instant | None:
    if (text := annotations.get(name)) is None:
        return None
    try:
        return parse_time(str(text))
    except InvalidObjectError as error:
        problems.append(f"{name}: {error}")
        return None


def _priority(annotations: Mapping[str, Any], problems: list[str]) -> int | None:
    if (text := annotations.get(ANNOTATION_PRIORITY)) is None:
        return None
    said = str(text).strip()
    if re.fullmatch(r"[+-]?\d{1,10}", said, re.ASCII) and abs(int(said)) <= _LARGEST_PRIORITY:
        return int(said)
    problems.append(f"{ANNOTATION_PRIORITY}: {said[:40]!r} is not a whole number up to {_LARGEST_PRIORITY}")
    return None
