"""A replay of requests as one self-contained HTML file, in the style of the other reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from scheduler.simulate.plots import INK, PALETTE, as_svg, new_figure
from scheduler.simulate.report import figure_html, page
from scheduler.simulate.serving.replay import Moment, ServingRun
from scheduler.simulate.serving.study import ServingFindings, savings, standings

_MOST_CAPACITY: Final = 4
_MOST_POINTS: Final = 1500


def write_report(findings: ServingFindings, about: Mapping[str, Any], path: Path) -> None:
    """Write the page. Raises: OSError."""
    path.write_text(report_html(findings, about), encoding="utf-8")


def report_html(findings: ServingFindings, about: Mapping[str, Any]) -> str:
    """The same text for the same study."""
    title = f"{findings.study.log.name}: {', '.join(name for name, _ in findings.study.policies)}"
    body = [
        f"<h1>{escape(title)}</h1>",
        '<p class="dim">A replay of requests by overspill simulate: the daemon\'s own division on virtual time.</p>',
        _facts(about),
        "<h2>Course</h2>",
        f'<div class="plots">{"".join(_plots(findings))}</div>',
        "<h2>Savings</h2>",
        _savings(findings),
        "<h2>Measures</h2>",
        _measures(findings),
    ]
    return page(title, body)


def _facts(about: Mapping[str, Any]) -> str:
    requests = about["requests"]
    facts = [
        (
            "requests",
            f"{requests['count']:,} in {requests['hours']:.1f} h, scaled by {requests['scaled_by']:g}",
        ),
        ("peak", f"scaled to {requests['peak_replicas']} replicas; {requests['peak_busy_here']:.1f} busy here at most"),
        ("clients", ", ".join(requests["regions"])),
        ("pools", ", ".join(f"{name} ({pool['gpu']}, {pool['most']})" for name, pool in about["pools"].items())),
        ("seeds", ", ".join(map(str, about["seeds"]))),
    ]
    if about["lost"]:
        facts.append(("lost", ", ".join(f"{cluster} at {second:g} s" for second, cluster in about["lost"])))
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    return f"<dl>{rows}</dl>"


def _plots(findings: ServingFindings) -> list[str]:
    seed = findings.study.seeds[0]
    figures = [("Cost and misses", "every setting of every contender", _frontier(findings))]
    figures += [
        (
            f"Replicas: {run.decider}",
            f"ready, by pool, and the demand in requests per second (right), seed {seed}",
            _replicas(run),
        )
        for run in _shown(findings)
    ]
    return [figure_html(index, *parts) for index, parts in enumerate(figures)]


def _shown(findings: ServingFindings) -> list[ServingRun]:
    """The policies, then of each baseline the setting that is compared with, else its cheapest."""
    names = [name for name, _ in findings.study.policies]
    compared = [one["setting"] for one in savings(findings) if one["setting"] is not None]
    cheapest: dict[str, tuple[float, str]] = {}
    for one in standings(findings):
        best = cheapest.get(one.family)
        if one.kind == "baseline" and (best is None or (one.cost_usd, one.name) < best):
            cheapest[one.family] = one.cost_usd, one.name
    order = list(dict.fromkeys([*names, *compared, *(name for _, name in cheapest.values())]))
    first = {run.decider: run for run in reversed(findings.runs) if run.seed == findings.study.seeds[0]}
    return [first[name] for name in order[: max(len(names), _MOST_CAPACITY)]]


def _thinned(moments: Sequence[Moment]) -> Sequence[Moment]:
    return moments[:: max(1, len(moments) // _MOST_POINTS)]


def _replicas(run: ServingRun) -> str:
    figure, axes = new_figure("replicas ready")
    moments = _thinned(run.moments)
    hours = [moment.at / 3600.0 for moment in moments]
    pools = [str(pool.pool) for pool in run.world.site.pools]
    used = [name for name in pools if any(moment.replicas.get(name) for moment in moments)]
    if used:
        counts = [[moment.replicas.get(name, 0) for moment in moments] for name in used]
        colours = [PALETTE[pools.index(name) % len(PALETTE)] for name in used]
        axes.stackplot(hours, counts, labels=used, colors=colours, step="post", alpha=0.85, linewidth=0)
    demand = axes.twinx()
    demand.plot(hours, [moment.demand_per_second for moment in moments], color=INK, linewidth=0.5)
    demand.set_ylim(bottom=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("hours")
    return as_svg(figure, axes)


def _frontier(findings: ServingFindings) -> str:
    figure, axes = new_figure("cost, USD")
    everyone = standings(findings)
    for index, family in enumerate(dict.fromkeys((one.kind, one.family) for one in everyone)):
        mine = [one for one in everyone if (one.kind, one.family) == family]
        policy = family[0] == "policy"
        axes.scatter(
            [one.out_percent for one in mine], [one.cost_usd for one in mine], s=90 if policy else 22,
            marker="*" if policy else "o", color=PALETTE[index % len(PALETTE)], label=family[1], linewidths=0,
        )  # fmt: skip
    axes.set_xlabel("minutes out of SLO, %")
    axes.set_ylim(bottom=0)
    return as_svg(figure, axes)


def _savings(findings: ServingFindings) -> str:
    found = savings(findings)
    if not found:
        return '<p class="dim">No baseline was replayed.</p>'
    rows = "".join(
        f"<tr><td>{escape(one['policy'])}</td><td>{escape(one['baseline'])}</td>"
        f"<td>{escape(one['setting'] or 'none is as good')}</td><td>{_signed(one['saved_percent'])}</td></tr>"
        for one in found
    )
    return (
        "<p>Of the cost, against each baseline at its cheapest setting that has no more minutes out of the SLO in this "
        'very replay:</p><div class="wide"><table><thead><tr><th>policy</th><th>against</th><th>setting</th>'
        f"<th>saved</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _measures(findings: ServingFindings) -> str:
    names = ("minutes out of SLO", "of those with requests", "USD", "changes per hour")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(
        f'<tr class="{one.kind}"><td>{escape(one.name)}</td><td>{one.out_percent:.2f} %</td>'
        f"<td>{one.out_percent_asked:.2f} %</td><td>{one.cost_usd:,.2f}</td><td>{one.changes_per_hour:.1f}</td></tr>"
        for one in standings(findings)
    )
    return f'<div class="wide"><table><thead><tr><th>run</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f} %"
