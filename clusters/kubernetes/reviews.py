"""Asking a cluster who a caller is (TokenReview) and what that user may do there (SubjectAccessReview)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import orjson

from scheduler.model.errors import TransientError

_TOKENS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_ACCESS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class Exchange(Protocol):
    """The part of `HttpKubeApi` that is needed here."""

    name: str

    async def exchange(self, method: str, path: str, body: bytes | None = None) -> tuple[bytes, Mapping[str, str]]: ...


@dataclass(frozen=True, slots=True)
class KubeUser:
    """Who a token stands for, as the cluster says."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody wants to do to a resource."""

    verb: str
    group: str
    resource: str
    namespace: str = ""
    """Empty: in all namespaces."""
    name: str = ""
    """Empty: any."""

    def __str__(self) -> str:
        qualified = f"{self.resource}.{self.group}" if self.group else self.resource
        where = f" in {self.namespace}" if self.namespace else " in all namespaces"
        return f"{self.verb} {qualified}{' ' + self.name if self.name else ''}{where}"


async def who_is(api: Exchange, token: str) -> KubeUser | None:
    """Whose token it is; None: nobody's. Raises: ExternalError when the cluster cannot be asked."""
    status = await _review(api, _TOKENS, "authentication.k8s.io/v1", "TokenReview", {"token": token})
    user = status.get("user")
    if status.get("authenticated") is not True:
        return None
    if not isinstance(user, dict) or not isinstance(user.get("username"), str) or not user["username"]:
        raise TransientError(f"cluster {api.name}: POST {_TOKENS}: no word on who that is", code="Malformed")
    extra = user.get("extra")
    return KubeUser(
        user["username"],
        str(user.get("uid") or ""),
        _texts(user.get("groups")),
        tuple((str(key), _texts(values)) for key, values in (extra if isinstance(extra, dict) else {}).items()),
    )


async def may_do(api: Exchange, user: KubeUser, wanted: Wanted) -> bool:
    """Whether the user may do it there. Raises: ExternalError when the cluster cannot be asked."""
    asked = {
        "verb": wanted.verb,
        "group": wanted.group,
        "resource": wanted.resource,
        "namespace": wanted.namespace,
        "name": wanted.name,
    }
    spec: dict[str, Any] = {
        "user": user.name,
        "groups": list(user.groups),
        "resourceAttributes": {key: value for key, value in asked.items() if value},
    }
    if user.uid:
        spec["uid"] = user.uid
    if user.extra:
        spec["extra"] = {key: list(values) for key, values in user.extra}
    status = await _review(api, _ACCESS, "authorization.k8s.io/v1", "SubjectAccessReview", spec)
    return status.get("allowed") is True and status.get("denied") is not True


async def _review(api: Exchange, path: str, version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    body = orjson.dumps({"apiVersion": version, "kind": kind, "metadata": {}, "spec": spec})
    answer, _ = await api.exchange("POST", path, body)
    try:
        parsed = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise TransientError(f"cluster {api.name}: POST {path}: the answer is no JSON", code="Malformed") from error
    status = parsed.get("status") if isinstance(parsed, dict) and parsed.get("kind") == kind else None
    if not isinstance(status, dict):
        raise TransientError(f"cluster {api.name}: POST {path}: the answer is no {kind}", code="Malformed")
    return status


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values) if isinstance(values, list) else ()
