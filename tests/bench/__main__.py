"""All benchmarks, one after the other. Run: make bench (or python -m tests.bench)."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "tests.bench.engine_cycle",
    "tests.bench.engine",
    "tests.bench.loop",
    "tests.bench.metrics_round",
    "tests.bench.aiops",
    "tests.bench.faults",
    "tests.bench.gavel",
    "tests.bench.predict",
)


def main() -> int:
    """0 when all of them ran."""
    worst = 0
    for module in MODULES:
        print(f"== {module}", flush=True)
        worst = max(worst, subprocess.run([sys.executable, "-m", module], check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
