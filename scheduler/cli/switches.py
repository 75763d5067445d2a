"""`overspill pause`, `resume` and `incidents approve`: the switches of the daemon, a ConfigMap on the hub
(scheduler/daemon/incidents/control.py), written with the caller's own credentials: who may throw them is who may write
it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from policies.errors import did_you_mean
from scheduler.cli.output import CommandError
from scheduler.model.remediation import ACTIONS

_KEY = re.compile(r"[-._a-zA-Z0-9]{1,200}")


def throw(config: Path, *, paused: bool, bursting: bool) -> int:
    """Pause or resume remediation or (`bursting`) the buying of capacity."""
    from scheduler.daemon.incidents.control import BURSTING_PAUSED, PAUSED

    asyncio.run(_write(config, {BURSTING_PAUSED if bursting else PAUSED: "true" if paused else "false"}))
    what = "bursting" if bursting else "remediation"
    print(f"{what} is {'paused' if paused else 'resumed'}; the daemon reads it within seconds")
    return 0


def approve(config: Path, incident: str, action: str) -> int:
    """Let `action` be taken for `incident`. Raises: CommandError for words that are none."""
    from scheduler.daemon.incidents.control import APPROVE

    check_id(incident)
    if action not in ACTIONS:
        raise CommandError(f"{action[:60]!r} is no action; {did_you_mean(action, ACTIONS)}", exit_code=2)
    asyncio.run(_write(config, {f"{APPROVE}{incident}": action}))
    print(f"approved: {action} for {incident}")
    return 0


def check_id(incident: str) -> None:
    """Raises: CommandError for what cannot be an incident's id."""
    if not _KEY.fullmatch(incident):
        message = f"{incident[:100]!r} is no id of an incident; `overspill incidents list` shows them"
        raise CommandError(message, exit_code=2)


async def _write(config: Path, data: dict[str, str]) -> None:
    """Lay `data` over the ConfigMap, which is made where there is none. Raises: CommandError, OverspillError."""
    from clusters.kubernetes.client import HttpKubeApi
    from scheduler.daemon.config.federation import load_federation
    from scheduler.daemon.incidents.control import write_switches
    from scheduler.daemon.main import lease_settings

    federation = load_federation(config)
    hub, lease = federation.hub, lease_settings(federation)
    api = await HttpKubeApi.connect(name=hub.name, kubeconfig=hub.kubeconfig, context=hub.context)
    try:
        await write_switches(api, lease.namespace, lease.name, data)
    finally:
        await api.close()
