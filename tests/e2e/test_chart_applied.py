"""What the chart makes, applied by kubectl to a real API server with strict validation and Pod Security admission.

It runs when $KUBEBUILDER_ASSETS names a folder with etcd and kube-apiserver (the envtest convention) and kubectl is
there or on PATH; otherwise it says what is missing. What needs the Prometheus Operator is applied against stand-ins of
its definitions (tests/builders/monitoring_crds.py): a dry run would not do, as a server knows no kind without them.
"""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from deploy.helm.render import render
from tests.builders.monitoring_crds import monitoring_crds
from tests.e2e.real_cluster import ASSETS, find_assets, real_clusters
from tests.unit.test_helm_chart import SHAPES, of_kind

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]
_CHART_NEEDS = (1, 32)
RESTRICTED = {f"pod-security.kubernetes.io/{what}": "restricted" for what in ("enforce", "warn", "audit")}


@dataclass(frozen=True, slots=True)
class Kubectl:
    command: str
    kubeconfig: Path

    def __call__(self, *words: str, objects: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.command, "--kubeconfig", str(self.kubeconfig), *words, "-f", "-"],
            input=yaml.safe_dump_all(objects), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def apply(self, objects: list[dict[str, Any]]) -> None:
        """Every field known, and no warning (of Pod Security, of what is deprecated)."""
        done = self("apply", "--server-side", "--validate=strict", objects=objects)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr, done.stderr


def kubectl_command() -> str:
    """That beside the API server's binary, or the machine's. Skips the test where there is none."""
    found = shutil.which("kubectl", path=os.environ.get(ASSETS)) or shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is neither in the folder of the API server nor on PATH")
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kubectl(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kubectl]:
    """A server with the namespaces that the chart is installed into, the operator's definitions among its kinds."""
    assets = find_assets()
    if isinstance(assets, str):
        pytest.skip(assets)
    if assets.version < _CHART_NEEDS:
        pytest.skip("the chart needs Kubernetes 1.32; the API server is {}.{}".format(*assets.version))
    command = kubectl_command()
    async with real_clusters(assets, tmp_path_factory.mktemp("chart") / "real", ["hub"]) as clusters:
        made = Kubectl(command, clusters["hub"].kubeconfig)
        made.apply([a_namespace(name) for name in ("overspill", "grafana", "kube-system")])
        define(made, monitoring_crds())
        yield made


def a_namespace(name: str) -> dict[str, Any]:
    labels = RESTRICTED if name == "overspill" else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def define(kubectl: Kubectl, definitions: list[dict[str, Any]]) -> None:
    """Apply definitions, and wait until what they define is served."""
    kubectl.apply(definitions)
    served = kubectl("wait", "--for=condition=Established", "--timeout=60s", objects=definitions)
    assert served.returncode == 0, served.stderr


def split(objects: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    definitions = [one for one in objects if one["kind"] == "CustomResourceDefinition"]
    return definitions, [one for one in objects if one not in definitions]


@pytest.mark.parametrize("shape", SHAPES)
async def test_it_is_applied_as_it_is_made(kubectl: Kubectl, shape: str) -> None:
    definitions, rest = split(render(SHAPES[shape], name=f"overspill-{shape}"))
    define(kubectl, definitions)
    kubectl.apply(rest)
    kubectl.apply(rest)


@pytest.mark.parametrize("shape", SHAPES)
async def test_its_pods_are_let_into_a_restricted_namespace_and_worse_ones_are_not(
    kubectl: Kubectl, shape: str
) -> None:
    """By the server's own Pod Security admission, which a dry run passes through."""
    template: dict[str, Any] = of_kind(render(SHAPES[shape]), "Deployment")["spec"]["template"]
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"try-{shape}", "namespace": "overspill", "labels": template["metadata"]["labels"]},
        "spec": {**template["spec"], "restartPolicy": "Always"},
    }
    let_in = kubectl("create", "--dry-run=server", "--validate=strict", objects=[pod])
    assert let_in.returncode == 0, let_in.stderr
    assert "Warning" not in let_in.stderr, let_in.stderr
    worse = copy.deepcopy(pod)
    worse["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    refused = kubectl("create", "--dry-run=server", objects=[worse])
    assert refused.returncode != 0
    assert "violates PodSecurity" in refused.stderr


async def test_a_field_that_is_misspelt_is_refused(kubectl: Kubectl) -> None:
    """What the two tests above rely on: of our own kinds, of built-in ones and of the stand-ins."""
    for kind in ("Deployment", "ServiceMonitor"):
        wrong = copy.deepcopy(of_kind(render(SHAPES["full"]), kind))
        wrong["spec"]["mispelt"] = 1
        done = kubectl("apply", "--server-side", "--validate=strict", "--dry-run=server", objects=[wrong])
        assert done.returncode != 0, kind
        assert "mispelt" in done.stderr
