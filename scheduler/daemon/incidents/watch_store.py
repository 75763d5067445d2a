"""Keeps what the watch remembers in the history: its rows and detectors as one compressed npz, incidents and alerts as
JSON. Nothing is ever unpickled, and what is too large or does not fit together is refused, not guessed.
"""

from __future__ import annotations

import asyncio
import struct
import zipfile
import zlib
from io import BytesIO
from typing import Any, Final

import numpy as np
import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from scheduler.aiops.incidents import Incidents
from scheduler.aiops.keeping import Kept
from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import STATES
from scheduler.model.errors import InvalidObjectError, OverspillError
from scheduler.model.ids import Instant

log = structlog.get_logger(__name__)
_ROWS: Final = "fleet watch"
_INCIDENTS: Final = "incidents"
_VALUES: Final = "values"
INCIDENTS_VERSION: Final = 1
MOST_BYTES: Final = 256 << 20
"""Of the arrays, unpacked."""
_MOST_ARRAYS: Final = 10_000
_MOST_JSON: Final = 64 << 20
_UNREADABLE: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, LookupError, TypeError, OSError, EOFError, SyntaxError,
    ArithmeticError, RuntimeError, MemoryError,
)  # fmt: skip
"""What zipfile and numpy raise for bytes that are none of theirs."""
_ADAPTER: Final = TypeAdapter(Incidents)


class WatchStore:
    """Belongs to the event loop; the work is done in threads. A failure costs what was learnt, and is logged."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def load_rows(self) -> Kept | None:
        """What was kept last; None: nothing, or nothing that can be read."""
        body = await self._read(_ROWS)
        return None if body is None else await self._decoded(decode_rows, body)

    async def load_incidents(self) -> tuple[Incidents, dict[str, Any]]:
        """With what else was saved beside them."""
        body = await self._read(_INCIDENTS)
        found = None if body is None else await self._decoded(decode_incidents, body)
        return found or (Incidents(), {})

    async def save_rows(self, kept: Kept, at: Instant) -> None:
        await self._save(_ROWS, at, encode_rows, kept)

    async def save_incidents(self, incidents: Incidents, more: dict[str, Any], at: Instant) -> None:
        """`more`: JSON values."""
        await self._save(_INCIDENTS, at, encode_incidents, incidents, more)

    async def _read(self, name: str) -> bytes | None:
        try:
            return await self._history.state(name)
        except OverspillError as error:
            log.error("watch_not_restored", what=name, error=str(error)[:300])
            return None

    async def _decoded(self, decode: Any, body: bytes) -> Any:
        try:
            return await asyncio.to_thread(decode, body)
        except InvalidObjectError as error:
            log.error("watch_not_restored", error=str(error)[:300])
            return None

    async def _save(self, name: str, at: Instant, encode: Any, *values: Any) -> None:
        try:
            body = await asyncio.to_thread(encode, *values)
        except InvalidObjectError as error:
            log.error("watch_not_saved", what=name, error=str(error)[:300])
            return
        self._history.record(STATES, {"name": name, "at": at, "body": body})


def encode_rows(kept: Kept) -> bytes:
    """Raises: InvalidObjectError when it is too large."""
    size = sum(column.nbytes for column in kept.arrays.values())
    if size > MOST_BYTES or len(kept.arrays) > _MOST_ARRAYS:
        raise InvalidObjectError(f"{len(kept.arrays)} arrays of {size} bytes; at most {MOST_BYTES} are kept")
    told = np.frombuffer(orjson.dumps(kept.values), dtype=np.uint8)
    file = BytesIO()
    np.savez_compressed(file, **{_VALUES: told}, **kept.arrays)  # type: ignore[arg-type]
    return file.getvalue()


def decode_rows(body: bytes) -> Kept:
    """Raises: InvalidObjectError for what is no such file, or too large."""
    try:
        with zipfile.ZipFile(BytesIO(body)) as archive:
            size, count = sum(each.file_size for each in archive.infolist()), len(archive.infolist())
        if size > MOST_BYTES + _MOST_JSON or count > _MOST_ARRAYS + 1:
            raise InvalidObjectError(f"kept state: {count} arrays of {size} bytes are too much")
        with np.load(BytesIO(body), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        values = orjson.loads(arrays.pop(_VALUES).tobytes())
    except _UNREADABLE as error:
        said = " ".join(str(error).split())[:100]
        raise InvalidObjectError(f"kept state: not readable ({type(error).__name__} {said})") from error
    if not isinstance(values, dict):
        raise InvalidObjectError("kept state: not a JSON object")
    return Kept(values, arrays)


def encode_incidents(incidents: Incidents, more: dict[str, Any]) -> bytes:
    """Raises: InvalidObjectError when they are too large."""
    body = orjson.dumps(
        {"version": INCIDENTS_VERSION, "incidents": _ADAPTER.dump_python(incidents, mode="json"), "more": more}
    )
    if len(body) > _MOST_JSON:
        raise InvalidObjectError(f"incidents of {len(body)} bytes; at most {_MOST_JSON} are kept")
    return body


def decode_incidents(body: bytes) -> tuple[Incidents, dict[str, Any]]:
    """Raises: InvalidObjectError."""
    try:
        told = orjson.loads(body)
        if told["version"] != INCIDENTS_VERSION:
            raise InvalidObjectError(f"kept incidents of version {str(told['version'])[:20]}")
        return _ADAPTER.validate_python(told["incidents"]), dict(told["more"])
    except (orjson.JSONDecodeError, ValidationError, KeyError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [""])[0][:100]
        raise InvalidObjectError(f"kept incidents: {type(error).__name__} {first}") from error
