"""One round over all members: whoever is slow or broken harms only itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from clusters.metrics._samples import Asked, Row
from clusters.metrics.collector import Collector
from clusters.metrics.queries import own_query
from scheduler.model.ids import ClusterId
from scheduler.model.metrics import FAILED, OK, MetricQuery, Reading
from tests.builders.metrics_world import NOW, SetClock, query

QUERIES = [query("a"), query("b")]


class FakeSource:
    """Answers at once, or does as it is told."""

    def __init__(self, cluster: str, instead: Callable[[], object] | None = None) -> None:
        self.cluster = ClusterId(cluster)
        self.instead = instead
        self.closed = False
        self.source = f"fake {cluster}"

    async def read(self, queries: Sequence[MetricQuery]) -> tuple[Reading, ...]:
        if self.instead is not None:
            result = self.instead()
            if isinstance(result, asyncio.Event):
                await result.wait()
        asked = Asked(self.cluster, self.source, NOW)
        readings = [asked.reading(one, [Row({"node": "n"}, 1.0, NOW)], 0.0) for one in queries]
        return tuple(readings[:1] if self.instead is _short else readings)

    async def close(self) -> None:
        self.closed = True
        if self.instead is _broken:
            _broken()


def _broken() -> object:
    raise RuntimeError("secret in a plugin's own error")


def _short() -> object:
    return None


def collector(*sources: FakeSource) -> Collector:
    by_cluster = {source.cluster: source for source in sources}
    return Collector(by_cluster, QUERIES, clock=SetClock(), limit_seconds=0.05)


async def test_a_round_has_a_reading_for_each_member_and_query_in_order() -> None:
    made = collector(FakeSource("west"), FakeSource("east"))
    done = await made.collect()
    assert [(reading.cluster, reading.metric) for reading in done.readings] == [
        ("east", "a"),
        ("east", "b"),
        ("west", "a"),
        ("west", "b"),
    ]
    assert done.counts == (("east", OK, 2), ("west", OK, 2))
    assert (done.silent, done.asked_at) == ((), NOW)
    await made.close()


async def test_workloads_own_queries_are_asked_as_bounded_as_a_round() -> None:
    made = collector(FakeSource("well"), FakeSource("hangs", lambda: asyncio.Event()), FakeSource("breaks", _broken))
    asked = [own_query('steps{job="$job"}', {"job": "train-1"}), own_query("max(rate(x[1m]))", {})]
    assert [reading.state for reading in await made.ask(ClusterId("well"), asked)] == [OK, OK]
    for name in ("hangs", "breaks"):
        assert {reading.state for reading in await made.ask(ClusterId(name), asked)} == {FAILED}
    assert await made.ask(ClusterId("unknown"), asked) == ()
    assert await made.ask(ClusterId("well"), []) == ()


@pytest.mark.parametrize(
    ("text", "promql", "scraped"),
    [
        ('steps{job="$job"}', 'steps{job="train-1"}', True),
        ('max(steps{pod=~"$pods",$selector})', 'max(steps{pod=~"train-1-.*",$selector})', False),
        ('rate(steps{job=~"a$"}[$window])', 'rate(steps{job=~"a$"}[$window])', False),
    ],
)
def test_a_query_is_filled_and_a_plain_one_can_be_scraped(text: str, promql: str, scraped: bool) -> None:
    made = own_query(text, {"job": "train-1", "pods": "train-1-.*"})
    assert (made.promql, bool(made.families)) == (promql, scraped)


async def test_hanging_and_broken_sources_fail_alone_and_are_counted() -> None:
    never = asyncio.Event()
    sources = [FakeSource("hangs", lambda: never), FakeSource("breaks", _broken), FakeSource("short", _short)]
    made = collector(*sources, FakeSource("well"))
    done = await made.collect()
    errors = {reading.cluster: reading.error for reading in done.readings}
    assert errors == {
        "breaks": "the source failed (RuntimeError)",
        "hangs": "no answer within 0.05 s",
        "short": "the source gave 1 readings to 2 queries",
        "well": "",
    }
    assert done.silent == ("breaks", "hangs", "short")
    assert {reading.source for reading in done.readings if reading.cluster == "hangs"} == {"fake hangs"}
    await made.collect()
    assert made.timeouts == {"hangs": 2}
    assert made.totals[ClusterId("hangs"), FAILED] == 4
    assert made.totals[ClusterId("well"), OK] == 4
    with pytest.raises(RuntimeError):
        await made.close()
    assert all(source.closed for source in sources)


async def test_nobody_and_nothing_to_ask() -> None:
    assert (await Collector({}, QUERIES, clock=SetClock()).collect()).readings == ()
    done = await Collector({ClusterId("east"): FakeSource("east")}, [], clock=SetClock()).collect()
    assert (done.readings, done.silent) == ((), ())


async def test_the_end_of_the_daemon_ends_a_round() -> None:
    never = asyncio.Event()
    made = Collector({ClusterId("hangs"): FakeSource("hangs", lambda: never)}, QUERIES, clock=SetClock())
    task = asyncio.create_task(made.collect())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
