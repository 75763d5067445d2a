"""What every template must do to be divided over members: revisions, parts, scales, one status of all parts."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import orjson
import pytest

from clusters.kinds.federatedworkload import KIND
from clusters.kinds.templates import OVERSPILL, Template
from scheduler.model.contract import (
    ANNOTATION_DIVISION,
    ANNOTATION_POOL,
    CONDITION_PLACED,
    CONDITION_SERVING,
    LABEL_ORIGIN_UID,
    LABEL_PART,
    LABEL_REVISION,
    part_of,
)
from scheduler.model.division import ReplicaTarget
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import PoolRef
from scheduler.model.ports import DivisibleKind, PartSeen, RawObject, Said
from scheduler.model.service_intent import StoredRevision
from scheduler.model.serving import ReplicaOwner
from tests.contract.test_templates import SAMPLES, TEMPLATES, sample
from tests.unit.test_kinds_federatedworkload import UID, federated
from tests.unit.test_kinds_job import MEMBER, PLACEMENT, applied

assert isinstance(KIND, DivisibleKind)
DIVISIBLE: DivisibleKind = KIND
HERE = PoolRef(PLACEMENT.cluster, PLACEMENT.pool)
NOW = 1_790_000_000.0


@pytest.fixture(params=sorted(TEMPLATES))
def template(request: pytest.FixtureRequest) -> Template:
    return TEMPLATES[request.param]


def revision_of(obj: RawObject) -> StoredRevision:
    name, content = DIVISIBLE.revision(obj)
    return StoredRevision(name, NOW, content)


def a_target(template: Template, revision: str, replicas: int) -> ReplicaTarget:
    """As the division makes it for whoever owns the replicas."""
    owned = template.scale(sample(template.name)).owner != OVERSPILL
    return ReplicaTarget(HERE, revision, replicas, (replicas, replicas + 4) if owned else None)


def made_part(template: Template, obj: RawObject, replicas: int, pool: str = HERE.pool) -> Any:
    revision = revision_of(obj)
    target = a_target(template, revision.name, replicas)
    target = replace(target, pool=PoolRef(HERE.cluster, type(HERE.pool)(pool)))
    placement = replace(PLACEMENT, attempt=0, part=part_of(pool, revision.name))
    made = copy.deepcopy(DIVISIBLE.make_part(KIND.parse(obj), target, revision, placement, MEMBER))
    assert isinstance(made, dict)
    made["metadata"] |= {"uid": f"copy-{pool}", "creationTimestamp": "2026-01-01T00:10:00Z", "generation": 1}
    return made


def test_every_template_has_a_sample() -> None:
    assert set(SAMPLES) == set(TEMPLATES)


def test_a_revision_is_what_the_template_says_but_for_its_scale(template: Template) -> None:
    plain = sample(template.name)
    name = revision_of(federated(plain)).name
    for replicas, bounds in ((7, None), (1, (1, 9))):
        scaled = template.scaled(plain, replicas, bounds)
        assert revision_of(federated(scaled)).name == name
        template.check(scaled)
    assert template.unscaled(template.unscaled(plain)) == template.unscaled(plain)
    other = orjson.loads(orjson.dumps(plain).replace(b'"2"', b'"1"'))
    assert revision_of(federated(other)).name != name
    merge = {"metadata": {"annotations": {"where": "eks"}}}
    overridden = federated(plain, overrides=[{"clusters": ["eks"], "merge": merge}])
    assert revision_of(overridden).name != name


def test_a_part_is_told_by_its_labels_and_selects_its_own_pods(template: Template) -> None:
    obj = federated(sample(template.name))
    made = made_part(template, obj, 2)
    revision = revision_of(obj).name
    part = part_of(HERE.pool, revision)
    seen = KIND.parse_copy(made, HERE.cluster)
    assert (seen.origin, seen.part, seen.pool, seen.revision, seen.attempt) == (UID, part, HERE.pool, revision, 0)
    assert seen.pods_wanted == 2
    assert seen.owner == f"{UID}/{part}"
    assert made["metadata"]["annotations"][ANNOTATION_POOL] == HERE.pool
    text = orjson.dumps(made["spec"]).decode()
    for label, value in ((LABEL_ORIGIN_UID, UID), (LABEL_PART, part), (LABEL_REVISION, revision)):
        assert f'"{label}":"{value}"' in text, "its pods have it, too"
    if "selector" in made["spec"]:
        assert made["spec"]["selector"]["matchLabels"][LABEL_PART] == part
    template.check(made)
    other = made_part(template, obj, 2, pool="other")
    assert made["metadata"]["name"] != other["metadata"]["name"]
    assert len(made["metadata"]["name"]) <= template.longest_name
    assert ANNOTATION_DIVISION not in made["metadata"]["annotations"]


def test_an_old_revision_is_made_as_it_was_and_overrides_apply(template: Template) -> None:
    merge = {"metadata": {"annotations": {"where": "here"}}}
    obj = federated(sample(template.name), overrides=[{"clusters": [PLACEMENT.cluster], "merge": merge}])
    before = made_part(template, obj, 2)
    assert before["metadata"]["annotations"]["where"] == "here"
    stored = revision_of(obj)
    changed = federated(orjson.loads(orjson.dumps(sample(template.name)).replace(b'"2"', b'"1"')))
    placement = replace(PLACEMENT, attempt=0, part=part_of(HERE.pool, stored.name))
    target = a_target(template, stored.name, 2)
    again = DIVISIBLE.make_part(KIND.parse(changed), target, stored, placement, MEMBER)
    assert again["spec"] == before["spec"], "whatever the template says by now"
    with pytest.raises(InvalidObjectError):
        DIVISIBLE.make_part(KIND.parse(changed), target, replace(stored, content="junk"), placement, MEMBER)


def test_scaling_settles(template: Template) -> None:
    obj = federated(sample(template.name))
    revision = revision_of(obj).name
    made = made_part(template, obj, 2)
    assert DIVISIBLE.scale_part(made, a_target(template, revision, 2)) is None
    for replicas in (5, 1):
        target = a_target(template, revision, replicas)
        patch = DIVISIBLE.scale_part(made, target)
        assert patch is not None
        made = applied(made, patch)
        assert DIVISIBLE.scale_part(made, target) is None
        assert KIND.parse_copy(made, HERE.cluster).pods_wanted == replicas
        template.check(made)


def test_whoever_owns_the_replicas_is_told(template: Template) -> None:
    obj = federated(sample(template.name))
    owner, bounds = DIVISIBLE.scale(obj, [])
    if owner is ReplicaOwner.OVERSPILL:
        assert bounds == (None, None)
        scaled = made_part(template, obj, 2)
        fields: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
        scaled["metadata"]["managedFields"] = [{"manager": "hpa", "subresource": "scale", "fieldsV1": fields}]
        owner, _ = DIVISIBLE.scale(obj, [PartSeen(HERE.cluster, scaled, 0)])
        assert owner is ReplicaOwner.HPA
        assert DIVISIBLE.scale_part(scaled, a_target(template, revision_of(obj).name, 9)) is None
    else:
        assert bounds == (3, 5)
    assert DIVISIBLE.replicas(obj) == 3


def test_one_status_of_all_parts_settles(template: Template) -> None:
    obj = federated(sample(template.name))
    first, second = made_part(template, obj, 2), made_part(template, obj, 3, pool="other")
    up = {"status": "True", "lastTransitionTime": "2026-01-01T00:20:00Z", "reason": "Up"}
    first["status"] = {
        "replicas": 2, "readyReplicas": 2, "availableReplicas": 2, "updatedReplicas": 2, "observedGeneration": 1,
        "url": "http://llm.example", "conditions": [{"type": "Available", **up}, {"type": "Ready", **up}],
    }  # fmt: skip
    parts = [PartSeen(HERE.cluster, first, 2), PartSeen(type(HERE.cluster)("zz"), second, 1)]
    said = (
        Said(CONDITION_SERVING, "True", "Serving", "1.0 of 2 requests/s"),
        Said(CONDITION_PLACED, "True", "Divided", "x"),
    )
    patch = DIVISIBLE.service_status(obj, parts, said, NOW, retell=True)
    assert patch is not None
    told = applied(obj, patch)
    assert DIVISIBLE.service_status(told, parts, said, NOW + 60.0, retell=True) is None
    ready = told["status"]["readyReplicas"]
    assert ready == sum(DIVISIBLE.ready_replicas(part) for part in parts)
    assert [one["name"] for one in told["status"]["clusters"]] == [HERE.cluster, "zz"]
    types = {one["type"]: one["status"] for one in told["status"]["conditions"]}
    assert types[CONDITION_SERVING] == types[CONDITION_PLACED] == "True"
    up_too = {"Available", "Ready"} & set(template.conditions)
    assert {types[one] for one in up_too} <= {"True"}, "where any part is up, the service is"
    # Figures alone are not told at once.
    other = (replace(said[0], message="1.1 of 2 requests/s"), said[1])
    assert DIVISIBLE.service_status(told, parts, other, NOW + 60.0, retell=False) is None
    again = DIVISIBLE.service_status(told, parts, other, NOW + 60.0, retell=True)
    assert again is not None
    kept = {one["type"]: one for one in again["status"]["conditions"]}[CONDITION_SERVING]
    assert kept["lastTransitionTime"] == "2026-09-21T14:13:20Z"
    # Handed back, it promises nothing any more.
    mirrored = KIND.mirror_status(told, first, 2)
    assert mirrored is not None
    assert CONDITION_SERVING not in {one["type"] for one in mirrored["status"]["conditions"]}
