"""The trace of `overspill simulate --history`: what the daemon's own history knows."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy.engine import make_url

from clusters.clock import SharedClock, SystemClock
from scheduler.cli.output import CommandError
from scheduler.cli.simulate_inputs import read_federation
from scheduler.daemon.learning.runs import recorded_runs
from scheduler.simulate.recorded import trace_of_runs
from scheduler.simulate.trace import Trace


def read_history(config: Path, since_seconds: float) -> tuple[Trace, tuple[str, ...]]:
    """What arrived in the last `since_seconds`, and what the history cannot tell.

    Raises: CommandError (2) when there is no history; InvalidObjectError when it holds nothing to replay.
    """
    federation = read_federation(config)
    url = make_url(federation.history_url)
    if url.drivername.startswith("sqlite") and url.database and not Path(url.database).is_file():
        raise CommandError(
            f"{url.database}: no history there; a daemon with this federation file writes it", exit_code=2
        )
    clock = SharedClock(federation.clock_file) if federation.clock_file is not None else SystemClock()
    now = clock.now()
    rows = asyncio.run(recorded_runs(federation.history_url, now - since_seconds))
    return trace_of_runs(rows, now)
