"""What each cloud was asked on the wire, against what the least-privilege files in `deploy/iam/` grant.

One module here for each provider, by its name, with:
`PRICES: frozenset[str]`: permissions that only the price sources need (may be empty);
`granted() -> frozenset[str]`: the permissions of the file in `deploy/iam/`, read from it;
`needed(action: str) -> str | None`: the permission that an entry of the emulated cloud's `request_log` needs; None for
one that needs none (fetching a token, say). An entry that it does not know is a KeyError.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any


def _module(provider: str) -> Any:
    return importlib.import_module(f"{__name__}.{provider}")


def granted(provider: str) -> frozenset[str]:
    """Permissions of the provider's file in `deploy/iam/`."""
    found: frozenset[str] = _module(provider).granted()
    return found


def used(provider: str, request_log: Iterable[str]) -> frozenset[str]:
    """Permissions that these requests needed."""
    needed = (_module(provider).needed(action) for action in request_log)
    return frozenset(one for one in needed if one is not None)


def is_price(provider: str, permission: str) -> bool:
    """Whether a permission is for reading prices, which a source of `clusters.prices` needs and no provider does."""
    return permission in _module(provider).PRICES
