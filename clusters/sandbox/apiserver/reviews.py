"""Access and token reviews: everybody who has the token may do everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from clusters.sandbox.apiserver.failures import Json, bad_request
from clusters.sandbox.apiserver.kinds import REVIEWS

if TYPE_CHECKING:
    from clusters.sandbox.apiserver.resources import Place

_USER: Final = {"username": "sandbox-admin", "groups": ["system:masters", "system:authenticated"]}


def answer_review(place: Place, body: Any, token: str) -> Json:
    """The review with its status filled in. Raises: StatusError 400."""
    if body is not None and not isinstance(body, dict):
        raise bad_request("the request body is not a JSON object")
    given: Json = body or {}
    kind = next(kind for group, _, kind, plural, _ in REVIEWS if (group, plural) == (place.group, place.plural))
    out = {
        **given,
        "apiVersion": f"{place.group}/{place.version}",
        "kind": kind,
        "metadata": {**(given.get("metadata") or {}), "creationTimestamp": None},
    }
    match kind:
        case "SelfSubjectReview":
            out["status"] = {"userInfo": _USER}
        case "TokenReview":
            known = (given.get("spec") or {}).get("token") == token
            out["status"] = {"authenticated": known, **({"user": _USER} if known else {})}
        case "SelfSubjectRulesReview":
            rule = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            plain = {"verbs": ["*"], "nonResourceURLs": ["*"]}
            out["status"] = {"resourceRules": [rule], "nonResourceRules": [plain], "incomplete": False}
        case _:
            out["status"] = {"allowed": True, "reason": "the sandbox allows everything to its token's holder"}
    return out
