"""What has the form of a credential is taken out of texts; what people need to read stays."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.model.errors import AuthError
from scheduler.model.secrecy import _FORMS, HIDDEN, hide, hide_in

SECRET = "s3cr3tS3cr3tS3cr3t"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJib3QifQ.c2lnbmF0dXJl"
HIDES = [
    f"401 for Authorization: Bearer {SECRET}",
    f"proxy-authorization: basic {SECRET}==",
    f"token was k8s-aws-v1.aHR0cHM6Ly{SECRET}",
    f"GET https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&X-Amz-Signature={SECRET}&x=1",
    f"X-Amz-Credential={SECRET}/20260803/us-east-1/sts/aws4_request",
    f"AWS4-HMAC-SHA256 Credential=a/b, Signature={SECRET}",
    f"grant_type=client_credentials&client_secret={SECRET}&scope=x",
    f'{{"access_token": "{SECRET}", "expires_in": 3600}}',
    f"{{'aws_secret_access_key': '{SECRET}'}}",
    f"postgresql+asyncpg://over:{SECRET}@db:5432/x",
    f"https://user:{SECRET}@prometheus:9090",
    f"https://x.blob/y?sv=1&sig={SECRET}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
    f"ya29.{SECRET}",
]
KEEPS = [
    "cluster eks: GET /api/v1/nodes: 401 Unauthorized",
    "aks: get token: invalid_client: AADSTS7000215: Invalid client secret provided.",
    "pods is forbidden: User \"system:serviceaccount:overspill:overspill\" cannot list resource \"pods\"",
    "history.url sqlite+aiosqlite:////var/lib/overspill.db: unable to open",
    "https://eks.us-east-1.amazonaws.com:443/clusters/x: no answer within 20 s",
    "provider.clientSecretFile: no such file; name a file that holds the secret",
    "annotation overspill.dev/placement cannot be read (not JSON)",
    "basic checks passed, bearer of news",
    "Basic authentication required",
]  # fmt: skip


@pytest.mark.parametrize("text", HIDES)
def test_credentials_are_hidden(text: str) -> None:
    assert SECRET not in hide(text)
    assert HIDDEN in hide(text)
    assert SECRET not in str(AuthError(text))
    assert SECRET not in repr(AuthError(text))


def test_json_web_tokens_are_hidden() -> None:
    assert hide(f"no {JWT} here") == f"no {HIDDEN} here"


@pytest.mark.parametrize("text", KEEPS)
def test_what_people_need_stays(text: str) -> None:
    assert hide(text) == text


def test_values_of_logs_are_searched_and_their_keys_too() -> None:
    said: dict[str, Any] = {
        "event": "x",
        "token": SECRET,
        "nested": [{"clientSecret": SECRET}, (f"Bearer {SECRET}",)],
        "count": 3,
        "password": None,
    }
    hidden = hide_in(said)
    assert SECRET not in str(hidden)
    assert (hidden["count"], hidden["event"], hidden["password"]) == (3, "x", None)


@given(st.text())
def test_hiding_twice_hides_nothing_more(text: str) -> None:
    assert hide(hide(text)) == hide(text)


_PIECES = st.sampled_from(
    [*HIDES, *KEEPS, "BEARER ", "ba\u017f\u0131c ", "SIG=", "Token=x", SECRET, "'token' : 'x y'", "a://b:c@d"]
)


@given(st.lists(_PIECES | st.text(max_size=5), max_size=5).map("".join))
def test_no_form_is_missed_for_want_of_a_needle(text: str) -> None:
    every = text
    for _needles, form, replacement in _FORMS:
        every = form.sub(replacement, every)
    assert hide(text) == every
