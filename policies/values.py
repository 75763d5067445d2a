"""The kinds of value in a file: durations, money, quantities, names. Each refuses with the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, StringConstraints, WithJsonSchema

from policies import durations
from policies.documents import refuse_expression, refuse_value
from policies.errors import did_you_mean, shown
from policies.expressions import INCIDENT, VOCABULARIES, WORKLOAD, CelExpression, ExpressionError
from policies.objectives import objective_names
from scheduler.model.contract import GPU_RESOURCES
from scheduler.model.errors import InvalidObjectError
from scheduler.model.remediation import Limit
from scheduler.model.resources import parse_quantity

LARGEST: Final = 2**63 - 1
_MONEY: Final = re.compile(r"(\d{1,15})(?:\.(\d{1,9}))?", re.ASCII)
_LABEL: Final = r"^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
_HOST: Final = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"
_PLUGIN: Final = r"^[a-z][a-z0-9_-]{0,62}$"
_EXTENDED: Final = (
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/[A-Za-z0-9][-A-Za-z0-9_.]{0,62}|hugepages-\w{1,20}|ephemeral-storage)"
)
_SIGNAL: Final = r"^([A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*(\.?\*)?|\*)$"
_PERCENT: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3})?)%", re.ASCII)
_TIME: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)", re.ASCII)
_BUILT_IN: Final = ("cpu", "memory", "gpu", "pods")


def _duration(value: object) -> float:
    try:
        if isinstance(value, str):
            return durations.parse_duration(value)
    except InvalidObjectError as error:
        raise refuse_value(f"{shown(value)} is {error}") from error
    unit = f"{value}s, {value}m or {value}h" if isinstance(value, int | Decimal) and not isinstance(value, bool) else ""
    raise refuse_value(f"{shown(value)} is not a duration; write for example {unit or '10m, 1h30m or 24h'}")


def _positive_duration(value: object) -> float:
    seconds = _duration(value)
    if seconds <= 0:
        raise refuse_value(f"{shown(value)} must be more than nothing; write for example 10m")
    return seconds


def _wait_or_never(value: object) -> float | None:
    if isinstance(value, str) and not value[:1].isdigit() and value != "never":
        raise refuse_value(f"{shown(value)} is not a duration; write for example 15m, or never")
    return None if value == "never" else _duration(value)


def _duration_or_never(value: object) -> float | None:
    return None if _wait_or_never(value) is None else _positive_duration(value)


def _money(value: object) -> Decimal:
    text = format(value, "f") if isinstance(value, Decimal) else str(value)
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal) or not _MONEY.fullmatch(text):
        if text.startswith("-"):
            raise refuse_value(f"{shown(value)} must not be negative; write an amount of USD such as 4.50")
        raise refuse_value(f"{shown(value)} is not an amount of USD; write one such as 4.50 (at most 9 decimals)")
    return Decimal(text)


def quantity(value: object, *, milli: bool = False, rounded: bool = True) -> int:
    """A Kubernetes quantity in whole units (with `milli`, thousandths).

    Raises: what a validator raises, when it is none, is negative or too large, or (unless `rounded`) not whole.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise refuse_value(f"{shown(value)} is not a quantity; write for example 500m, 4 or 16Gi")
    try:
        exact = parse_quantity(str(value)) * (1000 if milli else 1)
    except InvalidObjectError as error:
        message = f"{shown(value)} is not a Kubernetes quantity; write for example 500m, 4 or 16Gi"
        raise refuse_value(message) from error
    if exact < 0:
        raise refuse_value(f"{shown(value)} must not be negative; write 0 or more")
    if not rounded and exact.denominator != 1:
        raise refuse_value(f"{shown(value)} is not whole; write a whole number")
    if exact > LARGEST:
        raise refuse_value(f"{shown(value)} is too large; write a smaller quantity")
    return -((-exact.numerator) // exact.denominator)


def _number(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise refuse_value(f"{shown(value)} is not a number; write one such as 2 or 0.5")
    try:
        number = Decimal(value)
    except InvalidOperation as error:
        raise refuse_value(f"{shown(value)} is not a number; write one such as 2 or 0.5") from error
    if not number.is_finite() or not 0 <= number <= 10**9 or number.normalize().as_tuple().exponent < -9:  # type: ignore[operator]
        raise refuse_value(f"{shown(value)} is out of range; write a number from 0 to 1000000000, 9 decimals at most")
    return number


def _weight(value: object) -> Decimal:
    number = _number(value)
    if not number:
        raise refuse_value(f"{shown(value)} must be more than 0; write for example 1")
    return number


def _seconds(value: object) -> float:
    return float(_number(value))


def _share(value: object) -> Limit:
    """2, or "10%"."""
    text = str(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100_000:
        return Limit(count=value)
    if isinstance(value, str) and (found := _PERCENT.fullmatch(text)) and 0 < float(found[1]) <= 100:
        return Limit(percent=float(found[1]))
    raise refuse_value(f"{shown(value)} is neither a number nor a share; write for example 2 or 10%")


def _time_of_day(value: object) -> int:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise refuse_value(f'{shown(value)} is not a time of day; write for example "22:00", in quotes')
    return int(found[1]) * 3600 + int(found[2]) * 60


def _expression(value: object, about: str = WORKLOAD) -> CelExpression:
    if not isinstance(value, str):
        example = VOCABULARIES[about].example
        raise refuse_value(f"{shown(value)} is not an expression; write CEL such as {example}, in quotes")
    try:
        return CelExpression(value.rstrip("\n"), about)
    except ExpressionError as error:
        raise refuse_expression(error) from error


def _objective(value: str) -> str:
    if value not in objective_names():
        raise refuse_value(f"unknown objective {shown(value)}; {did_you_mean(value, objective_names())}")
    return value


def _resource(value: str) -> str:
    if value in GPU_RESOURCES:
        raise refuse_value(f'{shown(value)} is counted as gpu; write "gpu"')
    if value not in _BUILT_IN and not re.fullmatch(_EXTENDED, value):
        remedy = did_you_mean(value, _BUILT_IN)
        raise refuse_value(f"unknown resource {shown(value)}; {remedy} (or an extended one such as rdma/hca)")
    return value


def _matching(pattern: str, what: str, remedy: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if not re.fullmatch(pattern.strip("^$"), value):
            raise refuse_value(f"{shown(value)} is not {what}; {remedy}")
        return value

    return check


def _schema(kind: str | list[str], **more: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": kind, **more})


_DURATION_SCHEMA: Final = _schema("string", pattern=f"^{durations.PATTERN}$", examples=["10m", "1h30m", "24h"])
_NUMERIC: Final[list[str]] = ["string", "number"]

Text = Annotated[str, StringConstraints(min_length=1, max_length=253)]
LongText = Annotated[str, StringConstraints(min_length=1, max_length=4000)]
"""A path or a URL."""
Duration = Annotated[float, BeforeValidator(_duration), _DURATION_SCHEMA]
"""In seconds."""
PositiveDuration = Annotated[float, BeforeValidator(_positive_duration), _DURATION_SCHEMA]
_OR_NEVER_SCHEMA: Final = _schema("string", pattern=f"^(never|{durations.PATTERN})$")
DurationOrNever = Annotated[float | None, BeforeValidator(_duration_or_never), _OR_NEVER_SCHEMA]
WaitOrNever = Annotated[float | None, BeforeValidator(_wait_or_never), _OR_NEVER_SCHEMA]
"""The same, where not to wait at all is an answer, too: 0s."""
Money = Annotated[
    Decimal, BeforeValidator(_money), _schema(_NUMERIC, pattern=r"^\d{1,15}(\.\d{1,9})?$", minimum=0, examples=["4.50"])
]
"""USD, exact: taken from the text of the file, never through binary floating point."""
Quantity = Annotated[str | int | Decimal, BeforeValidator(lambda value: (quantity(value), value)[1]), _schema(_NUMERIC)]
"""Checked here, taken in the resource's unit later."""
MilliCpu = Annotated[int, BeforeValidator(lambda value: quantity(value, milli=True)), _schema(_NUMERIC)]
Bytes = Annotated[int, BeforeValidator(quantity), _schema(_NUMERIC)]
Weight = Annotated[Decimal, BeforeValidator(_weight), _schema(_NUMERIC)]
Seconds = Annotated[float, BeforeValidator(_seconds), _schema(_NUMERIC)]
Expression = Annotated[CelExpression, BeforeValidator(_expression), _schema("string", examples=["workload.gpus > 0"])]
IncidentExpression = Annotated[
    CelExpression,
    BeforeValidator(lambda value: _expression(value, INCIDENT)),
    _schema("string", examples=["incident.gpus > 0"]),
]
Objective = Annotated[str, AfterValidator(_objective), _schema("string", enum=list(objective_names()))]
ResourceName = Annotated[str, AfterValidator(_resource), _schema("string", examples=[*_BUILT_IN, "rdma/hca"])]
Share = Annotated[Limit, BeforeValidator(_share), _schema(["integer", "string"], pattern=r"^\d{1,3}(\.\d{1,3})?%$")]
"""So many, or that share of all, rounded down but never less than one."""
TimeOfDay = Annotated[int, BeforeValidator(_time_of_day), _schema("string", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
"""UTC, in seconds."""
SignalPattern = Annotated[
    str,
    AfterValidator(_matching(_SIGNAL, "a signal", "write for example gpu.xid.79, or gpu.xid.* for all that begin so")),
    _schema("string", pattern=_SIGNAL, examples=["gpu.xid.79", "gpu.xid.*"]),
]
Name = Annotated[
    str,
    AfterValidator(_matching(_LABEL, "a name", "use at most 63 letters, digits, - _ and .")),
    _schema("string", pattern=_LABEL),
]
"""Fit to be a Kubernetes label's value."""
ClusterName = Annotated[
    str,
    AfterValidator(_matching(_HOST, "a cluster name", "use at most 63 lower-case letters, digits, - and .")),
    _schema("string", pattern=_HOST),
]
PluginName = Annotated[
    str,
    AfterValidator(_matching(_PLUGIN, "a kind's name", "use lower-case letters, such as job")),
    _schema("string", pattern=_PLUGIN),
]
"""Name of a plugin's module: a workload kind or a provider."""
