"""Owned machines have no cloud API: nothing is served."""

from __future__ import annotations

from pathlib import Path

from clusters.sandbox.clouds.running import RunningCloud
from clusters.sandbox.ports import ApiAddress, EmulatedPools
from scheduler.model.ports import Clock


async def start(pools: EmulatedPools, clock: Clock, state_dir: Path, api: ApiAddress) -> RunningCloud:
    """Nothing but the settings."""
    return RunningCloud(settings={"type": "onprem"})
