"""Numpy arrays as JSON values: checked when they are read, never unpickled."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_TYPES: Final = frozenset({"<f8", "<f4", "<i8", "<i4", "<i2"})
_MOST_BYTES: Final = 512 * 2**20


def to_json(array: NDArray[Any]) -> dict[str, Any]:
    """Of one of the types that are read back: floats of 4 or 8 bytes, whole numbers of 2, 4 or 8."""
    kind = array.dtype.newbyteorder("<").str
    if kind not in _TYPES:
        raise ValueError(f"arrays of {array.dtype} are not written")
    raw = np.ascontiguousarray(array, dtype=kind).tobytes()
    return {"type": kind, "shape": list(array.shape), "data": base64.b64encode(zlib.compress(raw, 1)).decode()}


def from_json(value: Any) -> NDArray[Any]:
    """The array that `to_json` wrote. Raises: ValueError for anything else."""
    if not isinstance(value, dict) or value.get("type") not in _TYPES:
        raise ValueError("not an array")
    shape, kind = value.get("shape"), np.dtype(value["type"])
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= _MOST_BYTES for size in shape):
        raise ValueError("an array without a shape")
    size = math.prod(shape) * kind.itemsize
    if size > _MOST_BYTES:
        raise ValueError("an array that is too large")
    try:
        packed = base64.b64decode(value.get("data", ""), validate=True)
        raw = zlib.decompressobj().decompress(packed, size + 1)
    except (binascii.Error, TypeError, zlib.error) as error:
        raise ValueError(f"an array that cannot be read: {error}") from error
    if len(raw) != size:
        raise ValueError("an array of another size than it says")
    return np.frombuffer(raw, dtype=kind).reshape(shape).copy()
