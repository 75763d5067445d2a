"""`docs/metrics.md`, from what is declared. Run: python -m scheduler.daemon.telemetry.reference > docs/metrics.md"""

from __future__ import annotations

import sys
from typing import Final

from scheduler.daemon.telemetry import THEMES
from scheduler.daemon.telemetry.declared import Family, Metrics, declared

LABELS: Final = {
    "action": "actions of the policies in force",
    "budget": "budgets of the policies in force",
    "by": "queue, gpu or source",
    "call": "calls of a provider",
    "capacity_type": "owned, on-demand, reserved, spot",
    "cause": "families of signals (two words)",
    "cluster": "members of the federation file",
    "error": "typed errors; of a shortage capacity, quota or error",
    "kind": "kinds of the rules and detectors, and alert names that Alertmanager sends",
    "loop": "the daemon's loops",
    "mode": "active, shadow",
    "model": "the learned models",
    "name": "what the label before it says: queues, GPU models, clusters, pools or budgets",
    "outcome": "a fixed list",
    "phase": "a fixed list",
    "policy": "policies in force",
    "pool": "node pools of the members",
    "quantile": "0.5 and 0.9",
    "queue": "queues in force, and those that workloads name",
    "reason": "CamelCase reasons of the code",
    "resource": "kinds of watched objects, or resources of a pool",
    "result": "a fixed list",
    "revision": "revisions of a service that run or are to run",
    "service": "kind/namespace/name of not more than listen.workloadMetrics services",
    "severity": "critical, high, warning, info",
    "source": "configured sources",
    "state": "a fixed list",
    "step": "steps of the life of a workload",
    "unit": "a fixed list",
    "what": "a fixed list",
    "workload": "kind/namespace/name of not more than listen.workloadMetrics, those that are not finished first",
}
"""What bounds the values of each label."""


def reference() -> str:
    """The page, in Markdown."""
    lines = [
        "# Metrics", "",
        "Made by `python -m scheduler.daemon.telemetry.reference`; do not edit. All are served at `/metrics`. "
        "Alerts on them are in `deploy/prometheus/`, what to do about these in `docs/runbooks/`.", "",
    ]  # fmt: skip
    for theme in THEMES:
        lines += [f"## {theme.__name__}", "", "| metric | kind | unit | labels | |", "|---|---|---|---|---|"]
        lines += [_row(family) for family in families(theme)]
        lines.append("")
    lines += ["## Labels", "", "| label | its values are |", "|---|---|"]
    lines += [f"| `{label}` | {bound} |" for label, bound in sorted(LABELS.items())]
    return "\n".join(lines) + "\n"


def families(theme: type[Metrics]) -> list[Family]:
    """Of one theme, by name."""
    return sorted((one.family for _, one in declared(theme)), key=lambda each: each.name)


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {family.unit} | {labels} | {family.help} |"


if __name__ == "__main__":
    sys.stdout.write(reference())
