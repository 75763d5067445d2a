"""Kubernetes' protobuf bodies, read into JSON: kubectl 1.32 sends nothing else from `create`, `drain` and `auth`.

Field numbers from the published `generated.proto` files of k8s.io/api and k8s.io/apimachinery. Only the messages that
kubectl itself writes are known; a field beyond these is refused (the client may send JSON), never dropped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from clusters.sandbox.apiserver.failures import Json, bad_request, unsupported_media

MEDIA: Final = "application/vnd.kubernetes.protobuf"
_MAGIC: Final = b"k8s\x00"

# number field type; s string, i int, b bool, y bytes, T time, Q quantity, IS int-or-string, - an unread status;
# Name a message, X* repeated, {X} a map from string.
_TEXT: Final = """
ObjectMeta: 1 name s, 2 generateName s, 3 namespace s, 4 selfLink s, 5 uid s, 6 resourceVersion s, 7 generation i,\
 8 creationTimestamp T, 9 deletionTimestamp T, 10 deletionGracePeriodSeconds i, 11 labels {s}, 12 annotations {s},\
 13 ownerReferences OwnerReference*, 14 finalizers s*
OwnerReference: 1 kind s, 3 name s, 4 uid s, 5 apiVersion s, 6 controller b, 7 blockOwnerDeletion b
LabelSelector: 1 matchLabels {s}, 2 matchExpressions Requirement*
Requirement: 1 key s, 2 operator s, 3 values s*
Namespace: 1 metadata ObjectMeta, 2 spec NamespaceSpec, 3 status -
NamespaceSpec: 1 finalizers s*
ConfigMap: 1 metadata ObjectMeta, 2 data {s}, 3 binaryData {y}, 4 immutable b
Secret: 1 metadata ObjectMeta, 2 data {y}, 3 type s, 4 stringData {s}, 5 immutable b
ServiceAccount: 1 metadata ObjectMeta, 4 automountServiceAccountToken b
Service: 1 metadata ObjectMeta, 2 spec ServiceSpec, 3 status -
ServiceSpec: 1 ports ServicePort*, 2 selector {s}, 3 clusterIP s, 4 type s, 5 externalIPs s*, 7 sessionAffinity s,\
 8 loadBalancerIP s, 9 loadBalancerSourceRanges s*, 10 externalName s, 11 externalTrafficPolicy s,\
 12 healthCheckNodePort i, 13 publishNotReadyAddresses b
ServicePort: 1 name s, 2 protocol s, 3 port i, 4 targetPort IS, 5 nodePort i, 6 appProtocol s
ResourceQuota: 1 metadata ObjectMeta, 2 spec ResourceQuotaSpec, 3 status -
ResourceQuotaSpec: 1 hard {Q}, 2 scopes s*
Pod: 1 metadata ObjectMeta, 2 spec PodSpec, 3 status -
PodTemplateSpec: 1 metadata ObjectMeta, 2 spec PodSpec
PodSpec: 2 containers Container*, 3 restartPolicy s, 4 terminationGracePeriodSeconds i, 5 activeDeadlineSeconds i,\
 6 dnsPolicy s, 7 nodeSelector {s}, 8 serviceAccountName s, 9 serviceAccount s, 10 nodeName s, 11 hostNetwork b,\
 12 hostPID b, 13 hostIPC b, 14 securityContext -, 16 hostname s, 17 subdomain s, 19 schedulerName s,\
 20 initContainers Container*, 22 tolerations Toleration*, 24 priorityClassName s, 25 priority i
Toleration: 1 key s, 2 operator s, 3 value s, 4 effect s, 5 tolerationSeconds i
Container: 1 name s, 2 image s, 3 command s*, 4 args s*, 5 workingDir s, 6 ports ContainerPort*, 7 env EnvVar*,\
 8 resources Resources, 13 terminationMessagePath s, 14 imagePullPolicy s, 16 stdin b, 17 stdinOnce b, 18 tty b,\
 20 terminationMessagePolicy s
ContainerPort: 1 name s, 2 hostPort i, 3 containerPort i, 4 protocol s, 5 hostIP s
EnvVar: 1 name s, 2 value s
Resources: 1 limits {Q}, 2 requests {Q}
Job: 1 metadata ObjectMeta, 2 spec JobSpec, 3 status -
JobSpec: 1 parallelism i, 2 completions i, 3 activeDeadlineSeconds i, 4 selector LabelSelector, 5 manualSelector b,\
 6 template PodTemplateSpec, 7 backoffLimit i, 8 ttlSecondsAfterFinished i, 9 completionMode s, 10 suspend b,\
 12 backoffLimitPerIndex i, 13 maxFailedIndexes i, 14 podReplacementPolicy s, 15 managedBy s
CronJob: 1 metadata ObjectMeta, 2 spec CronJobSpec, 3 status -
CronJobSpec: 1 schedule s, 2 startingDeadlineSeconds i, 3 concurrencyPolicy s, 4 suspend b,\
 5 jobTemplate JobTemplateSpec, 6 successfulJobsHistoryLimit i, 7 failedJobsHistoryLimit i, 8 timeZone s
JobTemplateSpec: 1 metadata ObjectMeta, 2 spec JobSpec
Deployment: 1 metadata ObjectMeta, 2 spec DeploymentSpec, 3 status -
DeploymentSpec: 1 replicas i, 2 selector LabelSelector, 3 template PodTemplateSpec, 4 strategy DeploymentStrategy,\
 5 minReadySeconds i, 6 revisionHistoryLimit i, 7 paused b, 9 progressDeadlineSeconds i
DeploymentStrategy: 1 type s, 2 rollingUpdate RollingUpdate
RollingUpdate: 1 maxUnavailable IS, 2 maxSurge IS
PodDisruptionBudget: 1 metadata ObjectMeta, 2 spec PodDisruptionBudgetSpec, 3 status -
PodDisruptionBudgetSpec: 1 minAvailable IS, 2 selector LabelSelector, 3 maxUnavailable IS
PriorityClass: 1 metadata ObjectMeta, 2 value i, 3 globalDefault b, 4 description s, 5 preemptionPolicy s
Role: 1 metadata ObjectMeta, 2 rules PolicyRule*
ClusterRole: 1 metadata ObjectMeta, 2 rules PolicyRule*
PolicyRule: 1 verbs s*, 2 apiGroups s*, 3 resources s*, 4 resourceNames s*, 5 nonResourceURLs s*
RoleBinding: 1 metadata ObjectMeta, 2 subjects Subject*, 3 roleRef RoleRef
ClusterRoleBinding: 1 metadata ObjectMeta, 2 subjects Subject*, 3 roleRef RoleRef
Subject: 1 kind s, 2 apiGroup s, 3 name s, 4 namespace s
RoleRef: 1 apiGroup s, 2 kind s, 3 name s
SelfSubjectAccessReview: 1 metadata ObjectMeta, 2 spec AccessSpec, 3 status -
AccessSpec: 1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes PathAttributes
ResourceAttributes: 1 namespace s, 2 verb s, 3 group s, 4 version s, 5 resource s, 6 subresource s, 7 name s
PathAttributes: 1 path s, 2 verb s
SelfSubjectRulesReview: 1 metadata ObjectMeta, 2 spec RulesSpec, 3 status -
RulesSpec: 1 namespace s
SelfSubjectReview: 1 metadata ObjectMeta, 2 status -
Eviction: 1 metadata ObjectMeta, 2 deleteOptions DeleteOptions
DeleteOptions: 1 gracePeriodSeconds i, 2 preconditions Preconditions, 3 orphanDependents b, 4 propagationPolicy s,\
 5 dryRun s*
Preconditions: 1 uid s, 2 resourceVersion s
"""


def _parsed(text: str) -> dict[str, dict[int, tuple[str, str]]]:
    messages = {}
    for line in text.strip().splitlines():
        name, _, fields = line.partition(":")
        parts = [field.split() for field in fields.split(",")]
        messages[name] = {int(number): (field, kind) for number, field, kind in parts}
    return messages


_MESSAGES: Final = _parsed(_TEXT)


def decode(raw: bytes) -> Json:
    """The object that a body in Kubernetes' protobuf envelope holds. Raises: StatusError 400 or 415."""
    if not raw.startswith(_MAGIC):
        raise bad_request("the body is not in Kubernetes' protobuf envelope")
    envelope = dict(_fields(raw[len(_MAGIC) :]))
    meta, body = envelope.get(1, b""), envelope.get(2, b"")
    if not isinstance(meta, bytes) or not isinstance(body, bytes):
        raise bad_request("the protobuf envelope is malformed")
    words = {number: _string(value) for number, value in _fields(meta)}
    kind = words.get(2, "")
    if kind not in _MESSAGES:
        raise unsupported_media(("application/json", "application/yaml"))
    return {"apiVersion": words.get(1, ""), "kind": kind, **_message(kind, body)}


def _fields(raw: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field: whole numbers for varints, bytes for the rest."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        match tag & 7:
            case 0:
                value, at = _varint(raw, at)
                yield tag >> 3, value
            case 2:
                length, at = _varint(raw, at)
                if at + length > len(raw):
                    raise bad_request("the protobuf body is cut short")
                yield tag >> 3, raw[at : at + length]
                at += length
            case _:
                raise bad_request("the protobuf body has a field of a form that Kubernetes does not use")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(raw) and shift < 70:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise bad_request("the protobuf body is cut short")


def _message(name: str, raw: bytes) -> Json:
    known = _MESSAGES[name]
    out: Json = {}
    for number, value in _fields(raw):
        if number not in known:
            raise unsupported_media(("application/json", "application/yaml"))
        field, kind = known[number]
        if kind == "-":
            if value:
                _only_empty(value)
        elif kind.endswith("*"):
            out.setdefault(field, []).append(_value(kind[:-1], value))
        elif kind.startswith("{"):
            entry = dict(_fields(_bytes(value)))
            out.setdefault(field, {})[_string(entry.get(1, b""))] = _value(kind[1:-1], entry.get(2, b""))
        else:
            new = _value(kind, value)
            if new not in ("", None):  # what Go leaves unset, it sends as empty
                out[field] = new
    return out


def _only_empty(value: int | bytes) -> None:
    """Statuses and contexts that are not read may hold nothing but unset fields. Raises: StatusError 415."""
    for _, inner in _fields(_bytes(value)):
        if isinstance(inner, bytes) and inner:
            _only_empty(inner)
        elif inner:
            raise unsupported_media(("application/json", "application/yaml"))


def _value(kind: str, value: int | bytes) -> Any:
    match kind:
        case "s":
            return _string(value)
        case "i":
            number = _int(value)
            return number - (1 << 64) if number >= 1 << 63 else number
        case "b":
            return bool(_int(value))
        case "y":
            return base64.b64encode(_bytes(value)).decode()
        case "T":
            return _time(_bytes(value))
        case "Q":
            return _string(dict(_fields(_bytes(value))).get(1, b""))
        case "IS":
            parts = dict(_fields(_bytes(value)))
            return _string(parts.get(3, b"")) if parts.get(1) else _value("i", parts.get(2, 0))
    return _message(kind, _bytes(value))


def _time(raw: bytes) -> str | None:
    seconds = dict(_fields(raw)).get(1)
    if not isinstance(seconds, int):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        raise bad_request("the protobuf body has a time out of range") from None


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    raise bad_request("the protobuf body has a number where a message belongs")


def _int(value: int | bytes) -> int:
    if isinstance(value, int):
        return value
    raise bad_request("the protobuf body has a message where a number belongs")


def _string(value: int | bytes) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError:
        raise bad_request("the protobuf body has a string that is not UTF-8") from None
