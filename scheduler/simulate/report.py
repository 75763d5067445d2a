"""A study as one self-contained HTML file: figures, plots, tables; light and dark, telephone to wide screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from scheduler.simulate.comparison import Saving, Standing, gap_percent, savings, standings
from scheduler.simulate.plots import capacity_plot, frontier_plot, queue_plot, shown, spend_plot, with_ids
from scheduler.simulate.study import Findings

_MOST_CAPACITY_PLOTS: Final = 4
_COLUMNS: Final = (
    ("total cost", "total_cost_usd", "usd"),
    ("cloud spend", "cloud_spend_usd", "usd"),
    ("wait, mean", "wait_mean_seconds", "time"),
    ("wait, p95", "wait_p95_seconds", "time"),
    ("done in, mean", "completion_mean_seconds", "time"),
    ("done in, p95", "completion_p95_seconds", "time"),
    ("slowdown, mean", "slowdown_mean", "number"),
    ("deadlines missed", "deadline_misses", "count"),
    ("owned GPUs used", "gpu_utilization", "percent"),
    ("burst GPU-hours", "burst_gpu_hours", "count"),
    ("interrupted", "interruptions", "count"),
    ("GPU-hours lost", "lost_gpu_hours", "number"),
    ("fairness", "fairness", "number"),
    ("budgets broken", "budgets_broken", "count"),
)
CSS: Final = """
:root{color-scheme:light dark;--ink:#1b1f24;--dim:#5d6671;--paper:#fff;--line:#d9dee4;--soft:#f4f6f8;--good:#16794a;
--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e3e7ec;--dim:#98a2ae;--paper:#14171b;--line:#323941;--soft:#1c2026;
--good:#58c78e;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:20px 16px 48px;font:15px/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--paper)}
h1{font-size:1.45rem;line-height:1.25;margin:0 0 4px}h2{font-size:1.1rem;margin:34px 0 8px}
p{margin:6px 0;max-width:75ch}.dim{color:var(--dim)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:14px 0}dt{color:var(--dim)}
dd{margin:0;overflow-wrap:anywhere}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,370px),1fr));gap:18px 26px}
figure{margin:0;min-width:0}figcaption{font-weight:600;margin-bottom:2px}
figcaption small{font-weight:400;color:var(--dim);display:block}
svg{display:block;width:100%;height:auto}
.wide{overflow-x:auto;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;width:100%}
th,td{padding:5px 10px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}
th{font-weight:500;color:var(--dim);background:var(--soft)}th:first-child,td:first-child{text-align:left;
position:sticky;left:0;background:var(--paper);max-width:46vw;overflow:hidden;text-overflow:ellipsis}
th:first-child{background:var(--soft)}tr:last-child td{border-bottom:0}
.policy td{font-weight:600}.other td{color:var(--dim)}.up{color:var(--good)}.down{color:var(--bad)}
ul{padding-left:20px}
"""


def write_report(findings: Findings, about: Mapping[str, Any], path: Path) -> None:
    """Write the page. Raises: OSError."""
    path.write_text(report_html(findings, about), encoding="utf-8")


def report_html(findings: Findings, about: Mapping[str, Any]) -> str:
    """The same text for the same study."""
    title = f"{findings.study.trace.name}: {', '.join(one.name for one in findings.study.policies)}"
    body = [
        f"<h1>{escape(title)}</h1>",
        '<p class="dim">A replay by overspill simulate: the daemon\'s own engine on virtual time.</p>',
        _facts(findings, about),
        _troubles(findings),
        "<h2>Course</h2>",
        f'<div class="plots">{"".join(_plots(findings))}</div>',
        "<h2>Savings</h2>",
        *(_savings_table(one, findings) for one in standings(findings) if one.kind == "policy"),
        "<h2>Measures</h2>",
        _seeds_note(findings),
        _measures_table(findings),
    ]
    return page(title, body)


def page(title: str, body: Sequence[str]) -> str:
    """A whole page in the report's style."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def figure_html(index: int, name: str, told: str, svg: str) -> str:
    """One plot with its caption."""
    return (
        f"<figure><figcaption>{escape(name)}<small>{escape(told)}</small></figcaption>"
        + with_ids(svg, f"plot{index}").replace("<svg ", f'<svg role="img" aria-label="{escape(name)}" ', 1)
        + "</figure>"
    )


def _facts(findings: Findings, about: Mapping[str, Any]) -> str:
    study, trace = findings.study, about["trace"]
    value = study.value
    days = trace["last_arrival_seconds"] / 86400
    facts = [
        ("jobs", f"{trace['jobs']:,} in {days:.1f} days, {trace['gpu_hours']:,.0f} GPU-hours"),
        ("owned", f"{study.site.owned_gpus:,} GPUs; clusters {', '.join(about['federation']['clusters'])}"),
        (
            "time is worth",
            f"{float(value.usd_per_gpu_hour):g} USD per GPU-hour and {float(value.usd_per_hour):g} USD per job-hour, "
            f"from {about['value_of_time_from']}",
        ),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("assumed", ", ".join(f"{key} {_plain(each)}" for key, each in about["assumptions"].items())),
    ]
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    notes = "".join(f'<p class="dim">{escape(note)}</p>' for note in trace["notes"])
    return f"<dl>{rows}</dl>{notes}"


def _plain(value: object) -> str:
    return ", ".join(f"{k}={v}" for k, v in value.items()) or "none" if isinstance(value, Mapping) else str(value)


def _troubles(findings: Findings) -> str:
    """What a reader must know before the figures."""
    lines = [
        f"{run.contender.name}, seed {run.measures.seed}: {each.jobs} jobs never ended: {each.why}"
        for run in findings.runs
        for each in run.unfinished[:2]
    ]
    lines += [
        f"{run.contender.name}, seed {run.measures.seed}: {run.measures.unpriced_gpu_hours:,.0f} GPU-hours were bought "
        "at an unknown price"
        for run in findings.runs
        if run.measures.unpriced_gpu_hours
    ]
    if not lines:
        return ""
    more = f"<li>and {len(lines) - 12} more</li>" if len(lines) > 12 else ""
    told = "".join(f"<li>{escape(line)}</li>" for line in lines[:12])
    return f'<p class="down">Not every replay can be compared:</p><ul>{told}{more}</ul>'


def _plots(findings: Findings) -> list[str]:
    seed = findings.study.seeds[0]
    figures = [
        ("Cost and wait", "every run; a baseline's settings are dots of one colour", frontier_plot(findings)),
        ("Queue", f"GPUs asked for by what waits, seed {seed}", queue_plot(findings)),
        ("Spend", f"on bought machines so far, seed {seed}", spend_plot(findings)),
    ]
    figures += [
        (
            f"Capacity: {one.name}",
            f"GPUs used by cluster, and all that are there, seed {seed}",
            capacity_plot(findings, one),
        )
        for one in _most_telling(findings)
    ]
    return [figure_html(index, *parts) for index, parts in enumerate(figures)]


def _most_telling(findings: Findings) -> list[Standing]:
    """Whose capacity is drawn: the policy sets, then the cheapest baselines."""
    order = sorted(shown(findings), key=lambda one: (one.kind != "policy", one.mean("total_cost_usd") or 0.0))
    return order[: max(_MOST_CAPACITY_PLOTS, len(findings.study.policies))]


def _seeds_note(findings: Findings) -> str:
    count = len(findings.study.seeds)
    over = f"Means over {count} seeds" if count > 1 else "One seed"
    return (
        f'<p class="dim">{over}. Of a baseline\'s settings the cheapest stands in full ink; it is the one that is '
        "compared with. The gap is what a run costs above the clairvoyant bound.</p>"
    )


def _measures_table(findings: Findings) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name, _, _ in _COLUMNS)
    rows = []
    for one in standings(findings):
        kind = "policy" if one.kind == "policy" else ("best" if one.best else "other")
        cells = "".join(f"<td>{_cell(one.mean(key), form)}</td>" for _, key, form in _COLUMNS)
        gap = _cell(gap_percent(one, findings), "signed")
        mark = "" if one.comparable else " (not comparable)"
        rows.append(f'<tr class="{kind}"><td>{escape(one.name)}{mark}</td>{cells}<td>{gap}</td></tr>')
    if findings.bound is not None:
        blank = "<td></td>" * (len(_COLUMNS) - 1)
        bound = findings.bound
        costs = f"<td>{_cell(bound.total_cost_usd, 'usd')}</td><td>{_cell(bound.cloud_spend_usd, 'usd')}</td>"
        rows.append(f"<tr><td>clairvoyant bound</td>{costs}{blank}</tr>")
    return (
        f'<div class="wide"><table><thead><tr><th>run</th>{head}<th>gap</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _savings_table(policy: Standing, findings: Findings) -> str:
    found = savings(policy, standings(findings))
    if not found:
        return '<p class="dim">No baseline was replayed.</p>'
    rows = "".join(map(_saving_row, found))
    return (
        f"<p>Of the total cost, {escape(policy.name)} saves against each baseline at its best setting:</p>"
        '<div class="wide"><table><thead><tr><th>against</th><th>mean</th><th>least</th><th>most</th>'
        f"<th>USD</th><th>p95 wait</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _saving_row(saving: Saving) -> str:
    cells: Sequence[tuple[float | None, str]] = (
        (saving.mean_percent, "signed"),
        (saving.least_percent, "signed"),
        (saving.most_percent, "signed"),
        (saving.mean_usd, "usd"),
        (saving.p95_wait_seconds, "signed-time"),
    )
    style = "" if saving.mean_percent is None else ("up" if saving.mean_percent > 0 else "down")
    told = "".join(f'<td class="{style if index == 0 else ""}">{_cell(*cell)}</td>' for index, cell in enumerate(cells))
    return f"<tr><td>{escape(saving.baseline)}</td>{told}</tr>"


def _cell(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    match form:
        case "usd":
            return f"{value:,.2f}" if abs(value) < 100 else f"{value:,.0f}"
        case "time":
            return _hours(value)
        case "signed-time":
            return ("-" if value < 0 else "+") + _hours(abs(value))
        case "percent":
            return f"{100 * value:.1f} %"
        case "signed":
            return f"{value:+.1f} %"
        case "count":
            return f"{value:,.0f}"
    return f"{value:,.2f}"


def _hours(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
