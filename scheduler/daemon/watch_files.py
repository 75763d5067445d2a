"""Tells when the policy files may have changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import watchfiles

_DEBOUNCE_MS: Final = 500
_RUST_TIMEOUT_MS: Final = 1000
"""How soon a cancelled watch lets go of its thread."""


async def changes(path: Path, *, stop: asyncio.Event | None = None) -> AsyncIterator[None]:
    """Yields after each burst of changes in a folder or to a file, until `stop` is set.

    A folder is watched with what is below it, hidden names included, for a mounted ConfigMap changes by its hidden
    `..data` link. A file is watched through its folder, so that an editor may replace it. Raises: FileNotFoundError.
    """
    folder = path if path.is_dir() else path.parent  # noqa: ASYNC240  (one stat)
    watch = watchfiles.awatch(
        folder, watch_filter=None, debounce=_DEBOUNCE_MS, rust_timeout=_RUST_TIMEOUT_MS, stop_event=stop
    )
    async for _ in watch:
        yield
