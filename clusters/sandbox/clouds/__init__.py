"""The cloud APIs of the emulated federation, each on the wire of its own vendor, one module per provider.

A module here has the name of the provider in `clusters.providers` whose adapter it answers, and offers
`async def start(pools, clock, state_dir, api) -> RunningCloud`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from clusters.sandbox.clouds.running import RunningCloud
from clusters.sandbox.ports import ApiAddress, EmulatedPools
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ports import Clock

__all__ = ["NOWHERE", "RunningCloud", "start_cloud"]

NOWHERE = ApiAddress("https://127.0.0.1:1", b"")
"""For a cloud whose cluster nobody logs in to."""


async def start_cloud(
    provider: str, pools: EmulatedPools, clock: Clock, state_dir: Path, api: ApiAddress = NOWHERE
) -> RunningCloud:
    """Serve the APIs of `provider` over `pools`, on loopback ports, credentials under `state_dir`; `api` is where the
    cluster's Kubernetes API is.

    Raises: InvalidObjectError when no such cloud is emulated.
    """
    try:
        module = importlib.import_module(f"{__name__}.{provider}")
    except ModuleNotFoundError as error:
        raise InvalidObjectError(
            f"provider {provider!r} is not emulated; add clusters/sandbox/clouds/{provider}.py"
        ) from error
    if not hasattr(module, "start"):
        raise InvalidObjectError(f"provider {provider!r} is not emulated: {module.__name__} lacks `start`")
    cloud: RunningCloud = await module.start(pools, clock, state_dir, api)
    return cloud
