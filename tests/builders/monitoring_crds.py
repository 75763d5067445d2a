"""Stand-ins for the Prometheus Operator's definitions, for an API server that lacks them.

Only the fields that the chart writes, with their types as the operator publishes them (monitoring.coreos.com/v1). A
structural schema without `x-kubernetes-preserve-unknown-fields` has strict validation refuse every other field, so that
a name that is misspelt in a template is found; whether the operator accepts the values is not told here.
"""

from __future__ import annotations

from typing import Any

_STRING: dict[str, Any] = {"type": "string"}
_STRINGS: dict[str, Any] = {"type": "object", "additionalProperties": _STRING}
_PARTS = "".join(f"(([0-9]+){unit})?" for unit in ("y", "w", "d", "h", "m", "s", "ms"))
_DURATION = {"type": "string", "pattern": f"^(0|{_PARTS})$"}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": properties}
    return {**found, "required": list(required)} if required else found


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_ENDPOINT = _object(port=_STRING, path=_STRING, interval=_DURATION)
_MONITOR = _object(("selector",), selector=_object(matchLabels=_STRINGS), endpoints=_list(_ENDPOINT))
_RULE = _object(
    ("expr",),
    alert=_STRING,
    record=_STRING,
    expr={"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True},
    **{"for": _DURATION},
    labels=_STRINGS,
    annotations=_STRINGS,
)
_RULES = _object(groups=_list(_object(("name",), name=_STRING, interval=_DURATION, rules=_list(_RULE))))


def monitoring_crds() -> list[dict[str, Any]]:
    """ServiceMonitor and PrometheusRule."""
    return [
        _definition("servicemonitors", "ServiceMonitor", _MONITOR),
        _definition("prometheusrules", "PrometheusRule", _RULES),
    ]


def _definition(plural: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    version = {
        "name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": _object(("spec",), spec=spec)},
    }  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind, "listKind": f"{kind}List"},
            "scope": "Namespaced",
            "versions": [version],
        },
    }
