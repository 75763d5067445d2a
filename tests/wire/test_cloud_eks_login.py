"""Tokens for an EKS cluster's Kubernetes API: what they are made of, which ones are let in, and how they end."""

from __future__ import annotations

import base64
import datetime
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import botocore.auth
import botocore.session
import pytest
from botocore.credentials import Credentials
from botocore.signers import RequestSigner

from clusters.clock import SystemClock
from clusters.providers import eks
from clusters.sandbox.clouds.sigv4 import AccessKey
from clusters.sandbox.federation import Sandbox
from scheduler.model.errors import AuthError
from tests.wire.eks_bench import API, EksBench

HOST = "sts.us-east-1.amazonaws.com"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[EksBench]:
    made = await EksBench.start(tmp_path)
    yield made
    await made.stop()


def url_in(token: str) -> str:
    inner = token.removeprefix("k8s-aws-v1.")
    assert inner != token
    assert "=" not in inner
    return base64.urlsafe_b64decode(inner + "=" * (-len(inner) % 4)).decode()


def token_of(url: str, prefix: str = "k8s-aws-v1.") -> str:
    return prefix + base64.urlsafe_b64encode(url.encode()).rstrip(b"=").decode()


def signed_url(
    key: AccessKey,
    *,
    base: str = f"https://{HOST}/",
    action: str = "GetCallerIdentity",
    cluster: str = "burst",
    header: str = "x-k8s-aws-id",
    expires: int = 60,
    region: str = "us-east-1",
    service: str = "sts",
    more: str = "",
) -> str:
    """Really signed, by the SDK, as any client of ours could."""
    keys = Credentials(key.access_key_id, key.secret_access_key, key.session_token or None)
    emitter = botocore.session.Session().get_component("event_emitter")
    signer = RequestSigner(botocore.model.ServiceId("STS"), region, service, "v4", keys, emitter)
    request = {
        "method": "GET",
        "url": f"{base}?Action={action}&Version=2011-06-15{more}",
        "body": {},
        "headers": {header: cluster},
        "context": {},
    }
    return str(signer.generate_presigned_url(request, "GetCallerIdentity", expires_in=expires, region_name=region))


def key_of(bench: EksBench) -> AccessKey:
    text = (bench.folder / str(bench.cloud.settings["credentialsFile"])).read_text()
    return AccessKey(*(line.split(" = ")[1] for line in text.splitlines()[1:3]))


async def test_a_login_is_what_aws_eks_get_token_makes(bench: EksBench) -> None:
    login = await bench.provider().log_in()
    assert (login.server, login.ca_pem, login.lifetime_seconds) == (API.server, API.ca_pem, 840)
    url = urlsplit(url_in(login.token))
    assert (url.scheme, url.netloc, url.path) == ("https", HOST, "/"), "where the cluster asks, whoever we ask"
    asked = parse_qs(url.query)
    assert asked["Action"] == ["GetCallerIdentity"]
    assert asked["X-Amz-Expires"] == ["60"]
    assert asked["X-Amz-SignedHeaders"] == ["host;x-k8s-aws-id"]
    assert bench.cloud.request_log == ["DescribeCluster"], "a signature needs no call"
    assert bench.cloud.accepts_token(login.token)
    bench.cloud.revoke_credentials()
    assert not bench.cloud.accepts_token(login.token)


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, True),
        ({"expires": 900}, True),
        ({"expires": 901}, False),
        ({"base": "http://sts.us-east-1.amazonaws.com/"}, False),
        ({"base": "https://sts.us-east-1.amazonaws.com.evil.example/"}, False),
        ({"base": "https://sts.us-west-2.amazonaws.com/", "region": "us-west-2"}, False),
        ({"base": f"https://{HOST}/x"}, False),
        ({"region": "us-west-2"}, False),
        ({"service": "s3"}, False),
        ({"action": "GetSessionToken"}, False),
        ({"cluster": "other"}, False),
        ({"header": "x-something-else"}, False),
        ({"more": "&Extra=1"}, False),
    ],
)
async def test_only_the_right_question_in_the_clusters_name_is_let_in(
    bench: EksBench, changes: dict[str, Any], want: bool
) -> None:
    assert bench.cloud.accepts_token(token_of(signed_url(key_of(bench), **changes))) is want


@pytest.mark.parametrize(("ago_seconds", "want"), [(0, True), (14 * 60, True), (15 * 60 + 5, False), (-16 * 60, False)])
async def test_a_token_is_good_for_fifteen_minutes(
    bench: EksBench, monkeypatch: pytest.MonkeyPatch, ago_seconds: float, want: bool
) -> None:
    then = datetime.datetime.fromtimestamp(SystemClock().now() - ago_seconds, datetime.UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: then)
    assert bench.cloud.accepts_token(token_of(signed_url(key_of(bench)))) is want


async def test_a_forged_or_senseless_token_is_refused(bench: EksBench) -> None:
    key = key_of(bench)
    url = signed_url(key)
    assert bench.cloud.accepts_token(token_of(url))
    for token in (
        token_of(signed_url(AccessKey(key.access_key_id, "guess"))),
        token_of(signed_url(AccessKey("AKIASOMEBODYELSE", key.secret_access_key))),
        token_of(signed_url(AccessKey(key.access_key_id, key.secret_access_key, "token"))),
        token_of(url.replace("X-Amz-Expires=60", "X-Amz-Expires=61")),
        token_of(url + "&Action=GetCallerIdentity"),
        token_of(url, prefix="k8s-aws-v2."),
        token_of(url.rpartition("&")[0]),
        token_of(f"https://[{HOST}/?Action=GetCallerIdentity"),
        token_of(""),
        token_of("https://" + "x" * 5000),
        token_of(url) + "=",
        token_of(url) + "\u00e4",
        "k8s-aws-v1.\u2028",
        url,
        "",
    ):
        assert not bench.cloud.accepts_token(token), token[:80]


async def test_temporary_credentials_sign_tokens_that_die_with_them(bench: EksBench) -> None:
    file = bench.write_session(bench.services.identities.begin_session("burst"))
    login = await bench.provider(credentialsFile=file).log_in()
    assert "X-Amz-Security-Token" in parse_qs(urlsplit(url_in(login.token)).query)
    assert bench.cloud.accepts_token(login.token)
    bench.services.identities.end_sessions()
    assert not bench.cloud.accepts_token(login.token)


async def test_rotated_credentials_are_read_again_when_the_old_ones_expire(bench: EksBench) -> None:
    identities = bench.services.identities
    file = bench.write_session(identities.begin_session("burst"))
    provider = bench.provider(credentialsFile=file)
    assert len(await provider.list_pools()) == 2
    identities.end_sessions()
    for _ in range(2):
        with pytest.raises(AuthError) as caught:
            await provider.list_pools()
        assert caught.value.code == "ExpiredTokenException"
    bench.write_session(identities.begin_session("burst"))
    assert len(await provider.list_pools()) == 2
    assert bench.cloud.accepts_token((await provider.log_in()).token)


async def test_credentials_with_an_end_are_refreshed_before_it(bench: EksBench) -> None:
    """A credential process, as SSO and vault helpers are: the SDK asks it again in the last quarter of an hour."""
    identities = bench.services.identities

    def write(minutes: float) -> None:
        key = identities.begin_session("burst")
        end = datetime.datetime.fromtimestamp(SystemClock().now() + 60 * minutes, datetime.UTC)
        told = {
            "Version": 1,
            "AccessKeyId": key.access_key_id,
            "SecretAccessKey": key.secret_access_key,
            "SessionToken": key.session_token,
            "Expiration": end.isoformat(),
        }
        (bench.folder / "told.json").write_text(json.dumps(told))

    write(minutes=12)
    (bench.folder / "process.ini").write_text(f"[overspill]\ncredential_process = cat {bench.folder}/told.json\n")
    provider = bench.provider(credentialsFile="process.ini")
    assert len(await provider.list_pools()) == 2
    assert (await provider.log_in()).lifetime_seconds == 540, "no longer than the credentials behind it"
    identities.end_sessions()
    write(minutes=60)
    assert len(await provider.list_pools()) == 2, "refreshed without a failure"
    assert (await provider.log_in()).lifetime_seconds == 840


async def test_a_credentials_file_that_vanishes_is_still_an_auth_error(bench: EksBench) -> None:
    identities = bench.services.identities
    file = bench.write_session(identities.begin_session("burst"))
    provider = bench.provider(credentialsFile=file)
    await provider.list_pools()
    identities.end_sessions()
    (bench.folder / file).unlink()
    for _ in range(2):
        with pytest.raises(AuthError):
            await provider.list_pools()
    bench.write_session(identities.begin_session("burst"))
    with pytest.raises(AuthError):
        await provider.list_pools()  # that is when it sees that the file is back
    assert len(await provider.list_pools()) == 2


async def test_the_sandboxes_own_api_lets_the_token_in(tmp_path: Path) -> None:
    sandbox = await Sandbox.start(tmp_path / "state", speed=1200)
    try:
        name = next(plan.name for plan in sandbox.scenario.members if plan.provider == "eks")
        written = sandbox.clouds[name].settings
        settings = eks.Settings.model_validate(written, context={"base_dir": sandbox.state_dir})
        provider = eks.create(settings, clock=sandbox.clock)
        try:
            login = await provider.log_in()
        finally:
            await provider.close()
        tls = ssl.create_default_context(cadata=login.ca_pem.decode())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)) as session:
            for token, want in ((login.token, 200), (login.token + "x", 401)):
                headers = {"Authorization": f"Bearer {token}"}
                async with session.get(f"{login.server}/api/v1/nodes", headers=headers) as answer:
                    assert answer.status == want
    finally:
        await sandbox.stop()


async def test_no_credentials_no_token(bench: EksBench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.folder / "empty.ini").write_text("[overspill]\n")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    provider = bench.provider(credentialsFile="empty.ini")
    with pytest.raises(AuthError):
        await provider.log_in()
