"""A price file, and ways of breaking it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scheduler.model.ports import Clock
from tests.contract.emulated_prices import EmulatedPrices, machine

_HEADER = "provider,region,zone,instance_type,capacity_type,price,currency,as_of\n"


async def start(folder: Path, clock: Clock) -> EmulatedPrices:
    file = folder / "prices.csv"
    file.write_text(f"{_HEADER}eks,us-east-1,,p4d.24xlarge,on-demand,18.5,,\n", encoding="utf-8")

    def holds(content: bytes) -> Callable[[], None]:
        def write() -> None:
            file.write_bytes(content)

        return write

    contents = (b"", b"\xff\xfe\x00", b'"', b"a,b\n1,2\n")
    prices = (b"0", b"-1", b"NaN", b"Infinity", b"1e400", b"", b"0.0", b"\x00", b"9" * 99)
    rows = (_HEADER.encode() + b"eks,us-east-1,,p4d.24xlarge,on-demand,%s,,\n" % price for price in prices)
    written = (holds(content) for content in (*contents, *rows))
    return EmulatedPrices(
        settings={"type": "static", "path": "prices.csv"},
        known=(machine("eks", "us-east-1", "p4d.24xlarge"),),
        nonsense=(*written, file.unlink, file.mkdir),
    )
