"""Our providers' names and their clouds'."""

from __future__ import annotations

from typing import Final

_CLOUDS: Final = {"eks": "aws", "gke": "gcp", "aks": "azure"}


def cloud_of(provider: str) -> str:
    """The cloud that a provider of `clusters.providers` belongs to: eks to aws, gke to gcp, aks to azure, any other to
    itself."""
    return _CLOUDS.get(provider, provider)
