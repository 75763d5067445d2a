"""The user's own file of prices: what its rows mean, what is refused with which line, and what a broken one changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

from clusters.prices import static
from clusters.prices._price_file import MAX_BYTES, PriceFileError, parse
from scheduler.model.ids import ClusterId
from scheduler.model.prices import PriceQuery
from tests.contract.emulated_pools import SteppedClock

HEADER = "provider,region,zone,instance_type,capacity_type,price,currency,as_of\n"


def query(provider: str = "eks", region: str = "us-east-1", zones: tuple[str, ...] = (), **changed: str) -> PriceQuery:
    return PriceQuery(
        cluster=ClusterId("burst"),
        pool="pool",
        provider=provider,
        region=region,
        zones=zones,
        instance_type=changed.get("instance_type", "p4d.24xlarge"),
        capacity_type=changed.get("capacity_type", "on-demand"),
    )


class Written:
    """A price file and the source that reads it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name
        self.clock = SteppedClock()
        settings = static.Settings.model_validate(
            {"type": "static", "path": name}, context={"base_dir": folder, "currencies": {"EUR": Decimal("1.1")}}
        )
        self.source = static.create(settings, clock=self.clock)
        self._written = 0

    def write(self, text: str) -> None:
        self.path.write_text(text, encoding="utf-8")
        self._written += 1
        os.utime(self.path, ns=(self._written, self._written))

    async def prices(self, *queries: PriceQuery) -> list[str]:
        return [str(quote.usd_per_hour) for quote in await self.source.quotes(queries)]


@pytest.fixture
async def written(tmp_path: Path) -> AsyncIterator[Written]:
    made = Written(tmp_path, "prices.csv")
    yield made
    await made.source.close()


ROWS = HEADER + (
    "# negotiated\n"
    "*,*,*,p4d.24xlarge,,20,,\n"
    "aws,*,,p4d.24xlarge,on-demand,19,,\n"
    "eks,us-east-1,,p4d.24xlarge,on-demand,18,,2026-11-01\n"
    "eks,us-east-1,us-east-1a,p4d.24xlarge,on-demand,17,,\n"
    "eks,us-east-1,us-east-1b,p4d.24xlarge,on-demand,21.5,,\n"
    "eks,us-east-1,,p4d.24xlarge,spot,8,EUR,\n"
)


@pytest.mark.parametrize(
    ("asked", "want_prices"),
    [
        pytest.param(query(), ["18"], id="the region says more than the provider"),
        pytest.param(query(region="eu-west-1"), ["19"], id="the provider says more than nothing"),
        pytest.param(query(provider="gke", region="us-central1"), ["20"], id="a wildcard fits all"),
        pytest.param(query(zones=("us-east-1a",)), ["17"], id="the zone says most"),
        pytest.param(query(zones=("us-east-1c",)), ["18"], id="a zone without a row has the region's"),
        pytest.param(query(zones=("us-east-1a", "us-east-1b")), ["21.5"], id="of several zones the dearest"),
        pytest.param(query(capacity_type="spot"), ["8.8"], id="converted"),
        pytest.param(query(capacity_type="reserved"), [], id="another capacity type is unknown"),
        pytest.param(query(instance_type="p5.48xlarge"), [], id="another machine is unknown"),
    ],
)
async def test_the_row_that_says_most_wins(written: Written, asked: PriceQuery, want_prices: list[str]) -> None:
    written.write(ROWS)
    assert await written.prices(asked) == want_prices


async def test_a_zone_that_nothing_is_known_of_makes_the_price_unknown(written: Written) -> None:
    written.write(HEADER + "eks,us-east-1,us-east-1a,p4d.24xlarge,on-demand,17,,\n")
    assert await written.prices(query(zones=("us-east-1a",))) == ["17"]
    assert await written.prices(query(zones=("us-east-1a", "us-east-1b"))) == []
    assert await written.prices(query()) == []


async def test_a_quote_tells_its_line_its_rate_and_its_day(written: Written) -> None:
    written.write(ROWS)
    dated, converted = await written.source.quotes([query(), query(capacity_type="spot")])
    assert dated.source == "static prices.csv:5"
    assert dated.as_of == 1793491200.0  # 2026-11-01T00:00:00Z
    assert converted.source == "static prices.csv:8, EUR at 1.1 USD"
    assert converted.as_of == written.clock.now()


async def test_a_changed_file_is_read_again(written: Written) -> None:
    written.write(HEADER + "eks,,,p4d.24xlarge,,18,,\n")
    assert await written.prices(query()) == ["18"]
    written.write(HEADER + "eks,,,p4d.24xlarge,,17,,\n")
    assert await written.prices(query()) == ["17"]
    written.write(HEADER)
    assert await written.prices(query()) == []


async def test_a_broken_file_keeps_what_was_read_last_and_says_so(written: Written) -> None:
    good = HEADER + "eks,,,p4d.24xlarge,,18,,\n"
    written.write(good)
    await written.prices(query())
    written.write(HEADER + "eks,,,p4d.24xlarge,,-1,,\neks,,,,,4,,\n")
    assert await written.prices(query()) == ["18"]
    assert written.source.problems() == (
        'prices.csv:2: "-1" is not an amount; write a plain number such as 4.50, not negative',
        "prices.csv:3: instance_type is missing; every price names the machine and what it costs",
        "prices.csv: prices of the last good reading are kept",
    )
    written.path.unlink()
    assert await written.prices(query()) == ["18"]
    assert written.source.problems()[0] == "prices.csv:1: cannot be read (No such file or directory); check `path`"
    written.write(good)
    assert await written.prices(query()) == ["18"]
    assert written.source.problems() == ()


async def test_a_file_that_was_never_understood_is_an_error_with_all_its_lines(written: Written) -> None:
    written.write("instance_type,prise\na,1\n")
    with pytest.raises(PriceFileError, match=r'prices\.csv:1: unknown column "prise"'):
        await written.prices(query())
    assert len(written.source.problems()) == 1


async def test_an_unknown_currency_is_an_unknown_price_of_that_row_alone(written: Written) -> None:
    written.write(HEADER + "eks,,,p4d.24xlarge,,18,XXX,\neks,,,p5.48xlarge,,50,,\n")
    assert await written.prices(query(), query(instance_type="p5.48xlarge")) == ["50"]
    assert written.source.problems() == (
        'prices.csv:2: no rate for currency "XXX"; add it under `currencies:` as USD per unit (known: EUR, USD); '
        "its price is unknown",
    )


async def test_an_implausible_price_is_unknown(written: Written) -> None:
    written.write(HEADER + "eks,,,p4d.24xlarge,,100000,,\n")
    assert await written.prices(query()) == []
    assert "not plausible" in written.source.problems()[0]


async def test_yaml_says_the_same(tmp_path: Path) -> None:
    made = Written(tmp_path, "prices.yaml")
    made.write(
        "prices:\n"
        "  - {provider: aws, region: us-east-1, instanceType: p4d.24xlarge, price: 18.5, asOf: 2026-11-01}\n"
        "  - instanceType: p5.48xlarge\n"
        "    capacityType: spot\n"
        "    price: '20'\n"
        "    currency: EUR\n"
    )
    quotes = await made.source.quotes([query(), query(instance_type="p5.48xlarge", capacity_type="spot")])
    assert [(str(quote.usd_per_hour), quote.source) for quote in quotes] == [
        ("18.5", "static prices.yaml:2"),
        ("22", "static prices.yaml:3, EUR at 1.1 USD"),
    ]
    await made.source.close()


@pytest.mark.parametrize(
    ("file", "text", "want_lines"),
    [
        ("p.csv", "", ["p.csv:1: empty; write a header line: provider,region,zone,instance_type"]),
        ("p.csv", "price,price\n1,2\n", ["p.csv:1: column price is there twice"]),
        ("p.csv", HEADER + "a,b,c,d,spot,1,USD,,,\n", ["p.csv:2: 10 cells under 8 columns"]),
        ("p.csv", HEADER + "a,,,d,sport,1,,\n", ['p.csv:2: capacity_type "sport" is unknown; write owned, reserved']),
        ("p.csv", HEADER + "a,,,d,spot,0,,\n", ['p.csv:2: "0" must be more than 0']),
        ("p.csv", HEADER + "a,,,d,spot,NaN,,\n", ['p.csv:2: "NaN" is not an amount']),
        ("p.csv", HEADER + "a,,,d,spot,1e9999,,\n", ['p.csv:2: "1e9999" is not an amount']),
        ("p.csv", HEADER + "a,,,d,spot,,,\n", ["p.csv:2: price is missing"]),
        ("p.csv", HEADER + "a,,,d,spot,1,,yesterday\n", ['p.csv:2: as_of "yesterday" is no day or time']),
        ("p.csv", HEADER + 'a,,,"d,spot,1,,\n', ["p.csv:2: not CSV: unexpected end of data"]),
        (
            "p.csv",
            HEADER + "aws,,,d,spot,1,,\n\neks,*,,d,spot,2,,\n",
            ["p.csv:4: prices the same machines as line 2; remove one of them"],
        ),
        (
            "p.csv",
            HEADER + "a,,,d,spot,x,,\nb,,,d,spot,y,,\n",
            ['p.csv:2: "x" is not an amount', 'p.csv:3: "y" is not an amount'],
        ),
        ("p.yaml", "just text", ["p.yaml:1: not a list of prices"]),
        ("p.yaml", "", ["p.yaml:1: not a list of prices"]),
        ("p.yaml", "- a\n- instancetype: b\n", ["p.yaml:1: not a price", 'p.yaml:2: unknown key "instancetype"']),
        ("p.yaml", "- {price: 1, price: 2}\n", ["p.yaml:1: price is there twice"]),
        ("p.yaml", "- {price: [1]}\n", ["p.yaml:1: price is not a single value"]),
        ("p.yaml", "- {price: 1, instanceType: ~}\n", ["p.yaml:1: instance_type is missing"]),
        ("p.yaml", "a: [\n", ["p.yaml:2: not YAML: "]),
        ("p.yaml", "[" * 5000, ["p.yaml:1: nested too deeply"]),
        ("p.yaml", "- !!python/object:os.system {price: 1}\n", ["p.yaml:1: instance_type is missing"]),
    ],
)
def test_every_mistake_is_one_line_with_its_place(file: str, text: str, want_lines: list[str]) -> None:
    with pytest.raises(PriceFileError) as caught:
        parse(text.encode(), file)
    assert len(caught.value.lines) == len(want_lines)
    for line, want in zip(caught.value.lines, want_lines, strict=True):
        assert line.startswith(want)
        assert line.isprintable()


def test_what_is_too_large_or_not_text_is_refused() -> None:
    with pytest.raises(PriceFileError, match="larger than 1024 KiB"):
        parse(b"#" * (MAX_BYTES + 1), "p.csv")
    with pytest.raises(PriceFileError, match=r"p\.csv:3: not UTF-8"):
        parse(b"a\nb\n\xff", "p.csv")
    with pytest.raises(PriceFileError, match="more than 10000 prices"):
        parse((HEADER + "".join(f",,,m{i},,1,,\n" for i in range(10_001))).encode(), "p.csv")


async def test_a_file_that_hangs_delays_nobody_beyond_its_limit(tmp_path: Path) -> None:
    fifo = tmp_path / "prices.csv"
    os.mkfifo(fifo)
    settings = static.Settings(type="static", path=fifo)
    source = static.create(settings, clock=SteppedClock())
    with pytest.raises(PriceFileError, match="not a file"):
        await asyncio.wait_for(source.quotes([query()]), timeout=10)
    await source.close()
