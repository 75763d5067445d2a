"""Who may do what: the requests' attributes, and RBAC over the Role and Binding objects that this server stores.

Members of system:masters may do everything, as in every cluster; everybody else what bindings give them, and what the
API server's own defaults give to every authenticated user (system:discovery, system:basic-user). Source: the Kubernetes
documentation, "Authorization Overview" (verbs of requests) and "Using RBAC Authorization".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from clusters.sandbox.apiserver.failures import Json, StatusError

if TYPE_CHECKING:
    from clusters.sandbox.apiserver.registry import Registry
    from clusters.sandbox.apiserver.resources import Place

MASTERS: Final = "system:masters"
AUTHENTICATED: Final = "system:authenticated"
_ACCOUNT: Final = "system:serviceaccount:"
_GROUP: Final = "rbac.authorization.k8s.io"
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}
_EVERYBODYS: Final[tuple[Json, ...]] = (
    {
        "verbs": ["create"],
        "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
    },
    {"verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"]},
    {
        "verbs": ["get"],
        "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*",
                            "/readyz", "/version", "/version/"],
    },
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class User:
    """Who a token stands for."""

    name: str
    groups: tuple[str, ...] = ()

    @property
    def all_groups(self) -> frozenset[str]:
        """With those that every user, and every service account, belongs to."""
        found = {*self.groups, AUTHENTICATED}
        if self.name.startswith(_ACCOUNT):
            found |= {"system:serviceaccounts", f"system:serviceaccounts:{self.name.split(':')[2]}"}
        return frozenset(found)


ADMIN: Final = User("sandbox-admin", (MASTERS,))


@dataclass(frozen=True, slots=True, order=True)
class Attributes:
    """What one request asks to do. `path` is set for what is no resource, and the rest then empty."""

    verb: str
    group: str = ""
    resource: str = ""
    """Plural, with its subresource: "jobs", "jobs/status"."""
    namespace: str = ""
    """Empty: cluster-scoped, or all namespaces."""
    name: str = ""
    path: str = ""


def attributes_of(method: str, place: Place, *, watch: bool) -> Attributes:
    """Those of a request on a resource."""
    if method in ("GET", "HEAD"):
        verb = "watch" if watch else "get" if place.name else "list"
    elif method == "DELETE":
        verb = "delete" if place.name else "deletecollection"
    else:
        verb = _VERBS.get(method, method.lower())
    resource = f"{place.plural}/{place.subresource}" if place.subresource else place.plural
    namespace = place.namespace or (place.name if (place.group, place.plural) == ("", "namespaces") else "")
    return Attributes(verb, place.group, resource, namespace, place.name)


def refusal(user: User, asked: Attributes) -> StatusError:
    """403, in the words of the real server."""
    if asked.path:
        text = f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"'
        return StatusError(403, "Forbidden", text)
    where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    plural = asked.resource.partition("/")[0]
    qualified = f"{plural}.{asked.group}" if asked.group else plural
    subject = f'{qualified} "{asked.name}"' if asked.name else qualified
    text = (
        f'{subject} is forbidden: User "{user.name}" cannot {asked.verb} resource "{asked.resource}" '
        f'in API group "{asked.group}" {where}'
    )
    details = {"kind": plural, **({"name": asked.name} if asked.name else {})}
    return StatusError(403, "Forbidden", text, details={**details, **({"group": asked.group} if asked.group else {})})


class Authorizer:
    """Decides by the bindings that are stored now."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def allows(self, user: User, asked: Attributes) -> bool:
        if MASTERS in user.groups:
            return True
        return any(_permits(rule, asked) for rule in self.rules(user, asked.namespace))

    def rules(self, user: User, namespace: str) -> Iterator[Json]:
        """Every rule that holds for the user in the namespace ("": in all of them)."""
        if MASTERS in user.groups:
            yield {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
            yield {"verbs": ["*"], "nonResourceURLs": ["*"]}
            return
        yield from _EVERYBODYS
        for binding in self._objects("clusterrolebindings", ""):
            if _binds(binding, user):
                yield from self._role_rules("", binding["roleRef"])
        if namespace:
            for binding in self._objects("rolebindings", namespace):
                if _binds(binding, user):
                    yield from self._role_rules(namespace, binding["roleRef"])

    def _role_rules(self, namespace: str, reference: Mapping[str, Any]) -> Iterator[Json]:
        plural = "roles" if reference.get("kind") == "Role" else "clusterroles"
        entry = self._registry.store.get((_GROUP, plural), namespace if plural == "roles" else "", reference["name"])
        if entry is not None:
            yield from entry.obj.get("rules") or ()

    def _objects(self, plural: str, namespace: str) -> Iterable[Json]:
        return [entry.obj for entry in self._registry.store.entries((_GROUP, plural), namespace)]


def _binds(binding: Mapping[str, Any], user: User) -> bool:
    for subject in binding.get("subjects") or ():
        match subject.get("kind"):
            case "User" if subject.get("name") == user.name:
                return True
            case "Group" if subject.get("name") in user.all_groups:
                return True
            case "ServiceAccount" if f"{_ACCOUNT}{subject.get('namespace')}:{subject.get('name')}" == user.name:
                return True
    return False


def _permits(rule: Mapping[str, Any], asked: Attributes) -> bool:
    if not _has(rule.get("verbs"), asked.verb):
        return False
    if asked.path:
        return any(_covers(pattern, asked.path) for pattern in rule.get("nonResourceURLs") or ())
    names = rule.get("resourceNames") or ()
    return (
        _has(rule.get("apiGroups"), asked.group)
        and _has_resource(rule.get("resources") or (), asked.resource)
        and (not names or asked.name in names)
    )


def _has(values: Iterable[str] | None, wanted: str) -> bool:
    found = values or ()
    return "*" in found or wanted in found


def _has_resource(resources: Iterable[str], wanted: str) -> bool:
    subresource = wanted.partition("/")[2]
    return _has(resources, wanted) or bool(subresource and f"*/{subresource}" in resources)


def _covers(pattern: str, path: str) -> bool:
    return path.startswith(pattern[:-1]) if pattern.endswith("*") else path == pattern
