"""Prometheus metrics of the daemon, declared by theme; `docs/metrics.md` is made of them (`reference`)."""

from __future__ import annotations

from typing import Final

from scheduler.daemon.telemetry.cycles import Decisions
from scheduler.daemon.telemetry.incidents import Incidents
from scheduler.daemon.telemetry.members import Members
from scheduler.daemon.telemetry.models import Models
from scheduler.daemon.telemetry.money import Money
from scheduler.daemon.telemetry.process import Process
from scheduler.daemon.telemetry.revisions import Revisions
from scheduler.daemon.telemetry.services import Services
from scheduler.daemon.telemetry.workloads import Workloads

__all__ = ["THEMES", "Telemetry"]
THEMES: Final = (Decisions, Money, Members, Incidents, Process, Models, Workloads, Services, Revisions)


class Telemetry(Decisions, Money, Members, Incidents, Process, Models, Workloads, Services, Revisions):
    """All metrics of one daemon, on a registry of its own."""
