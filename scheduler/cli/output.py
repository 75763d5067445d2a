"""How the command line speaks: errors as one clear line, JSON, amounts and durations for people."""

from __future__ import annotations

import json
import os
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from scheduler.model.errors import OverspillError
from scheduler.model.secrecy import hide

if TYPE_CHECKING:
    from rich.console import Console

UNKNOWN = "-"
"""Shown for what is not known."""


class CommandError(OverspillError):
    """A command cannot go on; its text is the one line that the user sees. `exit_code`: 1 failed, 2 wrong input."""

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def debugging() -> bool:
    """Whether tracebacks are wanted (OVERSPILL_DEBUG=1)."""
    return os.environ.get("OVERSPILL_DEBUG", "") not in ("", "0")


def print_error(message: str) -> None:
    """`message` as one line on standard error, without what looks like a secret."""
    print("overspill: " + " ".join(hide(message).split()), file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """`value` as one line of JSON on standard output."""
    print(json.dumps(value, separators=(",", ":"), default=str), flush=True)


def keep_stdout() -> None:
    """From now on only Python writes to standard output; what a library's own code says goes to standard error. HiGHS
    prints a line now and then whatever it is told, which is no JSON."""
    try:
        if sys.stdout.fileno() != 1:
            return
    except (OSError, ValueError):
        return  # A test's, which is no file.
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, buffering=1)
    os.dup2(2, 1)


def console(*, stderr: bool = False) -> Console:
    """A rich console; 80 columns wide where the terminal does not tell, uncoloured when it is no terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else int(os.environ.get("COLUMNS") or 80)
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def usd(amount: Decimal | float | str | None) -> str:
    """ "$1,234.50"; a dash when it is not known."""
    if amount is None:
        return UNKNOWN
    return f"${Decimal(str(amount)):,.2f}"


def duration(seconds: float | None) -> str:
    """ "45s", "12m", "3h05m" or "2d04h"; a dash when it is not known."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes}m{rest:02d}s" if minutes < 10 and rest else f"{minutes}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def bar(used: float, total: float, width: int = 10) -> str:
    """A bar of `width` characters, filled by the share that is used; never empty when something is."""
    if total <= 0:
        return " " * width
    filled = min(width, max(round(width * used / total), 1 if used > 0 else 0))
    return "█" * filled + "░" * (width - filled)
