"""Emulated Microsoft Entra ID: one tenant, one application, the client-credentials grant of the v2.0 token endpoint."""

from __future__ import annotations

import secrets
import uuid
from pathlib import Path
from typing import Final

from aiohttp import web

from clusters.sandbox.clouds.certificates import write_private
from clusters.sandbox.clouds.tokens import TokenIssuer, same_secret

_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPE: Final = "https://management.azure.com/.default"
AKS_SERVER: Final = "6dae42f8-4368-4678-94ff-3960e28e3630"
"""Application that the Kubernetes API of every Entra-integrated AKS cluster is, the same in all tenants."""


class Application:
    """A registered application: it proves itself by its secret, or by the token of a federated identity."""

    def __init__(self) -> None:
        self.tokens = TokenIssuer()
        """For Azure Resource Manager."""
        self.cluster_tokens = TokenIssuer()
        """For the Kubernetes APIs of AKS clusters."""
        self.tenant_id = str(uuid.uuid4())
        self.client_id = str(uuid.uuid4())
        self._secret = secrets.token_urlsafe(30)
        self._federated_token = secrets.token_urlsafe(30)

    def write_secret(self, path: Path) -> None:
        write_private(path, self._secret.encode())

    def write_federated_token(self, path: Path) -> None:
        write_private(path, self._federated_token.encode())

    def revoke(self) -> None:
        """The secret, the federated identity and all tokens are refused from now on."""
        self._secret, self._federated_token = secrets.token_urlsafe(30), secrets.token_urlsafe(30)
        self.tokens.revoke_all()
        self.cluster_tokens.revoke_all()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/{tenant}/v2.0/.well-known/openid-configuration", self._configuration)
        app.router.add_post("/{tenant}/oauth2/v2.0/token", self._token)

    async def _configuration(self, request: web.Request) -> web.Response:
        if request.match_info["tenant"] != self.tenant_id:
            return _refusal(400, "invalid_tenant", 90002, "Tenant not found.")
        base = f"{request.scheme}://{request.host}/{self.tenant_id}"
        return web.json_response(
            {
                "issuer": f"{base}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
                "response_types_supported": ["code"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def _token(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        if request.match_info["tenant"] != self.tenant_id:
            return _refusal(400, "invalid_request", 90002, "Tenant not found.")
        if form.get("grant_type") != "client_credentials":
            return _refusal(400, "unsupported_grant_type", 70003, "The grant type is not supported.")
        issuer = {SCOPE: self.tokens, f"{AKS_SERVER}/.default": self.cluster_tokens}.get(form.get("scope", ""))
        if issuer is None:
            return _refusal(400, "invalid_scope", 70011, "The provided value for the input 'scope' is not valid.")
        if form.get("client_id") != self.client_id:
            return _refusal(400, "unauthorized_client", 700016, "Application was not found in the directory.")
        federated = form.get("client_assertion_type") == _ASSERTION_TYPE
        proof = form.get("client_assertion" if federated else "client_secret", "")
        if not same_secret(proof, self._federated_token if federated else self._secret):
            return _refusal(401, "invalid_client", 7000215, "Invalid client secret provided.")
        token = issuer.issue()
        lifetime = issuer.lifetime_seconds
        return web.json_response({"token_type": "Bearer", "expires_in": lifetime, "access_token": token})


def _refusal(status: int, error: str, number: int, text: str) -> web.Response:
    body = {"error": error, "error_description": f"AADSTS{number}: {text}", "error_codes": [number]}
    return web.json_response(body, status=status)
