"""The Helm chart by a real Helm engine: what it makes is valid, restricted, and says the same as deploy/rbac."""

from __future__ import annotations

import copy
import itertools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from deploy.grafana.build import BOARDS
from deploy.helm.render import BASE, CHART, base, carried, copies, render
from policies.loader import load_policies
from scheduler.daemon.config.federation import check_federation, load_federation
from scheduler.daemon.gathering.shards import shard_leases
from scheduler.daemon.leading.leader import LeaseSettings
from scheduler.daemon.permissions import role_file
from tests.builders.pod_security import violations

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.33"
FULL: dict[str, Any] = {
    "image": {"digest": f"sha256:{'a' * 64}", "pullSecrets": [{"name": "registry"}]},
    "replicas": 3,
    "mode": "active",
    "federation": {
        "name": "prod",
        "spec": {
            "history": {"url": "postgresql+asyncpg://overspill@db/overspill", "passwordFile": "history-password"},
            "members": [
                {
                    "name": "eks",
                    "region": "us-east-1",
                    "kubeconfig": "kubeconfigs/eks.yaml",
                    "provider": {"type": "onprem"},
                    "pools": [
                        {
                            "name": "gpu",
                            "selector": {"pool": "gpu"},
                            "capacityType": "owned",
                            "node": {"cpu": "8", "memory": "64Gi", "gpus": 1},
                        }
                    ],
                }
            ],
        },
    },
    "kubeconfigs": {"eks": {"secret": "overspill-eks", "key": "kubeconfig"}},
    "secretFiles": [{"secret": "overspill-history", "key": "password", "path": "history-password"}],
    "hubIsMember": False,
    "policiesFrom": {"git": {"repository": "https://git.example.com/p.git", "path": "policies", "secret": "git"}},
    "gathering": {"shards": 3, "token": {"secret": "overspill-shards"}},
    "extraPolicies": ["team-vision", "team.nlp"],
    "serviceAccount": {"annotations": {"example.com/owner": "platform"}},
    "cloudIdentity": {"aws": {"roleArn": "arn:aws:iam::123456789012:role/overspill"}},
    "podLabels": {"team": "platform"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "infra", "operator": "Exists"}],
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "overspill"}},
        }
    ],
    "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "networkPolicy": {"from": []},
    "monitoring": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}, "ruleLabels": {"team": "platform"}},
        "dashboards": {"enabled": True, "namespace": "grafana", "annotations": {"grafana_folder": "Overspill"}},
    },
    "listen": {"users": True, "token": {"secret": "overspill-page"}, "workloadMetrics": 50},
}
CLIENT, TENANT = "11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-000000000000"
SECRET_URL: dict[str, Any] = {
    "history": {"secret": "overspill-history"},
    "replicas": 2,
    "cloudIdentity": {
        "google": {"serviceAccount": "overspill@my-project.iam.gserviceaccount.com"},
        "azure": {"clientId": CLIENT, "tenantId": TENANT},
    },
}
SHAPES = {"default": {}, "full": FULL, "active": {"mode": "active"}, "secret": SECRET_URL}


def of_kind(objects: list[dict[str, Any]], kind: str, name: str = "") -> dict[str, Any]:
    return next(one for one in objects if one["kind"] == kind and name in one["metadata"]["name"])


@pytest.mark.parametrize("shape", SHAPES)
def test_all_that_it_makes_is_valid(shape: str) -> None:
    objects = render(SHAPES[shape])
    assert len({(one["kind"], one["metadata"]["name"], one["metadata"].get("namespace")) for one in objects}) == len(
        objects
    )
    for one in objects:
        if not one["apiVersion"].startswith("monitoring.coreos.com"):
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_its_pods_keep_to_the_restricted_standard(shape: str) -> None:
    pod = of_kind(render(SHAPES[shape]), "Deployment")["spec"]["template"]["spec"]
    assert violations(pod) == []
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("hostNetwork",), True, "hostNetwork"),
        (("securityContext", "runAsNonRoot"), False, "runAsNonRoot"),
        (("securityContext", "runAsUser"), 0, "runAsUser"),
        (("securityContext", "seccompProfile"), None, "seccompProfile"),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True, "allowPrivilegeEscalation"),
        (("containers", 0, "securityContext", "privileged"), True, "privileged"),
        (("containers", 0, "securityContext", "capabilities"), {"add": ["SYS_ADMIN"], "drop": ["ALL"]}, "SYS_ADMIN"),
        (("containers", 0, "securityContext", "capabilities"), None, "drop ALL"),
        (("containers", 0, "ports"), [{"containerPort": 1, "hostPort": 1}], "hostPort"),
        (("volumes",), [{"name": "x", "hostPath": {"path": "/"}}], "hostPath"),
    ],
)
def test_a_pod_that_breaks_the_standard_is_found(where: tuple[Any, ...], value: Any, said: str) -> None:
    pod = copy.deepcopy(of_kind(render(), "Deployment")["spec"]["template"]["spec"])
    place = pod
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    assert [one for one in violations(pod) if said in one]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_federation_file_that_it_makes_is_one_for_the_daemon(shape: str, tmp_path: Path) -> None:
    text = of_kind(render(SHAPES[shape]), "ConfigMap", "federation")["data"]["federation.yaml"]
    check_federation(text.encode(), "federation.yaml")
    (tmp_path / "federation.yaml").write_text(text)
    (tmp_path / "history-password").write_text("secret\n")
    (tmp_path / "history").mkdir()
    (tmp_path / "history" / "url").write_text("postgresql+asyncpg://of:a-secret@db/x\n")
    federation = load_federation(tmp_path / "federation.yaml")
    full = shape == "full"
    assert federation.shards == (3 if full else 0)
    assert federation.shards_token_file == (tmp_path / "gathering" / "token" if full else None)
    assert federation.api_token_file == (tmp_path / "listen" / "token" if full else None)
    assert federation.workload_metrics == (50 if full else 200)
    assert federation.mode == SHAPES[shape].get("mode", "shadow")
    urls = {"full": "postgresql+asyncpg://overspill:secret@", "secret": "postgresql+asyncpg://of:a-secret@db/x"}
    assert federation.history_url.startswith(urls.get(shape, "sqlite"))


def test_its_policies_are_policies(tmp_path: Path) -> None:
    for name, text in of_kind(render(), "ConfigMap", "policies")["data"].items():
        (tmp_path / name).write_text(text)
    assert len(load_policies([tmp_path]).policies) == 1


@pytest.mark.parametrize(("mode", "shadow"), [("shadow", True), ("active", False)])
def test_it_grants_what_the_roles_grant_and_nothing_beyond(mode: str, *, shadow: bool) -> None:
    made = render({"mode": mode})
    written = [
        one
        for place in ("hub", "member")
        for one in yaml.safe_load_all((ROOT / "deploy" / "rbac" / role_file(place, shadow=shadow)).read_text())
    ]

    def rules(objects: list[dict[str, Any]]) -> list[Any]:
        return sorted(
            ([one["kind"], one["metadata"].get("namespace", ""), one["rules"]] for one in objects if "rules" in one),
            key=str,
        )

    assert rules(made) == rules(written)
    for one in made:
        for subject in one.get("subjects", ()):
            assert subject == {"kind": "ServiceAccount", "name": "overspill", "namespace": "overspill"}


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ({"mode": "active"}, set()),
        ({"listen": {"users": True}}, {"ClusterRole", "ClusterRoleBinding"}),
        ({"listen": {"token": {"secret": "t"}}}, set()),
        ({"listen": {"token": {"secret": "t"}}, "mode": "active"}, {"Role", "RoleBinding", "ConfigMap"}),
        (
            {"listen": {"users": True}, "mode": "active"},
            {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ConfigMap"},
        ),
        ({"listen": {"users": True}, "mode": "active", "rbac": {"create": False}}, set()),
    ],
)
def test_who_throws_switches_over_http_gets_the_roles_of_the_page(values: dict[str, Any], want: set[str]) -> None:
    """In shadow mode nothing is written, and who brings the token need not be looked up."""
    page = [
        one
        for one in render({**values, "federation": {"name": "prod"}})
        if one["metadata"]["name"] in ("overspill-page", "overspill-prod")
    ]
    assert {one["kind"] for one in page} == want
    written = yaml.safe_load_all((ROOT / "deploy" / "rbac" / "hub-page.yaml").read_text().replace("-example", "-prod"))
    rules = {one["kind"]: one["rules"] for one in written if "rules" in one}
    assert {one["kind"]: one["rules"] for one in page if "rules" in one} == {k: rules[k] for k in rules if k in want}


def test_the_token_of_the_page_is_a_secret_by_reference() -> None:
    pod = of_kind(render(FULL), "Deployment")["spec"]["template"]["spec"]
    sources = next(one for one in pod["volumes"] if one["name"] == "config")["projected"]["sources"]
    assert {"secret": {"name": "overspill-page", "items": [{"key": "token", "path": "listen/token"}]}} in sources


def sources_of_config(values: dict[str, Any]) -> list[dict[str, Any]]:
    pod = of_kind(render(values), "Deployment")["spec"]["template"]["spec"]
    found: list[dict[str, Any]] = next(one for one in pod["volumes"] if one["name"] == "config")["projected"]["sources"]
    return found


def test_the_url_of_the_history_is_a_secret_by_reference_and_needs_no_volume_of_its_own() -> None:
    assert {"secret": {"name": "overspill-history", "items": [{"key": "url", "path": "history/url"}]}} in (
        sources_of_config(SECRET_URL)
    )
    made = render(SECRET_URL)
    assert not [one for one in made if one["kind"] == "PersistentVolumeClaim"]
    assert of_kind(made, "Deployment")["spec"]["strategy"]["type"] == "RollingUpdate"
    spec = yaml.safe_load(of_kind(made, "ConfigMap", "federation")["data"]["federation.yaml"])["spec"]
    assert spec["history"] == {"urlFile": "history/url"}


def test_replicas_that_share_the_gathering_know_and_reach_one_another() -> None:
    """Their token, their address, the way through the NetworkPolicy, and as many Leases as there are shards."""
    made = render(FULL)
    pod = of_kind(made, "Deployment")["spec"]["template"]["spec"]
    assert {"secret": {"name": "overspill-shards", "items": [{"key": "token", "path": "gathering/token"}]}} in (
        sources_of_config(FULL)
    )
    env = {one["name"]: one for one in pod["containers"][0]["env"]}
    assert env["POD_IP"]["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    own = {"app.kubernetes.io/name": "overspill", "app.kubernetes.io/instance": "overspill"}
    assert of_kind(made, "NetworkPolicy")["spec"]["ingress"] == [
        {"from": [{"podSelector": {"matchLabels": own}}], "ports": [{"port": "http", "protocol": "TCP"}]}
    ]
    written = yaml.safe_load_all((ROOT / "deploy" / "rbac" / "hub-shards.yaml").read_text())
    (rule,) = next(one for one in written if one["kind"] == "Role")["rules"]
    leases = [f"overspill-prod-shard-{number}" for number in range(3)]
    assert of_kind(made, "Role", "shards")["rules"] == [{**rule, "resourceNames": leases}]
    assert [one.name for one in shard_leases(3, LeaseSettings(name="overspill-prod"))] == leases


@pytest.mark.parametrize("values", [{}, {"mode": "active"}, {**FULL, "mode": "shadow"}])
def test_leases_of_shards_are_granted_only_where_they_are_taken(values: dict[str, Any]) -> None:
    assert not [one for one in render(values) if "shards" in one["metadata"]["name"]]


def test_policies_of_teams_are_laid_beside_those_of_either_source(tmp_path: Path) -> None:
    for source in ({}, {"policiesFrom": {"configMap": "mine"}}, {"policiesFrom": FULL["policiesFrom"]}):
        pod = of_kind(render({**source, "extraPolicies": ["team-vision", "team.nlp"]}), "Deployment")
        container = pod["spec"]["template"]["spec"]["containers"][0]
        volumes = {one["name"]: one for one in pod["spec"]["template"]["spec"]["volumes"]}
        mounts = {one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]}
        folders = [value for option, value in itertools.pairwise(container["args"]) if option == "--policies"]
        assert folders[1:] == ["/extra-policies/team-vision", "/extra-policies/team.nlp"]
        assert [mounts[folder]["configMap"]["name"] for folder in folders[1:]] == ["team-vision", "team.nlp"]


@pytest.mark.parametrize(
    ("values", "annotations", "label"),
    [
        ({}, None, None),
        (
            FULL,
            {"eks.amazonaws.com/role-arn": "arn:aws:iam::123456789012:role/overspill", "example.com/owner": "platform"},
            None,
        ),
        (
            SECRET_URL,
            {
                "iam.gke.io/gcp-service-account": "overspill@my-project.iam.gserviceaccount.com",
                "azure.workload.identity/client-id": CLIENT,
                "azure.workload.identity/tenant-id": TENANT,
            },
            "true",
        ),
    ],
)
def test_who_it_is_to_the_clouds(values: dict[str, Any], annotations: dict[str, str] | None, label: str | None) -> None:
    made = render(values)
    assert of_kind(made, "ServiceAccount")["metadata"].get("annotations") == annotations
    template = of_kind(made, "Deployment")["spec"]["template"]
    assert template["metadata"]["labels"].get("azure.workload.identity/use") == label
    assert template["spec"]["serviceAccountName"] == of_kind(made, "ServiceAccount")["metadata"]["name"]


def test_its_dashboards_are_ours_where_the_sidecar_of_grafana_finds_them() -> None:
    made = {one["metadata"]["name"]: one for one in render(FULL) if "-dashboard-" in one["metadata"]["name"]}
    assert len(made) == len(BOARDS)
    for board in BOARDS:
        one = made[board.uid.replace("overspill-", "overspill-dashboard-", 1)]
        assert one["data"] == {board.file: board.json().rstrip("\n")}
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert one["metadata"]["annotations"] == {"grafana_folder": "Overspill"}
        assert one["metadata"]["namespace"] == "grafana"


def test_what_it_carries_of_other_folders_is_what_is_there() -> None:
    assert copies() == carried(), "run `make kustomize`"
    assert not [path for path in CHART.rglob("*") if path.is_symlink()], "links are lost in some archives"


def test_what_follows_workloads_is_granted_only_where_the_federation_names_it() -> None:
    values = {"mode": "active", "federation": {"spec": {"dependents": ["ConfigMap", "Secret"]}}}
    made = {one["metadata"]["name"]: one for one in render(values) if one["kind"] == "ClusterRole"}
    assert made["overspill-hub-dependents"]["rules"] == [
        {"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": ["get"]}
    ]
    assert made["overspill-member-dependents"]["rules"][0]["resources"] == ["configmaps", "secrets"]
    assert not [one for one in render({"mode": "active"}) if "dependents" in one["metadata"]["name"]]
    assert not [one for one in render({**values, "mode": "shadow"}) if "dependents" in one["metadata"]["name"]]


def test_roles_for_steering_requests_are_made_only_where_that_is_wanted() -> None:
    def roles(values: dict[str, Any]) -> set[str]:
        return {one["metadata"]["name"] for one in render(values) if one["kind"] == "ClusterRole"}

    named = {"overspill-hub-traffic", "overspill-member-traffic"}
    assert named <= roles({"mode": "active", "steersTraffic": True})
    assert "overspill-member-traffic" not in roles({"mode": "active", "steersTraffic": True, "hubIsMember": False})
    assert not named & roles({"mode": "active"})
    assert not named & roles({"mode": "shadow", "steersTraffic": True})


def test_the_checkout_of_policies_logs_in_with_a_secret_by_reference() -> None:
    pod = of_kind(render(FULL), "Deployment")["spec"]["template"]["spec"]
    for container in (pod["initContainers"][0], pod["containers"][1]):
        given = {one["name"]: one for one in container["env"]}
        assert given["GITSYNC_USERNAME"]["value"] == "git"
        assert given["GITSYNC_PASSWORD"]["valueFrom"] == {"secretKeyRef": {"name": "git", "key": "token"}}


def test_the_lease_that_it_may_write_is_that_of_the_federation() -> None:
    role = of_kind(render(FULL), "Role", "leader")
    assert {name for rule in role["rules"] for name in rule.get("resourceNames", ())} == {"overspill-prod"}


def test_two_releases_stand_beside_each_other() -> None:
    one, other = render(name="overspill-a"), render(name="overspill-b")
    names = [{(x["kind"], x["metadata"]["name"]) for x in objects if x["kind"] != "CustomResourceDefinition"}
             for objects in (one, other)]  # fmt: skip
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"replicas": 2},
            "more than one needs one history for all: set history.secret, or federation",
        ),
        (
            {"history": {"secret": "x"}, "federation": FULL["federation"]},
            "leave federation.spec.history.passwordFile out",
        ),
        ({"history": {"url": "postgresql://"}}, "additional properties 'url' not allowed"),
        ({"gathering": {"shards": 2}}, "gathering.token.secret is needed with gathering.shards"),
        ({"gathering": {"shards": 65}}, "at '/gathering/shards'"),
        ({"federation": {"spec": {"gathering": {"shards": 2}}}}, "at '/federation/spec'"),
        ({"cloudIdentity": {"aws": {"roleArn": "overspill"}}}, "at '/cloudIdentity/aws/roleArn'"),
        ({"cloudIdentity": {"google": {"serviceAccount": "overspill"}}}, "at '/cloudIdentity/google/serviceAccount'"),
        ({"cloudIdentity": {"azure": {"clientId": "overspill"}}}, "at '/cloudIdentity/azure/clientId'"),
        (
            {"cloudIdentity": {"azure": {"clientId": CLIENT}}, "serviceAccount": {"create": False, "name": "mine"}},
            "annotate yours instead",
        ),
        ({"extraPolicies": ["../x"]}, "at '/extraPolicies/0'"),
        ({"replicas": "two"}, "at '/replicas': got string, want integer"),
        ({"mode": "live"}, "at '/mode'"),
        ({"replica": 1}, "additional properties 'replica' not allowed"),
        ({"federation": {"spec": {"listen": {"port": 1}}}}, "at '/federation/spec'"),
        ({"kubeconfigs": {"eks": {"secret": "x"}}}, "missing property 'key'"),
        ({"secretFiles": [{"secret": "x", "key": "y", "path": "../z"}]}, "at '/secretFiles/0/path'"),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name is needed"),
        ({"listen": {"token": "secret"}}, "at '/listen/token'"),
        ({"listen": {"port": 1}}, "additional properties 'port' not allowed"),
    ],
)
def test_values_that_cannot_be_are_refused_with_a_reason(values: dict[str, Any], said: str) -> None:
    with pytest.raises(helm_python.HelmError) as caught:
        render(values)
    assert said in str(caught.value)


def test_helm_finds_nothing_to_complain_of() -> None:
    report = helm_python.lint(CHART, strict=True)
    assert report["errors"] == []
    assert [one for one in report["messages"] if one["severity"] >= 2] == []


def test_the_kustomize_base_is_what_the_chart_makes() -> None:
    assert BASE.read_text() == base(), "run `make kustomize`"


def kustomized(folder: str) -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; put one on PATH to run this")
    made = subprocess.run(["kubectl", "kustomize", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return list(yaml.safe_load_all(made.stdout))


def test_the_kustomize_example_builds_with_its_own_files() -> None:
    objects = kustomized("examples/kustomize")
    federation = of_kind(objects, "ConfigMap", "federation")["data"]["federation.yaml"]
    assert federation == (ROOT / "examples" / "kustomize" / "federation.yaml").read_text()
    image = of_kind(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "registry.example.com/platform/overspill:0.1.0"
    assert {one["metadata"].get("namespace") for one in objects} == {"overspill", "default", None}


def test_the_kustomize_example_lays_the_dashboards_where_the_sidecar_looks() -> None:
    objects = kustomized("examples/kustomize/dashboards")
    assert {name: text for one in objects for name, text in one["data"].items()} == {
        board.file: board.json() for board in BOARDS
    }
    for one in objects:
        assert one["metadata"]["namespace"] == "monitoring"
        assert one["metadata"]["labels"] == {"grafana_dashboard": "1"}
        assert one["metadata"]["annotations"] == {"grafana_folder": "Overspill"}
