"""What stands under `provider:` of an AKS member."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from clusters.providers._settings import NearbyPath, ProviderSettings


class Settings(ProviderSettings):
    """Credentials: `clientSecretFile`, `federatedTokenFile` (workload identity), or neither: Azure's default chain."""

    type: Literal["aks"]
    subscription_id: str = Field(min_length=1)
    resource_group: str = Field(min_length=1)
    cluster_name: str = Field(min_length=1)
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret_file: NearbyPath | None = None
    federated_token_file: NearbyPath | None = None
    endpoint: str = "https://management.azure.com"
    scope: str = "https://management.azure.com/.default"
    login: Literal["auto", "entra", "local"] = "auto"
    """How the daemon gets into the cluster: by a token of Entra ID, or by what the kubeconfig of its local accounts
    has; auto: as the cluster says."""
    login_scope: str = "6dae42f8-4368-4678-94ff-3960e28e3630/.default"
    """Of the token for the cluster: Microsoft's own application that every Entra-integrated AKS cluster trusts."""
    authority: str | None = None
    disable_instance_discovery: bool = False
    """For authorities that the public cloud does not know: sovereign, private or emulated ones."""
    ca_file: NearbyPath | None = None

    @model_validator(mode="after")
    def _whole_identity(self) -> Settings:
        files = [file for file in (self.client_secret_file, self.federated_token_file) if file is not None]
        if len(files) > 1:
            raise ValueError("give clientSecretFile or federatedTokenFile, not both")
        if files and not (self.tenant_id and self.client_id):
            raise ValueError("clientSecretFile and federatedTokenFile need tenantId and clientId")
        return self
