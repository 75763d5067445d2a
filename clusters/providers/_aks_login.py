"""Ways into an AKS cluster: its kubeconfig, read as the foreign text that it is, and tokens of Entra ID."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from clusters.clock import SystemClock
from scheduler.model.cloud import ClusterLogin
from scheduler.model.errors import RefusedError, TransientError

LOCAL_SECONDS: Final = 3600.0
"""A local account's token has no end; it is fetched again this often, so that a rotated one is noticed."""
_MOST_BYTES: Final = 256 * 1024
_PEM: Final = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """What is used of a kubeconfig's current context."""

    server: str
    ca_pem: bytes
    token: str = field(repr=False)
    """Empty: there is none."""
    certificate: bool
    """Whether it offers a client certificate."""
    plugin: bool
    """Whether it wants a program to be run for its token, as those of Entra-integrated clusters do."""


class _PlainLoader(yaml.SafeLoader):
    """Without aliases, which make a little text into very much data."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def read_kubeconfig(place: str, content: object) -> Kubeconfig:
    """The current context of a kubeconfig. No file that it names is opened, no program that it names is run.

    Raises: TransientError for one that cannot be understood; its text never has a part of the content.
    """
    if not isinstance(content, bytes) or not 0 < len(content) <= _MOST_BYTES:
        raise _malformed(place, f"it is empty, no base64, or longer than {_MOST_BYTES} bytes")
    try:
        document = yaml.load(content, Loader=_PlainLoader)  # noqa: S506  (a SafeLoader)  # nosec B506
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError, AttributeError, LookupError):
        # What the loader says quotes the text, which has secrets in it.
        raise _malformed(place, "it is no plain YAML") from None
    context = _named(document, "contexts", "context", _text(document, "current-context"))
    cluster = _named(document, "clusters", "cluster", _text(context, "cluster"))
    user = _named(document, "users", "user", _text(context, "user"))
    server = _text(cluster, "server")
    if not _is_https(server):
        raise _malformed(place, "its current context names no https server")
    return Kubeconfig(
        server=server,
        ca_pem=_ca_pem(place, cluster),
        token=_text(user, "token"),
        certificate=bool(_text(user, "client-certificate-data") or _text(user, "client-certificate")),
        plugin="exec" in user or "auth-provider" in user,
    )


def entra_login(place: str, config: Kubeconfig, token: Any) -> ClusterLogin:
    """By a token of Entra ID (azure-core's AccessToken). Raises: TransientError for one that is over."""
    # The token's end is told in the world's time, never in the sandbox's.
    left = float(token.expires_on) - SystemClock().now()
    if left <= 0:
        text = f"{place}: the new token ended {-left:.0f} s ago; set this machine's clock"
        raise TransientError(text, code="TokenExpired")
    return ClusterLogin(config.server, config.ca_pem, token.token, left)


def local_login(place: str, config: Kubeconfig) -> ClusterLogin:
    """By the token of a local account. Raises: RefusedError, with the remedy, where the kubeconfig has none."""
    if config.token:
        return ClusterLogin(config.server, config.ca_pem, config.token, LOCAL_SECONDS)
    if config.plugin:
        text = f"{place}: the cluster takes tokens of Entra ID only; set `login: entra`"
        raise RefusedError(text, code="EntraOnly")
    what = "a client certificate and no token" if config.certificate else "no token"
    remedy = "integrate the cluster with Entra ID (`az aks update --enable-aad`), or name a kubeconfig for the member"
    raise RefusedError(f"{place}: the cluster's user credential has {what}; {remedy}", code="NoToken")


def _malformed(place: str, what: str) -> TransientError:
    return TransientError(f"{place}: the kubeconfig in the answer is not usable: {what}", code="Malformed")


def _named(document: object, plural: str, singular: str, name: str) -> dict[Any, Any]:
    """The entry of that name in one of a kubeconfig's lists; {} where there is none."""
    entries = document.get(plural) if isinstance(document, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("name") == name and isinstance(entry.get(singular), dict):
            found: dict[Any, Any] = entry[singular]
            return found
    return {}


def _text(fields: object, key: str) -> str:
    value = fields.get(key) if isinstance(fields, dict) else None
    return value.strip() if isinstance(value, str) else ""


def _is_https(server: str) -> bool:
    try:
        parts = urlsplit(server)
        return parts.scheme == "https" and bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        return False


def _ca_pem(place: str, cluster: dict[Any, Any]) -> bytes:
    """Empty where none is told: the system's certificates then vouch for the server."""
    given = _text(cluster, "certificate-authority-data")
    if not given:
        if "certificate-authority" in cluster:
            raise _malformed(place, "its certificate authority is a file, which is not opened")
        return b""
    try:
        pem = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        raise _malformed(place, "its certificate authority is no base64") from None
    if not pem.lstrip().startswith(_PEM):
        raise _malformed(place, "its certificate authority is no PEM certificate")
    return pem
