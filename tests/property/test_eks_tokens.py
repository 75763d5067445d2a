"""Whatever reaches a cluster's API as a bearer token, the emulated AWS says yes or no, and yes only to its own."""

from __future__ import annotations

import base64

import botocore.session
from botocore.credentials import Credentials
from botocore.model import ServiceId
from botocore.signers import RequestSigner
from hypothesis import given
from hypothesis import strategies as st

from clusters.sandbox.clouds._eks_identity import Identities, new_key
from tests.contract.emulated_pools import ScriptedPools, SteppedClock, pool_spec

KEY = new_key()
IDENTITIES = Identities(ScriptedPools("eks", (pool_spec("one"),), SteppedClock()), KEY)
EVENTS = botocore.session.Session().get_component("event_emitter")  # a signer does not hold it
SIGNER = RequestSigner(
    ServiceId("STS"),
    "us-east-1",
    "sts",
    "v4",
    Credentials(KEY.access_key_id, KEY.secret_access_key),
    EVENTS,
)
NAMES = st.from_regex(r"[0-9A-Za-z][A-Za-z0-9_-]{0,99}", fullmatch=True) | st.just("burst")


def token_for(cluster: str) -> str:
    request = {
        "method": "GET",
        "url": "https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15",
        "body": {},
        "headers": {"x-k8s-aws-id": cluster},
        "context": {},
    }
    url = SIGNER.generate_presigned_url(request, "GetCallerIdentity", expires_in=60, region_name="us-east-1")
    return "k8s-aws-v1." + base64.urlsafe_b64encode(url.encode()).rstrip(b"=").decode()


@given(st.text() | st.text().map(lambda text: "k8s-aws-v1." + text))
def test_no_text_is_let_in_and_none_breaks_it(text: str) -> None:
    assert IDENTITIES.accepts_token(text) is False


@given(st.binary(max_size=200))
def test_nothing_in_base64_is_let_in_and_nothing_breaks_it(inner: bytes) -> None:
    for url in (inner, b"https://sts.us-east-1.amazonaws.com/?" + inner):
        token = "k8s-aws-v1." + base64.urlsafe_b64encode(url).rstrip(b"=").decode()
        assert IDENTITIES.accepts_token(token) is False


@given(NAMES)
def test_a_signed_token_opens_the_cluster_that_it_names(cluster: str) -> None:
    assert IDENTITIES.accepts_token(token_for(cluster)) is (cluster == "burst")


def test_a_scheme_in_other_letters_is_not_let_in() -> None:
    token = token_for("burst")
    assert IDENTITIES.accepts_token(token[:16] + "F" + token[17:]) is False  # httpS


@given(st.data())
def test_no_changed_character_goes_unnoticed(data: st.DataObject) -> None:
    token = token_for("burst")
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda char: char != token[at]))
    assert IDENTITIES.accepts_token(token) is True
    assert IDENTITIES.accepts_token(token[:at] + other + token[at + 1 :]) is False
