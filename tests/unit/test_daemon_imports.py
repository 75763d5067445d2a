"""What the daemon loads before it knows that it needs it."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {
    "scipy",
    "sklearn",
    "matplotlib",
    "boto3",
    "google.cloud",
    "azure.mgmt",
    "alembic",
    "asyncpg",
    "opentelemetry.sdk",
}


def test_what_only_some_need_is_not_loaded_for_all() -> None:
    """scipy alone is 35 MiB, and only policies that value time need it."""
    code = "import scheduler.daemon.main, sys; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "scheduler.engine.cycle" in loaded
    assert HEAVY.isdisjoint(loaded)
