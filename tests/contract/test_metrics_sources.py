"""What every metrics source must keep, whichever it is: found by name, never raising, one reading for each query."""

from __future__ import annotations

import pytest
from aiohttp import web

from clusters.metrics import load_metrics_source, metrics_source_names
from clusters.metrics.queries import load_queries
from scheduler.model.metrics import FAILED, MetricsSource
from tests.builders.metrics_world import EAST, NOW, Seen, opened, serving

QUERIES = load_queries()

pytestmark = pytest.mark.parametrize("type_name", metrics_source_names())


async def _garbage(_: Seen) -> web.StreamResponse:
    return web.Response(text="<html>\x00\ufffd")


async def test_a_source_says_what_it_is(type_name: str) -> None:
    settings = load_metrics_source(type_name).Settings
    assert settings.model_config["extra"] == "forbid"
    with pytest.raises(ValueError, match="type"):
        settings.model_validate({"type": "other", "url": "http://127.0.0.1:9"})
    async with opened(type_name, url="http://127.0.0.1:9") as made:
        assert isinstance(made, MetricsSource)


async def test_nothing_that_answers_badly_makes_it_raise(type_name: str) -> None:
    async with serving(_garbage) as url, opened(type_name, url=url) as made:
        wrong = await made.read(QUERIES)
    async with opened(type_name, url=url) as made:
        silent = await made.read(QUERIES)
        assert await made.read(()) == ()
    for readings in (wrong, silent):
        assert [reading.metric for reading in readings] == [query.name for query in QUERIES]
        for reading in readings:
            assert (reading.state, reading.cluster, reading.samples, reading.asked_at) == (FAILED, EAST, (), NOW)
            assert reading.error
            assert reading.error.isprintable()
            assert reading.source == f"{type_name} {url.removeprefix('http://')}"
            assert reading.took_seconds >= 0


async def test_a_closed_source_fails_and_may_be_closed_again(type_name: str) -> None:
    async with serving(_garbage) as url, opened(type_name, url=url) as made:
        await made.close()
        assert {reading.state for reading in await made.read(QUERIES)} == {FAILED}
