"""The on-prem formula by hand-worked numbers, and what is unknown when something is missing."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from clusters.prices import onprem
from scheduler.model.ids import ClusterId
from scheduler.model.prices import PriceQuery
from tests.contract.emulated_pools import SteppedClock

SITE: dict[str, Any] = {
    "type": "onprem",
    "lifetimeYears": 5,
    "electricityPricePerKwh": "0.20",
    "pue": "1.5",
    "utilization": "0.5",
}
MACHINE: dict[str, Any] = {"instanceType": "hgx-a100", "purchasePrice": "219000", "powerWatts": 4000}


def query(pool: str = "a100", instance_type: str = "hgx-a100", cluster: str = "onprem", **changed: Any) -> PriceQuery:
    fields = {"provider": "onprem", "region": "eu-dc1", "zones": (), "capacity_type": "owned"} | changed
    return PriceQuery(cluster=ClusterId(cluster), pool=pool, instance_type=instance_type, **fields)


def source_of(*machines: dict[str, Any], **site: Any) -> onprem.OwnedMachines:
    settings = onprem.Settings.model_validate({**SITE, **site, "machines": list(machines)})
    return onprem.create(settings, clock=SteppedClock())


@pytest.mark.parametrize(
    ("machine", "site", "want_price"),
    [
        # 219000 / 5 = 43800 a year; 4 kW x 8760 h x 1.5 x 0.20 = 10512 a year; 54312 / 4380 h = 12.4
        pytest.param({}, {}, "12.4", id="half used"),
        # 54312 / 8760 h = 6.2
        pytest.param({}, {"utilization": 1}, "6.2", id="always used"),
        # 10 % of 219000 = 21900 a year more: 76212 / 4380 h = 17.4
        pytest.param({}, {"operationsShare": "0.1"}, "17.4", id="with operations"),
        # 6.2 EUR x 1.1 = 6.82
        pytest.param({}, {"utilization": 1, "currency": "EUR", "currencies": {"EUR": "1.1"}}, "6.82", id="EUR"),
        # 10 years: 21900 + 10512 = 32412 / 4380 = 7.4
        pytest.param({"lifetimeYears": 10}, {}, "7.4", id="the machine's own value comes first"),
        # no energy: 43800 / 4380 = 10
        pytest.param({"powerWatts": 0}, {}, "10", id="no power is a value"),
        # (219000 / 3 + 10512) / 4380 = 83512 / 4380 = 19.0666...
        pytest.param({"lifetimeYears": 3}, {}, "19.066666667", id="rounded once, to the nano-dollar"),
    ],
)
async def test_hand_worked(machine: dict[str, Any], site: dict[str, Any], want_price: str) -> None:
    quotes = await source_of(MACHINE | machine, **site).quotes([query()])
    assert [str(quote.usd_per_hour) for quote in quotes] == [want_price]
    assert quotes[0].as_of == SteppedClock().now()


@pytest.mark.parametrize(
    ("machine", "site", "want_problem"),
    [
        ({"purchasePrice": None}, {}, "purchasePrice is missing"),
        ({"powerWatts": None}, {}, "powerWatts is missing"),
        ({}, {"utilization": None}, "utilization is missing"),
        ({}, {"utilization": 0}, "utilization is 0"),
        ({}, {"lifetimeYears": 0}, "lifetimeYears is 0"),
        ({}, {"pue": None}, "pue is missing"),
        ({}, {"electricityPricePerKwh": None}, "electricityPricePerKwh is missing"),
        ({}, {"currency": "XAU"}, 'no rate for currency "XAU"; add it under `currencies:`'),
        (
            {"purchasePrice": "999999999999999"},
            {"utilization": "0.000000000001"},
            "is not plausible; check its numbers",
        ),
    ],
)
async def test_what_cannot_be_told_is_unknown_and_says_why(
    machine: dict[str, Any], site: dict[str, Any], want_problem: str
) -> None:
    source = source_of(MACHINE | machine, **site)
    assert await source.quotes([query()]) == ()
    (problem,) = source.problems()
    assert problem.startswith("onprem: machines[0] (hgx-a100): ")
    assert want_problem in problem
    assert problem.endswith("; its price is unknown")


async def test_the_entry_that_says_most_of_the_machine_is_taken() -> None:
    base = {"powerWatts": 0, "lifetimeYears": 1}
    source = source_of(
        base | {"instanceType": "hgx-a100", "purchasePrice": 4380},
        base | {"pool": "a100", "purchasePrice": 8760},
        base | {"pool": "a100", "cluster": "onprem", "purchasePrice": 13140},
    )
    asked = [query(), query(cluster="other"), query(pool="b")]
    told = {(quote.query.cluster, quote.query.pool): quote.usd_per_hour for quote in await source.quotes(asked)}
    assert told == {("onprem", "a100"): Decimal(3), ("other", "a100"): Decimal(2), ("onprem", "b"): Decimal(1)}


async def test_only_owned_machines_have_it() -> None:
    source = source_of(MACHINE)
    assert await source.quotes([query(capacity_type="on-demand"), query(instance_type="other")]) == ()


@pytest.mark.parametrize(
    ("changed", "want_error"),
    [
        ({"machines": [{"purchasePrice": 1}]}, "name the machines by `pool` or `instanceType`"),
        ({"machines": [{"pool": "a"}, {"pool": "a"}]}, r"machines\[1\] names the same machines as machines\[0\]"),
        ({"utilization": "1.1"}, "less than or equal to 1"),
        ({"pue": "0.9"}, "greater than or equal to 1"),
        ({"electricityPricePerKwh": -1}, '"-1" is not an amount'),
        ({"machines": [{"pool": "a", "purchasePrice": 0}]}, '"0" must be more than 0'),
        ({"currencies": {"eur": 1}}, '"eur" is not a currency'),
        ({"currencies": {"USD": 1}}, "USD is what the rates lead to"),
        ({"currencies": {"EUR": {"usdPerUnit": 1, "asOf": "soon"}}}, '"soon" is not a day'),
        ({"watts": 1}, "Extra inputs are not permitted"),
    ],
)
def test_settings_are_refused_with_the_remedy(changed: dict[str, Any], want_error: str) -> None:
    with pytest.raises(ValidationError, match=want_error):
        onprem.Settings.model_validate({**SITE, **changed})


async def test_the_rate_and_its_day_are_told_and_the_federations_table_serves() -> None:
    settings = onprem.Settings.model_validate(
        {**SITE, "currency": "EUR", "machines": [MACHINE]},
        context={"currencies": {"EUR": {"usdPerUnit": "1.08", "asOf": "2026-11-01"}}},
    )
    (quote,) = await onprem.create(settings, clock=SteppedClock()).quotes([query()])
    assert quote.source == "onprem formula, EUR at 1.08 USD of 2026-11-01"
    assert str(quote.usd_per_hour) == "13.392"
