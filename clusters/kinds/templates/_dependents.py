"""The objects that pods refer to by name, found in any JSON that has pod specs in it. Pure.

Source of the fields: the API reference of Kubernetes, Volume, EnvFromSource, EnvVarSource and PodSpec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from scheduler.model.errors import InvalidObjectError
from scheduler.model.workload import Dependent

CONFIG_MAP: Final = "ConfigMap"
SECRET: Final = "Secret"  # noqa: S105  (a kind of object)
SERVICE_ACCOUNT: Final = "ServiceAccount"
VOLUME_CLAIM: Final = "PersistentVolumeClaim"
KINDS: Final = (CONFIG_MAP, SECRET, SERVICE_ACCOUNT, VOLUME_CLAIM)
_MOST: Final = 256
_PRESENT_EVERYWHERE: Final = frozenset({(SERVICE_ACCOUNT, "default"), (CONFIG_MAP, "kube-root-ca.crt")})
"""Kubernetes makes them in every namespace."""


def referred_to(pod_spec: Mapping[str, Any]) -> tuple[Dependent, ...]:
    """What pods of this spec need in their namespace, sorted; a reference that may be missing is `optional`."""
    found: dict[tuple[str, str], bool] = {}
    for kind, name, optional in _all(pod_spec):
        if isinstance(name, str) and name and (kind, name) not in _PRESENT_EVERYWHERE:
            found[kind, name] = found.get((kind, name), True) and optional
    if len(found) > _MOST:
        raise InvalidObjectError(f"its pods refer to {len(found)} objects; at most {_MOST} follow")
    return tuple(Dependent(kind, name, optional) for (kind, name), optional in sorted(found.items()))


def named(listed: Any) -> tuple[Dependent, ...]:
    """`spec.dependents`. Raises: InvalidObjectError naming the item."""
    if listed is None:
        return ()
    if not isinstance(listed, list) or len(listed) > _MOST:
        raise InvalidObjectError(f"spec.dependents is no list of at most {_MOST}")
    found = []
    for number, each in enumerate(listed):
        at = f"spec.dependents[{number}]"
        if not isinstance(each, Mapping) or each.get("kind") not in KINDS:
            raise InvalidObjectError(f"{at}.kind: write one of {', '.join(KINDS)}")
        if not isinstance(each.get("name"), str) or not each["name"]:
            raise InvalidObjectError(f"{at}.name is missing")
        found.append(Dependent(each["kind"], each["name"], named=True))
    return tuple(found)


def together(*lists: tuple[Dependent, ...]) -> tuple[Dependent, ...]:
    """Each once, sorted; needed where any list needs it."""
    found: dict[tuple[str, str], Dependent] = {}
    for each in (one for listed in lists for one in listed):
        before = found.setdefault((each.kind, each.name), each)
        optional, named_too = before.optional and each.optional, before.named or each.named
        found[each.kind, each.name] = Dependent(each.kind, each.name, optional, named_too)
    return tuple(found[key] for key in sorted(found))


def _all(spec: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    yield SERVICE_ACCOUNT, spec.get("serviceAccountName") or spec.get("serviceAccount"), False
    for pull in spec.get("imagePullSecrets") or ():
        yield SECRET, pull.get("name"), True  # A kubelet goes on without it, as the API says.
    for volume in spec.get("volumes") or ():
        yield from _of_volume(volume)
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        yield from _of_container(container)


def _of_volume(volume: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    claim = volume.get("persistentVolumeClaim") or {}
    yield VOLUME_CLAIM, claim.get("claimName"), False
    projected = (volume.get("projected") or {}).get("sources") or ()
    for source in (volume, *projected):
        config, secret = source.get("configMap") or {}, source.get("secret") or {}
        yield CONFIG_MAP, config.get("name"), bool(config.get("optional"))
        yield SECRET, secret.get("secretName") or secret.get("name"), bool(secret.get("optional"))


def _of_container(container: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    for source in container.get("envFrom") or ():
        config, secret = source.get("configMapRef") or {}, source.get("secretRef") or {}
        yield CONFIG_MAP, config.get("name"), bool(config.get("optional"))
        yield SECRET, secret.get("name"), bool(secret.get("optional"))
    for variable in container.get("env") or ():
        source = variable.get("valueFrom") or {}
        config, secret = source.get("configMapKeyRef") or {}, source.get("secretKeyRef") or {}
        yield CONFIG_MAP, config.get("name"), bool(config.get("optional"))
        yield SECRET, secret.get("name"), bool(secret.get("optional"))
