"""The demo's report: one HTML page with its summary and the course of its service, plotted."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Final

from scheduler.cli.demo.service_day import ServiceDay, clusters_of
from scheduler.cli.demo.summary import Summary

_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>overspill demo</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; }} td {{ padding: 0.15rem 1rem 0.15rem 0; vertical-align: top; }}
svg {{ width: 100%; max-width: 46rem; height: auto; }}
</style></head><body>
<h1>overspill demo</h1>
<table>{rows}</table>
{service}
</body></html>
"""


def write_report(path: Path, summary: Summary) -> None:
    """Raises: OSError."""
    rows = "".join(_row(name, text.plain) for name, text in summary.rows())
    service = "" if summary.service is None else _service(summary.service)
    path.write_text(_PAGE.format(rows=rows, service=service), encoding="utf-8")


def _row(name: str, text: str) -> str:
    return f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>"


def _service(day: ServiceDay) -> str:
    # Drawing is loaded for a report only: it takes half a second.
    from scheduler.simulate import plots

    figures = [plots.with_ids(svg, f"p{number}") for number, svg in enumerate(_plots(day))]
    return (
        "<h2>The service</h2>"
        f"<p>{html.escape(day.text())}. A day's curve in four hours, with one spike; clients, replicas and latency are "
        "the sandbox's.</p>" + "".join(f"<figure>{svg}</figure>" for svg in figures)
    )


def _plots(day: ServiceDay) -> list[str]:
    """Requests against capacity, ready replicas by cluster, and p95 against the SLO, over hours."""
    from scheduler.simulate import plots

    hours = [(one.at - day.began) / 3600.0 for one in day.minutes]
    requests, axes = plots.new_figure("requests a second")
    axes.plot(hours, [one.asked_per_second for one in day.minutes], color=plots.PALETTE[0], label="asked")
    capacity = [one.capacity_per_second for one in day.minutes]
    axes.plot(hours, capacity, color=plots.INK, drawstyle="steps-mid", linewidth=0.9, label="ready replicas can serve")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours")
    made = [plots.as_svg(requests, axes)]
    figure, axes = plots.new_figure("ready replicas")
    clusters = clusters_of(day.minutes)
    if clusters:
        counts = [[one.replicas.get(name, 0.0) for one in day.minutes] for name in clusters]
        axes.stackplot(hours, counts, labels=clusters, colors=plots.PALETTE[: len(clusters)], step="mid", linewidth=0)
    axes.set_xlabel("hours")
    made.append(plots.as_svg(figure, axes))
    figure, axes = plots.new_figure("p95, seconds")
    p95 = [min(one.p95_seconds, 3 * day.slo_seconds) for one in day.minutes]
    axes.plot(hours, p95, color=plots.PALETTE[1], label="p95 of the slowest cluster")
    axes.axhline(day.slo_seconds, color=plots.INK, linestyle="--", linewidth=0.9, label="SLO")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours")
    made.append(plots.as_svg(figure, axes))
    return made
