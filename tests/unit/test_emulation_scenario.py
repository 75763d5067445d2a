"""Scenarios: the default one, files, and what is wrong with wrong files."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from clusters.sandbox.federation_file import dump, federation_document
from clusters.sandbox.scenario import default_scenario, load_scenario
from scheduler.daemon.config.federation import load_federation
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, PoolId

GOOD = """
apiVersion: overspill.dev/v1alpha1
kind: SandboxScenario
hub: {name: hub, region: eu}
members:
  - name: lab
    provider: onprem
    region: eu
    labels: {overspill.dev/residency: eu}
    pools:
      - {name: gpu, instanceType: box, capacityType: owned, maxNodes: 2, cpu: "8", memory: 64Gi, gpus: 1,
         gpuModel: L4, gpuMemory: 24Gi, usdPerHour: "0.40", zone: eu-a}
  - name: cloud
    provider: eks
    region: us-east-1
    dcgmExporter: "4.9"
    pools:
      - {name: spot, instanceType: g5.xlarge, capacityType: spot, maxNodes: 4, cpu: "4", memory: 15Gi,
         usdPerHour: "0.46", zone: us-east-1a, reclaimsPerHour: 0.5, quotaNodes: 3,
         shortages: [{fromSeconds: 10, toSeconds: 20}], taints: [{key: gpu, effect: NoSchedule}]}
faults:
  - {atSeconds: 60, cluster: cloud, kind: api-silent, seconds: 30}
"""


def test_the_default_federation() -> None:
    scenario = default_scenario()
    assert [cluster.name for cluster in scenario.clusters] == ["hub", "onprem", "eks", "gke", "aks"]
    prices = {(m.name, p.spec.name): Decimal(p.spec.usd_per_hour) for m in scenario.members for p in m.pools}
    assert prices["eks", "p4d"] == Decimal("21.957642")
    assert prices["gke", "a2"] == Decimal("3.67339")
    assert prices["aks", "nc24"] == Decimal("3.673")
    onprem = scenario.members[0].pools
    assert [(p.spec.name, p.initial_nodes, p.spec.gpus, p.fixed) for p in onprem] == [
        ("a100", 8, 8, True),
        ("cpu", 2, 0, True),
    ]
    assert all(p.initial_nodes == 0 for m in scenario.members[1:] for p in m.pools)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(GOOD)
    scenario = load_scenario(path)
    lab, cloud = scenario.members
    assert (lab.dcgm_exporter, cloud.dcgm_exporter) == ("4.8", "4.9")
    assert lab.pools[0].initial_nodes == 2
    assert cloud.pools[0].quota_nodes == 3
    assert cloud.pools[0].shortages == ((10.0, 20.0),)
    assert dict(cloud.pools[0].spec.labels)["eks.amazonaws.com/capacityType"] == "SPOT"
    assert scenario.faults[0].kind == "api-silent"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("capacityType: spot", "capacityType: borrowed", "members.1.pools.0.capacityType"),
        ("memory: 64Gi", "memory: lots", "members.0.pools.0.memory"),
        ('"0.46"', '"free"', "members.1.pools.0.usdPerHour"),
        ("maxNodes: 4", "maxNodes: 4, colour: red", "members.1.pools.0.colour"),
        ("maxNodes: 2", "maxNodes: 2, initialNodes: 5", "lab.gpu: initialNodes"),
        ("name: cloud\n", "name: lab\n", "same name"),
        ("gpuMemory: 24Gi, ", "", "lab.gpu: a pool with GPUs"),
        ("cluster: cloud", "cluster: mars", "mars"),
        ("provider: eks\n    region", "region", "cloud: pools need a provider"),
        ("hub: {name", "hub: {name: [", "not YAML"),
        ("kind: SandboxScenario", "kind: Pod", "kind"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    path = tmp_path / "s.yaml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(InvalidObjectError, match=says.replace(".", r"\.")) as caught:
        load_scenario(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidObjectError, match="cannot be read"):
        load_scenario(tmp_path / "none.yaml")


def test_the_daemon_understands_the_federation_file(tmp_path: Path) -> None:
    scenario = default_scenario()
    document = federation_document(
        scenario,
        kubeconfigs={cluster.name: f"kubeconfigs/{cluster.name}.yaml" for cluster in scenario.clusters},
        metrics_urls={cluster.name: "http://127.0.0.1:1/metrics" for cluster in scenario.members},
        provider_settings={cluster.name: {"type": cluster.name} for cluster in scenario.members},
    )
    path = tmp_path / "federation.yaml"
    path.write_text(dump(document))
    federation = load_federation(path)
    assert federation.mode == "active"
    assert federation.clock_file == tmp_path / "clock"
    pools = {(m.id, p.ref.pool): p for m in federation.members for p in m.pools}
    p4d = pools[ClusterId("eks"), PoolId("p4d")]
    assert p4d.price is not None
    assert p4d.price.usd_per_hour == Decimal("21.957642")
    assert (p4d.scaling, p4d.max_nodes, p4d.provisioning_seconds) == ("managed", 8, 240)
    assert dict(p4d.labels)["nvidia.com/gpu.product"] == "A100-40GB"
    assert pools[ClusterId("onprem"), PoolId("a100")].scaling == "fixed"


def test_the_clouds_own_tokens_can_be_the_way_in(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(GOOD + "loginByProvider: true\n")
    scenario = load_scenario(path)
    document = federation_document(
        scenario,
        kubeconfigs={cluster.name: f"kubeconfigs/{cluster.name}.yaml" for cluster in scenario.clusters},
        metrics_urls={cluster.name: "http://127.0.0.1:1/metrics" for cluster in scenario.members},
        provider_settings={"lab": {"type": "onprem"}, "cloud": {"type": "eks"}},
    )
    path = tmp_path / "federation.yaml"
    path.write_text(dump(document))
    lab, cloud = load_federation(path).members
    assert (lab.login, lab.kubeconfig) == ("kubeconfig", tmp_path / "kubeconfigs/lab.yaml")
    assert (cloud.login, cloud.kubeconfig) == ("provider", None)
