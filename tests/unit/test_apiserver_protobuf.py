"""Protobuf bodies of the emulated API server: what is not understood is refused, never dropped, never a crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.sandbox.apiserver.failures import StatusError
from clusters.sandbox.apiserver.protobuf import decode


def field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | 2, len(payload)]) + payload


def envelope(api_version: str, kind: str, body: bytes) -> bytes:
    meta = field(1, api_version.encode()) + field(2, kind.encode())
    return b"k8s\x00" + field(1, meta) + field(2, body)


META = field(1, field(1, b"c") + field(2, b"") + field(8, b"") + bytes([7 << 3, 0]))


def test_a_config_map() -> None:
    body = META + field(2, field(1, b"a") + field(2, b"b")) + field(3, field(1, b"x") + field(2, b"\x00")) + b"\x20\x01"
    assert decode(envelope("v1", "ConfigMap", body)) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c", "generation": 0},
        "data": {"a": "b"},
        "binaryData": {"x": "AA=="},
        "immutable": True,
    }


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        (b"{}", 400),
        (envelope("v1", "Node", META), 415),
        (envelope("v1", "ConfigMap", META + field(14, b"x")), 415),
        (envelope("v1", "ConfigMap", field(1, b"\xff")), 400),
        (envelope("v1", "ConfigMap", b"\x12\x7f"), 400),
        (envelope("v1", "ConfigMap", b"\x08\x01"), 400),
        (envelope("v1", "ConfigMap", b"\x15\x00\x00\x00\x00"), 400),
        (envelope("v1", "ConfigMap", field(1, field(1, b"\xff"))), 400),
        (envelope("v1", "ConfigMap", b"\xff" * 20), 400),
    ],
)
def test_what_is_refused(raw: bytes, want: int) -> None:
    with pytest.raises(StatusError) as refusal:
        decode(raw)
    assert refusal.value.code == want


@given(st.binary(max_size=60), st.sampled_from(["ConfigMap", "Job", "Deployment", "Eviction"]))
def test_any_bytes_are_read_or_refused(body: bytes, kind: str) -> None:
    raw = b"k8s\x00" + field(1, field(2, kind.encode())) + field(2, body)
    try:
        assert decode(raw)["kind"] == kind
    except StatusError as error:
        assert error.code in (400, 415)  # noqa: PT017
