"""Logging of commands that print a report: what the parts log is not shown, except with OVERSPILL_DEBUG=1."""

from __future__ import annotations

import logging

import structlog

from scheduler.cli.output import debugging


def quiet_logging() -> None:
    """Call before anything is opened."""
    if debugging():
        from scheduler.daemon.main import configure_logging

        configure_logging()
    else:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
