"""Tells when the policy files may have changed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import watchfiles

_DEBOUNCE_MS: Final = 500
_RUST_TIMEOUT_MS: Final = 1000
"""How soon a cancelled watch lets go of its thread, and how often it is looked whether a link leads elsewhere."""


async def changes(path: Path, *, stop: asyncio.Event | None = None) -> AsyncIterator[None]:
    """Yields after each burst of changes in a folder or to a file, until `stop` is set.

    A folder is watched with what is below it, hidden names included, for a mounted ConfigMap changes by its hidden
    `..data` link. A file is watched through its folder, so that an editor may replace it. A link on the way to them may
    be turned, as git-sync does with each commit; what it leads to then is watched, and while nothing is there, the
    nearest folder that is. Raises: FileNotFoundError.
    """
    folder = path if path.is_dir() else path.parent  # noqa: ASYNC240  (one stat)
    turned = False
    while True:
        there = _nearest(folder) if turned else folder
        target = there.resolve()
        watch = watchfiles.awatch(
            there,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            rust_timeout=_RUST_TIMEOUT_MS,
            yield_on_timeout=True,
            stop_event=stop,
        )
        async with contextlib.aclosing(watch):
            async for changed in watch:
                if changed or turned:  # what changed before this watch began is not among its changes
                    yield
                turned = _nearest(folder).resolve() != target
                if turned:
                    break
            else:
                return


def _nearest(folder: Path) -> Path:
    """`folder`, or the nearest above it that is there."""
    return next(one for one in (folder, *folder.parents) if one.is_dir())
