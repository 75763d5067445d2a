"""Grafana dashboards as tests read them: rows and panels of the JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def panels_of(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All but the headings."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def rows_of(dashboard: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Panels by the heading above them."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            rows[panel["title"]] = []
        else:
            next(reversed(rows.values())).append(panel)
    return rows
