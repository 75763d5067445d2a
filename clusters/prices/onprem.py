"""What an hour of an owned machine costs, from what it was bought for and what it draws.

Of one node, all money in one currency:

    fixed  = purchase price x (1 / lifetime + operations share)          per year
    energy = mean power / 1000 x 8760 h x PUE x electricity price        per year
    price  = (fixed + energy) / (8760 h x utilization)                   per hour in use

An hour in use also pays for the idle ones, hence the utilization in the divisor: E. Walker, "The Real Cost of a CPU
Hour", IEEE Computer 42(4), 2009. Straight-line write-off, operations as a share of the purchase price, and energy as
mean power times PUE: L. Barroso, U. Hoelzle, P. Ranganathan, "The Datacenter as a Computer", 3rd edition, 2018, the
chapter on modeling costs. Interest and the building are not in it; add them to the operations share.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from clusters.prices._amounts import Amount, Positive, shown
from clusters.prices._order import in_order
from clusters.prices._plausible import plausible
from clusters.prices._settings import PriceSettings
from clusters.prices.currency import USD, Currencies, to_usd
from scheduler.model.cluster import OWNED
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ports import Clock
from scheduler.model.prices import PriceQuery, PriceQuote

HOURS_PER_YEAR: Final = 8760
_MOST_MACHINES: Final = 1000
_Name = Annotated[str, Field(min_length=1, max_length=253)]


class _Costs(BaseModel):
    """What the machines of a site tend to share; a machine's own value comes first. None: not known."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)

    lifetime_years: Amount | None = None
    electricity_price_per_kwh: Amount | None = None
    pue: Annotated[Amount, Field(ge=1, le=10)] | None = None
    """Power usage effectiveness: the site's energy over the machines'."""
    utilization: Annotated[Amount, Field(le=1)] | None = None
    """Share of all hours in which a machine is in use, 0 to 1."""
    operations_share: Amount | None = None
    """Yearly upkeep (staff, space, spares, support) as a share of the purchase price; none when not said."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    """Of the purchase and the electricity price; USD when not said."""


class Machine(_Costs):
    """One kind of owned machine, named by its pool, its instance type or both."""

    cluster: _Name | None = None
    """None: in any cluster."""
    pool: _Name | None = None
    instance_type: _Name | None = None
    purchase_price: Positive | None = None
    """Of one node, network and racks included."""
    power_watts: Amount | None = None
    """Mean draw of one node over the year, idle hours included."""

    @property
    def key(self) -> tuple[str | None, str | None, str | None]:
        return self.cluster, self.pool, self.instance_type

    @model_validator(mode="after")
    def _named(self) -> Machine:
        if self.pool is None and self.instance_type is None:
            raise ValueError("name the machines by `pool` or `instanceType`")
        return self

    def names(self, query: PriceQuery) -> bool:
        """Whether it speaks of the machine that is asked for."""
        return (
            self.cluster in (None, query.cluster)
            and self.pool in (None, query.pool)
            and self.instance_type in (None, query.instance_type)
        )


class Settings(PriceSettings, _Costs):
    type: Literal["onprem"]
    machines: Annotated[list[Machine], Field(max_length=_MOST_MACHINES)] = Field(default_factory=list)
    currencies: Currencies = Field(default_factory=dict, validate_default=True)

    @model_validator(mode="after")
    def _each_once(self) -> Settings:
        keys = [machine.key for machine in self.machines]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise ValueError(
                    f"machines[{position}] names the same machines as machines[{keys.index(key)}]; remove one of them"
                )
        return self


def usd_per_hour(machine: Machine, settings: Settings) -> tuple[Decimal, str]:
    """What one node costs for one hour in use, to the nano-dollar, and how it was converted (empty: it was USD).

    Raises: InvalidObjectError naming what is missing, when it cannot be told.
    """
    purchase, watts = _known("purchasePrice", machine.purchase_price), _known("powerWatts", machine.power_watts)
    lifetime = _known("lifetimeYears", _either(machine.lifetime_years, settings.lifetime_years))
    electricity = _known(
        "electricityPricePerKwh", _either(machine.electricity_price_per_kwh, settings.electricity_price_per_kwh)
    )
    pue = _known("pue", _either(machine.pue, settings.pue))
    utilization = _known("utilization", _either(machine.utilization, settings.utilization))
    operations = Fraction(_either(machine.operations_share, settings.operations_share) or 0)
    if not lifetime or not utilization:
        raise InvalidObjectError(f"{'utilization' if lifetime else 'lifetimeYears'} is 0")
    fixed = purchase * (1 / lifetime + operations)
    energy = watts / 1000 * HOURS_PER_YEAR * pue * electricity
    exact = (fixed + energy) / (HOURS_PER_YEAR * utilization)
    with localcontext(prec=120):
        amount = Decimal(exact.numerator) / Decimal(exact.denominator)
    converted = to_usd(amount, machine.currency or settings.currency or USD, settings.currencies)
    return converted.usd, converted.note


class OwnedMachines:
    """Answers for pools whose machines are owned; of several entries that fit, the one that says most of the machine.

    A price out of a formula is of the moment that it is asked for.
    """

    name = "onprem"

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._prices: dict[int, tuple[Decimal, str]] = {}
        self._problems: list[str] = []
        for position, machine in enumerate(settings.machines):
            try:
                exact, note = usd_per_hour(machine, settings)
                usd = plausible(exact)
                if usd is None:
                    raise InvalidObjectError(f"{shown(exact)} USD per hour is not plausible; check its numbers")
                self._prices[position] = (usd, note)
            except InvalidObjectError as error:
                named = machine.pool or machine.instance_type
                self._problems.append(f"onprem: machines[{position}] ({named}): {error}; its price is unknown")

    async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
        now = self._clock.now()
        found = []
        for query in in_order(wanted):
            position = self._best(query)
            if position is not None and position in self._prices:
                usd, note = self._prices[position]
                found.append(PriceQuote(query, usd, f"onprem formula, {note}" if note else "onprem formula", now))
        return tuple(found)

    def _best(self, query: PriceQuery) -> int | None:
        if query.capacity_type != OWNED:
            return None
        fitting = [
            (machine.pool is not None, machine.cluster is not None, machine.instance_type is not None, -position)
            for position, machine in enumerate(self._settings.machines)
            if machine.names(query)
        ]
        return -max(fitting)[3] if fitting else None

    def problems(self) -> tuple[str, ...]:
        return tuple(self._problems)

    async def close(self) -> None:
        return None


def create(settings: Settings, *, clock: Clock) -> OwnedMachines:
    """The source; it reads nothing."""
    return OwnedMachines(settings, clock)


def _either(own: Decimal | None, shared: Decimal | None) -> Decimal | None:
    return shared if own is None else own


def _known(name: str, value: Decimal | None) -> Fraction:
    if value is None:
        raise InvalidObjectError(f"{name} is missing")
    return Fraction(value)
