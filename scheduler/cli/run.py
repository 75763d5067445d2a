"""`overspill run`: the daemon in the foreground."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scheduler.cli.output import CommandError


def run(config: Path, policies: Sequence[Path], *, mode: str | None) -> int:
    """Run the daemon until it is told to stop; its exit status.

    Raises: CommandError for paths that are not there, before anything is started.
    """
    if not config.is_file():
        raise CommandError(f"{config}: no such file; `overspill sandbox` writes an example federation", exit_code=2)
    check_folders(policies)
    from scheduler.daemon.main import run as run_daemon

    return run_daemon(config, policies, mode=mode)


def check_folders(policies: Sequence[Path]) -> None:
    """Raises: CommandError for one that is not there."""
    for folder in policies:
        if not folder.exists():
            raise CommandError(f"{folder}: no such folder of policy files", exit_code=2)
