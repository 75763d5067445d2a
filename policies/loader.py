"""From policy files to a `PolicySet`: everything is read, and every mistake in it is told at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from policies import compiler, remediation, serving, source
from policies.documents import at_path, validate
from policies.errors import PolicyError, PolicyErrors, did_you_mean, shown
from policies.remediation import RemediationPolicyDocument
from policies.schema import PlacementPolicyDocument, QueueDocument
from policies.serving import ServingSLODocument
from policies.source import Document, ListNode, MapNode, Scalar
from scheduler.model.contract import API_VERSION
from scheduler.model.policy import PlacementPolicy, PolicySet, QueueSpec
from scheduler.model.remediation import RemediationPolicy
from scheduler.model.serving_policy import ServingSLO

MAX_FILES: Final = 1000
KINDS: Final[dict[str, type[BaseModel]]] = {
    "PlacementPolicy": PlacementPolicyDocument,
    "Queue": QueueDocument,
    "RemediationPolicy": RemediationPolicyDocument,
    "ServingSLO": ServingSLODocument,
}


@dataclass(frozen=True, slots=True)
class FederationNames:
    """What a federation has, for telling a policy that names something else."""

    clusters: frozenset[str] = frozenset()
    providers: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()
    residency: frozenset[str] = frozenset()
    gpu_models: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Checked:
    """What the files hold. With errors, `policies` is None; warnings never stand in the way."""

    policies: PolicySet | None
    errors: tuple[PolicyError, ...]
    warnings: tuple[PolicyError, ...]


def load_policies(paths: Sequence[Path]) -> PolicySet:
    """All policies and queues in these files and folders. Raises: PolicyErrors with every mistake in them."""
    checked = check_policies(paths)
    if checked.policies is None:
        raise PolicyErrors(checked.errors)
    return checked.policies


def check_policies(paths: Sequence[Path], names: FederationNames | None = None) -> Checked:
    """Reads files and folders (their *.yaml and *.yml that are not hidden, by name, not what is below) as one set.

    With `names`, a policy that names a cluster, region or GPU model that is not there gets a warning.
    """
    reading = _Reading()
    for path in _files(paths, reading):
        try:
            reading.add(source.read_bytes(path), str(path))
        except PolicyErrors as error:
            reading.errors.extend(error.errors)
    return reading.checked(names)


def check_bytes(data: bytes, file: str, names: FederationNames | None = None) -> Checked:
    """The same for the content of one file, called `file` in messages."""
    reading = _Reading()
    reading.add(data, file)
    return reading.checked(names)


@dataclass(slots=True)
class _Reading:
    """What has been read so far."""

    errors: list[PolicyError] = field(default_factory=list)
    policies: list[PlacementPolicy] = field(default_factory=list)
    queues: list[QueueSpec] = field(default_factory=list)
    remediation: list[RemediationPolicy] = field(default_factory=list)
    serving: list[ServingSLO] = field(default_factory=list)
    _documents: list[tuple[Document, PlacementPolicy]] = field(default_factory=list)
    _places: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, data: bytes, file: str) -> None:
        try:
            documents, errors = source.parse(source.decode(data, file), file)
        except PolicyErrors as error:
            self.errors.extend(error.errors)
            return
        self.errors.extend(errors)
        if not documents and not errors:
            self.errors.append(PolicyError(file, 1, 1, f"empty file; write a {either(KINDS)}, or remove it"))
        for document in documents:
            try:
                self._add(document)
            except PolicyErrors as error:
                self.errors.extend(error.errors)

    def checked(self, names: FederationNames | None) -> Checked:
        if self.errors:
            return Checked(None, PolicyErrors(self.errors).errors, ())
        warnings = [
            warning
            for document, policy in self._documents
            for warning in _warnings(document, policy, names, frozenset(queue.id for queue in self.queues))
        ]
        found = compiler.policy_set(self.policies, self.queues, self.remediation, self.serving)
        return Checked(found, (), tuple(sorted(warnings)))

    def _add(self, document: Document) -> None:
        kind = document_kind(document, KINDS)
        if kind == "Queue":
            checked_queue = validate(document, QueueDocument)
            self._unique(document, kind, checked_queue.metadata.name)
            self.queues.append(compiler.queue(checked_queue))
        elif kind == "RemediationPolicy":
            checked_remedy = validate(document, RemediationPolicyDocument)
            self._unique(document, kind, checked_remedy.metadata.name)
            self.remediation.append(remediation.compiled(checked_remedy))
        elif kind == "ServingSLO":
            checked_slo = validate(document, ServingSLODocument)
            self._unique(document, kind, checked_slo.metadata.name)
            self.serving.append(serving.compiled(checked_slo))
        else:
            checked_policy = validate(document, PlacementPolicyDocument)
            self._unique(document, kind, checked_policy.metadata.name)
            policy = compiler.placement_policy(checked_policy)
            self.policies.append(policy)
            self._documents.append((document, policy))

    def _unique(self, document: Document, kind: str, name: str) -> None:
        path = ("metadata", "name")
        place = document.place(path)
        first = self._places.setdefault((kind, name), f"{document.file}:{place.line}")
        if first != f"{document.file}:{place.line}":
            message = f"{kind} {shown(name)} is already defined at {first}; rename or remove one"
            raise PolicyErrors([at_path(document, path, message)])


def either(kinds: dict[str, type[BaseModel]]) -> str:
    """Their names, as in "A, B or C"."""
    *most, last = sorted(kinds)
    return f"{', '.join(most)} or {last}" if most else last


def document_kind(document: Document, kinds: dict[str, type[BaseModel]]) -> str:
    """The document's kind, one of `kinds`. Raises: PolicyErrors when it is another, or of another API version."""
    expected = either(kinds)
    match document.root:
        case Scalar() as scalar if source.plain(scalar) is None:
            message = f"empty document; write a {expected}, or remove the --- before it"
            raise PolicyErrors([document.error(scalar.place, message)])
        case Scalar() | ListNode():
            raise PolicyErrors([document.error(document.root.place, f"not a map; write a {expected}")])
        case MapNode():
            return _kind(document, kinds, expected)


def _kind(document: Document, kinds: dict[str, type[BaseModel]], expected: str) -> str:
    version, kind = document.at(("apiVersion",)), document.at(("kind",))
    errors = []
    if not isinstance(version, Scalar):
        errors.append(document.error(document.root.place, f'no "apiVersion"; write apiVersion: {API_VERSION}'))
    elif version.text != API_VERSION:
        message = f"unsupported apiVersion {shown(version.text)}; write {API_VERSION}"
        errors.append(document.error(version.place, message))
    if not isinstance(kind, Scalar):
        errors.append(document.error(document.root.place, f'no "kind"; write kind: {expected}'))
    elif kind.text == "Federation" and kind.text not in kinds:
        message = "a Federation is no policy; give this file to --config and keep it out of the policy folder"
        errors.append(document.error(kind.place, message))
    elif kind.text not in kinds:
        message = f"unsupported kind {shown(kind.text)}; {did_you_mean(kind.text, kinds)}"
        errors.append(document.error(kind.place, message))
    if errors or not isinstance(kind, Scalar):
        raise PolicyErrors(errors)
    return kind.text


def _files(paths: Sequence[Path], reading: _Reading) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in paths:
        try:
            inside = sorted(path.iterdir()) if path.is_dir() else None
        except (OSError, ValueError) as error:
            reading.errors.append(PolicyError(str(path), 1, 1, f"cannot be listed ({error}); check its permissions"))
            continue
        if inside is None:
            found.setdefault(path.absolute(), path)
            continue
        for file in inside:
            if file.suffix in (".yaml", ".yml") and not file.name.startswith(".") and not file.is_dir():
                found.setdefault(file.absolute(), file)
    if len(found) > MAX_FILES:
        first = next(iter(found.values()))
        reading.errors.append(PolicyError(str(first.parent), 1, 1, f"more than {MAX_FILES} files; join some of them"))
        return []
    return list(found.values())


def _warnings(
    document: Document, policy: PlacementPolicy, names: FederationNames | None, queues: frozenset[str]
) -> list[PolicyError]:
    limits = policy.constraints
    checks: list[tuple[str, tuple[str | int, ...], tuple[str, ...], frozenset[str]]] = []
    if names is not None:
        inside = ("spec", "constraints")
        checks = [
            ("cluster", (*inside, "clusters"), limits.clusters, names.clusters),
            ("cluster", (*inside, "excludedClusters"), limits.excluded_clusters, names.clusters),
            ("provider", (*inside, "providers"), limits.providers, names.providers),
            ("region", (*inside, "regions"), limits.regions, names.regions),
            ("residency", (*inside, "residency"), limits.residency, names.residency),
            ("GPU model", (*inside, "gpuModels"), limits.gpu_models, names.gpu_models),
        ]
        for index, budget in enumerate(policy.budgets):
            checks.append(("cluster", ("spec", "budgets", index, "clusters"), budget.clusters, names.clusters))
    if queues:
        checks.append(("queue", ("spec", "match", "queues"), policy.match.queues, queues))
    return [
        at_path(document, (*path, index), _absent(what, name, known))
        for what, path, given, known in checks
        for index, name in enumerate(given)
        if name not in known
    ]


def _absent(what: str, name: str, known: frozenset[str]) -> str:
    where = "no Queue object" if what == "queue" else "nothing in the federation"
    remedy = did_you_mean(name, known) if known else "check the name"
    return f"{where} has {what} {shown(name)}; {remedy}"
