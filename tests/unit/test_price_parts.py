"""What may be believed to be a price, and what Google's machine types consist of."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from clusters.prices._gcp_machines import machine_types, parts_of, sku_kinds
from clusters.prices._plausible import instant, plausible
from clusters.prices._reading import Problems, read_each
from clusters.prices._rest import read_secret
from scheduler.model.errors import AuthError, TransientError
from scheduler.model.ids import ClusterId
from scheduler.model.prices import PriceQuery, PriceQuote

QUERY = PriceQuery(ClusterId("eks"), "p4d", "eks", "us-east-1", (), "p4d.24xlarge", "on-demand")


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("21.9576420000", "21.957642"),
        ("10", "10"),
        ("1e1", "10"),
        ("0.00001", "0.00001"),
        ("1E-6", "0.000001"),
        ("1E-7", None),
        (Decimal("3.673"), "3.673"),
        (Decimal("1E+1"), "10"),
        (10, "10"),
        (10_000, "10000"),
        ("10000.000001", None),
        (10**40, None),
        (0, None),
        ("0", None),
        ("-0", None),
        (Decimal("-0.0"), None),
        (-1, None),
        ("-1", None),
        (Decimal("NaN"), None),
        (Decimal("sNaN"), None),
        (Decimal("Infinity"), None),
        ("NaN", None),
        ("Infinity", None),
        ("1e400", None),
        (Decimal("1e-999999"), None),
        (Decimal("0." + "1" * 60), None),
        ("1_000", None),
        ("\u0661", None),
        (" 1", None),
        ("1,5", None),
        ("$1", None),
        ("", None),
        (True, None),
        (None, None),
        (1.5, None),
        ([1], None),
        ({"USD": 1}, None),
    ],
)
def test_what_is_a_price(value: object, want: str | None) -> None:
    found = plausible(value)
    assert (None if found is None else str(found)) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T00:01:00", 60.0),
        ("1970-01-01T01:01:00+01:00", 60.0),
        ("1970-01-01T00:01:00.250Z", 60.25),
        ("yesterday", None),
        ("", None),
        (None, None),
        (60, None),
    ],
)
def test_points_in_time(text: object, want: float | None) -> None:
    assert instant(text) == want


def told(machine_type: str, gpu_model: str | None = None, gpus: int = 0) -> dict[str, str] | None:
    parts = parts_of(machine_type, gpu_model, gpus)
    return None if parts is None else {part.kind: f"{part.amount} {part.skus[0]}" for part in parts}


@pytest.mark.parametrize(
    ("machine_type", "gpu_model", "gpus", "want"),
    [
        (
            "a2-highgpu-1g",
            None,
            0,
            {"core": "12 A2 Instance Core", "ram": "85 A2 Instance Ram", "gpu": "1 Nvidia Tesla A100 GPU"},
        ),
        (
            "a3-highgpu-8g",
            "H100-80GB",
            8,
            {
                "core": "208 A3 Instance Core",
                "ram": "1872 A3 Instance Ram",
                "gpu": "8 Nvidia H100 80GB GPU",
                "ssd": "6000 SSD backed Local Storage",
            },
        ),
        (
            "g2-standard-48",
            "L4",
            16,
            {"core": "48 G2 Instance Core", "ram": "192 G2 Instance Ram", "gpu": "4 Nvidia L4 GPU"},
        ),
        (
            "n1-highmem-8",
            "Tesla-V100-SXM2-16GB",
            4,
            {
                "core": "8 N1 Predefined Instance Core",
                "ram": "52.0 N1 Predefined Instance Ram",
                "gpu": "4 Nvidia Tesla V100 GPU",
            },
        ),
        ("n2-standard-4", None, 0, {"core": "4 N2 Instance Core", "ram": "16 N2 Instance Ram"}),
        ("n2-standard-4", "T4", 1, None),
        ("n1-standard-8", "T4 or V100", 1, None),
        ("n1-standard-8", "T4", -3, None),
        ("n1-standard-7", None, 0, None),
        ("a4-highgpu-8g", None, 0, None),
        ("", None, 0, None),
    ],
)
def test_machines_are_made_of_parts(
    machine_type: str, gpu_model: str | None, gpus: int, want: dict[str, str] | None
) -> None:
    assert told(machine_type, gpu_model, gpus) == want


def test_the_table_is_whole() -> None:
    kinds = sku_kinds()
    assert len(machine_types()) > 60
    for name, parts in machine_types().items():
        assert [part.kind for part in parts[:2]] == ["core", "ram"], name
        assert all(part.amount > 0 for part in parts), name
        assert all(kinds[sku.lower()] == part.kind for part in parts for sku in part.skus), name


def test_problems_are_bounded_single_lines() -> None:
    problems = Problems()
    for number in range(1000):
        problems.add(f"{number}\n\x1b[31m" + "x" * 1000)
    problems.add("0")
    assert len(problems.lines()) == 100
    assert all(line.isprintable() and len(line) <= 400 for line in problems.lines())


def test_a_secret_is_never_in_the_error_about_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("s3cret\nmore")
    with pytest.raises(AuthError) as caught:
        read_secret("gcp", path)
    assert "s3cret" not in str(caught.value)
    assert str(path) in str(caught.value)


async def test_a_part_that_fails_makes_the_reading_incomplete() -> None:
    async def told() -> tuple[PriceQuote, ...]:
        return (PriceQuote(QUERY, Decimal(3), "test", 0.0),)

    async def failed() -> tuple[PriceQuote, ...]:
        raise TransientError("eks: AWS prices: no answer")

    for reads, want in (((told,), False), ((told, failed), True), ((failed, told), True)):
        problems = Problems()
        assert [one.usd_per_hour for one in await read_each(reads, problems)] == [Decimal(3)]
        assert problems.incomplete is want
    with pytest.raises(TransientError):
        await read_each((failed,), Problems())
