"""Where `clusters`, `prices` and `metrics` get what they show: from a running daemon, or by looking once themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.cli.api import fetch
from scheduler.cli.output import UNKNOWN, CommandError, duration

if TYPE_CHECKING:
    from scheduler.daemon.gathering.gather_once import OneLook

LookOnce = Callable[["OneLook"], Awaitable[Any]]
"""Gathers, and gives what the daemon's API would answer."""


def answer(url: str, config: Path | None, path: str, look: LookOnce, **query: str) -> Any:
    """What the daemon at `url` answers to GET `path`; with `config` what `look` finds in that federation.

    Raises: CommandError, and PolicyErrors for a federation file with mistakes.
    """
    if config is None:
        return fetch(url, path, **query)
    if not config.is_file():
        raise CommandError(f"{config}: no such file; `overspill sandbox` writes an example federation", exit_code=2)
    with without_logs():
        return asyncio.run(_look(config, look))


async def _look(config: Path, look: LookOnce) -> Any:
    from scheduler.daemon.config.federation import load_federation, validate_settings
    from scheduler.daemon.gathering.gather_once import one_look

    federation = load_federation(config, validate_provider=validate_settings)
    async with one_look(federation) as once:
        return await look(once)


@contextmanager
def without_logs() -> Iterator[None]:
    """What fails is told in the answer itself; log lines would only mix with it."""
    import structlog

    before = structlog.get_config()
    disabled = logging.root.manager.disable
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)  # SDKs write there
    try:
        yield
    finally:
        logging.disable(disabled)
        structlog.configure(**before)


def age(at: float | None, now: float) -> str:
    """ "12s ago"; "never" for None."""
    return "never" if at is None else f"{duration(max(0.0, now - at))} ago"


def milliseconds(seconds: float | None) -> str:
    """ "12 ms"; a dash when it is not known."""
    return UNKNOWN if seconds is None else f"{seconds * 1000:.0f} ms"
