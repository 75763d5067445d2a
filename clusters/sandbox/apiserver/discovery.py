"""Discovery documents: which groups, versions and resources this server has, plain and aggregated."""

from __future__ import annotations

from typing import Final

import orjson
from aiohttp import web

from clusters.sandbox.apiserver import schema
from clusters.sandbox.apiserver.failures import Json
from clusters.sandbox.apiserver.kinds import REVIEWS, VERBS, Kind, KindTable
from clusters.sandbox.apiserver.wire import Wire, accepts, json_response

_MINOR: Final = schema.VERSION.partition(".")[2]
VERSION_INFO: Final[Json] = {
    "major": "1",
    "minor": _MINOR,
    "gitVersion": f"v{schema.VERSION}.0+overspill-sandbox",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "none",
    "compiler": "cpython",
    "platform": "emulated/emulated",
}
_AGGREGATED: Final = "APIGroupDiscoveryList"
_AGGREGATED_TYPE: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_STATUS_VERBS: Final = ("get", "patch", "update")
_SUBRESOURCES: Final[dict[str, tuple[str, str, tuple[str, ...]]]] = {
    # subresource: (api version of its kind, its kind, verbs); "" means the resource's own
    "status": ("", "", _STATUS_VERBS),
    "scale": ("autoscaling/v1", "Scale", _STATUS_VERBS),
    "binding": ("", "Binding", ("create",)),
    "eviction": ("policy/v1", "Eviction", ("create",)),
    "log": ("", "Pod", ("get",)),
    "finalize": ("", "Namespace", ("update",)),
}


def answer(kinds: KindTable, path: str, wire: Wire) -> web.Response | None:
    """The document at `path`; None when that is no discovery path."""
    parts = path.strip("/").split("/")
    if path in ("/api", "/apis") and accepts(wire.accept, _AGGREGATED):
        return _aggregated(kinds, core=path == "/api")
    if path == "/":
        return json_response(
            {
                "paths": [
                    "/api",
                    "/api/v1",
                    "/apis",
                    "/healthz",
                    "/livez",
                    "/openapi/v2",
                    "/openapi/v3",
                    "/readyz",
                    "/version",
                ]
            }
        )
    match parts:
        case ["api"]:
            return json_response({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
        case ["apis"]:
            groups = [_group(group, versions) for group, versions in sorted(kinds.groups().items())]
            return json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        case ["apis", group] if group in kinds.groups():
            return json_response({"kind": "APIGroup", "apiVersion": "v1", **_group(group, kinds.groups()[group])})
        case ["api", "v1"]:
            return json_response(_resources(kinds, "", "v1"))
        case ["apis", group, version] if version in kinds.groups().get(group, ()):
            return json_response(_resources(kinds, group, version))
    return None


def _group(group: str, versions: list[str]) -> Json:
    listed = [{"groupVersion": f"{group}/{version}", "version": version} for version in versions]
    return {"name": group, "versions": listed, "preferredVersion": listed[0]}


def _resources(kinds: KindTable, group: str, version: str) -> Json:
    listed: list[Json] = []
    for kind in kinds.all():
        if (kind.group, kind.version) == (group, version):
            listed.append(_resource(kind))
            listed.extend(_subresource(kind, name) for name in kind.subresources)
    for review_group, review_version, kind_name, plural, namespaced in REVIEWS:
        if (review_group, review_version) == (group, version):
            listed.append(
                {"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind_name, "verbs": ["create"]}
            )
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": listed}


def _resource(kind: Kind) -> Json:
    return {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(VERBS),
        **({"shortNames": list(kind.short)} if kind.short else {}),
        **({"categories": list(kind.categories)} if kind.categories else {}),
    }


def _subresource(kind: Kind, name: str) -> Json:
    api_version, own, verbs = _SUBRESOURCES[name]
    group, _, version = api_version.rpartition("/")
    return {
        "name": f"{kind.plural}/{name}",
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": own or kind.kind,
        "verbs": list(verbs),
        **({"group": group, "version": version} if api_version else {}),
    }


def _aggregated(kinds: KindTable, *, core: bool) -> web.Response:
    groups = {"": ["v1"]} if core else dict(sorted(kinds.groups().items()))
    items = [
        {
            "metadata": {"name": group, "creationTimestamp": None} if group else {"creationTimestamp": None},
            "versions": [
                {"version": version, "resources": _aggregated_resources(kinds, group, version), "freshness": "Current"}
                for version in versions
            ],
        }
        for group, versions in groups.items()
    ]
    body = {"kind": _AGGREGATED, "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}
    return web.Response(body=orjson.dumps(body), headers={"Content-Type": _AGGREGATED_TYPE})


def _aggregated_resources(kinds: KindTable, group: str, version: str) -> list[Json]:
    listed = []
    for kind in kinds.all():
        if (kind.group, kind.version) != (group, version):
            continue
        entry: Json = _aggregated_entry(group, version, kind.plural, kind.kind, kind.namespaced, VERBS)
        entry["singularResource"] = kind.singular
        entry.update(
            {
                key: value
                for key, value in (("shortNames", list(kind.short)), ("categories", list(kind.categories)))
                if value
            }
        )
        entry["subresources"] = [_aggregated_subresource(kind, name) for name in kind.subresources]
        listed.append(entry)
    listed += [
        _aggregated_entry(group, version, plural, name, namespaced, ("create",))
        for review_group, review_version, name, plural, namespaced in REVIEWS
        if (review_group, review_version) == (group, version)
    ]
    return listed


def _aggregated_entry(
    group: str, version: str, plural: str, kind: str, namespaced: bool, verbs: tuple[str, ...]
) -> Json:
    return {
        "resource": plural,
        "responseKind": {"group": group, "version": version, "kind": kind},
        "scope": "Namespaced" if namespaced else "Cluster",
        "singularResource": "",
        "verbs": list(verbs),
    }


def _aggregated_subresource(kind: Kind, name: str) -> Json:
    api_version, own, verbs = _SUBRESOURCES[name]
    group, _, version = (api_version or kind.api_version).rpartition("/")
    return {
        "subresource": name,
        "responseKind": {"group": group, "version": version, "kind": own or kind.kind},
        "verbs": list(verbs),
    }
