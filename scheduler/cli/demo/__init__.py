"""`overspill demo`: an emulated federation, a daemon and real jobs, watched from outside.

arrivals.py    which jobs come when           manifests.py   the Kubernetes objects and policies
processes.py   sandbox and daemon             federation.py  their shared configuration
driver.py      the course of a run            pace.py        when the virtual clock may leap
remote.py      the APIs it steers by          observer.py    the witness: watches every cluster
records.py     what the witness knows         invariants.py  what must hold always
view.py        live screen and plain lines    summary.py     how it ended
service_day.py what a service's clients saw   report.py      a page with its course
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the command line says."""

    trace: Path | None = None
    jobs: int | None = None
    first: int = 0
    speed: float = 240.0
    seed: int = 0
    as_json: bool = False
    keep: bool = False
    skip: bool = True
    policies: Path | None = None
    timeout_seconds: float = 900.0
    report: Path | None = None


def run(options: DemoOptions) -> int:
    """Run the demo; 0 when every job finished exactly once and nothing was broken and its service was kept, else 1.

    Raises: InvalidObjectError for a wrong trace or policy file; CommandError when a part of it does not start.
    """
    from scheduler.cli.demo.driver import run_demo

    return run_demo(options)
