"""What is spent, what may be, and what is saved."""

from __future__ import annotations

from deploy.grafana.boards import Board
from deploy.grafana.panels import COUNT, RATIO, SECONDS, USD, USD_PER_HOUR, View
from deploy.grafana.promql import events, named, total

_KEYS = "queue, cluster, capacity_type"
_SPEND = f'max by ({_KEYS}) (overspill_spend_usd{{queue=~"$queue", cluster=~"$cluster"}})'
_RATE = (
    f'max by ({_KEYS}) (clamp_min(deriv(overspill_spend_usd{{queue=~"$queue", cluster=~"$cluster"}}[1h]), 0)) * 3600'
)
_SOFAR = tuple(
    View("areas", f"Spend by {words}", f"Metered on bought nodes so far, by {words}.", USD,
         {f"{{{{{label}}}}}": named(label, "nobody", f"sum by ({label}) ({_SPEND})")})
    for label, words in (("queue", "queue"), ("cluster", "member"), ("capacity_type", "capacity type"))
)  # fmt: skip
_PACE = (
    View(
        "areas",
        "Pace by queue",
        "What is spent in an hour, over the last one.",
        USD_PER_HOUR,
        {"{{queue}}": named("queue", "nobody", f"sum by (queue) ({_RATE})")},
        width=12,
    ),
    View(
        "areas",
        "Pace by member and capacity type",
        "What is spent in an hour, over the last one.",
        USD_PER_HOUR,
        {"{{cluster}} {{capacity_type}}": f"sum by (cluster, capacity_type) ({_RATE})"},
        width=12,
    ),
)
_BUDGETS = (
    View(
        "bars",
        "Budgets used",
        "Part of each budget that is spent or promised to what runs.",
        RATIO,
        {
            "{{policy}}/{{budget}}": "1 - max by (policy, budget) (overspill_budget_left_usd) / "
            "(max by (policy, budget) (overspill_budget_limit_usd) > 0)"
        },
        most=1.0,
        steps=((None, "green"), (0.8, "orange"), (1.0, "red")),
        none="no budgets",
    ),
    View(
        "lines",
        "Budgets left",
        "Limit less what is spent and promised.",
        USD,
        {"{{policy}}/{{budget}}": "max by (policy, budget) (overspill_budget_left_usd)"},
        least=None,
        none="no budgets",
    ),
    View(
        "bars",
        "Budgets last for",
        "Until each is gone at the rate of the last six hours.",
        SECONDS,
        {
            "{{policy}}/{{budget}}": "max by (policy, budget) (overspill_budget_left_usd) / "
            "(max by (policy, budget) (overspill:budget_spend_usd:rate6h) > 0)"
        },
        none="nothing is spent of them",
    ),
)
_SAVED = (
    View(
        "number",
        "Saved against on-demand",
        "Expected cost of what was placed (shadow: would have been placed) since the daemon started, "
        "below running each workload on the cheapest on-demand offering open to it.",
        USD,
        {"{{mode}}": "max by (mode) (overspill_expected_saved_usd)"},
        width=6,
        height=6,
        least=None,
    ),
    View(
        "number",
        "Saved by remedies",
        "Work that would have been lost, at the nodes' prices, within the time shown.",
        USD,
        {"saved": total("overspill_incident_saved_usd_total")},
        width=6,
        height=6,
    ),
    View(
        "number",
        "Regret",
        "What placements were expected to cost above the cheapest that stood open to each "
        "workload by itself, within the time shown.",
        USD,
        {"regret": total('overspill_regret_usd_total{queue=~"$queue"}')},
        width=6,
        height=6,
    ),
    View(
        "bars",
        "What more would be worth",
        "What one more unit of what binds would have saved in the last cycle, by "
        "pool or budget; the ten most valuable.",
        USD,
        {"{{name}} {{resource}}: {{unit}}": "topk(10, max by (name, resource, unit) (overspill_shadow_price_usd))"},
        width=6,
        height=6,
        none="nothing binds",
    ),
)
_PRICES = (
    View(
        "lines",
        "Age of prices",
        "The oldest price that each member's pools are planned with.",
        SECONDS,
        {"{{cluster}}": 'max by (cluster) (overspill_price_age_seconds{cluster=~"$cluster"})'},
        steps=((None, "green"), (86400, "red")),
    ),
    View(
        "lines",
        "Pools without a price",
        "Nothing is bought there where a cap or a budget speaks.",
        COUNT,
        {"{{cluster}}": 'max by (cluster) (overspill_unpriced_pools{cluster=~"$cluster"})'},
    ),
    View(
        "bars",
        "Price sources",
        "Readings that failed, and prices that changed, within the time shown.",
        COUNT,
        {
            "changed at {{cluster}}": events("cluster", 'overspill_price_changes_total{cluster=~"$cluster"}'),
            "failed: {{source}}": events("source", "overspill_price_source_failures_total"),
        },
    ),
)
BOARD = Board(
    "overspill-spend",
    "Overspill: spend, budgets and savings",
    "What bought capacity costs, by whom, how far budgets reach, and what was saved.",
    {"So far": _SOFAR, "Pace": _PACE, "Budgets": _BUDGETS, "Savings and regret": _SAVED, "Prices": _PRICES},
    since="now-24h",
)
