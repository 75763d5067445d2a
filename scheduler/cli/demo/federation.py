"""The demo's own copy of the sandbox's federation file: a free port for the daemon, and what the demo reads in it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scheduler.cli.demo.invariants import BoughtPool
from scheduler.model.cluster import ON_DEMAND, SPOT
from scheduler.model.errors import InvalidObjectError


@dataclass(frozen=True, slots=True)
class DemoFederation:
    """`file` is what the daemon is started with; kubeconfigs are by cluster name."""

    file: Path
    daemon_url: str
    hub: tuple[str, Path]
    members: tuple[tuple[str, Path], ...]
    bought: tuple[BoughtPool, ...]
    max_gpus: int
    """All GPUs that there could ever be, every pool grown to its limit."""


def prepare(federation_file: Path) -> DemoFederation:
    """Write `demo.yaml` next to `federation_file`, the same but for the address that the daemon listens on.

    Raises: InvalidObjectError naming the file when it is no federation file.
    """
    try:
        document = yaml.safe_load(federation_file.read_text(encoding="utf-8"))
        spec = document["spec"]
        port = _free_port()
        spec["listen"] = {"address": "127.0.0.1", "port": port}
        spec["mode"] = "active"
        folder = federation_file.parent
        found = DemoFederation(
            file=folder / "demo.yaml",
            daemon_url=f"http://127.0.0.1:{port}",
            hub=(spec["hub"]["name"], folder / spec["hub"]["kubeconfig"]),
            members=tuple((member["name"], folder / _kubeconfig(member)) for member in spec["members"]),
            bought=tuple(_bought_pools(spec["members"])),
            max_gpus=sum(_max_gpus(pool) for member in spec["members"] for pool in member["pools"]),
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise InvalidObjectError(f"{federation_file}: not a federation file ({error!r})") from error
    found.file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return found


def _kubeconfig(member: dict[str, Any]) -> str:
    """The sandbox writes one for each cluster, also where the daemon logs in by the cloud's tokens."""
    return str(member.get("kubeconfig", f"kubeconfigs/{member['name']}.yaml"))


def _bought_pools(members: list[dict[str, Any]]) -> list[BoughtPool]:
    return [
        BoughtPool(member["name"], tuple(sorted(pool["selector"].items())))
        for member in members
        for pool in member["pools"]
        if pool.get("scaling") == "managed" and pool["capacityType"] in (ON_DEMAND, SPOT)
    ]


def _max_gpus(pool: dict[str, Any]) -> int:
    """Of a fixed pool the file does not tell how many nodes it has; sixteen is a safe guess for a quota's sake."""
    return int(pool.get("node", {}).get("gpus", 0)) * int(pool.get("maxNodes") or 16)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
