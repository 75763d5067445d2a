"""Every price source that there is a file for keeps one contract, against its own emulated world."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from clusters.prices import load_price_source, price_source_names
from clusters.prices._settings import PriceSettings
from clusters.prices.book import BookedSource, PriceBook
from scheduler.model.errors import InvalidObjectError, OverspillError
from scheduler.model.ids import ClusterId
from scheduler.model.prices import PriceQuery, PriceQuote, PriceSource
from tests.contract.emulated_pools import SteppedClock
from tests.contract.emulated_prices import EmulatedPrices, machine, start_prices

NONSENSE = (
    machine("", "", "", ""),
    machine("nobody", "nowhere-1", "x" * 300, "sometimes"),
    machine("eks", "us-east-1", "p4d.24xlarge'; DROP TABLE prices; --"),
    machine("gke", "us-central1", "n1-standard-8", gpu_model="\x00\u2028", gpus=-3),
    machine("aks", "eastus' or '1' eq '1", "Standard_NC24ads_A100_v4", "spot", zones=("", "9" * 50)),
    machine("onprem", "*", "*", "owned", cpu_milli=-1, memory_bytes=1 << 80),
    machine("opencost", "../..", "..", "on-demand", gpu_model=None),
)


@dataclass
class Bench:
    """One source in front of its emulated world."""

    name: str
    source: PriceSource
    settings: PriceSettings
    world: EmulatedPrices
    clock: SteppedClock
    folder: Path

    def read(self, **changed: object) -> PriceSettings:
        model = load_price_source(self.name).Settings
        return model.model_validate({**self.world.settings, **changed}, context={"base_dir": self.folder})


@pytest.fixture(params=price_source_names())
async def bench(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    clock = SteppedClock()
    world = await start_prices(request.param, tmp_path, clock)
    for variable, value in (world.environment or {}).items():
        monkeypatch.setenv(variable, value)
    module = load_price_source(request.param)
    settings = module.Settings.model_validate(dict(world.settings), context={"base_dir": tmp_path})
    source = module.create(settings, clock=clock)
    yield Bench(request.param, source, settings, world, clock, tmp_path)
    await source.close()
    await world.stop()


def check(quotes: Sequence[PriceQuote], wanted: Sequence[PriceQuery], now: float) -> None:
    """What must hold of any answer."""
    assert isinstance(quotes, tuple)
    assert {quote.query for quote in quotes} <= set(wanted), "quotes only what was asked"
    assert len({quote.query for quote in quotes}) == len(quotes), "at most one for each"
    for quote in quotes:
        assert isinstance(quote.usd_per_hour, Decimal)
        assert quote.usd_per_hour.is_finite()
        assert quote.usd_per_hour > 0
        assert 0 < quote.as_of <= now + 86400
        assert quote.source.isprintable()
        assert quote.source


async def test_it_is_of_its_name_and_keeps_the_protocol(bench: Bench) -> None:
    assert isinstance(bench.source, PriceSource)
    assert bench.source.name == bench.name == bench.settings.type


async def test_settings_refuse_unknown_keys_other_types_and_odd_times(bench: Bench) -> None:
    for changed in (
        {"nonsense": 1},
        {"type": "other"},
        {"maxAgeSeconds": 0},
        {"maxAgeSeconds": "1h"},
        {"maxAgeSeconds": float("nan")},
        {"refreshSeconds": -1.0},
        {"limitSeconds": 0},
        {"readTimeoutSeconds": 1e9},
    ):
        with pytest.raises(ValidationError):
            bench.read(**changed)
    assert bench.read(maxAgeSeconds=5.0).max_age_seconds == 5.0


async def test_it_tells_what_it_knows(bench: Bench) -> None:
    quotes = await bench.source.quotes(bench.world.known)
    check(quotes, bench.world.known, bench.clock.now())
    assert {quote.query for quote in quotes} == set(bench.world.known)


async def test_the_order_and_repetition_of_questions_change_nothing(bench: Bench) -> None:
    once = await bench.source.quotes(bench.world.known)
    assert await bench.source.quotes([*reversed(bench.world.known), *bench.world.known]) == once


async def test_one_machine_in_several_pools_is_told_for_each(bench: Bench) -> None:
    asked = bench.world.known[0]
    others = [replace(asked, cluster=ClusterId(f"burst{number}")) for number in range(3)]
    quotes = await bench.source.quotes(others)
    check(quotes, others, bench.clock.now())
    assert len({quote.usd_per_hour for quote in quotes}) <= 1


async def test_asked_nothing_it_says_nothing(bench: Bench) -> None:
    assert await bench.source.quotes(()) == ()


async def test_asked_nonsense_it_leaves_it_out(bench: Bench) -> None:
    wanted = (*NONSENSE, *bench.world.known)
    quotes = await bench.source.quotes(wanted)
    check(quotes, wanted, bench.clock.now())
    assert {quote.query for quote in quotes} == set(bench.world.known)


async def test_told_nonsense_it_leaves_out_or_raises_what_is_typed(bench: Bench) -> None:
    for position, spoil in enumerate(bench.world.nonsense):
        spoil()
        quotes: tuple[PriceQuote, ...] = ()
        said = ""
        try:
            quotes = await bench.source.quotes(bench.world.known)
        except OverspillError as error:
            said = str(error)
        assert said.isprintable(), position
        assert quotes == (), f"nonsense {position} was taken for a price"


async def test_in_a_book_nonsense_never_becomes_a_price(bench: Bench) -> None:
    book = PriceBook([BookedSource.of(bench.source, bench.settings)], clock=bench.clock)
    for spoil in bench.world.nonsense:
        spoil()
        await book.refresh(bench.world.known)
        bench.clock.advance(8 * 86400.0)
        outcomes = book.outcomes(bench.world.known, {})
        assert [outcome.price for outcome in outcomes] == [None] * len(bench.world.known)
        assert all(outcome.why_unknown.isprintable() for outcome in outcomes)


async def test_it_can_be_closed_twice(bench: Bench) -> None:
    await bench.source.close()
    await bench.source.close()


def test_an_unknown_source_is_named_with_its_remedy() -> None:
    with pytest.raises(InvalidObjectError, match=r"'statik' is not known; did you mean 'static'\?"):
        load_price_source("statik")
    with pytest.raises(InvalidObjectError, match="is not known; known: "):
        load_price_source("merge-all-of-it")
    assert "merge" not in price_source_names()
