"""What a check finds, and checks that always come to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from scheduler.model.errors import OverspillError

OK: Final = "ok"
WARN: Final = "warn"
FAIL: Final = "fail"
_ORDER: Final = (FAIL, WARN, OK)
_LONGEST: Final = 1500
"""Characters of one text: the outside's own words may be long."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Finding:
    state: str
    """ok, warn or fail: fails are what the daemon cannot do its work without."""
    area: str
    """What it is about: hub, a member's name, cloud and that name, prices, history, policies."""
    what: str
    remedy: str = ""
    """How to mend it; empty when all is well."""

    @property
    def line(self) -> str:
        return f"{self.state:<4}  {self.area}  {self.what}" + (f"  -> {self.remedy}" if self.remedy else "")


class Report:
    """Collects the findings of one area."""

    def __init__(self, area: str) -> None:
        self.area = area
        self.findings: list[Finding] = []

    def ok(self, what: str) -> None:
        self.findings.append(Finding(OK, self.area, _one_line(what)))

    def warn(self, what: str, remedy: str) -> None:
        self.findings.append(Finding(WARN, self.area, _one_line(what), _one_line(remedy)))

    def fail(self, what: str, remedy: str) -> None:
        self.findings.append(Finding(FAIL, self.area, _one_line(what), _one_line(remedy)))

    async def attempt(
        self, what: str, asked: Awaitable[_T], seconds: float, remedy: str, *, required: bool = True
    ) -> _T | None:
        """What is asked, waited for so long at most. None when it fails or takes too long, which is a finding and no
        exception: a warning when it is not `required`."""
        tell = self.fail if required else self.warn
        try:
            async with asyncio.timeout(seconds):
                return await asked
        except TimeoutError:
            tell(f"{what}: no answer within {seconds:g} s", remedy)
        except OverspillError as error:
            tell(f"{what}: {error}", remedy)
        return None


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """What fails first, then what is doubtful; within that by area, in the order in which they were found."""
    return tuple(sorted(findings, key=lambda one: (_ORDER.index(one.state), one.area)))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST]
