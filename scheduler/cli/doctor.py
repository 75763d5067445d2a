"""`overspill doctor`: whether a federation file will work, and what to mend."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from scheduler.cli.output import CommandError, debugging, print_json
from scheduler.cli.run import check_folders

if TYPE_CHECKING:
    from scheduler.daemon.doctor import Finding


def run(config: Path, policies: Sequence[Path], *, mode: str | None, as_json: bool) -> int:
    """Print the findings; 1 when anything fails that is needed, else 0.

    Raises: CommandError and InvalidObjectError (exit status 2) for a file that cannot be used.
    """
    if not config.is_file():
        raise CommandError(f"{config}: no such file; `overspill sandbox` writes an example federation", exit_code=2)
    check_folders(policies)
    from scheduler.cli.gathered import without_logs
    from scheduler.daemon.config.federation import load_federation, validate_settings
    from scheduler.daemon.doctor import FAIL, examine
    from scheduler.daemon.main import configure_logging

    federation = load_federation(config, validate_provider=validate_settings)
    shadow = (mode or federation.mode) == "shadow"
    if debugging():
        configure_logging()
    with nullcontext() if debugging() else without_logs():
        findings = asyncio.run(examine(federation, policies, shadow=shadow))
    if as_json:
        print_json(document(federation.name, findings))
    else:
        for finding in findings:
            print(finding.line)
        print(summary(findings))
    return 1 if any(finding.state == FAIL for finding in findings) else 0


def document(name: str, findings: Sequence[Finding]) -> dict[str, object]:
    """What `--json` prints."""
    counts = _counts(findings)
    told = [{"state": one.state, "area": one.area, "what": one.what, "remedy": one.remedy or None} for one in findings]
    return {"federation": name, **counts, "findings": told}


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    counts = _counts(findings)
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {state: sum(one.state == state for one in findings) for state in ("fail", "warn", "ok")}
