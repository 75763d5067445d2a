"""The way into an EKS cluster's Kubernetes API: a presigned question to STS, which the cluster asks in our name.

Source: the token format of aws-iam-authenticator ("How does it work?", API authorization from outside a cluster) and of
`aws eks get-token`: `k8s-aws-v1.` and the URL in unpadded base64url, for STS GetCallerIdentity in the cluster's region,
with the cluster's name in the signed header `x-k8s-aws-id`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from botocore.credentials import RefreshableCredentials
from botocore.exceptions import NoCredentialsError
from botocore.signers import RequestSigner

from clusters.providers._eks_calls import AwsCalls
from clusters.providers._eks_errors import translated
from scheduler.model.cloud import ClusterLogin
from scheduler.model.errors import TransientError

_PREFIX: Final = "k8s-aws-v1."
_PRESIGNED_SECONDS: Final = 60
"""Says the URL; STS lets one in for 15 minutes from its date, whatever it says."""
_LIFETIMES: Final = (840.0, 540.0, 240.0, 60.0)
"""15 minutes less one for skewed clocks, as `aws eks get-token` reckons; less where the credentials end before that."""


async def log_in(aws: AwsCalls, cluster: Mapping[str, Any]) -> ClusterLogin:
    """A way into `cluster`, as DescribeCluster tells it. Raises: ExternalError."""
    name, server = cluster["name"], cluster.get("endpoint")
    if not server:
        raise TransientError(f"eks: {name} has no endpoint yet; its status is {cluster.get('status')}", code="NotReady")
    try:
        ca_pem = base64.b64decode((cluster.get("certificateAuthority") or {}).get("data") or "", validate=True)
    except binascii.Error as error:
        raise TransientError(f"eks: {name}: its certificate authority is no base64", code="Malformed") from error
    token, lifetime_seconds = await aws.blocking.run("presign", lambda: _token(aws, name))
    return ClusterLogin(server=server, ca_pem=ca_pem, token=token, lifetime_seconds=lifetime_seconds)


def _token(aws: AwsCalls, cluster: str) -> tuple[str, float]:
    """The token, and for how many seconds it is good. Blocks while credentials are fetched. Raises: AuthError."""
    return translated("presign GetCallerIdentity", lambda: _presign(aws, cluster), writes=False)


def _presign(aws: AwsCalls, cluster: str) -> tuple[str, float]:
    # The cluster asks STS, not we: the public address of the region's STS counts, and no endpoint setting of ours.
    client = aws.clients.get("sts-regional")
    credentials = aws.clients.credentials()
    if credentials is None:
        raise NoCredentialsError
    model = client.meta.service_model
    signer = RequestSigner(
        model.service_id, client.meta.region_name, model.signing_name, "v4", credentials, client.meta.events
    )
    url = signer.generate_presigned_url(
        {
            "method": "GET",
            "url": f"{client.meta.endpoint_url}/?Action=GetCallerIdentity&Version={model.api_version}",
            "body": {},
            "headers": {"x-k8s-aws-id": cluster},
            "context": {},
        },
        operation_name="GetCallerIdentity",
        expires_in=_PRESIGNED_SECONDS,
        region_name=client.meta.region_name,
    )
    token = _PREFIX + base64.urlsafe_b64encode(url.encode()).rstrip(b"=").decode()
    return token, _lifetime(credentials)


def _lifetime(credentials: Any) -> float:
    """A signature dies with the session whose key made it."""
    if not isinstance(credentials, RefreshableCredentials):
        return _LIFETIMES[0]
    return next((one for one in _LIFETIMES if not credentials.refresh_needed(one + 60)), _LIFETIMES[-1])
