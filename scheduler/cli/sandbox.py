"""`overspill sandbox`: the emulated federation in the foreground, and the note that tells others where it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scheduler.cli import crds
from scheduler.cli.output import CommandError, print_json
from scheduler.model.errors import InvalidObjectError

if TYPE_CHECKING:
    from clusters.sandbox.federation import Sandbox

NOTE: Final = "sandbox.json"
"""In the state folder once everything listens: where it is, and the token of its control API (hence mode 0600)."""


def run(directory: Path, *, speed: float, seed: int, scenario: Path | None, as_json: bool) -> int:
    """Serve until Ctrl-C or SIGTERM; 0.

    Raises: CommandError when the folder cannot be used; InvalidObjectError for a wrong scenario.
    """
    import uvloop

    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / NOTE).unlink(missing_ok=True)
    except OSError as error:
        raise CommandError(f"--dir {directory}: {error.strerror or error}", exit_code=2) from error
    try:
        return uvloop.run(_serve(directory, speed, seed, scenario, as_json))
    finally:
        (directory / NOTE).unlink(missing_ok=True)


async def _serve(directory: Path, speed: float, seed: int, scenario: Path | None, as_json: bool) -> int:
    from clusters.sandbox.federation import Sandbox

    sandbox = await Sandbox.start(directory, speed=speed, seed=seed, scenario=scenario)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, sandbox.stopping.set)
    try:
        await _install_definitions(sandbox)
        note = _write_note(directory, sandbox)
        if as_json:
            print_json({key: value for key, value in note.items() if key != "control_token"})
        else:
            print(_welcome(directory, note, speed), flush=True)
        await sandbox.stopping.wait()
    finally:
        await sandbox.stop()
    return 0


async def _install_definitions(sandbox: Sandbox) -> None:
    from clusters.kubernetes.client import HttpKubeApi

    name = sandbox.scenario.hub.name
    hub = await HttpKubeApi.connect(name=name, kubeconfig=sandbox.kubeconfigs[name], context=None)
    try:
        await crds.install(hub)
    finally:
        await hub.close()


def _write_note(directory: Path, sandbox: Sandbox) -> dict[str, Any]:
    """Written whole or not at all, readable by its owner only."""
    note: dict[str, Any] = {
        "federation_file": str(sandbox.federation_file),
        "kubeconfigs": {name: str(path) for name, path in sorted(sandbox.kubeconfigs.items())},
        "clock": str(directory / "clock"),
        "control_url": sandbox.control_url,
        "control_token": sandbox.control_token,
        "pid": os.getpid(),
    }
    written = directory / f".{NOTE}.new"
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(note, file)
    written.replace(directory / NOTE)
    return note


def read_note(directory: Path) -> dict[str, Any] | None:
    """What the sandbox of that folder wrote down; None while it is not up.

    Raises: InvalidObjectError when the note is damaged.
    """
    try:
        note = json.loads((directory / NOTE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidObjectError(f"{directory / NOTE}: {error}; start `overspill sandbox` anew") from error
    if not isinstance(note, dict):
        raise InvalidObjectError(f"{directory / NOTE}: not a sandbox's note; start `overspill sandbox` anew")
    return note


def _welcome(directory: Path, note: dict[str, Any], speed: float) -> str:
    kubeconfigs: dict[str, str] = note["kubeconfigs"]
    hub = kubeconfigs.get("hub") or next(iter(kubeconfigs.values()))
    lines = [
        f"The emulated federation is up; {speed:g} s pass in one. Ctrl-C ends it.",
        "",
        "Kubernetes APIs (kubectl and the official clients work against them):",
        *(f"  {name:<8} {path}" for name, path in kubeconfigs.items()),
        "",
        "Next, in another terminal:",
        f"  overspill run --config {note['federation_file']} --policies policies/examples",
        f"  kubectl --kubeconfig {hub} apply --server-side -f examples/job.yaml",
        f"  kubectl --kubeconfig {hub} get jobs -A",
        "  overspill status --watch",
        "  overspill explain finetune-llama",
    ]
    if not sys.stdout.isatty():
        lines.append(f"(state folder: {directory})")
    return "\n".join(lines)
