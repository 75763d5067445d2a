"""Direct scrape: both text formats, rates over two scrapes, several pages, and pages that are none."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest
from aiohttp import web

from scheduler.model.metrics import ABSENT, FAILED, OK, STALE, SUM, MetricQuery
from tests.builders.metrics_world import (
    NOW,
    Answer,
    Seen,
    SetClock,
    fixed,
    opened,
    query,
    read_one,
    sequence,
    serving,
)

PLAIN = {"Content-Type": "text/plain; version=0.0.4"}
OPEN_METRICS = {"Content-Type": "application/openmetrics-text; version=1.0.0; charset=utf-8"}


def rate(name: str, **changes: Any) -> MetricQuery:
    return query(f"{name}_per_second", families=((name, 1.0),), rate=True, combine=SUM, **changes)


def values(samples: Any) -> dict[str, float]:
    return {dict(sample.labels).get("node", ""): sample.value for sample in samples}


async def test_the_first_family_that_is_there_counts_with_its_factor() -> None:
    page = b'# TYPE old gauge\nold{node="a"} 50\nold{node="b"} 70\nnew{node="a"} 0.5\n'
    families = (("new", 1.0), ("old", 0.01))
    async with serving(fixed(page, headers=PLAIN)) as url, opened("scrape", url=f"{url}/metrics") as made:
        reading = await read_one(made, query(families=families))
    assert (reading.state, reading.source) == (OK, f"scrape {url.removeprefix('http://')}")
    assert values(reading.samples) == {"a": 0.5, "b": pytest.approx(0.7)}
    assert {sample.at for sample in reading.samples} == {NOW}


async def test_sums_need_all_their_terms_and_matchers_select() -> None:
    page = (
        b'used{node="a"} 1\nfree{node="a"} 2\nused{node="b"} 5\nup{node="a",ok="true"} 1\nup{node="b",ok="false"} 1\n'
    )
    asked = [
        query("total", families=(("used + free", 10.0),)),
        query("up", families=(('up{ok="true"}', 1.0),)),
        query("rest", families=(('up{ok!="true"}', 1.0),)),
        query("gone", families=(("no_such_metric", 1.0),)),
        query("promql", families=()),
    ]
    async with serving(fixed(page, headers=PLAIN)) as url, opened("scrape", url=url) as made:
        total, up, rest, gone, other = await made.read(asked)
    assert values(total.samples) == {"a": 30}
    assert values(up.samples) == {"a": 1}
    assert values(rest.samples) == {"b": 1}
    assert (gone.state, gone.error) == (ABSENT, "")
    assert (other.state, other.error) == (ABSENT, "is asked by PromQL only; write from in the queries file")


async def test_samples_own_times_make_them_stale_or_unbelievable() -> None:
    times = (NOW - 500, NOW + 900, NOW * 1000)
    page = "".join(f'{name}{{node="a"}} 1 {at * 1000:.0f}\n' for name, at in zip("xyz", times, strict=True))
    asked = [query("x", families=(("x", 1.0),)), query("y", families=(("y", 1.0),)), query("z", families=(("z", 1.0),))]
    async with serving(fixed(page.encode(), headers=PLAIN)) as url, opened("scrape", url=url) as made:
        old, soon, absurd = await made.read(asked)
    assert (old.state, old.newest_at) == (STALE, NOW - 500)
    assert (soon.state, absurd.state) == (ABSENT, ABSENT)
    assert "1 samples dropped" in soon.error


async def test_open_metrics_by_its_content_type() -> None:
    page = b'# TYPE x gauge\n# UNIT x \nx{node="a"} 2 1790000000.5\n# TYPE c counter\nc_total 4\n# EOF\n'
    page = page.replace(b"# UNIT x \n", b"")
    asked = [query(), query("c", families=(("c_total", 1.0),))]
    async with serving(fixed(page, headers=OPEN_METRICS)) as url, opened("scrape", url=url) as made:
        x, c = await made.read(asked)
    assert (values(x.samples), x.newest_at) == ({"a": 2}, 1790000000.5)
    assert c.samples[0].value == 4
    cut = page.replace(b"# EOF\n", b"")
    async with serving(fixed(cut, headers=OPEN_METRICS)) as url, opened("scrape", url=url) as made:
        assert "not a page in OpenMetrics" in (await read_one(made)).error


async def test_rates_need_two_scrapes_and_survive_resets() -> None:
    pages = [b'c{node="a"} 100\nc{node="b"} 100\n', b'c{node="a"} 160\nc{node="b"} 30\nc{node="new"} 5\n', b""]
    clock = SetClock()
    async with serving(sequence(pages)) as url, opened("scrape", clock, url=url) as made:
        first = await read_one(made, rate("c"))
        assert (first.state, first.samples, first.error) == (ABSENT, (), "a rate needs a second scrape")
        clock.at += 30
        second = await read_one(made, rate("c"))
        assert second.state == OK
        assert values(second.samples) == {"a": 2, "b": 1}
        clock.at += 30
        gone = await read_one(made, rate("c"))
        assert (gone.state, gone.error) == (ABSENT, "")


async def test_two_scrapes_at_once_keep_the_older_one_as_the_base() -> None:
    clock = SetClock()
    pages = [b"c 0\n", b"c 1\n", b"c 20\n"]
    async with serving(sequence(pages)) as url, opened("scrape", clock, url=url) as made:
        await read_one(made, rate("c"))
        assert (await read_one(made, rate("c"))).state == ABSENT, "no time has passed"
        clock.at += 10
        assert values((await read_one(made, rate("c"))).samples) == {"": 2}


async def test_a_failed_scrape_between_two_does_no_harm() -> None:
    clock = SetClock()
    count = 0

    async def answer(_: Seen) -> web.StreamResponse:
        nonlocal count
        count += 1
        return web.Response(status=500) if count == 2 else web.Response(text=f"c {count * 10}\n", headers=PLAIN)

    async with serving(answer) as url, opened("scrape", clock, url=url) as made:
        await read_one(made, rate("c"))
        clock.at += 10
        assert (await read_one(made, rate("c"))).error.endswith("HTTP 500")
        clock.at += 10
        assert values((await read_one(made, rate("c"))).samples) == {"": 1}


async def test_quantiles_of_what_was_observed_between_two_scrapes() -> None:
    def page(low: int, middle: int, high: int) -> bytes:
        bucket = 'h_bucket{{node="a",pod="{}",le="{}"}} {}\n'
        return "".join(
            bucket.format(pod, le, count)
            for pod in "pq"
            for le, count in (("1", low), ("2", low + middle), ("+Inf", low + middle + high))
        ).encode()

    asked = query(families=(("h", 0.001),), quantile=0.5)
    clock = SetClock()
    pages = [page(1000, 0, 0), page(1000, 8, 2), page(1000, 8, 2)]
    async with serving(sequence(pages)) as url, opened("scrape", clock, url=url) as made:
        assert (await read_one(made, asked)).error == "a rate needs a second scrape"
        clock.at += 10
        # Ten observations a pod: 8 in (1, 2], so the median is at 5/8 of it. The thousand before count not.
        assert values((await read_one(made, asked)).samples) == {"a": pytest.approx(0.001 * (1 + 5 / 8))}
        clock.at += 10
        idle = await read_one(made, asked)
        assert (idle.state, idle.error) == (ABSENT, ""), "nothing observed: no quantile, and not 0"


async def test_several_pages_are_one_and_a_broken_one_is_told() -> None:
    broken = False

    async def second(_: Seen) -> web.StreamResponse:
        return web.Response(status=503) if broken else web.Response(text='x{node="b"} 2\ny 1\n', headers=PLAIN)

    async with serving(fixed(b'x{node="a"} 1\n', headers=PLAIN)) as one, serving(second) as two:
        asked = [query(), query("y", families=(("y", 1.0),), labels=("instance",))]
        async with opened("scrape", urls=[f"{one}/metrics", f"{two}/metrics"]) as made:
            x, y = await made.read(asked)
            assert values(x.samples) == {"a": 1, "b": 2}
            assert y.samples[0].labels == (("instance", two.removeprefix("http://")),)
            broken = True
            x, y = await made.read(asked)
    assert (x.state, values(x.samples)) == (OK, {"a": 1})
    assert x.error == f"1 of 2 pages failed: {two.removeprefix('http://')}: HTTP 503"
    assert (y.state, y.error) == (FAILED, f"{two.removeprefix('http://')}: HTTP 503"), "not absent: nobody knows"


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        (fixed(b"<html>log in</html>", headers=PLAIN), "line 1 of the page is no sample"),
        (fixed(b'x 1\nx{a="b" 2\n', headers=PLAIN), "not a page in Prometheus' text format"),
        (fixed(b"x one\n", headers=PLAIN), "not a page in Prometheus' text format (ValueError)"),
        (fixed(b"\xff\xfe", headers=PLAIN), "not a page in Prometheus' text format (UnicodeDecodeError)"),
        (fixed(b"x 1\n" * 2000, headers=PLAIN), "page larger than 4096 bytes"),
        (fixed(gzip.compress(b"x 1\n" * 10_000_000), headers={**PLAIN, "Content-Encoding": "gzip"}), "page larger"),
        (fixed(b"", status=401), "HTTP 401: not logged in or not permitted"),
        (fixed(b"", status=404), "HTTP 404: no such page"),
        (fixed(b"", status=302, headers={"Location": "http://elsewhere/"}), "a redirect, which is not followed"),
    ],
)
async def test_bad_pages_are_failed_readings(answer: Answer, want: str) -> None:
    async with serving(answer) as url, opened("scrape", url=url, maxAnswerBytes=4096) as made:
        reading = await read_one(made)
    assert (reading.state, reading.samples) == (FAILED, ())
    assert want in reading.error


async def test_a_line_without_end_is_refused() -> None:
    page = b'x{a="' + b"\\" * 40_000 + b'"} 1\n'
    async with serving(fixed(page, headers=PLAIN)) as url, opened("scrape", url=url) as made:
        assert "line 1 of the page is longer than 32768 bytes" in (await read_one(made)).error


async def test_slow_pages_end_in_time_and_nobody_listening_is_told() -> None:
    released = asyncio.Event()

    async def slow(_: Seen) -> web.StreamResponse:
        await released.wait()
        return web.Response()

    async with serving(slow) as url, opened("scrape", url=url, readTimeoutSeconds=0.2) as made:
        assert "no whole answer in time" in (await read_one(made)).error
        released.set()
    async with opened("scrape", url=url) as made:
        assert (await read_one(made)).error.endswith("cannot be scraped (Connection refused)")


async def test_a_token_is_sent_and_never_told(tmp_path: Any) -> None:
    (tmp_path / "token").write_text("s3cr3t")

    async def answer(seen: Seen) -> web.StreamResponse:
        ok = seen.headers.get("Authorization") == "Bearer s3cr3t"
        return web.Response(text="x 1\n", headers=PLAIN) if ok else web.Response(status=403)

    async with serving(answer) as url:
        async with opened("scrape", url=url, bearerTokenFile=str(tmp_path / "token")) as made:
            assert (await read_one(made)).state == OK
        async with opened("scrape", url=url) as made:
            assert (await read_one(made)).state == FAILED
