"""Emulated STS and IAM: whose keys are good, who they stand for, what those may do, and the tokens signed with them."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from aiohttp import web

from clusters.sandbox.clouds._eks_wire import ACCOUNT, AwsError, QueryHandler, listed, region_of
from clusters.sandbox.clouds.sigv4 import AccessKey, check_presigned, check_signature, claimed_scope
from clusters.sandbox.ports import EmulatedPools

_USER: Final = f"arn:aws:iam::{ACCOUNT}:user/overspill"
_TOKEN_PREFIX: Final = "k8s-aws-v1."  # noqa: S105
_TOKEN_BYTES: Final = 4096
_TOKEN_HEADER: Final = "x-k8s-aws-id"  # noqa: S105
_TOKEN_PARAMETERS: Final = frozenset(
    {
        "action",
        "version",
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-date",
        "x-amz-expires",
        "x-amz-security-token",
        "x-amz-signature",
        "x-amz-signedheaders",
    }
)
_CODES: Final = {
    # reason: (REST-JSON, Query, EC2)
    "missing": ("MissingAuthenticationTokenException", "MissingAuthenticationToken", "AuthFailure"),
    "unknown-key": ("UnrecognizedClientException", "InvalidClientTokenId", "AuthFailure"),
    "ended": ("ExpiredTokenException", "ExpiredToken", "RequestExpired"),
    "expired": ("InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure"),
    "mismatch": ("InvalidSignatureException", "SignatureDoesNotMatch", "AuthFailure"),
}


def new_key(prefix: str = "AKIA", session_token: str = "") -> AccessKey:
    return AccessKey(prefix + secrets.token_hex(8).upper(), secrets.token_urlsafe(30), session_token)


@dataclass
class _Session:
    """Temporary credentials of a role."""

    key: AccessKey
    arn: str
    ended: bool = False


class Identities:
    """The user that owns the access key, and the sessions of roles."""

    def __init__(self, pools: EmulatedPools, key: AccessKey) -> None:
        self._pools = pools
        self._key = key
        self._sessions: dict[str, _Session] = {}
        self.denied: set[str] = set()
        """Actions that nobody's policy allows, such as eks:UpdateNodegroupConfig."""

    def revoke(self) -> None:
        """No credential is good from now on."""
        self._key = new_key()
        self._sessions.clear()

    def begin_session(self, role: str) -> AccessKey:
        """Temporary credentials of `role`, good until `end_sessions`."""
        key = new_key("ASIA", secrets.token_urlsafe(60))
        self._sessions[key.access_key_id] = _Session(key, f"arn:aws:sts::{ACCOUNT}:assumed-role/{role}/sandbox")
        return key

    def end_sessions(self) -> None:
        """The temporary credentials are known still, and have expired."""
        for session in self._sessions.values():
            session.ended = True

    def authenticate(self, request: web.Request, body: bytes, *, rest: bool) -> tuple[str, str]:
        """The service that was signed for, and the access key that signed. Raises: AwsError."""
        scope = claimed_scope(request.headers)
        service = scope.service if scope is not None else ""
        session = self._sessions.get(scope.access_key_id) if scope is not None else None
        key = session.key if session is not None else self._key
        rejection = check_signature(key, request.method, request.raw_path, request.headers, body)
        column = 0 if rest else 2 if service == "ec2" else 1
        if rejection is not None:
            raise AwsError(403, _CODES[rejection.reason][column], rejection.text)
        if session is not None and session.ended:
            raise AwsError(403, _CODES["ended"][column], "The security token included in the request is expired")
        return service, key.access_key_id

    def permit(self, name: str) -> None:
        """Raises: AwsError when no policy allows the action `name`, such as eks:ListClusters."""
        if name in self.denied:
            code = {"eks": "AccessDeniedException", "ec2": "UnauthorizedOperation"}.get(name.partition(":")[0])
            message = f"User: {_USER} is not authorized to perform: {name}"
            raise AwsError(403, code or "AccessDenied", message)

    def accepts_token(self, token: str) -> bool:
        """Whether the token's presigned URL, asked of STS in this cluster's name, would be answered.

        Stricter than the real thing in two points: of the region's own STS only, and "https" in small letters.
        """
        url = _decoded(token)
        if url is None:
            return False
        try:
            parts = urlsplit(url)
            pairs = parse_qsl(parts.query, True, strict_parsing=True)
        except ValueError:
            return False
        given = {name.lower(): value for name, value in pairs}
        expires = given.get("x-amz-expires", "")
        region = region_of(self._pools)
        formed = (
            url.startswith("https://")
            and (parts.netloc, parts.path) == (f"sts.{region}.amazonaws.com", "/")
            and len(given) == len(pairs)
            and given.keys() <= _TOKEN_PARAMETERS
            and given.get("action") == "GetCallerIdentity"
            and _TOKEN_HEADER in given.get("x-amz-signedheaders", "").split(";")
            and re.fullmatch(r"\d{1,3}", expires) is not None
            and int(expires) <= 900
        )
        session = self._sessions.get(given.get("x-amz-credential", "").partition("/")[0])
        if not formed or (session is not None and session.ended):
            return False
        key = session.key if session is not None else self._key
        headers = {_TOKEN_HEADER: self._pools.cluster}
        return check_presigned(key, "GET", url, headers, region=region, service="sts") is None

    def caller(self, access_key_id: str) -> str:
        """GetCallerIdentity, which nobody can be denied."""
        session = self._sessions.get(access_key_id)
        arn, user = (session.arn, f"AROASANDBOX:{access_key_id}") if session is not None else (_USER, access_key_id)
        return f"<Arn>{arn}</Arn><UserId>{user}</UserId><Account>{ACCOUNT}</Account>"

    def actions(self) -> dict[tuple[str, str], tuple[QueryHandler, bool]]:
        """Handlers by service and action, and whether they write."""
        return {("iam", "SimulatePrincipalPolicy"): (self._simulate, False)}

    def _simulate(self, form: Mapping[str, str]) -> str:
        roles = {one.arn.split("/")[1] for one in self._sessions.values()}
        known = {_USER, *(f"arn:aws:iam::{ACCOUNT}:role/{role}" for role in roles)}
        source = form.get("PolicySourceArn", "")
        if source not in known:
            raise AwsError(404, "NoSuchEntity", f"The principal with ARN {source[:200]} cannot be found.")
        context = {
            value: form.get(key.replace("ContextKeyName", "ContextKeyValues.member.1"), "")
            for key, value in form.items()
            if re.fullmatch(r"ContextEntries\.member\.\d+\.ContextKeyName", key)
        }
        members = "".join(
            f"<member>{self._decision_xml(action, resource, context)}</member>"
            for action in listed(form, "ActionNames")
            for resource in listed(form, "ResourceArns") or ["*"]
        )
        return f"<EvaluationResults>{members}</EvaluationResults><IsTruncated>false</IsTruncated>"

    def _decision_xml(self, action: str, resource: str, context: Mapping[str, str]) -> str:
        place = f"{region_of(self._pools)}:{ACCOUNT}"
        patterns = {
            "eks:UpdateNodegroupConfig": f"arn:aws:eks:{place}:nodegroup/{self._pools.cluster}/*",
            "autoscaling:TerminateInstanceInAutoScalingGroup": (
                f"arn:aws:autoscaling:{place}:autoScalingGroup:*:autoScalingGroupName/eks-*"
            ),
        }
        tag = "aws:ResourceTag/eks:cluster-name"
        fits = fnmatch.fnmatchcase(resource, patterns.get(action, "")) and action not in self.denied
        missing = ""
        if fits and action.startswith("autoscaling:"):
            fits = context.get(tag) == self._pools.cluster
            missing = f"<member>{tag}</member>" if tag not in context else ""
        return (
            f"<EvalActionName>{escape(action)}</EvalActionName><EvalResourceName>{escape(resource)}</EvalResourceName>"
            f"<EvalDecision>{'allowed' if fits else 'implicitDeny'}</EvalDecision>"
            f"<MissingContextValues>{missing}</MissingContextValues>"
        )


def _decoded(token: str) -> str | None:
    """The URL in a token; None: it is none."""
    if len(token) > _TOKEN_BYTES or not token.startswith(_TOKEN_PREFIX) or not token.isascii():
        return None
    inner = token.removeprefix(_TOKEN_PREFIX).encode()
    try:
        url = base64.b64decode(inner + b"=" * (-len(inner) % 4), altchars=b"-_", validate=True)
        text = url.decode("ascii")
    except (binascii.Error, ValueError):
        return None
    return text if base64.urlsafe_b64encode(url).rstrip(b"=") == inner else None
