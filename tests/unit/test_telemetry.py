"""The registry of metrics: what is declared is what is scraped, and what is documented."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scheduler.daemon.telemetry import THEMES, Telemetry
from scheduler.daemon.telemetry.declared import Family
from scheduler.daemon.telemetry.reference import LABELS, families, reference

FAMILIES = families(Telemetry)
DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_page_is_current() -> None:
    assert DOCS.read_text(encoding="utf-8") == reference(), (
        "run: python -m scheduler.daemon.telemetry.reference > docs/metrics.md"
    )


def test_every_family_is_scraped_once_and_of_one_theme() -> None:
    exposed = re.findall(r"^# TYPE (\S+) (\S+)$", Telemetry().expose().decode(), re.MULTILINE)
    told = {name: kind for name, kind in exposed if not name.endswith("_created")}
    assert told == {family.name: family.kind for family in FAMILIES}
    assert sorted(family.name for theme in THEMES for family in families(theme)) == [one.name for one in FAMILIES]


@pytest.mark.parametrize("family", FAMILIES, ids=[one.name for one in FAMILIES])
def test_names_helps_and_labels(family: Family) -> None:
    assert re.fullmatch(r"overspill_[a-z0-9_]+", family.name)
    assert family.help.endswith(".")
    assert set(family.labels) <= LABELS.keys(), "say in LABELS what bounds it"


def test_each_daemon_has_metrics_of_its_own() -> None:
    one, other = Telemetry(), Telemetry()
    one.cycles.inc()
    assert one.registry.get_sample_value("overspill_cycles_total") == 1.0
    assert other.registry.get_sample_value("overspill_cycles_total") == 0.0
