"""One collection round: 20 members x 30 queries, each answered after 50 ms. Run: python -m tests.bench.metrics_round.

Prints a table and one JSON line; `--json` the line alone. The server is a process of its own; the baseline asks the
same queries one after the other, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import threading
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from aiohttp import web

from clusters.clock import SystemClock
from clusters.metrics import load_metrics_source
from clusters.metrics.collector import Collector
from clusters.metrics.queries import load_queries
from scheduler.model.ids import ClusterId
from scheduler.model.metrics import OK, MetricQuery, MetricsSource

MEMBERS, QUERIES, ANSWER_SECONDS = 20, 30, 0.05
SERIES = 8
"""In each answer: a node's GPUs."""
ROUNDS = 5
LIMIT_SECONDS = 2.0


def serve(port: Connection) -> None:
    """Answers every query after 50 ms with SERIES series and their times."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(ANSWER_SECONDS)
        now = time.time()
        result = [
            {"metric": {"Hostname": "n", "gpu": str(gpu), "overspill_part": part}, "value": [now, value]}
            for gpu in range(SERIES)
            for part, value in (("value", "0.5"), ("time", f"{now - 5:.3f}"))
        ]
        return web.json_response({"status": "success", "data": {"resultType": "vector", "result": result}})

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/api/v1/query", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


def members(url: str, **settings: Any) -> dict[ClusterId, MetricsSource]:
    module = load_metrics_source("prometheus")
    checked = module.Settings.model_validate({"type": "prometheus", "url": url, **settings})
    names = [ClusterId(f"member-{number:02d}") for number in range(MEMBERS)]
    return {name: module.create(checked, cluster=name, clock=SystemClock()) for name in names}


def queries() -> list[MetricQuery]:
    shipped = [query for query in load_queries() if query.families]
    assert len(shipped) >= QUERIES
    return [replace(query, max_age_seconds=600.0) for query in shipped[:QUERIES]]


async def rounds(url: str) -> tuple[list[float], int]:
    """Seconds of each round, the first one (threads and connections are made) included; most threads seen."""
    collector = Collector(members(url), queries(), clock=SystemClock())
    took, threads = [], 0
    try:
        for _ in range(ROUNDS):
            done = await collector.collect()
            assert [reading.error for reading in done.readings if reading.state != OK] == []
            assert len(done.readings) == MEMBERS * QUERIES
            took.append(done.took_seconds)
            threads = max(threads, threading.active_count())
    finally:
        await collector.close()
    return took, threads


async def one_after_the_other(url: str) -> float:
    sources = members(url)
    asked = queries()
    started = time.monotonic()
    try:
        for source in sources.values():
            for query in asked:
                (reading,) = await source.read([query])
                assert reading.state == OK, reading.error
    finally:
        for source in sources.values():
            await source.close()
    return time.monotonic() - started


def main() -> int:
    """1 when a round took longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    alone = parser.parse_args().json
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        url = f"http://127.0.0.1:{ours.recv()}"
        took, threads = asyncio.run(rounds(url))
        baseline = asyncio.run(one_after_the_other(url))
    finally:
        server.terminate()
        server.join()
    result = {
        "bench": "metrics_round",
        "members": MEMBERS,
        "queries": QUERIES,
        "answer_seconds": ANSWER_SECONDS,
        "first_seconds": round(took[0], 3),
        "worst_seconds": round(max(took), 3),
        "median_seconds": round(sorted(took)[len(took) // 2], 3),
        "sequential_seconds": round(baseline, 3),
        "ratio": round(baseline / max(took), 1),
        "threads": threads,
    }
    if not alone:
        print(f"{MEMBERS} members x {QUERIES} queries, each answered after {ANSWER_SECONDS * 1000:.0f} ms")
        print(f"  {'round':<28}{'seconds':>10}")
        for number, seconds in enumerate(took, start=1):
            print(f"  {f'collector, round {number}':<28}{seconds:>10.3f}")
        print(f"  {'one after the other':<28}{baseline:>10.3f}")
        print(f"  {result['ratio']} times as fast in the worst round, with {threads} threads; limit {LIMIT_SECONDS} s")
    print(json.dumps(result))
    return int(max(took) >= LIMIT_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
