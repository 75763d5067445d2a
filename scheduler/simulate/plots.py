"""Plots of a study as SVG text that stands in an HTML page: text and axes take the page's colour, light or dark."""

from __future__ import annotations

import io
import re
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scheduler.simulate.comparison import Standing, standings
from scheduler.simulate.study import Findings, Run

INK: Final = "#010203"
"""Stands for the page's own text colour until it is replaced."""
PALETTE: Final = (
    "#2f7ed8", "#e4572e", "#2ca25f", "#9467bd", "#d99a00", "#17a2b8", "#d1478f", "#8c6d4f", "#7f8c8d", "#5b6ee1",
)  # fmt: skip
_SIZE: Final = (4.6, 3.4)
"""Inches: about as wide as a telephone, so that text is not shrunk there."""
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "overspill",
    "font.size": 10.5,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
}


def shown(findings: Findings) -> tuple[Standing, ...]:
    """Those whose course is drawn: the policy sets, and each baseline at its best setting."""
    return tuple(one for one in standings(findings) if one.best or one.kind == "policy")


def queue_plot(findings: Findings) -> str:
    """GPUs asked for by what waits, over time; the first seed."""
    figure, axes, unit = _over_time(findings, "GPUs waiting")
    for index, one in enumerate(shown(findings)):
        run = one.runs[0]
        axes.plot(_times(run, unit), [m.waiting_gpus for m in run.moments], **_line(index, one))
    axes.set_ylim(bottom=0)
    return as_svg(figure, axes)


def spend_plot(findings: Findings) -> str:
    """USD spent on bought machines so far; the first seed."""
    figure, axes, unit = _over_time(findings, "USD spent in clouds")
    for index, one in enumerate(shown(findings)):
        run = one.runs[0]
        axes.plot(_times(run, unit), [m.spend_usd for m in run.moments], **_line(index, one) | {"drawstyle": "default"})
    axes.set_ylim(bottom=0)
    return as_svg(figure, axes)


def capacity_plot(findings: Findings, one: Standing) -> str:
    """Used GPUs of each cluster, stacked, under the line of all that are there; the first seed."""
    figure, axes, unit = _over_time(findings, "GPUs")
    run = one.runs[0]
    times = _times(run, unit)
    used = [[moment.used_gpus[k] for moment in run.moments] for k in range(len(run.clusters))]
    colours = PALETTE[: len(used)] if len(used) <= len(PALETTE) else None
    axes.stackplot(times, used, labels=run.clusters, colors=colours, step="post", alpha=0.85, linewidth=0)
    there = [sum(moment.gpus) for moment in run.moments]
    axes.plot(times, there, color=INK, linewidth=0.9, drawstyle="steps-post", label="there")
    axes.set_ylim(bottom=0)
    return as_svg(figure, axes)


def frontier_plot(findings: Findings) -> str:
    """Every run by its mean wait and its cost; settings of one baseline are joined; the bound is a line."""
    figure, axes = new_figure("total cost, USD")
    families: dict[tuple[str, str], list[Run]] = {}
    for run in findings.runs:
        families.setdefault((run.contender.kind, run.contender.family), []).append(run)
    order = [(one.kind, one.family) for one in shown(findings)]
    order += [key for key in families if key not in order]
    for index, key in enumerate(order):
        runs = [run for run in families[key] if run.measures.wait.mean is not None]
        waits = [(run.measures.wait.mean or 0.0) / 3600 for run in runs]
        costs = [run.measures.total_cost_usd for run in runs]
        marker = "*" if key[0] == "policy" else "o"
        size = 90 if key[0] == "policy" else 22
        colour = PALETTE[index % len(PALETTE)]
        axes.scatter(waits, costs, s=size, marker=marker, color=colour, label=key[1], alpha=0.85, linewidths=0)
    if findings.bound is not None:
        axes.axhline(findings.bound.total_cost_usd, color=INK, linewidth=0.9, linestyle="--", label="bound")
    axes.set_xlabel("mean wait, hours")
    axes.set_ylim(bottom=0)
    return as_svg(figure, axes)


def _over_time(findings: Findings, label: str) -> tuple[Figure, Axes, float]:
    """With the seconds of one unit of its time axis."""
    figure, axes = new_figure(label)
    seconds = max(run.moments[-1].at - run.started_at for run in findings.runs)
    unit = 86400.0 if seconds > 3 * 86400 else 3600.0
    axes.set_xlabel("days" if unit == 86400.0 else "hours")
    return figure, axes, unit


def new_figure(label: str) -> tuple[Figure, Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
    axes.set_ylabel(label)
    axes.margins(x=0.02)
    axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    return figure, axes


def _times(run: Run, unit: float) -> list[float]:
    return [(moment.at - run.started_at) / unit for moment in run.moments]


def _line(index: int, one: Standing) -> dict[str, Any]:
    width = 1.8 if one.kind == "policy" else 1.0
    return {
        "color": PALETTE[index % len(PALETTE)], "linewidth": width, "drawstyle": "steps-post", "label": one.name,
        "zorder": 3 if one.kind == "policy" else 2,
    }  # fmt: skip


def as_svg(figure: Figure, axes: Axes) -> str:
    """The SVG element: no fixed size, no date, the page's colour for text."""
    text = io.StringIO()
    with mpl.rc_context(_STYLE):
        _legend(figure, axes)
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*" height="[^"]*"|^<svg ([^>]*?)height="[^"]*" width="[^"]*"', "<svg ", svg)
    return svg.replace(INK, "currentColor")


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))


def with_ids(svg: str, prefix: str) -> str:
    """The same with its ids made unique, for several plots in one page."""
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    return re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
