from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clusters.sandbox.federation_file import dump, federation_document
from clusters.sandbox.scenario import default_scenario
from scheduler.cli.demo.federation import prepare
from scheduler.model.errors import InvalidObjectError


def written(folder: Path) -> Path:
    scenario = default_scenario()
    names = [cluster.name for cluster in scenario.clusters]
    document = federation_document(
        scenario,
        kubeconfigs={name: f"kubeconfigs/{name}.yaml" for name in names},
        metrics_urls=dict.fromkeys(names, "http://127.0.0.1:1/metrics"),
        provider_settings={name: {"type": "onprem"} for name in names},
    )
    path = folder / "federation.yaml"
    path.write_text(dump(document), encoding="utf-8")
    return path


def test_the_sandboxs_file_gets_a_free_port_and_keeps_the_rest(tmp_path: Path) -> None:
    found = prepare(written(tmp_path))
    spec = yaml.safe_load(found.file.read_text(encoding="utf-8"))["spec"]
    assert found.daemon_url == f"http://127.0.0.1:{spec['listen']['port']}"
    assert spec["listen"]["port"] != 8080
    assert spec["mode"] == "active"
    assert found.file.parent == tmp_path
    assert found.hub == ("hub", tmp_path / "kubeconfigs/hub.yaml")
    assert [name for name, _ in found.members] == ["onprem", "eks", "gke", "aks"]


def test_bought_pools_are_those_that_are_managed_and_not_owned(tmp_path: Path) -> None:
    found = prepare(written(tmp_path))
    assert {pool.cluster for pool in found.bought} == {"eks", "gke", "aks"}
    assert all(pool.selector for pool in found.bought)
    assert found.max_gpus >= 64


@pytest.mark.parametrize("text", ["", "[]", "spec: {}", "spec: {hub: {name: x}}", "a: [", "spec: 3"])
def test_anything_else_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "federation.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidObjectError, match=r"federation\.yaml: not a federation file"):
        prepare(path)
