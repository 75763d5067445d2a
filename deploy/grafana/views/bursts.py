"""What is bought, whether it is used, and what clouds say."""

from __future__ import annotations

from deploy.grafana.boards import Board
from deploy.grafana.panels import COUNT, GPU_SECONDS, PER_MINUTE, RATIO, View
from deploy.grafana.promql import events

_BOUGHT = (
    View(
        "areas",
        "Bought nodes",
        "Nodes of pools that are bought for bursts and given back when idle.",
        COUNT,
        {"{{cluster}}/{{pool}}": 'max by (cluster, pool) (overspill_bought_nodes{cluster=~"$cluster"})'},
    ),
    View(
        "lines",
        "Bursts and returns",
        "Workloads placed on bought capacity, and nodes given back.",
        PER_MINUTE,
        {
            "bursts to {{cluster}}": 'sum by (cluster) (rate(overspill_bursts_total{cluster=~"$cluster"}'
            "[$__rate_interval])) * 60",
            "returns of {{cluster}}": 'sum by (cluster) (rate(overspill_returns_total{cluster=~"$cluster"}'
            "[$__rate_interval])) * 60",
        },
    ),
    View(
        "areas",
        "Idle bought GPUs",
        "GPUs of bought nodes that no pod uses now.",
        COUNT,
        {"{{cluster}}/{{pool}}": 'max by (cluster, pool) (overspill_idle_bought_gpus{cluster=~"$cluster"})'},
    ),
)
_POOLS = (
    View(
        "lines",
        "GPUs in use by pool",
        "Part of each pool's GPUs that pods use.",
        RATIO,
        {
            "{{cluster}}/{{pool}}": 'max by (cluster, pool) (overspill_pool_gpus{cluster=~"$cluster", state="used"}) / '
            '(max by (cluster, pool) (overspill_pool_gpus{cluster=~"$cluster", state="all"}) '
            "> 0)"
        },
        most=1.0,
    ),
    View(
        "lines",
        "Nodes not ready",
        "Nodes of each pool that are there and not ready.",
        COUNT,
        {
            "{{cluster}}/{{pool}}": 'max by (cluster, pool) (overspill_pool_nodes{cluster=~"$cluster", state="all"}) - '
            'max by (cluster, pool) (overspill_pool_nodes{cluster=~"$cluster", state="ready"})'
        },
    ),
    View(
        "bars",
        "Idle bought GPU-seconds",
        "Over the last six hours: what was paid for and not used.",
        GPU_SECONDS,
        {"{{cluster}}": 'max by (cluster) (overspill:idle_bought_gpu_seconds:sum6h{cluster=~"$cluster"})'},
    ),
    View(
        "table",
        "Pools",
        "Nodes and GPUs of each pool now.",
        COUNT,
        {
            "nodes": 'max by (cluster, pool) (overspill_pool_nodes{cluster=~"$cluster", state="all"})',
            "ready": 'max by (cluster, pool) (overspill_pool_nodes{cluster=~"$cluster", state="ready"})',
            "GPUs": 'max by (cluster, pool) (overspill_pool_gpus{cluster=~"$cluster", state="all"})',
            "GPUs used": 'max by (cluster, pool) (overspill_pool_gpus{cluster=~"$cluster", state="used"})',
        },
        width=24,
    ),
)
_CLOUDS = (
    View(
        "lines",
        "Calls to clouds",
        "By what came of them.",
        PER_MINUTE,
        {
            "{{cluster}} {{result}}": "sum by (cluster, result) (rate(overspill_provider_calls_total"
            '{cluster=~"$cluster"}[$__rate_interval])) * 60'
        },
    ),
    View(
        "lines",
        "Calls that failed",
        "Part of each cloud's calls of the last fifteen minutes.",
        RATIO,
        {"{{cluster}}": 'max by (cluster) (overspill:provider_calls_failed:ratio15m{cluster=~"$cluster"})'},
        steps=((None, "green"), (0.2, "red")),
        most=1.0,
        none="no calls",
    ),
    View(
        "states",
        "Shortages",
        "Pools whose cloud could not deliver nodes, and why.",
        COUNT,
        {
            "{{cluster}}/{{pool}} {{error}}": "max by (cluster, pool, error) (overspill_pool_shortage"
            '{cluster=~"$cluster"})'
        },
        names={"1": "short"},
        steps=((None, "red"),),
        none="none",
    ),
    View(
        "bars",
        "Nodes taken back",
        "Reclaims of spot nodes, and advice that they may come, within the time shown.",
        COUNT,
        {
            "{{cluster}}/{{pool}} taken": events("cluster, pool", 'overspill_reclaims_total{cluster=~"$cluster"}'),
            "{{cluster}}/{{pool}} advised": events(
                "cluster, pool", 'overspill_reclaim_advice_total{cluster=~"$cluster"}'
            ),
        },
        none="none",
        width=12,
    ),
    View(
        "lines",
        "Readings of members' metrics",
        "By what came of them.",
        PER_MINUTE,
        {
            "{{cluster}} {{state}}": "sum by (cluster, state) (rate(overspill_metric_readings_total"
            '{cluster=~"$cluster"}[$__rate_interval])) * 60'
        },
        width=12,
    ),
)
BOARD = Board(
    "overspill-bursts",
    "Overspill: bursts and node pools",
    "What is bought and given back, whether it is used, and what clouds deliver.",
    {"Bought": _BOUGHT, "Pools": _POOLS, "Clouds": _CLOUDS},
)
