"""A file of prices, CSV or YAML, read safely and within bounds, with the line of every row.

CSV: a header line with the columns below, in any order; lines that begin with # are comments. YAML: a list of mappings
with the same words in camelCase (instanceType, capacityType, asOf), alone or under `prices:`.

    provider       eks, gke, aks, onprem or the cloud's name (aws, gcp, azure); * or empty: any
    region         * or empty: any
    zone           * or empty: anywhere in the region
    instance_type  required
    capacity_type  owned, reserved, on-demand or spot; on-demand when empty
    price          of one node for one hour; required
    currency       ISO 4217 code; USD when empty
    as_of          day (YYYY-MM-DD) or RFC 3339 time; when the file was read, when empty
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import yaml

from clusters.prices._amounts import positive, shown
from clusters.prices._clouds import cloud_of
from clusters.prices._plausible import instant
from scheduler.model.cluster import ON_DEMAND, OWNED, RESERVED, SPOT
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant

MAX_BYTES: Final = 1 << 20
MAX_ROWS: Final = 10_000
_MAX_ERRORS: Final = 50
_MAX_DEPTH: Final = 4
_MAX_TEXT: Final = 253
COLUMNS: Final = ("provider", "region", "zone", "instance_type", "capacity_type", "price", "currency", "as_of")
_YAML_KEYS: Final = {"instanceType": "instance_type", "capacityType": "capacity_type", "asOf": "as_of"} | {
    name: name for name in COLUMNS if "_" not in name
}
_CAPACITY_TYPES: Final = (OWNED, RESERVED, ON_DEMAND, SPOT)
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_Found = Iterator[tuple[int, dict[str, str] | str]]
"""Each row's line, with its cells or what is wrong with it."""


class PriceFileError(InvalidObjectError):
    """Everything that is wrong in the file, a line each, with its place."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        more = f" (and {len(self.lines) - 1} more)" if len(self.lines) > 1 else ""
        super().__init__(f"{self.lines[0]}{more}")


@dataclass(frozen=True, slots=True)
class PriceRow:
    """One price. None: any."""

    line: int
    provider: str | None
    """The cloud's name, or ours where it has none."""
    region: str | None
    zone: str | None
    instance_type: str
    capacity_type: str
    price: Decimal
    currency: str
    as_of: Instant | None

    @property
    def key(self) -> tuple[str | None, str | None, str | None, str, str]:
        return self.provider, self.region, self.zone, self.instance_type, self.capacity_type


def parse(data: bytes, file: str) -> tuple[PriceRow, ...]:
    """The rows of `file` (its name tells the format). Raises: PriceFileError with every mistake."""
    if len(data) > MAX_BYTES:
        raise PriceFileError([f"{file}:1: larger than {MAX_BYTES // 1024} KiB; split it or leave prices out"])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PriceFileError([f"{file}:{line}: not UTF-8; save it as UTF-8"]) from error
    found = _yaml_rows(text, file) if file.lower().endswith((".yaml", ".yml")) else _csv_rows(text, file)
    rows: list[PriceRow] = []
    errors: list[str] = []
    first_at: dict[object, int] = {}
    for line, cells in found:
        try:
            if isinstance(cells, str):
                raise ValueError(cells)
            row = _row(line, cells)
            if row.key in first_at:
                raise ValueError(f"prices the same machines as line {first_at[row.key]}; remove one of them")
            first_at[row.key] = line
            rows.append(row)
        except ValueError as error:
            errors.append(f"{file}:{line}: {error}")
        if len(errors) >= _MAX_ERRORS or len(rows) > MAX_ROWS:
            break
    if len(rows) > MAX_ROWS:
        errors.append(f"{file}:{rows[-1].line}: more than {MAX_ROWS} prices; keep those of your own pools")
    if errors:
        raise PriceFileError(errors)
    return tuple(rows)


def _row(line: int, cells: Mapping[str, str]) -> PriceRow:
    def cell(name: str) -> str | None:
        text = cells.get(name, "").strip()
        if len(text) > _MAX_TEXT:
            raise ValueError(f"{name} {shown(text)} is longer than {_MAX_TEXT} characters")
        return None if text in ("", "*") else text

    for name in ("instance_type", "price"):
        if cell(name) is None:
            raise ValueError(f"{name} is missing; every price names the machine and what it costs")
    capacity_type = cell("capacity_type") or ON_DEMAND
    if capacity_type not in _CAPACITY_TYPES:
        raise ValueError(f"capacity_type {shown(capacity_type)} is unknown; write {', '.join(_CAPACITY_TYPES)}")
    as_of = cell("as_of")
    if as_of is not None and instant(as_of) is None:
        raise ValueError(f"as_of {shown(as_of)} is no day or time; write for example 2026-11-25")
    provider = cell("provider")
    zone, region = cell("zone"), cell("region")
    return PriceRow(
        line=line,
        provider=cloud_of(provider.lower()) if provider is not None else None,
        region=region,
        zone=zone,
        instance_type=cell("instance_type") or "",
        capacity_type=capacity_type,
        price=positive(cell("price")),
        currency=(cell("currency") or "USD").upper(),
        as_of=instant(as_of),
    )


def _csv_rows(text: str, file: str) -> _Found:
    """Rows with the number of the line on which each ends: one line each, for nothing in them needs a line break."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if not any(cell.strip() for cell in cells) or cells[0].lstrip().startswith("#"):
                continue
            if header is None:
                header = [cell.strip().lower() for cell in cells]
                _check_header(header, f"{file}:{reader.line_num}")
            elif len(cells) > len(header):
                yield reader.line_num, f"{len(cells)} cells under {len(header)} columns; remove those that are too many"
            else:
                yield reader.line_num, dict(zip(header, cells, strict=False))
    except csv.Error as error:
        raise PriceFileError([f"{file}:{reader.line_num}: not CSV: {error}"]) from error
    if header is None:
        raise PriceFileError([f"{file}:1: empty; write a header line: {','.join(COLUMNS)}"])


def _check_header(header: list[str], place: str) -> None:
    for name in header:
        if name not in COLUMNS:
            raise PriceFileError([f"{place}: unknown column {shown(name)}; write {', '.join(COLUMNS)}"])
        if header.count(name) > 1:
            raise PriceFileError([f"{place}: column {name} is there twice; remove one"])


def _yaml_rows(text: str, file: str) -> _Found:
    root = _compose(text, file)
    if isinstance(root, yaml.MappingNode) and [key.value for key, _ in root.value] == ["prices"]:
        root = root.value[0][1]
    if not isinstance(root, yaml.SequenceNode):
        raise PriceFileError([f"{file}:1: not a list of prices; write one, alone or under `prices:`"])
    for node in root.value[: MAX_ROWS + 1]:
        yield node.start_mark.line + 1, _yaml_cells(node)


def _yaml_cells(node: yaml.Node) -> dict[str, str] | str:
    if not isinstance(node, yaml.MappingNode):
        return "not a price; write a mapping with instanceType and price"
    cells: dict[str, str] = {}
    for key, value in node.value:
        name = _YAML_KEYS.get(key.value) if isinstance(key, yaml.ScalarNode) else None
        if name is None:
            return f"unknown key {shown(key.value)}; write {', '.join(_YAML_KEYS)}"
        if not isinstance(value, yaml.ScalarNode):
            return f"{key.value} is not a single value; write one"
        if name in cells:
            return f"{key.value} is there twice; remove one"
        cells[name] = "" if value.tag.endswith(":null") else value.value
    return cells


def _compose(text: str, file: str) -> yaml.Node | None:
    """The one document as a tree; its depth is checked first, for composing recurses."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark is not None else 1
                raise PriceFileError([f"{file}:{line}: nested too deeply for a list of prices; see its columns"])
        node: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise PriceFileError([f"{file}:{line}: not YAML: {error.problem or error.context}"]) from error
    except (yaml.YAMLError, ValueError) as error:
        raise PriceFileError([f"{file}:1: not YAML: {type(error).__name__}"]) from error
    return node
