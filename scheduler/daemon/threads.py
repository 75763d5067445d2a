"""How soon the event loop runs again while a thread computes."""

from __future__ import annotations

import sys
from typing import Final

_SWITCH_SECONDS: Final = 0.0005


def switch_soon() -> None:
    """Ask a thread that holds the interpreter's lock for it after half a millisecond, not after five. To be called
    once, when the process begins.

    Each time the event loop has waited for anything, it waits for the lock besides while a cycle, a refit of the
    learned model or the parsing of a page of metrics goes on in a thread. A job's way to its copy has a dozen such
    moments.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
