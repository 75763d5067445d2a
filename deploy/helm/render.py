"""Writes what the chart carries of the other folders (copies: links are lost in some archives), and then
deploy/kustomize/base/overspill.yaml: the chart with its default values, so that both say the same.

`make kustomize` runs it; tests/unit/test_helm_chart.py tells when it is due.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import helm_python
import yaml

DEPLOY = Path(__file__).parents[1]
CHART = DEPLOY / "helm" / "overspill"
BASE = DEPLOY / "kustomize" / "base" / "overspill.yaml"
CARRIED = {
    "crds": "crds/*.yaml",
    "files/rbac": "rbac/*.yaml",
    "files/prometheus": "prometheus/*.rules.yaml",
    "files/grafana": "grafana/*.json",
}
"""By folder of the chart: which files of deploy/ are in it."""
_HEAD = "# Made by deploy/helm/render.py (`make kustomize`) from the Helm chart with its default values.\n"


def render(values: dict[str, Any] | None = None, name: str = "overspill") -> list[dict[str, Any]]:
    """All objects of the chart in namespace `overspill`, its resource definitions first.

    Raises: helm_python.HelmError for values that the chart refuses.
    """
    with helm_python.Chart.load(CHART) as chart:
        found = [yaml.safe_load(one["data"]) for one in chart.crds]
        for path, text in sorted(chart.render(values=values, name=name, namespace="overspill").items()):
            if path.endswith(".yaml"):
                found += [one for one in yaml.safe_load_all(text) if one]
    return found


def carried() -> dict[Path, bytes]:
    """What the chart's copies have to be, by their path."""
    return {
        CHART / folder / file.name: file.read_bytes()
        for folder, pattern in CARRIED.items()
        for file in sorted(DEPLOY.glob(pattern))
    }


def copies() -> dict[Path, bytes]:
    """What they are."""
    return {file: file.read_bytes() for folder in CARRIED for file in sorted((CHART / folder).glob("*"))}


def carry() -> None:
    wanted = carried()
    for file in copies().keys() - wanted.keys():
        file.unlink()
    for file, content in wanted.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def base() -> str:
    """The text of the base: the namespace, held to the restricted Pod Security Standard, and what the chart makes."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "overspill", "labels": labels}}
    return _HEAD + yaml.safe_dump_all([namespace, *render()], sort_keys=False, width=120)


if __name__ == "__main__":
    carry()
    BASE.write_text(base(), encoding="utf-8")
    sys.stdout.write(f"{BASE.relative_to(DEPLOY.parent)}\n")
