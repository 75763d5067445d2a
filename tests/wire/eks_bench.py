"""The EKS adapter in front of the emulated AWS, with a hand on the emulation's identities and policies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusters.providers import eks
from clusters.sandbox.clouds import RunningCloud
from clusters.sandbox.clouds.eks import AmazonWebServices, serve
from clusters.sandbox.clouds.sigv4 import AccessKey
from clusters.sandbox.ports import ApiAddress
from scheduler.model.ids import PoolId
from scheduler.model.ports import PoolStatus
from tests.contract.emulated_pools import ScriptedPools, SteppedClock, pool_spec

API = ApiAddress("https://127.0.0.1:6443", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
ONE, TWO = PoolId("one"), PoolId("two")


@dataclass
class EksBench:
    """One emulated AWS; as many adapters of it as a test makes."""

    cloud: RunningCloud
    services: AmazonWebServices
    pools: ScriptedPools
    clock: SteppedClock
    folder: Path
    made: list[eks.NodeGroups]

    @classmethod
    async def start(cls, folder: Path) -> EksBench:
        clock = SteppedClock()
        pools = ScriptedPools("eks", (pool_spec(ONE), pool_spec(TWO, capacity_type="spot")), clock)
        cloud, services = await serve(pools, clock, folder, API)
        return cls(cloud, services, pools, clock, folder, [])

    def provider(self, **changes: Any) -> eks.NodeGroups:
        written = self.cloud.settings | {"readTimeoutSeconds": 5.0} | changes
        settings = eks.Settings.model_validate(written, context={"base_dir": self.folder})
        self.made.append(eks.create(settings, clock=self.clock))
        return self.made[-1]

    def write_session(self, key: AccessKey, file: str = "session.ini") -> str:
        """Temporary credentials in a credentials file; its name."""
        (self.folder / file).write_text(
            f"[overspill]\naws_access_key_id = {key.access_key_id}\n"
            f"aws_secret_access_key = {key.secret_access_key}\naws_session_token = {key.session_token}\n"
        )
        return file

    def asked_since(self, start: int) -> list[str]:
        return self.cloud.request_log[start:]

    async def stop(self) -> None:
        for provider in self.made:
            await provider.close()
        await self.cloud.stop()


async def pool_of(provider: eks.NodeGroups, name: PoolId) -> PoolStatus:
    return next(one for one in await provider.list_pools() if one.pool == name)
