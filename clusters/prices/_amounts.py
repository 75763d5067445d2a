"""Amounts and dates as people write them in settings and price files, taken exactly."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BeforeValidator

_AMOUNT: Final = re.compile(r"\d{1,15}(\.\d{1,12})?", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_SHOWN: Final = 40


def shown(value: object) -> str:
    """A user's value as a message repeats it: quoted, on one line, shortened."""
    text = "".join(one if one.isprintable() else "?" for one in str(value)[: _SHOWN + 1])
    return f'"{text}"' if len(text) <= _SHOWN else f'"{text[:_SHOWN]}..."'


def amount(value: object) -> Decimal:
    """The exact decimal that a text or a number stands for, not negative, at most 12 decimals.

    Raises: ValueError with the remedy.
    """
    if isinstance(value, float):
        text = format(Decimal(repr(value)), "f")  # the shortest decimal that the float stands for, as it was written
    elif isinstance(value, Decimal):
        text = format(value, "f")
    else:
        text = value.strip() if isinstance(value, str) else str(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal) or not _AMOUNT.fullmatch(text):
        raise ValueError(f"{shown(value)} is not an amount; write a plain number such as 4.50, not negative")
    return Decimal(text)


def positive(value: object) -> Decimal:
    """The same for an amount that must be more than nothing. Raises: ValueError."""
    found = amount(value)
    if not found:
        raise ValueError(f"{shown(value)} must be more than 0; leave it out where it is not known")
    return found


def date(value: object) -> datetime.date:
    """A day written YYYY-MM-DD. Raises: ValueError with the remedy."""
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    if isinstance(value, str) and _DATE.fullmatch(value):
        try:
            return datetime.date.fromisoformat(value)
        except ValueError:
            pass
    raise ValueError(f"{shown(value)} is not a day; write it as YYYY-MM-DD")


Amount = Annotated[Decimal, BeforeValidator(amount)]
Positive = Annotated[Decimal, BeforeValidator(positive)]
Day = Annotated[datetime.date, BeforeValidator(date)]
