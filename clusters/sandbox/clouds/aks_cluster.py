"""The emulated managed cluster beside its pools: what it says of itself, its kubeconfig, and what a caller may do."""

from __future__ import annotations

import base64
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from clusters.sandbox.clouds.entra import AKS_SERVER
from clusters.sandbox.ports import ApiAddress

VERSION: Final = "1.33.2"
_PUBLIC_CLIENT: Final = "80faf920-1908-4b52-b5ef-a8e7bedfc67a"
"""Application that people's own `kubelogin` uses; it stands in the kubeconfig of every Entra-integrated cluster."""
_ROLE: Final = {
    "actions": [
        "Microsoft.ContainerService/managedClusters/read",
        "Microsoft.ContainerService/managedClusters/agentPools/*",
        "Microsoft.ContainerService/managedClusters/listClusterUserCredential/action",
        "Microsoft.ContainerService/locations/*/read",
        "Microsoft.Authorization/*/read",
    ],
    "notActions": ["Microsoft.ContainerService/managedClusters/agentPools/delete"],
    "dataActions": [],
    "notDataActions": [],
}


@dataclass
class ManagedCluster:
    """How the emulated cluster is set up and what the calling identity is granted. May be changed while it runs."""

    login: str = "entra"
    """entra: integrated with Entra ID; token: local accounts, whose kubeconfig carries a token beside a certificate;
    certificate: local accounts without a token."""
    local_token: str = field(default_factory=lambda: secrets.token_hex(64), repr=False)
    kubeconfig: bytes | None = None
    """Sent as it is in place of the right one."""
    roles: list[dict[str, Any]] = field(default_factory=lambda: [dict(_ROLE)])
    """Permissions of each role that is assigned, as `Microsoft.Authorization/permissions` lists them."""
    neighbours: tuple[str, ...] = ()
    """Other clusters of the resource group: listed, and nothing else."""
    page_size: int = 100
    next_link: str = ""
    """Sent with every page in place of the right link."""
    autoscaled: set[str] = field(default_factory=set)
    """Pools that the cluster autoscaler owns."""
    failure: tuple[str, str] | None = None
    """Code and message of a resize that ends badly; None: those of the pool's shortage."""
    tells_why: bool = True
    """Whether a failed pool carries its error, or only its operation does."""
    power: str = "Running"

    def may(self, action: str) -> bool:
        """Whether some role grants `action` and does not take it away itself."""
        return any(
            _listed(action, role.get("actions", [])) and not _listed(action, role.get("notActions", []))
            for role in self.roles
        )

    def properties(self, api: ApiAddress) -> dict[str, Any]:
        """`properties` of the managed cluster, its pools left out."""
        aad = {"managed": True, "enableAzureRBAC": False} if self.login == "entra" else None
        properties = {
            "provisioningState": "Succeeded",
            "powerState": {"code": self.power},
            "kubernetesVersion": VERSION.rpartition(".")[0],
            "currentKubernetesVersion": VERSION,
            "fqdn": urlsplit(api.server).netloc,  # with its port, which is always 443 at the real one
            "enableRBAC": True,
            "disableLocalAccounts": self.login == "entra",
            "nodeProvisioningProfile": {"mode": "Manual"},
        }
        return properties if aad is None else {**properties, "aadProfile": aad}

    def user_credentials(self, name: str, tenant: str, api: ApiAddress) -> dict[str, Any]:
        """Answer of listClusterUserCredential."""
        content = self.kubeconfig
        if content is None:
            content = json.dumps(self._kubeconfig(name, tenant, api)).encode()
        return {"kubeconfigs": [{"name": "clusterUser", "value": base64.b64encode(content).decode()}]}

    def _kubeconfig(self, name: str, tenant: str, api: ApiAddress) -> dict[str, Any]:
        cluster: dict[str, Any] = {"server": api.server}
        if api.ca_pem:
            cluster["certificate-authority-data"] = base64.b64encode(api.ca_pem).decode()
        user = f"clusterUser_overspill-sandbox_{name}"
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": user}}],
            "current-context": name,
            "users": [{"name": user, "user": self._user(tenant)}],
        }

    def _user(self, tenant: str) -> dict[str, Any]:
        if self.login == "entra":
            identities = ["--server-id", AKS_SERVER, "--client-id", _PUBLIC_CLIENT, "--tenant-id", tenant]
            return {
                "exec": {
                    "apiVersion": "client.authentication.k8s.io/v1beta1",
                    "command": "kubelogin",
                    "args": ["get-token", "--environment", "AzurePublicCloud", *identities, "--login", "devicecode"],
                    "provideClusterInfo": False,
                }
            }
        pair = {
            key: base64.b64encode(secrets.token_bytes(48)).decode()
            for key in ("client-certificate-data", "client-key-data")
        }
        return {**pair, "token": self.local_token} if self.login == "token" else pair


def _listed(action: str, patterns: list[str]) -> bool:
    return any(re.fullmatch(re.escape(one).replace(r"\*", ".*"), action, re.IGNORECASE) for one in patterns)
