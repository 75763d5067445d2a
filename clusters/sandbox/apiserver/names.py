"""What names, label keys and values, and quantities may look like, and the real server's words for what is wrong."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Final

from scheduler.model.errors import InvalidObjectError
from scheduler.model.resources import parse_quantity

_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_QUALIFIED: Final = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_IS_LABEL: Final = re.compile(_LABEL)
_IS_SUBDOMAIN: Final = re.compile(_SUBDOMAIN)
_IS_QUALIFIED: Final = re.compile(_QUALIFIED)
_IS_LABEL_VALUE: Final = re.compile(rf"({_QUALIFIED})?")
_IS_DNS1035: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")

LABEL_TEXT: Final = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN_TEXT: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
DNS1035_TEXT: Final = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
QUALIFIED_TEXT: Final = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
LABEL_VALUE_TEXT: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
QUANTITY_TEXT: Final = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"

Faults = tuple[str, ...]


def label_faults(name: str) -> Faults:
    """What is wrong with an RFC 1123 label; empty when nothing is."""
    return _length(name, 63) + (() if _IS_LABEL.fullmatch(name) else (LABEL_TEXT,))


def subdomain_faults(name: str) -> Faults:
    return _length(name, 253) + (() if _IS_SUBDOMAIN.fullmatch(name) else (SUBDOMAIN_TEXT,))


def dns1035_faults(name: str) -> Faults:
    return _length(name, 63) + (() if _IS_DNS1035.fullmatch(name) else (DNS1035_TEXT,))


def path_segment_faults(name: str) -> Faults:
    """For RBAC and the like: anything that can be one segment of a URL path."""
    if name in (".", ".."):
        return (f"may not be '{name}'",)
    return tuple(f"may not contain '{mark}'" for mark in "/%" if mark in name)


def _length(text: str, most: int) -> Faults:
    return (f"must be no more than {most} characters",) if len(text) > most else ()


@lru_cache(maxsize=8192)
def label_key_faults(key: str) -> Faults:
    """What is wrong with a label key, an annotation key, a finalizer or an extended resource name."""
    prefix, slash, name = key.rpartition("/")
    faults: Faults = ()
    if slash:
        if not prefix:
            faults += ("prefix part must be non-empty",)
        elif bad := subdomain_faults(prefix):
            faults += tuple(f"prefix part {fault}" for fault in bad)
    if not name:
        return (*faults, "name part must be non-empty", QUALIFIED_TEXT)
    if len(name) > 63:
        faults += ("name part must be no more than 63 characters",)
    return faults if _IS_QUALIFIED.fullmatch(name) else (*faults, QUALIFIED_TEXT)


@lru_cache(maxsize=8192)
def label_value_faults(value: str) -> Faults:
    return _length(value, 63) + (() if _IS_LABEL_VALUE.fullmatch(value) else (LABEL_VALUE_TEXT,))


def domain_path_faults(text: str) -> Faults:
    """A domain-prefixed path, such as a Job's `spec.managedBy`: "example.com/controller"."""
    domain, slash, path = text.partition("/")
    if not slash or not domain or not path:
        return ('must be a domain-prefixed path (such as "acme.io/foo")',)
    faults = subdomain_faults(domain)
    if not re.fullmatch(r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", path):
        faults += ("Invalid path",)
    return faults


_BINARY: Final = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL: Final = ("n", "u", "m", "", "k", "M", "G", "T", "P", "E")


@lru_cache(maxsize=8192)
def canonical_quantity(text: str) -> str:
    """`text` in the form in which the API server stores it: 1000m is 1, 1024Mi is 1Gi, 0.5 is 500m.

    Raises: InvalidObjectError when it is no quantity.
    """
    value = parse_quantity(text)
    tail = text.strip().lstrip("+-0123456789.")
    if tail[:1] in ("e", "E") and len(tail) > 1 and tail != "Ei":
        return _exponent(value)
    if tail.endswith("i") and value.denominator == 1 and abs(value) >= 1024:
        return _scaled(value, 1024, _BINARY)
    nanos = value * 10**9
    whole = -(-nanos.numerator // nanos.denominator)  # rounded up to what a quantity can hold
    return _scaled(Fraction(whole), 1000, _DECIMAL) if whole else "0"


def _scaled(value: Fraction, step: int, suffixes: tuple[str, ...]) -> str:
    number, place = value.numerator, 0
    while number and number % step == 0 and place < len(suffixes) - 1:
        number, place = number // step, place + 1
    return f"{number}{suffixes[place]}"


def _exponent(value: Fraction) -> str:
    number, power = value, 0
    while number.denominator != 1:
        number, power = number * 1000, power - 3
    whole = number.numerator
    while whole and whole % 1000 == 0:
        whole, power = whole // 1000, power + 3
    return f"{whole}e{power}" if power else str(whole)


def quantity_value(text: str) -> Fraction | None:
    """The value of a quantity; None when it is none."""
    try:
        return parse_quantity(text)
    except InvalidObjectError:
        return None
