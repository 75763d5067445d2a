"""The switches that people throw: a ConfigMap on the hub, beside the Lease and of the same name.

    data:
      paused: "true"                      nothing is remedied anywhere
      bursting-paused: "true"             nothing is bought anywhere
      approve.INCIDENT: ACTION            that action may be taken for that incident

`overspill pause`, `resume` and `incidents approve` write it with the caller's own credentials, and so may kubectl: who
may throw the switches is who may write that ConfigMap; the page (scheduler/daemon/http/access.py) asks the hub whether
its caller may, and then writes it. As long as it cannot be read it counts as paused.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from scheduler.model.contract import CONFIG_MAPS
from scheduler.model.errors import ExternalError, InvalidObjectError, NotFoundError
from scheduler.model.ports import KubeApi, RawObject
from scheduler.model.remediation import ACTIONS

log = structlog.get_logger(__name__)
PAUSED: Final = "paused"
BURSTING_PAUSED: Final = "bursting-paused"
APPROVE: Final = "approve."
APPROVALS_AT_MOST: Final = 500
_LOOK_WALL_SECONDS: Final = 2.0
_CALL_SECONDS: Final = 10.0
_INCIDENT: Final = re.compile(r"[-._a-zA-Z0-9]{1,200}")


@dataclass(frozen=True, slots=True)
class Switches:
    """As they were last read. `paused` until they have been."""

    paused: bool = True
    bursting_paused: bool = False
    approved: frozenset[str] = frozenset()
    """incident/action."""
    error: str = "not read yet"
    """Why they are not known; empty: they are."""


def read_switches(data: Mapping[str, Any]) -> Switches:
    """What the ConfigMap says. Whatever is not plainly off is on: a switch with a typing mistake must not run on."""
    approved = sorted(
        f"{key.removeprefix(APPROVE)}/{str(action).strip()}" for key, action in data.items() if key.startswith(APPROVE)
    )
    return Switches(
        paused=_on(data.get(PAUSED)),
        bursting_paused=_on(data.get(BURSTING_PAUSED)),
        approved=frozenset(approved[:APPROVALS_AT_MOST]),
        error="",
    )


def approval(incident: str, action: str) -> dict[str, str]:
    """The switch that lets `action` be taken for `incident`. Raises: InvalidObjectError for words that are none."""
    if not _INCIDENT.fullmatch(incident):
        raise InvalidObjectError(f"{incident[:100]!r} is no id of an incident; `overspill incidents list` shows them")
    if action not in ACTIONS:
        raise InvalidObjectError(f"{action[:60]!r} is no action; there are {', '.join(ACTIONS)}")
    return {f"{APPROVE}{incident}": action}


async def write_switches(api: KubeApi, namespace: str, name: str, data: Mapping[str, str]) -> None:
    """Lay `data` over the ConfigMap, which is made where there is none. Raises: ExternalError."""
    try:
        await api.patch(CONFIG_MAPS, namespace, name, {"data": dict(data)})
    except NotFoundError:
        body: RawObject = {"metadata": {"name": name, "namespace": namespace}, "data": dict(data)}
        await api.create(CONFIG_MAPS, namespace, body)


class Control:
    """Reads the switches every two seconds; what was last read stands while the hub does not answer."""

    def __init__(self, api: KubeApi, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self.switches = Switches()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_WALL_SECONDS)

    async def throw(self, data: Mapping[str, str]) -> Switches:
        """Write, and read again. Raises: ExternalError, TimeoutError."""
        async with asyncio.timeout(_CALL_SECONDS):
            await write_switches(self._api, self._namespace, self._name, data)
        return await self.look()

    async def look(self) -> Switches:
        """Read once."""
        before = self.switches
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                found = await self._api.get(CONFIG_MAPS, self._namespace, self._name)
            self.switches = read_switches(found.get("data") or {})
        except NotFoundError:
            self.switches = read_switches({})
        except (ExternalError, TimeoutError) as error:
            said = str(error)[:200] or "no answer"
            self.switches = Switches(before.paused, before.bursting_paused, before.approved, said)
        if self.switches != before:
            now = self.switches
            log.info("switches", paused=now.paused, bursting_paused=now.bursting_paused, error=now.error)
        return self.switches


def _on(value: object) -> bool:
    return str(value).strip().lower() not in ("none", "", "false", "no", "off", "0")
