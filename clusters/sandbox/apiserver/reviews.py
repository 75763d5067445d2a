"""Access and token reviews: what the roles and bindings that are stored here give to whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clusters.sandbox.apiserver.authorization import Attributes, Authorizer, User
from clusters.sandbox.apiserver.failures import Json, bad_request
from clusters.sandbox.apiserver.kinds import REVIEWS

if TYPE_CHECKING:
    from clusters.sandbox.apiserver.resources import Place


def answer_review(
    place: Place, body: Any, user: User, authorizer: Authorizer, user_of: Callable[[str], User | None]
) -> Json:
    """The review with its status filled in. `user_of` tells whose a token is. Raises: StatusError 400."""
    if body is not None and not isinstance(body, dict):
        raise bad_request("the request body is not a JSON object")
    given: Json = body or {}
    spec = given.get("spec") or {}
    if not isinstance(spec, dict):
        raise bad_request("the spec is not a JSON object")
    kind = next(kind for group, _, kind, plural, _ in REVIEWS if (group, plural) == (place.group, place.plural))
    out = {
        **given,
        "apiVersion": f"{place.group}/{place.version}",
        "kind": kind,
        "metadata": {**(given.get("metadata") or {}), "creationTimestamp": None},
    }
    match kind:
        case "SelfSubjectReview":
            out["status"] = {"userInfo": _info(user)}
        case "TokenReview":
            found = user_of(str(spec.get("token") or ""))
            out["status"] = {"authenticated": found is not None, **({"user": _info(found)} if found else {})}
        case "SelfSubjectRulesReview":
            out["status"] = _rules(authorizer, user, str(spec.get("namespace") or ""))
        case "SelfSubjectAccessReview":
            out["status"] = _access(authorizer, user, spec)
        case _:
            about = User(str(spec.get("user") or ""), tuple(map(str, spec.get("groups") or ())))
            out["status"] = _access(authorizer, about, spec)
    return out


def _info(user: User) -> Json:
    return {"username": user.name, "groups": sorted(user.all_groups)}


def _access(authorizer: Authorizer, user: User, spec: Json) -> Json:
    """Raises: StatusError 400 when it names neither a resource nor a path."""
    asked, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if isinstance(path, dict):
        attributes = Attributes(str(path.get("verb") or ""), path=str(path.get("path") or ""))
    elif isinstance(asked, dict):

        def said(name: str) -> str:
            return str(asked.get(name) or "")

        resource = f"{said('resource')}/{said('subresource')}" if said("subresource") else said("resource")
        attributes = Attributes(said("verb"), said("group"), resource, said("namespace"), said("name"))
    else:
        raise bad_request("exactly one of nonResourceAttributes or resourceAttributes must be specified")
    allowed = authorizer.allows(user, attributes)
    return {"allowed": allowed, "reason": "RBAC: allowed by a binding" if allowed else ""}


def _rules(authorizer: Authorizer, user: User, namespace: str) -> Json:
    """Raises: StatusError 400 without a namespace."""
    if not namespace:
        raise bad_request("no namespace on request")
    rules = list(authorizer.rules(user, namespace))
    return {
        "resourceRules": [rule for rule in rules if "nonResourceURLs" not in rule],
        "nonResourceRules": [rule for rule in rules if "nonResourceURLs" in rule],
        "incomplete": False,
    }
