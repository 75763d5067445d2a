"""A cloud's word that it takes a machine back, as Nodes and core/v1 Events carry it. Pure; what is known is in tables.

A cloud's new notice is one row in `SIGNS`. What another owner of the node does on purpose (Karpenter's disruption, the
cluster autoscaler's deletion, a scale-in) is no reclaim: those taints are in `OTHER_OWNERS`. Advice that a machine may
soon be taken (EC2's rebalance recommendation) is told apart from the notice that it is.

Sources of the spellings: aws/aws-node-termination-handler (taints, Event reasons and messages), Karpenter's providers
for AWS and Azure (Event reasons; the format of the AKS message), the AKS documentation of node-problem-detector and
node auto-drain, the GKE documentation of Spot VMs and of disruption to GPU nodes, the kubelet's graceful shutdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Final

from clusters.kubernetes.codec import NodeFacts, parse_time
from scheduler.model.cluster import Reclaim
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant
from scheduler.model.ports import RawObject

TAINT: Final = "taint"
CONDITION: Final = "condition"
LABEL: Final = "label"
EVENT: Final = "event"
_HTTP_DATE: Final = r"[A-Za-z]{3},\s+\d{1,2}\s+[A-Za-z]{3}\s+\d{4}\s+\d{1,2}:\d{2}:\d{2}\s+(?:GMT|UTC)"
_PREEMPT: Final = rf"Preempt (?:Scheduled\s*:\s*(?P<date>{_HTTP_DATE})?|(?P<started>Started))"
_AWS_NOTICE_SECONDS: Final = 120.0
_GOOGLE_NOTICE_SECONDS: Final = 30.0
_AZURE_NOTICE_SECONDS: Final = 30.0
_EVENT_HOLDS_SECONDS: Final = 600.0
"""A node that is still there so long after the end that an Event announced was not taken after all."""


@dataclass(frozen=True, slots=True)
class Sign:
    """One way of saying that a machine goes (or, `advice`, that it may)."""

    place: str
    """taint, condition, label or event."""
    name: str
    """The taint's or label's key, the condition's type, the Event's reason."""
    notice_seconds: float | None = None
    """From the notice to the end; None: not told, except in the message."""
    value: str = ""
    """What a label must say; what a condition's status must be ("" is True); "": any, else."""
    message: str = ""
    """Regular expression that the message of a condition or Event must contain. Its groups `date` (RFC 1123) and `time`
    (RFC 3339) are the end, `started` says that it has come."""
    component: str = ""
    """Who must have written the Event; "": anybody."""
    spot: bool = False
    """Means a reclaim only on a spot node that nobody has cordoned: else somebody here has shut it down."""
    advice: bool = False


SIGNS: Final = (
    # EKS: aws-node-termination-handler (with taintNode, with emitKubernetesEvents), Karpenter's and Auto Mode's Events.
    Sign(TAINT, "aws-node-termination-handler/spot-itn", _AWS_NOTICE_SECONDS),
    Sign(EVENT, "SpotInterruption", _AWS_NOTICE_SECONDS, component="aws-node-termination-handler",
         message=r"(?:Spot ITN received\. Instance will be interrupted at (?P<time>\d\S+Z))?"),
    Sign(EVENT, "SpotInterrupted", _AWS_NOTICE_SECONDS),
    Sign(TAINT, "aws-node-termination-handler/rebalance-recommendation", advice=True),
    Sign(EVENT, "RebalanceRecommendation", component="aws-node-termination-handler", advice=True),
    Sign(EVENT, "SpotRebalanceRecommendation", advice=True),
    # GKE: its maintenance handler on GPU nodes, host maintenance, and the kubelet's graceful shutdown of spot VMs.
    Sign(TAINT, "cloud.google.com/impending-node-termination", _GOOGLE_NOTICE_SECONDS),
    Sign(LABEL, "cloud.google.com/active-node-maintenance", value="ONGOING"),
    Sign(CONDITION, "Ready", _GOOGLE_NOTICE_SECONDS, value="False", message=r"node is shutting down", spot=True),
    # AKS: node-problem-detector reads Azure's scheduled events. Its newer condition carries advice, too.
    Sign(CONDITION, "VMEventScheduled", _AZURE_NOTICE_SECONDS, message=_PREEMPT),
    Sign(CONDITION, "PreemptScheduled", _AZURE_NOTICE_SECONDS, message=rf"(?s)^(?:.*?{_PREEMPT})?"),
    Sign(CONDITION, "PreemptionScheduled", _AZURE_NOTICE_SECONDS, message=_PREEMPT),
    Sign(CONDITION, "PreemptionScheduled", message=r"SpotRebalanceRecommendation", advice=True),
    Sign(EVENT, "VMEventScheduled", _AZURE_NOTICE_SECONDS, message=_PREEMPT),
    Sign(EVENT, "PreemptScheduled", _AZURE_NOTICE_SECONDS, message=rf"(?s)^(?:.*?{_PREEMPT})?"),
    Sign(EVENT, "SpotEvictionIncoming", _AZURE_NOTICE_SECONDS, message=_PREEMPT),
    Sign(TAINT, "aks-node-termination-handler/preempt", _AZURE_NOTICE_SECONDS),
)  # fmt: skip
OTHER_OWNERS: Final = frozenset(
    {
        "karpenter.sh/disrupted",
        "karpenter.sh/disruption",
        "ToBeDeletedByClusterAutoscaler",
        "DeletionCandidateOfClusterAutoscaler",
        "aws-node-termination-handler/asg-lifecycle-termination",
        "aws-node-termination-handler/scheduled-maintenance",
    }
)
"""Taints by which another owner of the node says that it is about to act on it."""
SPOT_LABELS: Final = frozenset(
    {
        ("eks.amazonaws.com/capacityType", "SPOT"),
        ("karpenter.sh/capacity-type", "spot"),
        ("cloud.google.com/gke-spot", "true"),
        ("cloud.google.com/gke-preemptible", "true"),
        ("cloud.google.com/gke-provisioning", "spot"),
        ("kubernetes.azure.com/scalesetpriority", "spot"),
    }
)
_ONLY_SPOT_IS_SHORT: Final = frozenset({"cloud.google.com/impending-node-termination"})
"""On other machines this taint announces host maintenance, up to an hour ahead: no deadline is told."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One sign that was found."""

    source: str
    """Such as "taint aws-node-termination-handler/spot-itn": one of as many as there are rows in `SIGNS`."""
    advice: bool
    at: Instant | None
    """When it was given; None: not told."""
    deadline: Instant | None
    """When the machine goes; None: not told, not even by when the notice was given."""
    notice_seconds: float | None
    """How long before the end such a notice is given; None: not known."""
    exact: bool = False
    """Whether the cloud itself named the deadline."""


@dataclass(frozen=True, slots=True)
class EventNotice:
    """A notice in an Event, and the node that it is about. An Event lives on for an hour, also beyond its node."""

    node: str
    node_uid: str
    """The kubelet and node-problem-detector write the node's name here."""
    notice: Notice


def node_notices(node: RawObject) -> tuple[Notice, ...]:
    """What a Node's taints, conditions and labels say, the most telling first.

    Raises: InvalidObjectError for a time that is none; what raises reading fields of the wrong type.
    """
    spec, labels = node.get("spec") or {}, (node.get("metadata") or {}).get("labels") or {}
    taints = {str(taint.get("key")): taint for taint in spec.get("taints") or ()}
    conditions = {str(one.get("type")): one for one in (node.get("status") or {}).get("conditions") or ()}
    spot = any(labels.get(key) == value for key, value in SPOT_LABELS)
    handled = bool(spec.get("unschedulable")) or not OTHER_OWNERS.isdisjoint(taints)
    found = []
    for sign in SIGNS:
        if sign.spot and (not spot or handled):
            continue
        notice: Notice | None = None
        if sign.place == TAINT and sign.name in taints:
            short = spot or sign.name not in _ONLY_SPOT_IS_SHORT
            notice = _notice(sign, "", taints[sign.name].get("timeAdded"), known=short)
        elif sign.place == LABEL and labels.get(sign.name) == sign.value:
            notice = _notice(sign, "", None)
        elif sign.place == CONDITION and sign.name in conditions:
            said = conditions[sign.name]
            if said.get("status") == (sign.value or "True"):
                notice = _notice(sign, str(said.get("message") or ""), said.get("lastTransitionTime"))
        if notice is not None:
            found.append(notice)
    return most_telling(found)


def event_notice(event: RawObject) -> EventNotice | None:
    """What a core/v1 Event says of a Node; None for any other Event. Raises as `node_notices`."""
    about = event.get("involvedObject") or {}
    if about.get("kind") != "Node" or not about.get("name"):
        return None
    component = str((event.get("source") or {}).get("component") or event.get("reportingComponent") or "")
    for sign in SIGNS:
        if sign.place != EVENT or sign.name != event.get("reason") or sign.component not in ("", component):
            continue
        notice = _notice(sign, str(event.get("message") or ""), _event_time(event))
        if notice is not None:
            return EventNotice(str(about["name"]), str(about.get("uid") or ""), notice)
    return None


def most_telling(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """Reclaims before advice, named deadlines before reckoned ones before none, early before late."""

    def rank(notice: Notice) -> tuple[bool, bool, bool, Instant, str]:
        deadline = notice.deadline
        return notice.advice, not notice.exact, deadline is None, deadline or 0.0, notice.source

    return tuple(sorted(notices, key=rank))


def holds(said: EventNotice, node: NodeFacts, now: Instant) -> bool:
    """Whether an Event's notice is about this very node, and not long past."""
    notice = said.notice
    at = notice.at if notice.at is not None else now
    end = notice.deadline if notice.deadline is not None else at
    if said.node_uid not in (node.uid, node.name, ""):
        return False
    # Times of Events are whole seconds, so one may seem older than its node by a moment.
    return node.created_at - 1 <= at and now <= end + _EVENT_HOLDS_SECONDS


def with_deadline(found: Reclaim, old: Reclaim | None, notice: Notice) -> Reclaim:
    """What was found, with its deadline; of a node whose reclaim is known that one, corrected by a deadline that the
    cloud itself names."""
    if old is not None:
        better = notice.deadline is not None and (notice.exact or old.deadline is None)
        return replace(old, deadline=notice.deadline) if better else old
    reckoned = found.noticed_at + notice.notice_seconds if notice.notice_seconds is not None else None
    return replace(found, deadline=reckoned if notice.deadline is None else notice.deadline)


def _notice(sign: Sign, message: str, given_at: Any, *, known: bool = True) -> Notice | None:
    """The notice that the sign is, with this message; None when the message is not its own. `known`: whether
    `notice_seconds` holds here."""
    match = re.search(sign.message, message)
    if match is None:
        return None
    at = parse_time(str(given_at)) if given_at else None
    ahead = sign.notice_seconds if known else None
    told = _told_deadline(match.groupdict(), at)
    deadline = at + ahead if told is None and at is not None and ahead is not None else told
    return Notice(f"{sign.place} {sign.name}", sign.advice, at, deadline, ahead, exact=told is not None)


def _told_deadline(groups: Mapping[str, str | None], at: Instant | None) -> Instant | None:
    if groups.get("started"):
        return at
    if date := groups.get("date"):
        try:
            return parsedate_to_datetime(" ".join(date.split()).replace("UTC", "GMT")).timestamp()
        except (ValueError, OverflowError) as error:
            raise InvalidObjectError(f"{date!r} is no date ({error})") from error
    time = groups.get("time")
    return parse_time(time) if time else None


def _event_time(event: RawObject) -> str | None:
    """When it was first seen."""
    meta = event.get("metadata") or {}
    times = event.get("firstTimestamp"), event.get("eventTime"), meta.get("creationTimestamp")
    return next((str(time) for time in times if time), None)
