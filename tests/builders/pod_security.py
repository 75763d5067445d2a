"""The `restricted` Pod Security Standard of Kubernetes, for pod specifications (as of 1.33, Linux)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(pod: dict[str, Any]) -> list[str]:
    """What breaks the standard, each with its place; empty: nothing."""
    found = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    for volume in pod.get("volumes", ()):
        found += [f"volume {volume['name']}: {sort}" for sort in set(volume) - {"name"} - _VOLUMES]
    for sort in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod.get(sort, ()):
            found += [f"{sort}/{container['name']}: {what}" for what in _of_container(container, pod)]
    return found


def _of_container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    whole, own = pod.get("securityContext") or {}, container.get("securityContext") or {}

    def setting(name: str) -> Any:
        return own.get(name, whole.get(name))

    if setting("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if setting("runAsUser") == 0:
        yield "runAsUser is 0"
    if (setting("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile is neither RuntimeDefault nor Localhost"
    yield from _of_its_own(own)
    for context in (whole, own):
        if context.get("windowsOptions", {}).get("hostProcess"):
            yield "hostProcess"
    for port in container.get("ports", ()):
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']}"


def _of_its_own(own: dict[str, Any]) -> Iterator[str]:
    """What only a container says of itself."""
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("privileged"):
        yield "privileged"
    if own.get("procMount", "Default") != "Default":
        yield "procMount is not Default"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in capabilities.get("drop", ()):
        yield "capabilities do not drop ALL"
    yield from (f"capability {name} is added" for name in set(capabilities.get("add", ())) - {"NET_BIND_SERVICE"})
