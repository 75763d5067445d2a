"""The embedded catalogue: what is in it, in which words, and what it leaves unknown."""

from __future__ import annotations

import csv
import datetime
import importlib.util
import re
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from clusters.prices import catalogue
from clusters.prices.catalogue import instance_facts
from scheduler.model.prices import PriceQuery
from tests.contract.emulated_pools import SteppedClock
from tests.contract.emulated_prices import machine

ROOT = Path(__file__).parents[2]
ROWS = list(csv.DictReader((ROOT / "clusters/prices/catalogue.csv").read_text(encoding="utf-8").splitlines()))


async def price(query: PriceQuery, *, spot: bool = False) -> str | None:
    source = catalogue.create(catalogue.Settings(type="catalogue", spot=spot), clock=SteppedClock())
    quotes = await source.quotes([query])
    return str(quotes[0].usd_per_hour) if quotes else None


@pytest.mark.parametrize(
    ("query", "want_price"),
    [
        (machine("eks", "us-east-1", "p4d.24xlarge"), "21.957642"),
        (machine("eks", "us-east-1", "p5.48xlarge"), "55.04"),
        (machine("eks", "us-east-1", "g5.xlarge"), "1.006"),
        (machine("gke", "us-central1", "a2-highgpu-1g"), "3.67339"),
        (machine("gke", "us-east4", "a3-highgpu-8g"), "87.83247"),
        (machine("aks", "eastus", "Standard_NC24ads_A100_v4"), "3.673"),
        (machine("gke", "us-central1", "n1-standard-8", gpu_model="nvidia-tesla-t4", gpus=2), "1.08"),
        (machine("gke", "us-central1", "n1-standard-8", gpu_model="T4", gpus=2), "1.08"),
        (machine("gke", "us-central1", "n1-standard-8"), None),
        (machine("gke", "us-central1", "a2-ultragpu-1g"), None),
        (machine("eks", "us-west-2", "p5e.48xlarge"), None),
        (machine("eks", "eu-south-9", "p4d.24xlarge"), None),
        (machine("aks", "us-east-1", "p4d.24xlarge"), None),
        (machine("eks", "us-east-1", "p4d.24xlarge", "reserved"), None),
    ],
)
async def test_on_demand(query: PriceQuery, want_price: str | None) -> None:
    assert await price(query) == want_price


async def test_spot_is_told_only_where_it_is_asked_for_in_the_settings() -> None:
    spot = machine("eks", "us-east-1", "g4dn.2xlarge", "spot")
    assert await price(spot) is None
    assert await price(spot, spot=True) == "0.2925"
    assert await price(machine("aks", "eastus", "Standard_ND96isr_H100_v5", "spot"), spot=True) is None, "doubtful"


@pytest.mark.parametrize(
    ("provider", "instance_type", "want_facts"),
    [
        ("eks", "p4d.24xlarge", ("A100-40GB", 8, 40, 96_000, 1152)),
        ("aws", "p4de.24xlarge", ("A100-80GB", 8, 80, 96_000, 1152)),
        ("gke", "a3-highgpu-8g", ("H100-80GB", 8, 80, 208_000, 1872)),
        ("gke", "n1-standard-8+2xT4", ("T4", 2, 16, 8_000, 30)),
        ("aks", "Standard_NC40ads_H100_v5", ("H100-94GB", 1, 94, 40_000, 320)),
        ("aks", "p4d.24xlarge", None),
    ],
)
def test_facts(provider: str, instance_type: str, want_facts: tuple[str, int, int, int, int] | None) -> None:
    facts = instance_facts(provider, instance_type)
    gib = 1 << 30
    told = facts and (
        facts.gpu_model, facts.gpus, facts.gpu_memory_bytes // gib, facts.cpu_milli, facts.memory_bytes // gib,
    )  # fmt: skip
    assert told == want_facts


def test_every_row_is_dated_has_its_source_and_no_price_of_0() -> None:
    assert 150 <= len(ROWS) <= 300
    keys = {(row["provider"], row["region"], row["instance_type"]) for row in ROWS}
    assert len(keys) == len(ROWS)
    for row in ROWS:
        assert row["provider"] in ("aws", "gcp", "azure")
        assert datetime.date.fromisoformat(row["as_of"]) >= datetime.date(2025, 1, 1)
        assert re.fullmatch(r"skypilot-catalog@[0-9a-f]{12}", row["source"])
        for column in ("on_demand_usd_per_hour", "spot_min_usd_per_hour"):
            assert not row[column] or Decimal(row[column]) > 0
        if row["on_demand_usd_per_hour"] and row["spot_min_usd_per_hour"]:
            assert Decimal(row["spot_min_usd_per_hour"]) < Decimal(row["on_demand_usd_per_hour"])


def test_a_machine_is_the_same_in_every_region() -> None:
    columns = ("vcpus", "memory_gib", "gpu_model", "gpus", "gpu_memory_gib")
    facts = {(row["provider"], row["instance_type"]): set[tuple[str, ...]]() for row in ROWS}
    for row in ROWS:
        facts[row["provider"], row["instance_type"]].add(tuple(row[column] for column in columns))
    assert {key: found for key, found in facts.items() if len(found) > 1} == {}


@pytest.fixture
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("catalogue_build", ROOT / "deploy/catalogue/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_catalogue_is_rebuilt_from_its_tables_without_what_is_doubtful(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "gpu_instances.csv").write_text(
        "provider,region,instance_type,vcpus,memory_gib,gpu,gpu_count,gpu_memory_gib,on_demand_usd_per_hour,"
        "spot_usd_per_hour,spot_max_usd_per_hour,source_commit\n"
        "lambda,us,x,1,1,A100,1,40,1,,,abc\n"
        "gcp,us-central1,a3-highgpu-1g,26,234,H100,1,80,5.38327,3.19416,,8427bbff988abdd050a9\n"
        "aws,us-east-1,p4d.24xlarge,96,1152,A100,8,40,21.957642,7.9,8.1,e385a0d348eda9cefd98\n"
        "aws,us-east-1,g4dn.metal,96,384,T4,8,16,7.824,,,e385a0d348eda9cefd98\n",
        encoding="utf-8",
    )
    (tmp_path / "doubtful.csv").write_text(
        "provider,region,instance_type,column,value,reason\n"
        'gcp,us-central1,a3-highgpu-1g,on_demand_usd_per_hour,5.38327,"far below: probably discounted"\n',
        encoding="utf-8",
    )
    build.main(tmp_path, tmp_path / "catalogue.csv")
    assert (tmp_path / "catalogue.csv").read_text(encoding="utf-8").splitlines() == [
        ",".join(ROWS[0]),
        "aws,us-east-1,p4d.24xlarge,96,1152,A100-40GB,8,40,21.957642,7.9,2025-08-01,skypilot-catalog@e385a0d348ed,",
        "gcp,us-central1,a3-highgpu-1g,26,234,H100-80GB,1,80,,3.19416,2025-02-01,skypilot-catalog@8427bbff988a,"
        "on_demand_usd_per_hour 5.38327 left out: far below",
    ]
