"""The emulated API server under roles: who may do what, and what it says of that when it is asked."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from clusters.sandbox.apiserver.authorization import User
from tests.builders import rbac
from tests.builders.http_apiserver import Client, serving

TOKEN = "limited"
ROLES: list[dict[str, Any]] = [
    {
        "kind": "ClusterRole",
        "metadata": {"name": "reader"},
        "rules": [
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"], "resourceNames": ["default"]},
        ],
    },
    {
        "kind": "Role",
        "metadata": {"name": "writer", "namespace": "default"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps", "pods/eviction"], "verbs": ["*"]}],
    },
    {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": rbac.RBAC, "kind": "ClusterRole", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "bot", "namespace": "default"}],
    },
    {
        "kind": "RoleBinding",
        "metadata": {"name": "writer", "namespace": "default"},
        "roleRef": {"apiGroup": rbac.RBAC, "kind": "Role", "name": "writer"},
        "subjects": [{"kind": "Group", "name": "system:serviceaccounts:default", "apiGroup": rbac.RBAC}],
    },
]
CASES = [
    # verb, group, resource, subresource, namespace, name, want_allowed
    ("list", "batch", "jobs", "", "", "", True),
    ("get", "batch", "jobs", "", "kube-system", "j", True),
    ("watch", "batch", "jobs", "", "", "", False),
    ("get", "batch", "jobs", "status", "", "j", False),
    ("get", "", "namespaces", "", "", "default", True),
    ("get", "", "namespaces", "", "", "kube-system", False),
    ("list", "", "namespaces", "", "", "", False),
    ("create", "", "configmaps", "", "default", "", True),
    ("create", "", "configmaps", "", "kube-system", "", False),
    ("create", "", "configmaps", "", "", "", False),
    ("create", "", "pods", "eviction", "default", "p", True),
    ("delete", "", "pods", "", "default", "p", False),
]


async def limited(client: Client) -> Client:
    """The same server, seen by a service account with two small roles."""
    await rbac.apply(client.server.local, [{"apiVersion": f"{rbac.RBAC}/v1", **one} for one in ROLES])
    client.server.enroll(TOKEN, User("system:serviceaccount:default:bot"))
    return Client(client.server, aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}))


@pytest.mark.parametrize(("verb", "group", "resource", "subresource", "namespace", "name", "want_allowed"), CASES)
async def test_what_it_says_is_what_it_does(
    verb: str, group: str, resource: str, subresource: str, namespace: str, name: str, want_allowed: bool
) -> None:
    methods = {"create": "POST", "delete": "DELETE"}
    async with serving() as admin:
        client = await limited(admin)
        async with client.session:
            asked = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name}
            review = {"spec": {"resourceAttributes": {**asked, "namespace": namespace}}}
            status, told = await client.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
            assert (status, told["status"]["allowed"]) == (201, want_allowed)
            if verb == "watch" or (verb == "create" and not namespace):
                return
            root = f"/apis/{group}/v1" if group else "/api/v1"
            where = f"/namespaces/{namespace}" if namespace else "/namespaces/default" if name and group else ""
            path = root + where + "".join(f"/{part}" for part in (resource, name, subresource) if part)
            status, answer = await client.call(methods.get(verb, "GET"), path, {} if verb == "create" else None)
            assert (status != 403) == want_allowed, answer


async def test_a_refusal_has_the_real_servers_words() -> None:
    async with serving() as admin:
        client = await limited(admin)
        async with client.session:
            who = 'User "system:serviceaccount:default:bot"'
            status, answer = await client.call("DELETE", "/apis/batch/v1/namespaces/default/jobs/j")
            assert status == 403
            assert answer["reason"] == "Forbidden"
            assert answer["message"] == (
                f'jobs.batch "j" is forbidden: {who} cannot delete resource "jobs" in API group "batch" '
                'in the namespace "default"'
            )
            assert answer["details"] == {"name": "j", "group": "batch", "kind": "jobs"}
            _, answer = await client.call("GET", "/api/v1/nodes")
            assert answer["message"] == (
                f'nodes is forbidden: {who} cannot list resource "nodes" in API group "" at the cluster scope'
            )
            status, _ = await client.call("GET", "/apis")
            assert status == 200, "discovery is everybody's"


async def test_the_rules_are_told_and_the_administrator_has_all() -> None:
    async with serving() as admin:
        client = await limited(admin)
        path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
        async with client.session:
            _, told = await client.call("POST", path, {"spec": {"namespace": "default"}})
            rules = told["status"]["resourceRules"]
            assert ROLES[0]["rules"][0] in rules
            assert ROLES[1]["rules"][0] in rules
            _, told = await client.call("POST", path, {"spec": {"namespace": "kube-system"}})
            assert ROLES[1]["rules"][0] not in told["status"]["resourceRules"]
            status, _ = await client.call("POST", path, {"spec": {}})
            assert status == 400
            _, me = await client.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
            assert me["status"]["userInfo"]["username"] == "system:serviceaccount:default:bot"
        _, told = await admin.call("POST", path, {"spec": {"namespace": "default"}})
        assert {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]} in told["status"]["resourceRules"]
