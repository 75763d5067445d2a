"""What was learned as one self-contained HTML page: error and coverage by day, and when spot nodes are taken back."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Final

from scheduler.predict import records

_MOST_LINES: Final = 10
_DAYS: Final = 7
_MOST_TICKS: Final = 8
_STYLE: Final = """
body{font-family:system-ui,sans-serif;margin:2rem auto;max-width:84rem;padding:0 1rem;color:#1a1a1a}
main{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(34rem,100%),1fr));gap:1rem 2rem}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:.5rem 0}svg{width:100%;height:auto}p{max-width:60rem}
"""
_WORDS: Final = (
    "Errors are mean absolute errors of the logarithm of run times: 0.1 is about 10 % off, 0.69 a factor of two. Nine "
    "in ten of the 90 % intervals should hold; the band is 88 to 92 %. Dots are days, lines the mean of seven days, "
    "each run counting once."
)


def page(found: dict[str, Any]) -> str:
    """Of what `model_show.described` says."""
    parts = [
        _figure(f"{title} by {name}", _by_day(found["by_day"][what], field, label))
        for what, name in ((records.QUEUE, "queue"), (records.GPU, "GPU model"))
        for field, label, title in (
            ("error", "mean absolute log error", "Error"),
            ("coverage_90", "share in 90 % interval", "Coverage"),
        )
        if found["by_day"][what]
    ]
    if found["reclaims_by_hour"]:
        parts.append(_figure("Spot nodes taken back, by hour of the day (UTC)", _by_hour(found["reclaims_by_hour"])))
    runs = found["runs_learned"]
    told = html.escape(f"{runs:,} run{'' if runs == 1 else 's'} learned, as of {found['saved_at']}")
    nothing = "" if parts else "<p>No run has ended yet that was predicted.</p>"
    head = (
        "<meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>What Overspill has learned</title><style>{_STYLE}</style>"
    )
    body = f"<h1>{told}</h1><p>{_WORDS}</p>{nothing}<main>{''.join(parts)}</main>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>"


def _figure(title: str, svg: str) -> str:
    said = html.escape(title)
    named = svg.replace("<svg ", f'<svg role="img" aria-label="{said}" ', 1)
    return f"<section><h2>{said}</h2>{named}</section>"


def _by_day(by_name: dict[str, list[dict[str, Any]]], field: str, label: str) -> str:
    figure, axes = _axes(label)
    for name, days in sorted(by_name.items(), key=lambda each: -sum(day["runs"] for day in each[1]))[:_MOST_LINES]:
        times = [date.fromisoformat(day["day"]) for day in days]
        values = [day[field] for day in days]
        (line,) = axes.plot(times, _smooth(days, field), "-", label=name)
        axes.plot(times, values, "o", color=line.get_color(), markersize=3, alpha=0.35)
    if field == "coverage_90":
        axes.axhspan(0.88, 0.92, color="grey", alpha=0.2, linewidth=0)
        axes.set_ylim(0.0, 1.03)
    else:
        axes.set_ylim(bottom=0.0)
    told = [date.fromisoformat(day["day"]) for days in by_name.values() for day in days]
    first, last = min(told) - timedelta(days=1), max(told) + timedelta(days=1)
    step = math.ceil((last - first).days / _MOST_TICKS)
    ticks = [first + timedelta(days=day) for day in range(0, (last - first).days + 1, step)]
    axes.set_xlim(first, last)
    axes.set_xticks(ticks, [f"{tick:%d %b}" for tick in ticks])
    return _svg(figure, axes)


def _smooth(days: Sequence[dict[str, Any]], field: str) -> list[float]:
    """Mean of the day and the six before it that there are, each run counting once. Days are ISO dates."""
    import numpy as np

    at = np.array([day["day"] for day in days], dtype="datetime64[D]").astype(int)
    runs, values = np.array([day["runs"] for day in days]), np.array([day[field] for day in days])
    recent = (at[:, None] - at >= 0) & (at[:, None] - at < _DAYS)
    return list(((recent * runs) @ values / (recent @ runs)).tolist())


def _by_hour(by_place: dict[str, list[float]]) -> str:
    figure, axes = _axes("reclaims of a node per hour")
    for name, rates in sorted(by_place.items(), key=lambda each: -max(each[1]))[:_MOST_LINES]:
        axes.stairs(rates, range(25), label=name, linewidth=1.5)
    axes.set_xlim(0, 24)
    axes.set_xticks(range(0, 25, 3))
    axes.set_ylim(bottom=0.0)
    return _svg(figure, axes)


def _axes(label: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def _svg(figure: Any, axes: Any) -> str:
    # Beside the lines, never over them.
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
