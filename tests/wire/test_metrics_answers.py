"""The Prometheus source against servers that check credentials strictly, and against ones that answer badly."""

from __future__ import annotations

import asyncio
import base64
import gzip
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clusters.sandbox.clouds.certificates import make_server_certificate
from clusters.sandbox.clouds.sigv4 import AccessKey, check_signature
from scheduler.model.errors import InvalidObjectError
from scheduler.model.metrics import ABSENT, FAILED, OK, STALE
from tests.builders.metrics_world import (
    NOW,
    Answer,
    Seen,
    SetClock,
    fixed,
    opened,
    query,
    read_one,
    serving,
    source,
    vector,
)

GOOD = vector(({"node": "a"}, NOW, "0.5"))
SECRET = "s3cr3t-Passw0rd"  # a test's own


def strict(allows: Callable[[Seen], bool]) -> Answer:
    """401 unless `allows`; the refusal repeats what came, as careless servers do."""

    async def answer(seen: Seen) -> web.StreamResponse:
        assert seen.raw_path.split("?")[0] == "/api/v1/query"
        if not allows(seen):
            return web.Response(status=401, text=f"refused: {seen.headers}")
        return web.Response(body=GOOD, content_type="application/json")

    return answer


# Credentials


async def test_a_bearer_token_is_read_anew_for_each_request(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{SECRET}\n")
    expected = [f"Bearer {SECRET}"]
    answer = strict(lambda seen: seen.headers.get("Authorization") == expected[0])
    async with serving(answer) as url, opened("prometheus", url=url, bearerTokenFile=str(path)) as made:
        assert (await read_one(made)).state == OK
        expected[0] = "Bearer rotated"
        refused = await read_one(made)
        assert (refused.state, refused.samples) == (FAILED, ())
        assert refused.error == "HTTP 401: not logged in or not permitted; check the credentials"
        path.write_text("rotated")
        assert (await read_one(made)).state == OK
        path.unlink()
        missing = await read_one(made)
        assert missing.error == f"bearer token file {path}: cannot be read (No such file or directory)"
        path.write_text(f"{SECRET}\nX-Evil: 1")
        assert "not plain text" in (bad := await read_one(made)).error
        assert SECRET not in repr(bad)


async def test_a_relative_token_path_starts_at_the_federation_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    async with serving(strict(lambda seen: seen.headers.get("Authorization") == f"Bearer {SECRET}")) as url:
        made = source("prometheus", SetClock(), base_dir=tmp_path, url=url, bearerTokenFile="token")
        try:
            assert (await read_one(made)).state == OK
        finally:
            await made.close()


async def test_name_and_password(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text(SECRET)
    want = "Basic " + base64.b64encode(f"overspill:{SECRET}".encode()).decode()
    auth = {"username": "overspill", "passwordFile": str(tmp_path / "pw")}
    async with serving(strict(lambda seen: seen.headers.get("Authorization") == want)) as url:
        async with opened("prometheus", url=url, basicAuth=auth) as made:
            assert (await read_one(made)).state == OK
        async with opened("prometheus", url=url, basicAuth={**auth, "username": "other"}) as made:
            assert (await read_one(made)).state == FAILED


@pytest.mark.parametrize("status", [200, 400, 401, 503])
async def test_a_server_that_repeats_our_credentials_does_not_make_us_tell_them(tmp_path: Path, status: int) -> None:
    (tmp_path / "pw").write_text(SECRET)
    settings: dict[str, Any] = {
        "basicAuth": {"username": "overspill", "passwordFile": str(tmp_path / "pw")},
        "headers": {"X-Api-Key": f"key-{SECRET}"},
    }

    async def parrot(seen: Seen) -> web.StreamResponse:
        text = f"{'x' * 150} {SECRET} {seen.headers}"
        document: dict[str, Any] = {"status": "error", "errorType": "bad_data", "error": text}
        if seen.form["query"] == "warned":
            document = {"status": "success", "warnings": [text], "data": {"resultType": "vector", "result": []}}
        return web.json_response(document, status=status)

    async with serving(parrot) as url, opened("prometheus", url=url, **settings) as made:
        readings = await made.read([query(), query("warned", promql="warned")])
    assert all("***" in reading.error for reading in readings[: 2 if status == 200 else 1])
    for reading in readings:
        assert SECRET not in repr(reading)
        assert base64.b64encode(f"overspill:{SECRET}".encode()).decode()[:20] not in repr(reading)


async def test_further_headers(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET)
    allows = lambda seen: (seen.headers.get("X-Scope-OrgID"), seen.headers.get("X-Api-Key")) == ("team", SECRET)  # noqa: E731
    settings: dict[str, Any] = {
        "headers": {"X-Scope-OrgID": "team"},
        "headerFiles": {"X-Api-Key": str(tmp_path / "key")},
    }
    async with serving(strict(allows)) as url:
        async with opened("prometheus", url=url, **settings) as made:
            assert (await read_one(made)).state == OK
        async with opened("prometheus", url=url) as made:
            assert (await read_one(made)).state == FAILED


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_aws_signature_is_right_for_query_and_body(
    method: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    scopes: list[str] = []

    def allows(seen: Seen) -> bool:
        scopes.append(seen.headers.get("Authorization", ""))
        key = AccessKey("AKIDEXAMPLE", SECRET)
        return check_signature(key, seen.method, seen.raw_path, seen.request.headers, seen.body) is None

    async with serving(strict(allows)) as url:
        settings: dict[str, Any] = {"sigv4": {"region": "eu-west-1"}, "method": method}
        async with opened("prometheus", url=url, **settings) as made:
            reading = await read_one(made, query(promql='x{a="b c/é+~*"} > 0'))
    assert (reading.state, reading.error) == (OK, "")
    assert "/eu-west-1/aps/aws4_request" in scopes[0]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    async with serving(strict(allows)) as url, opened("prometheus", url=url, **settings) as made:
        assert (await read_one(made)).state == FAILED


async def test_aws_credentials_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    async with serving(fixed(GOOD)) as url, opened("prometheus", url=url, sigv4={"region": "eu-west-1"}) as made:
        assert (await read_one(made)).error == "AWS credentials: none found; give the pod a role or name a profile"


def _client_certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "overspill")])
    start, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2049, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(7).not_valid_before(start).not_valid_after(end)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    cert_file, key_file = folder / "client.pem", folder / "client.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    key_file.write_bytes(pem)
    return cert_file, key_file


async def test_certificates_of_both_sides(tmp_path: Path) -> None:
    server = make_server_certificate(tmp_path, "prometheus")
    cert_file, key_file = _client_certificate(tmp_path)
    context = server.tls_context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cert_file)
    mutual: dict[str, Any] = {"caFile": str(server.ca_file), "certFile": str(cert_file), "keyFile": str(key_file)}
    async with serving(fixed(GOOD), tls=context) as url:
        async with opened("prometheus", url=url, **mutual) as made:
            assert (await read_one(made)).state == OK
        async with opened("prometheus", url=url, caFile=str(server.ca_file)) as made:
            assert (await read_one(made)).state == FAILED
        async with opened("prometheus", url=url) as made:
            assert (await read_one(made)).error.startswith("TLS failed (")


def test_certificates_that_cannot_be_used_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(InvalidObjectError, match=r"metrics of east: TLS files cannot be used \(.*\): .*ca\.pem"):
        source("prometheus", SetClock(), url="https://p", caFile=str(tmp_path / "ca.pem"))


# Bad answers


def _json(**document: Any) -> bytes:
    return orjson.dumps(document)


def _data(kind: str, result: Any) -> bytes:
    return _json(status="success", data={"resultType": kind, "result": result})


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        (fixed(b"", status=429, headers={"Retry-After": "7"}), "HTTP 429"),
        (fixed(b"overloaded", status=503), "HTTP 503"),
        (fixed(_json(status="error", errorType="timeout", error="late"), status=503), "query failed: timeout: late"),
        (fixed(_json(status="error", errorType="internal", error="x\ny\x1b[31m" + "z" * 999)), "internal: x y [31mzzz"),
        (fixed(b"<html>", status=404), "HTTP 404: no query API there; check the URL and its path"),
        (fixed(b"<html>log in</html>"), "does not answer as a Prometheus API does (not JSON)"),
        (fixed(b""), "(not JSON)"),
        (fixed(b"[1]"), "(no JSON object)"),
        (fixed(b"{}"), "(no status)"),
        (fixed(_json(status="success")), "(no data)"),
        (fixed(_data("vector", None)), "(a vector that is no list)"),
        (fixed(_data("vector", [{"value": [1, "1"]}])), "(a series without labels)"),
        (fixed(_data("vector", [{"metric": {"a": 1}, "value": [1, "1"]}])), "(a label that is no text)"),
        (fixed(_data("vector", [{"metric": {}, "value": [1, 1]}])), "(a sample that is not [time, value])"),
        (fixed(_data("vector", [{"metric": {}, "value": [NOW, "1_0"]}])), "(a value that is no number)"),
        (fixed(_data("matrix", [])), "answers 'matrix'"),
        (fixed(b"x" * 5000), "answers with more than 4096 bytes"),
        (fixed(gzip.compress(b" " * 50_000_000), headers={"Content-Encoding": "gzip"}), "more than 4096 bytes"),
        (fixed(b"no gzip", headers={"Content-Encoding": "gzip"}), "request failed ("),
        (fixed(b"", status=302, headers={"Location": "http://elsewhere.example/"}), "redirects to elsewhere.example"),
        (fixed(b"", status=307, headers={"Location": "/graph"}), "redirects to the same host, which is not followed"),
    ],
)  # fmt: skip
async def test_bad_answers_are_failed_readings(answer: Answer, want: str) -> None:
    requests = []

    async def counted(seen: Seen) -> web.StreamResponse:
        requests.append(seen)
        return await answer(seen)

    async with serving(counted) as url, opened("prometheus", url=url, maxAnswerBytes=4096) as made:
        reading = await read_one(made)
    assert (reading.state, reading.samples) == (FAILED, ())
    assert want in reading.error
    assert reading.error.isprintable()
    assert len(reading.error) <= 300
    assert len(requests) == 1, "nothing is repeated"


async def test_a_server_that_closes_the_connection_or_is_not_there() -> None:
    async def hang_up(seen: Seen) -> web.StreamResponse:
        assert seen.request.transport is not None
        seen.request.transport.close()
        return web.Response()

    async with serving(hang_up) as url, opened("prometheus", url=url) as made:
        assert (await read_one(made)).error.startswith("cannot connect (")
    async with opened("prometheus", url=url) as made:
        assert (await read_one(made)).error == "cannot connect (Connection refused)"


async def test_slow_and_trickling_answers_end_in_time() -> None:
    released = asyncio.Event()

    async def slow(seen: Seen) -> web.StreamResponse:
        if seen.form["query"] == "silent":
            await released.wait()
            return web.Response()
        response = web.StreamResponse()
        await response.prepare(seen.request)
        while not released.is_set():
            await response.write(b" ")
            await asyncio.sleep(0.02)
        return response

    settings: dict[str, Any] = {"readTimeoutSeconds": 0.2, "connectTimeoutSeconds": 0.2, "roundLimitSeconds": 5}
    async with serving(slow) as url, opened("prometheus", url=url, **settings) as made:
        silent, trickle = await made.read([query(promql="silent"), query(promql="trickle")])
        released.set()
    assert silent.error == "no answer in time"
    assert trickle.error == "no whole answer within 1.5 s"


async def test_one_bad_query_spoils_no_other_and_order_is_kept() -> None:
    async def mixed(seen: Seen) -> web.StreamResponse:
        number = int(seen.form["query"])
        if number % 3 == 0:
            return web.Response(status=500)
        return web.Response(body=vector(({"node": str(number)}, NOW, str(number))), content_type="application/json")

    async with serving(mixed) as url, opened("prometheus", url=url, threads=3) as made:
        readings = await made.read([query(f"q{n}", promql=str(n)) for n in range(20)])
    assert [reading.metric for reading in readings] == [f"q{n}" for n in range(20)]
    for number, reading in enumerate(readings):
        want = None if number % 3 == 0 else float(number)
        assert (reading.state == FAILED) == (want is None)
        assert [sample.value for sample in reading.samples] == ([] if want is None else [want])


async def test_warnings_and_odd_samples_are_told() -> None:
    rows = [
        {"metric": {"node": "a"}, "value": [NOW, "1"]},
        {"metric": {"node": "b"}, "value": [NOW, "NaN"]},
        {"metric": {"node": "c"}, "value": [NOW, "+Inf"]},
        {"metric": {"node": "d"}, "value": [NOW, "9.3e18"]},
        {"metric": {"node": "e"}, "histogram": [NOW, {}]},
    ]
    body = _json(status="success", warnings=["store 3 is away"], data={"resultType": "vector", "result": rows})
    async with serving(fixed(body)) as url, opened("prometheus", url=url) as made:
        reading = await read_one(made, query(most=1e9))
    assert reading.state == OK
    assert [sample.labels for sample in reading.samples] == [(("node", "a"),)]
    assert "store 3 is away" in reading.error
    assert "1 native histograms left out" in reading.error
    assert "3 samples dropped" in reading.error


@pytest.mark.parametrize(
    ("skew", "sampled", "want"),
    [
        (0.0, -10.0, OK),
        (5000.0, -10.0, OK),  # the server's clock is ahead: what counts is how long before its own now
        (-5000.0, -10.0, OK),
        (0.0, -121.0, STALE),
        (5000.0, -121.0, STALE),
        (0.0, 9999.0, ABSENT),  # sampled in the future: not believed
        (0.0, -NOW - 5, ABSENT),  # before 1970
    ],
)
async def test_ages_are_taken_by_the_servers_clock(skew: float, sampled: float, want: str) -> None:
    server_now = NOW + skew
    body = vector(
        ({"node": "a", "overspill_part": "value"}, server_now, "1"),
        ({"node": "a", "overspill_part": "time"}, server_now, repr(server_now + sampled)),
    )
    async with serving(fixed(body)) as url, opened("prometheus", url=url) as made:
        reading = await read_one(made)
    assert reading.state == want
    if want != ABSENT:
        assert reading.newest_at == pytest.approx(NOW + sampled, abs=0.01)


async def test_selector_and_window_are_filled_in_and_the_query_is_in_the_body() -> None:
    seen: list[Seen] = []

    async def answer(one: Seen) -> web.StreamResponse:
        seen.append(one)
        return web.Response(body=GOOD, content_type="application/json")

    settings: dict[str, Any] = {"selector": {"cluster": 'e"1', "az": "x"}, "rateWindowSeconds": 60}
    async with serving(answer) as url, opened("prometheus", url=f"{url}/prom/", **settings) as made:
        await read_one(made, query(promql="rate(x{$selector}[$window])"))
    assert seen[0].raw_path == "/prom/api/v1/query"
    assert seen[0].form == {"query": 'rate(x{az="x",cluster="e\\"1"}[60s])'}


# Settings


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"url": "ftp://x"}, "not an http or https URL"),
        ({"url": f"http://me:{SECRET}@x"}, "holds a user name"),
        ({"url": "http://x", "bearerTokenFile": "a", "sigv4": {"region": "eu-west-1"}}, "write one of"),
        ({"url": "http://x", "certFile": "a"}, "go together"),
        ({"url": "http://x", "headers": {"Authorization": SECRET}}, "is set by Overspill"),
        ({"url": "http://x", "headers": {"X-A": f"{SECRET}\nEvil: 1"}}, "no header may hold"),
        ({"url": "http://x", "selector": {"a-b": "c"}}, "no name of a label"),
        ({"url": "http://x?a=b"}, "url holds a query"),
        ({"url": "http://x", "methd": "GET"}, "Extra inputs"),
    ],
)
def test_wrong_settings_are_told_without_their_secrets(settings: dict[str, Any], want: str) -> None:
    with pytest.raises(ValueError, match=want) as caught:
        source("prometheus", SetClock(), **settings)
    assert all(SECRET not in error["msg"] for error in caught.value.errors())  # type: ignore[attr-defined]


def test_no_secret_in_the_repr_of_settings() -> None:
    from clusters.metrics.prometheus import Settings

    made = Settings.model_validate({"type": "prometheus", "url": "http://x", "headers": {"X-Api-Key": SECRET}})
    assert SECRET not in repr(made) + str(made) + made.model_dump_json()
