"""What an instance type is made of, as EC2 tells it. It never changes, so each type is asked for once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from clusters.providers._eks_calls import AwsCalls
from scheduler.model.errors import ExternalError, RefusedError
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock

_TYPES_A_CALL: Final = 100
_AGAIN_SECONDS: Final = 600.0
"""Before a type is asked for again that could not be told (no permission, no answer)."""


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of one machine."""

    model: str | None
    """None: it has none."""
    count: int


class InstanceTypes:
    """Remembers what it was told. Never raises for what EC2 will not tell: that is left out."""

    def __init__(self, aws: AwsCalls, clock: Clock) -> None:
        self._aws = aws
        self._clock = clock
        self._known: dict[str, Gpus] = {}
        self._asked: dict[str, Instant] = {}

    async def gpus(self, types: Iterable[str]) -> Mapping[str, Gpus]:
        """GPUs by instance type, of those of `types` that EC2 knows."""
        now = self._clock.now()
        wanted = sorted(
            one
            for one in set(types) - self._known.keys() - {""}
            if now - self._asked.get(one, now - _AGAIN_SECONDS) >= _AGAIN_SECONDS
        )
        for start in range(0, len(wanted), _TYPES_A_CALL):
            await self._learn(wanted[start : start + _TYPES_A_CALL])
        self._asked = {one: at for one, at in self._asked.items() if now - at < _AGAIN_SECONDS}
        return self._known

    async def _learn(self, types: Sequence[str]) -> None:
        for one in types:
            self._asked[one] = self._clock.now()
        try:
            answer = await self._aws.ask("ec2", "DescribeInstanceTypes", InstanceTypes=list(types))
        except RefusedError:
            # One unknown type spoils the answer for all.
            for one in types if len(types) > 1 else ():
                await self._learn([one])
            return
        except ExternalError:
            return
        for told in answer["InstanceTypes"]:
            self._known[told["InstanceType"]] = _gpus(told)


def _gpus(told: Mapping[str, Any]) -> Gpus:
    devices = (told.get("GpuInfo") or {}).get("Gpus") or []
    count = sum(device.get("Count", 0) for device in devices)
    return Gpus(devices[0].get("Name") if devices else None, count)
