"""Alertmanager's payloads: what they become, and that nothing that is posted does more than be refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusters.clock import SystemClock
from scheduler.aiops.remediation.facts import Incident, Subject
from scheduler.daemon.incidents.alert_payloads import MAX_BYTES, alerts_of, incident_of, parse_webhook
from scheduler.daemon.incidents.alerts import AlertBook, read_token
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.errors import AuthError, InvalidObjectError

LABELS = {"alertname": "GpuLost", "severity": "page", "cluster": "eks", "node": "n1", "overspill_signal": "gpu.xid.79"}


def alert(**more: Any) -> dict[str, Any]:
    return {
        "status": "firing",
        "labels": LABELS,
        "annotations": {"summary": "gone"},
        "startsAt": "2026-03-01T12:00:00.5Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": "1a30ba71cca2921f",
        **more,
    }


def payload(*alerts: Any, **more: Any) -> bytes:
    body = {"version": "4", "status": "firing", "receiver": "overspill", "groupKey": "{}", "truncatedAlerts": 0}
    return json.dumps({**body, "alerts": list(alerts), **more}).encode()


def test_an_alert_becomes_an_incident_and_a_resolved_one_resolves_it() -> None:
    (read,) = parse_webhook(payload(alert()))
    found = incident_of(read)
    assert found == Incident(
        "alert-1a30ba71cca2921f", "gpu.xid.79", "critical", Subject("eks", None, "n1"), 1772366400.5, "open"
    )
    (resolved,) = parse_webhook(payload(alert(status="resolved", endsAt="2026-03-01T12:10:00Z")))
    assert incident_of(resolved).state == "resolved"
    assert incident_of(resolved).id == found.id


def test_what_a_rule_does_not_say_is_taken_from_the_usual_labels() -> None:
    (read,) = parse_webhook(
        payload(alert(labels={"alertname": "Hot", "Hostname": "n2", "gpu": "3", "severity": "odd"}))
    )
    found = incident_of(read)
    assert (found.kind, found.severity) == ("alert.Hot", "info")
    assert found.subject == Subject(None, None, "n2", "3")
    bare = json.loads(payload(alert()))
    del bare["alerts"][0]["fingerprint"]
    (again,) = parse_webhook(json.dumps(bare).encode())
    assert len(again.fingerprint) == 16


WRONG = [
    (b"", "the payload is not JSON"),
    (b"[]", "the payload is not a JSON object"),
    (payload(version="3"), "version '3' of the payload is not supported"),
    (payload(alerts={}), "alerts: not a list"),
    (payload(7), "alerts[0]: not an object"),
    (payload(alert(status="odd")), "alerts[0].status: 'odd' is neither"),
    (payload(alert(), alert(labels={})), "alerts[1].labels: missing"),
    (payload(alert(labels={"a": 1})), "alerts[0].labels.'a': not text"),
    (payload(alert(labels={"a": "x" * 2000})), "longer than 1024"),
    (payload(alert(labels={f"a{i}": "" for i in range(65)})), "more than 64"),
    (payload(alert(startsAt=None)), "alerts[0].startsAt: missing"),
    (payload(alert(startsAt="yesterday")), "is not an RFC 3339 time"),
    (payload(*[{}] * 1001), "alerts: more than 1000; set max_alerts"),
    (b" " * (MAX_BYTES + 1), "larger than"),
]


@pytest.mark.parametrize(("body", "want"), WRONG, ids=[want for _, want in WRONG])
def test_what_is_wrong_is_told_in_one_line(body: bytes, want: str) -> None:
    with pytest.raises(InvalidObjectError) as caught:
        parse_webhook(body)
    assert want in str(caught.value)
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KEYS = st.sampled_from(["version", "alerts", "status", "labels", "startsAt", "fingerprint", "endsAt", "annotations"])


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """A good payload with some values replaced, or bytes of it lost."""
    body = json.loads(payload(alert(), alert(status="resolved")))
    for _ in range(draw(st.integers(0, 3))):
        where = draw(st.sampled_from([body, body["alerts"][0], body["alerts"][0]["labels"]]))
        if isinstance(where, dict):
            where[draw(KEYS | st.text(max_size=5))] = draw(JSON)
        if not (isinstance(body["alerts"], list) and body["alerts"] and isinstance(body["alerts"][0], dict)):
            break
        if not isinstance(body["alerts"][0].get("labels"), dict):
            break
    data = json.dumps(body).encode("utf-8", "surrogatepass")
    cut = draw(st.integers(0, len(data)))
    return draw(st.sampled_from([data, data, data[:cut], data[:cut] + draw(st.binary(max_size=6)) + data[cut:]]))


def a_book(folder: Path) -> AlertBook:
    return AlertBook(folder / "token", SystemClock(), Telemetry())


@settings(max_examples=300, deadline=None)
@given(st.one_of(spoiled(), st.binary(max_size=200), JSON.map(lambda value: json.dumps(value).encode())))
def test_garbage_is_refused_in_one_line_and_never_more(body: bytes) -> None:
    book = AlertBook(None, SystemClock(), Telemetry())
    said, count = "", 0
    try:
        count = book.receive(body)
    except InvalidObjectError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 400
    assert len(list(book.incidents())) <= count


def test_the_book_is_bounded_and_drops_resolved_ones_first(tmp_path: Path) -> None:
    book = a_book(tmp_path)
    for start in range(0, 6000, 500):
        states = ("resolved" if number < 2000 else "firing" for number in range(start, start + 500))
        book.receive(payload(*(alert(fingerprint=f"f{start + i}", status=state) for i, state in enumerate(states))))
    found = {incident.id for incident in book.incidents()}
    assert len(found) == 5000
    assert all(f"alert-f{number}" in found for number in range(2000, 6000))


def test_only_who_has_the_token_may_post(tmp_path: Path) -> None:
    book = a_book(tmp_path)
    with pytest.raises(AuthError, match="cannot be read"):
        book.check("Bearer ")
    (tmp_path / "token").write_text("s3cret-token\n")
    book.check("Bearer s3cret-token")
    for wrong in ("", "Bearer", "Bearer ", "Bearer other", "Basic s3cret-token", "bearer s3cret-token", "\udcff"):
        with pytest.raises(AuthError, match="missing or wrong"):
            book.check(wrong)
    (tmp_path / "token").write_text("rotated")
    with pytest.raises(AuthError):
        book.check("Bearer s3cret-token")
    with pytest.raises(AuthError, match="no webhook is expected"):
        AlertBook(None, SystemClock(), Telemetry()).check("Bearer x")
    (tmp_path / "token").write_text("two words")
    with pytest.raises(AuthError, match="not a token"):
        read_token(tmp_path / "token")


def test_ours_go_out_and_do_not_come_back() -> None:
    told = [
        Incident("i1", "gpu.xid.79", "critical", Subject("eks", "p4d", "n1", "3"), 1772366400.0),
        Incident("i2", "cost.spike", "high", Subject(), 1772366400.0, "resolved"),
        Incident("alert-1", "alert.Hot", "high", Subject("eks"), 1772366400.0),
    ]
    first, second = alerts_of(told, "main", 1772366460.0)
    assert first["labels"] == {
        "alertname": "OverspillIncident", "overspill_incident": "i1", "federation": "main", "signal": "gpu.xid.79",
        "severity": "critical", "cluster": "eks", "pool": "p4d", "node": "n1", "gpu": "3",
    }  # fmt: skip
    assert (first["startsAt"], first["endsAt"]) == ("2026-03-01T12:00:00Z", "2026-03-01T12:06:00Z")
    assert second["endsAt"] == "2026-03-01T12:01:00Z"
    back = payload(alert(labels=first["labels"]))
    assert parse_webhook(back) == ()
