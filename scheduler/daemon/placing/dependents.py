"""What pods need beside their own objects: ConfigMaps, Secrets, ServiceAccounts and volume claims that follow a copy to
its member, are kept up to date there, and go with the last copy that needs them.

Only where the federation file says so (`dependents`), and only the kinds that it names. What is on a member already and
is not ours is never touched. Names are told and logged, contents never.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, Final

import structlog

from scheduler.daemon.state.mirror import HubEntry, Mirror
from scheduler.model.contract import (
    ANNOTATION_KEEP,
    ANNOTATION_ORIGIN_CLUSTER,
    ANNOTATION_ORIGIN_NAME,
    ANNOTATION_ORIGIN_NAMESPACE,
    ANNOTATION_ORIGIN_VERSION,
    CONFIG_MAPS,
    LABEL_DEPENDENT,
    LABEL_QUEUE,
    NAMESPACES,
    SECRETS,
    SERVICE_ACCOUNTS,
    VOLUME_CLAIMS,
)
from scheduler.model.errors import (
    AlreadyExistsError,
    ConflictError,
    ExternalError,
    InvalidObjectError,
    NotFoundError,
    RefusedError,
)
from scheduler.model.ids import ClusterId
from scheduler.model.ports import KubeApi, MemberFacts, RawObject, Resource
from scheduler.model.workload import Dependent, Placement, PlacementState

log = structlog.get_logger(__name__)
MISSING: Final = "DependentMissing"
NOT_OURS: Final = "DependentNotOurs"
REASONS: Final = frozenset({MISSING, NOT_OURS})
_RESOURCES: Final[Mapping[str, Resource]] = {
    each.kind: each for each in (CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS, VOLUME_CLAIMS)
}
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    CONFIG_MAPS.kind: ("data", "binaryData", "immutable"),
    SECRETS.kind: ("data", "type", "immutable"),
    SERVICE_ACCOUNTS.kind: ("imagePullSecrets", "automountServiceAccountToken"),
}
"""What is copied, and compared. A ServiceAccount's tokens are its own cluster's."""
_CLAIMED: Final = ("accessModes", "resources", "storageClassName", "volumeMode")
_TOKEN: Final = "kubernetes.io/service-account-token"  # noqa: S105  (a type of Secret)
_NOT_COPIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_LOOK_SECONDS: Final = 20.0
"""Between two looks at everything, of wall time."""
_HERE: Final = (PlacementState.STARTED, PlacementState.PAUSED, PlacementState.RELEASING)


class DependentError(InvalidObjectError):
    """A copy cannot be made for what it needs; one sentence that says why, and what to do."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Dependents:
    """Raises the typed errors of the model, and DependentError."""

    def __init__(
        self,
        mirror: Mirror,
        hub_api: KubeApi,
        member_apis: Mapping[ClusterId, KubeApi],
        *,
        kinds: Set[str],
        fence: Callable[[], None],
        facts: Callable[[Placement, RawObject], MemberFacts | None],
    ) -> None:
        """`kinds`: those that follow; empty: none does. `facts`: what a copy must know of its member."""
        self._mirror = mirror
        self._hub_api = hub_api
        self._member_apis = member_apis
        self._kinds = kinds
        self._fence = fence
        self._facts = facts
        self._of_accounts: dict[tuple[str, str], tuple[str, ...]] = {}
        """By namespace and ServiceAccount: the Secrets that it pulls images with."""
        self.planned: Callable[[ClusterId], Iterable[tuple[HubEntry, RawObject]]] = lambda cluster: ()
        """Parts of divided services that are to be there."""
        self._changed = asyncio.Event()
        self.look_seconds = _LOOK_SECONDS

    def look_soon(self) -> None:
        """A copy is gone: what it alone needed may go, too."""
        if self._kinds:
            self._changed.set()

    async def bring(self, hub: HubEntry, copy: RawObject, cluster: ClusterId) -> None:
        """Have everything that `copy` needs in its namespace on the member, as it is on the hub now."""
        namespace = hub.workload.ref.namespace
        for dependent in self._follow(hub, copy):
            await self._bring(dependent, namespace, cluster)

    def _follow(self, hub: HubEntry, copy: RawObject, *, strict: bool = True) -> Iterator[Dependent]:
        """Those of the kinds that follow; with `strict`, one that its user names must be of them."""
        kind = self._mirror.kinds[hub.workload.ref.kind]
        for dependent in kind.dependents(hub.raw, copy):
            if dependent.kind in self._kinds:
                yield dependent
            elif dependent.named and strict:
                raise InvalidObjectError(
                    f"spec.dependents: {dependent} does not follow here; name {dependent.kind} in `dependents` of the "
                    "federation file"
                )

    async def _bring(self, dependent: Dependent, namespace: str, cluster: ClusterId) -> None:
        try:
            source = await self._hub_api.get(_RESOURCES[dependent.kind], namespace, dependent.name)
        except NotFoundError:
            if dependent.optional:
                return
            raise DependentError(
                MISSING,
                f"{dependent} is not in namespace {namespace} of the hub; create it there, and its copy is made",
            ) from None
        if dependent.kind == SERVICE_ACCOUNTS.kind:
            pulls = tuple(str(each.get("name") or "") for each in source.get("imagePullSecrets") or ())
            self._of_accounts[namespace, dependent.name] = pulls
            for name in pulls if SECRETS.kind in self._kinds else ():
                await self._bring(Dependent(SECRETS.kind, name, optional=True), namespace, cluster)
        await self._put(dependent, source, cluster)

    async def _put(self, dependent: Dependent, source: RawObject, cluster: ClusterId) -> None:
        if source.get("type") == _TOKEN:
            raise DependentError(NOT_OURS, f"{dependent} is a token of the hub's own ServiceAccount; it cannot follow")
        wanted = wanted_on_member(dependent.kind, source, self._mirror.federation.hub.name)
        resource, api = _RESOURCES[dependent.kind], self._member_apis[cluster]
        namespace = wanted["metadata"]["namespace"]
        try:
            there = await api.get(resource, namespace, dependent.name)
        except NotFoundError:
            await self._create(api, resource, namespace, wanted)
            log.info("dependent_created", cluster=cluster, dependent=f"{dependent.kind} {namespace}/{dependent.name}")
            return
        if there["metadata"]["uid"] == source["metadata"]["uid"]:
            return  # The hub is a member of itself.
        if not self._is_ours(there):
            raise DependentError(
                NOT_OURS,
                f"{dependent} is in namespace {namespace} of {cluster} already and is not ours: delete it there, or "
                "rename it on the hub",
            )
        if (body := update_of(dependent.kind, there, wanted)) is not None:
            self._fence()
            await api.update(resource, namespace, dependent.name, body)
            log.info("dependent_updated", cluster=cluster, dependent=f"{dependent.kind} {namespace}/{dependent.name}")

    async def _create(self, api: KubeApi, resource: Resource, namespace: str, body: RawObject) -> None:
        self._fence()
        try:
            await api.create(resource, namespace, body)
        except AlreadyExistsError as error:
            raise ConflictError(f"{resource.kind} came into being meanwhile") from error
        except NotFoundError:
            await self._ensure_namespace(api, namespace)
            await api.create(resource, namespace, body)

    async def _ensure_namespace(self, api: KubeApi, namespace: str) -> None:
        try:
            await api.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        except AlreadyExistsError:
            return

    def _is_ours(self, obj: RawObject) -> bool:
        meta = obj["metadata"]
        said = meta.get("annotations") or {}
        return LABEL_DEPENDENT in (meta.get("labels") or {}) and (
            said.get(ANNOTATION_ORIGIN_CLUSTER) == self._mirror.federation.hub.name
        )

    # -- kept up to date, and collected --------------------------------------------------------------------------

    async def run(self) -> None:
        """Look at everything now and then, and soon after a copy has gone."""
        while self._kinds:
            try:
                async with asyncio.timeout(self.look_seconds):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            if self._mirror.hub_synced:
                for cluster in sorted(self._mirror.available()):
                    await self._look_at(cluster)

    async def _look_at(self, cluster: ClusterId) -> None:
        """Everything of one member; nothing is collected there while anything could not be understood or reached."""
        try:
            needed: set[tuple[str, str, str]] = set()
            for hub, copy in self._on(cluster):
                namespace = hub.workload.ref.namespace
                for dependent in self._follow(hub, copy, strict=False):
                    await self._bring_again(dependent, namespace, cluster)
                    needed.add((dependent.kind, namespace, dependent.name))
                    pulls = self._of_accounts.get((namespace, dependent.name), ())
                    if dependent.kind == SERVICE_ACCOUNTS.kind:
                        needed.update((SECRETS.kind, namespace, name) for name in pulls)
            await self._collect(cluster, needed)
        except (ExternalError, InvalidObjectError) as error:
            log.warning("dependents_not_looked_at", cluster=cluster, error=str(error)[:300])

    def _on(self, cluster: ClusterId) -> list[tuple[HubEntry, RawObject]]:
        """Workloads with each copy that is there, or is to be."""
        found = []
        for entry in self._mirror.members[cluster].copies.values():
            origin = self._mirror.hub.get(entry.copy.origin)
            if origin is not None:
                found.append((origin, entry.raw))
        for hub in self._mirror.hub.values():
            placement = hub.workload.placement
            if placement is None or placement.cluster != cluster or placement.state not in _HERE:
                continue
            facts = self._facts(placement, hub.raw)
            if facts is not None and hub.workload.invalid is None and not hub.workload.finished:
                kind = self._mirror.kinds[hub.workload.ref.kind]
                try:
                    found.append((hub, kind.make_copy(hub.raw, hub.workload, placement, facts)))
                except InvalidObjectError:
                    continue  # Nothing new is made of it; a copy that runs was looked at above.
        return [*found, *self.planned(cluster)]

    async def _bring_again(self, dependent: Dependent, namespace: str, cluster: ClusterId) -> None:
        """What has gone from the hub, is not ours, or cannot be changed so, stays as it is: its copies run with it."""
        try:
            await self._bring(dependent, namespace, cluster)
        except (DependentError, RefusedError) as error:
            log.warning("dependent_not_followed", cluster=cluster, error=str(error)[:300])

    async def _collect(self, cluster: ClusterId, needed: Set[tuple[str, str, str]]) -> None:
        api = self._member_apis[cluster]
        for kind in sorted(self._kinds):
            for obj in (await api.list(_RESOURCES[kind], label_selector=LABEL_DEPENDENT)).items:
                meta = obj["metadata"]
                key = (kind, str(meta["namespace"]), str(meta["name"]))
                kept = ANNOTATION_KEEP in (meta.get("annotations") or {})
                if key in needed or kept or not self._is_ours(obj) or meta.get("deletionTimestamp"):
                    continue
                if self._wanted_by_now(cluster, key):
                    continue
                self._fence()
                try:
                    await api.delete(_RESOURCES[kind], key[1], key[2], uid=str(meta["uid"]))
                except NotFoundError:
                    continue
                log.info("dependent_collected", cluster=cluster, dependent=f"{kind} {key[1]}/{key[2]}")

    def _wanted_by_now(self, cluster: ClusterId, key: tuple[str, str, str]) -> bool:
        """Whether a workload has come for it while this look went on."""
        return any(
            (dependent.kind, hub.workload.ref.namespace, dependent.name) == key
            for hub, copy in self._on(cluster)
            for dependent in self._follow(hub, copy, strict=False)
        )


def wanted_on_member(kind: str, source: RawObject, hub: str) -> dict[str, Any]:
    """The object to have on a member: the hub's contents, and where they come from."""
    meta = source["metadata"]
    labels = {name: text for name, text in (meta.get("labels") or {}).items() if name != LABEL_QUEUE}
    annotations = {name: text for name, text in (meta.get("annotations") or {}).items() if name != _NOT_COPIED}
    if kind == VOLUME_CLAIMS.kind:
        # What the hub's own volumes are bound by is none of the member's business.
        annotations = {name: text for name, text in annotations.items() if "kubernetes.io/" not in name}
        spec = source.get("spec") or {}
        contents: dict[str, Any] = {"spec": {name: spec[name] for name in _CLAIMED if name in spec}}
    else:
        contents = {name: source[name] for name in _FIELDS[kind] if source.get(name) is not None}
    return {
        "apiVersion": "v1",
        "kind": kind,
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": {**labels, LABEL_DEPENDENT: "true"},
            "annotations": {
                **annotations,
                ANNOTATION_ORIGIN_CLUSTER: hub,
                ANNOTATION_ORIGIN_NAMESPACE: meta["namespace"],
                ANNOTATION_ORIGIN_NAME: meta["name"],
                ANNOTATION_ORIGIN_VERSION: f"{meta['uid']}/{meta['resourceVersion']}",
            },
        },
        **contents,
    }


def update_of(kind: str, there: RawObject, wanted: Mapping[str, Any]) -> RawObject | None:
    """What replaces a member's object; None: it is as it should be. Of a claim only its size can change."""
    has, wants = there["metadata"], wanted["metadata"]
    version = (has.get("annotations") or {}).get(ANNOTATION_ORIGIN_VERSION)
    same = version == wants["annotations"][ANNOTATION_ORIGIN_VERSION]
    if kind == VOLUME_CLAIMS.kind:
        spec = {**there["spec"], "resources": wanted["spec"].get("resources")}
        if same and spec == there["spec"]:
            return None
        own = {name: text for name, text in (has.get("annotations") or {}).items() if "kubernetes.io/" in name}
        annotations = {**own, **wants["annotations"]}
        return {**there, "metadata": {**has, "labels": wants["labels"], "annotations": annotations}, "spec": spec}
    if same and all(there.get(name) == wanted.get(name) for name in _FIELDS[kind]):
        return None
    metadata = {**wants, "uid": has["uid"], "resourceVersion": has["resourceVersion"]}
    tokens = {"secrets": there["secrets"]} if kind == SERVICE_ACCOUNTS.kind and "secrets" in there else {}
    return {**wanted, **tokens, "metadata": metadata}
