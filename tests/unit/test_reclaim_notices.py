"""Which words of Nodes and Events mean that a cloud takes a machine back, and when it goes."""

from __future__ import annotations

from typing import Any

import pytest

from clusters.kubernetes.codec import format_time, parse_time
from clusters.kubernetes.reclaim import OTHER_OWNERS, SIGNS, event_notice, node_notices
from clusters.sandbox.emulation import notices
from scheduler.model.errors import InvalidObjectError

SINCE = "2026-08-03T08:17:37Z"
AT = parse_time(SINCE)
DATE = "Mon, 03 Aug 2026 08:18:16 GMT"
NAMED = parse_time("2026-08-03T08:18:16Z")
AKS = f"Preempt Scheduled: {DATE}. DurationInSeconds: -1. For more information, see x EventId: 218E4ED7"


def node(
    labels: dict[str, str] | None = None,
    *,
    taint: str = "",
    condition: tuple[str, str, str] | None = None,
    cordoned: bool = False,
) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True", "message": "kubelet is posting ready status"}]
    if condition is not None:
        kind, status, message = condition
        new = {"type": kind, "status": status, "message": message, "lastTransitionTime": SINCE}
        conditions = [one for one in conditions if one["type"] != kind] + [new]
    spec: dict[str, Any] = {"unschedulable": True} if cordoned else {}
    if taint:
        spec["taints"] = [{"key": key, "effect": "NoSchedule"} for key in taint.split()]
    return {
        "metadata": {"name": "n", "uid": "u", "labels": labels or {}},
        "spec": spec,
        "status": {"conditions": conditions},
    }


def event(reason: str, message: str = "", component: str = "", kind: str = "Node", **more: Any) -> dict[str, Any]:
    about = {"kind": kind, "name": "n", "uid": "u"}
    source = {"component": component}
    return {
        "involvedObject": about,
        "reason": reason,
        "message": message,
        "source": source,
        "firstTimestamp": SINCE,
    } | more


SPOT_GKE = {"cloud.google.com/gke-spot": "true"}
SPOT_AKS = {"kubernetes.azure.com/scalesetpriority": "spot"}
NTH = "aws-node-termination-handler"
SHUTDOWN = ("Ready", "False", "node is shutting down")

NODES: list[tuple[str, dict[str, Any], str | None, float | None, float | None, bool]] = [
    # what, node, want_source, want_deadline, want_notice_seconds, want_advice
    ("nothing", node(), None, None, None, False),
    ("eks interruption", node(taint=f"{NTH}/spot-itn"), f"taint {NTH}/spot-itn", None, 120, False),
    ("eks advice", node(taint=f"{NTH}/rebalance-recommendation"), f"taint {NTH}/rebalance-recommendation", None, None,
     True),
    ("eks interruption beats advice", node(taint=f"{NTH}/rebalance-recommendation {NTH}/spot-itn"),
     f"taint {NTH}/spot-itn", None, 120, False),
    ("gke spot", node(SPOT_GKE, taint="cloud.google.com/impending-node-termination"),
     "taint cloud.google.com/impending-node-termination", None, 30, False),
    ("gke maintenance of a GPU node", node(taint="cloud.google.com/impending-node-termination"),
     "taint cloud.google.com/impending-node-termination", None, None, False),
    ("gke maintenance by label", node({"cloud.google.com/active-node-maintenance": "ONGOING"}),
     "label cloud.google.com/active-node-maintenance", None, None, False),
    ("gke maintenance over", node({"cloud.google.com/active-node-maintenance": ""}), None, None, None, False),
    ("gke spot shuts down", node(SPOT_GKE, condition=SHUTDOWN), "condition Ready", AT + 30, 30, False),
    ("a machine of ours is shut down", node(condition=SHUTDOWN), None, None, None, False),
    ("a spot machine that somebody drains", node(SPOT_GKE, condition=SHUTDOWN, cordoned=True), None, None, None,
     False),
    ("a spot machine that the autoscaler deletes",
     node(SPOT_GKE, condition=SHUTDOWN, taint="ToBeDeletedByClusterAutoscaler"), None, None, None, False),
    ("a spot machine that fails", node(SPOT_GKE, condition=("Ready", "False", "container runtime is down")), None,
     None, None, False),
    ("aks", node(condition=("VMEventScheduled", "True", AKS)), "condition VMEventScheduled", NAMED, 30, False),
    ("aks, as of 2024", node(condition=("VMEventScheduled", "True", f"Preempt Scheduled : {DATE}")),
     "condition VMEventScheduled", NAMED, 30, False),
    ("aks without a date", node(condition=("VMEventScheduled", "True", "Preempt Scheduled: soon.")),
     "condition VMEventScheduled", AT + 30, 30, False),
    ("aks reboot", node(condition=("VMEventScheduled", "True", f"Reboot Scheduled: {DATE}")), None, None, None, False),
    ("aks freeze", node(condition=("VMEventScheduled", "True", f"Freeze Scheduled: {DATE}")), None, None, None, False),
    ("aks over", node(condition=("VMEventScheduled", "False", "VM has no scheduled event")), None, None, None, False),
    ("aks, told by nobody", node(condition=("VMEventScheduled", "Unknown", "Timeout when running plugin")), None, None,
     None, False),
    ("aks newer", node(condition=("PreemptionScheduled", "True", AKS)), "condition PreemptionScheduled", NAMED, 30,
     False),
    ("aks newer, under way", node(condition=("PreemptionScheduled", "True", "Preempt Started: .")),
     "condition PreemptionScheduled", AT, 30, False),
    ("aks newer, advice", node(condition=("PreemptionScheduled", "True", "SpotRebalanceRecommendation Advisory:")),
     "condition PreemptionScheduled", None, None, True),
    ("aks by its own condition", node(condition=("PreemptScheduled", "True", "VM has a scheduled Preempt event")),
     "condition PreemptScheduled", AT + 30, 30, False),
    ("aks repair", node(SPOT_AKS, taint="remediator.kubernetes.azure.com/unschedulable"), None, None, None, False),
    *((f"another owner's {key}", node(SPOT_AKS, taint=key), None, None, None, False) for key in sorted(OTHER_OWNERS)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "want_source", "want_deadline", "want_notice_seconds", "want_advice"),
    [case[1:] for case in NODES],
    ids=[case[0] for case in NODES],
)
def test_what_a_node_says(
    said: dict[str, Any],
    want_source: str | None,
    want_deadline: float | None,
    want_notice_seconds: float | None,
    want_advice: bool,
) -> None:
    first = next(iter(node_notices(said)), None)
    assert (first.source if first else None) == want_source
    if first is not None:
        assert (first.deadline, first.notice_seconds, first.advice) == (want_deadline, want_notice_seconds, want_advice)
        assert first.exact == (want_deadline in (NAMED, AT))


EVENTS: list[tuple[str, dict[str, Any], str | None, float | None, bool]] = [
    # what, event, want_source, want_deadline, want_advice
    ("eks", event("SpotInterruption", "Spot ITN received. Instance will be interrupted at 2026-08-03T08:18:16Z", NTH),
     "event SpotInterruption", NAMED, False),
    ("eks by its queue", event("SpotInterruption", "Spot Interruption notice for instance i-1 was sent", NTH),
     "event SpotInterruption", AT + 120, False),
    ("that reason by anybody else", event("SpotInterruption", "", "kubelet"), None, None, False),
    ("karpenter", event("SpotInterrupted", "Spot interruption warning was triggered", "karpenter"),
     "event SpotInterrupted", AT + 120, False),
    ("karpenter of a claim", event("SpotInterrupted", kind="NodeClaim"), None, None, False),
    ("karpenter of a pod", event("SpotInterrupted", kind="Pod"), None, None, False),
    ("advice", event("RebalanceRecommendation", "", NTH), "event RebalanceRecommendation", None, True),
    ("karpenter's advice", event("SpotRebalanceRecommendation"), "event SpotRebalanceRecommendation", None, True),
    ("aks", event("VMEventScheduled", f'Node condition VMEventScheduled is now: True, message: "{AKS}"'),
     "event VMEventScheduled", NAMED, False),
    ("aks over", event("NoVMEventScheduled", "Node condition VMEventScheduled is now: False"), None, None, False),
    ("aks bare", event("PreemptScheduled", "VM Scheduled for Preempt"), "event PreemptScheduled", AT + 30, False),
    ("aks with a date", event("PreemptScheduled", f"it says: Preempt Scheduled: {DATE}"), "event PreemptScheduled",
     NAMED, False),
    ("aks reboot", event("RebootScheduled", "VM Scheduled for Reboot"), None, None, False),
    ("without times", event("PreemptScheduled", "", firstTimestamp=None), "event PreemptScheduled", None, False),
    ("by its micro time", event("PreemptScheduled", "", firstTimestamp=None, eventTime="2026-08-03T08:17:37.000000Z"),
     "event PreemptScheduled", AT + 30, False),
    ("a shutdown", event("Shutdown", "Shutdown manager detected shutdown event", "kubelet"), None, None, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "want_source", "want_deadline", "want_advice"),
    [case[1:] for case in EVENTS],
    ids=[case[0] for case in EVENTS],
)
def test_what_an_event_says(
    said: dict[str, Any], want_source: str | None, want_deadline: float | None, want_advice: bool
) -> None:
    found = event_notice(said)
    assert (found.notice.source if found else None) == want_source
    if found is not None:
        assert (found.node, found.node_uid) == ("n", "u")
        assert (found.notice.deadline, found.notice.advice) == (want_deadline, want_advice)


def test_a_date_that_is_none_is_refused_and_not_guessed() -> None:
    with pytest.raises(InvalidObjectError, match="date"):
        node_notices(node(condition=("VMEventScheduled", "True", "Preempt Scheduled: Mon, 99 Foo 2026 08:18:16 GMT")))


@pytest.mark.parametrize(
    ("provider", "labels", "want_seconds"), [("eks", {}, 120.0), ("gke", SPOT_GKE, 30.0), ("aks", SPOT_AKS, 30.0)]
)
def test_the_sandbox_speaks_as_the_clouds_do(provider: str, labels: dict[str, str], want_seconds: float) -> None:
    said = notices.of(provider, node(), AT, AT + want_seconds)
    conditions = [said.condition] if said.condition is not None else []
    marked = {
        "metadata": {"name": "n", "uid": "u", "labels": labels},
        "spec": {"taints": [said.taint]},
        "status": {"conditions": conditions},
    }
    first = node_notices(marked)[0]
    assert not first.advice
    assert first.notice_seconds == want_seconds
    assert first.deadline in (None, AT + want_seconds), "a taint has no time of its own"
    told = event_notice(said.event)
    assert provider == "gke" or (told is not None and told.notice.deadline == AT + want_seconds)


def test_every_row_can_be_found_and_sources_are_few() -> None:
    assert len({(sign.place, sign.name, sign.message) for sign in SIGNS}) == len(SIGNS)
    assert not {sign.name for sign in SIGNS} & OTHER_OWNERS
    assert format_time(AT) == SINCE
