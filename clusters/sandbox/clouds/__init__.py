"""The cloud APIs of the emulated federation, each on the wire of its own vendor, one module per provider.

A module here has the name of the provider in `clusters.providers` whose adapter it answers, and offers
`async def start(pools, clock, state_dir) -> RunningCloud`.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from clusters.sandbox.clouds.running import RunningCloud
from clusters.sandbox.ports import EmulatedPools
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ports import Clock

__all__ = ["RunningCloud", "start_cloud"]


async def start_cloud(provider: str, pools: EmulatedPools, clock: Clock, state_dir: Path) -> RunningCloud:
    """Serve the node-pool APIs of `provider` over `pools`, on loopback ports, credentials under `state_dir`.

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
    cloud: RunningCloud = await module.start(pools, clock, state_dir)
    return cloud
