"""Durations as people write them: 10m, 1h30m, 24h, 250ms, 7d."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from scheduler.model.errors import InvalidObjectError

PATTERN: Final = (
    r"(?=\d)(?:(\d{1,9}(?:\.\d{1,9})?)d)?(?:(\d{1,9}(?:\.\d{1,9})?)h)?(?:(\d{1,9}(?:\.\d{1,9})?)m)?"
    r"(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?"
)
MAX_SECONDS: Final = 3650 * 86400
_DURATION: Final = re.compile(PATTERN, re.ASCII)
_UNIT_SECONDS: Final = (Decimal(86400), Decimal(3600), Decimal(60), Decimal(1), Decimal("0.001"))


def parse_duration(text: str) -> float:
    """Seconds, not negative. Units d, h, m, s and ms, each at most once and the largest first, as in "1h30m".

    Raises: InvalidObjectError with the remedy.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InvalidObjectError("not a duration; write for example 10m, 1h30m or 24h")
    seconds = sum(
        (Decimal(part) * unit for part, unit in zip(match.groups(), _UNIT_SECONDS, strict=True) if part), Decimal(0)
    )
    if seconds > MAX_SECONDS:
        raise InvalidObjectError("longer than ten years; write a shorter duration")
    return float(seconds)
