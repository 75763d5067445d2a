"""What Google's machine types consist of: `gcp_machines.yaml`, read and checked. No prices here."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import yaml
from pydantic import BaseModel, ConfigDict, Field

LOCAL_SSD: Final = "SSD backed Local Storage"
"""Per GiB and month in the catalogue."""


@dataclass(frozen=True, slots=True)
class Part:
    """So much of what any one of `skus` prices (descriptions without their region). Units: vCPUs, GiB, GPUs."""

    kind: str
    """core, ram, gpu or ssd."""
    skus: tuple[str, ...]
    amount: Decimal


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Accelerator(_Strict):
    skus: tuple[str, ...] = Field(min_length=1)
    models: tuple[str, ...] = ()


class _Regular(_Strict):
    prefix: str
    gib_per_vcpu: Decimal = Field(gt=0)
    vcpus: tuple[int, ...]


class _Machine(_Strict):
    vcpus: int = Field(gt=0)
    memory_gib: int = Field(gt=0)
    accelerator: str
    count: int = Field(gt=0)
    local_ssd_gib: int = Field(default=0, ge=0)


class _Series(_Strict):
    core: str
    ram: str
    attachable: bool = False
    regular: tuple[_Regular, ...] = ()
    machines: Mapping[str, _Machine] = Field(default_factory=dict)


class _Table(_Strict):
    accelerators: Mapping[str, _Accelerator]
    series: Mapping[str, _Series]


@functools.cache
def _table() -> _Table:
    text = importlib.resources.files(__package__).joinpath("gcp_machines.yaml").read_text(encoding="utf-8")
    return _Table.model_validate(yaml.safe_load(text))


@functools.cache
def machine_types() -> Mapping[str, tuple[Part, ...]]:
    """Every machine type of the table, with its parts; accelerators that are attached by choice are not among them."""
    found: dict[str, tuple[Part, ...]] = {}
    for series in _table().series.values():
        for shape in series.regular:
            for vcpus in shape.vcpus:
                found[f"{shape.prefix}{vcpus}"] = _host(series, vcpus, vcpus * shape.gib_per_vcpu)
        for name, machine in series.machines.items():
            parts = _host(series, machine.vcpus, Decimal(machine.memory_gib))
            gpus = Part("gpu", _table().accelerators[machine.accelerator].skus, Decimal(machine.count))
            ssd = Part("ssd", (LOCAL_SSD,), Decimal(machine.local_ssd_gib))
            found[name] = (*parts, gpus, *((ssd,) if machine.local_ssd_gib else ()))
    return found


@functools.cache
def sku_kinds() -> Mapping[str, str]:
    """Which kind of part each SKU's description (lower case, without its region) prices."""
    found = {part.skus[0].lower(): part.kind for parts in machine_types().values() for part in parts}
    for accelerator in _table().accelerators.values():
        found.update((sku.lower(), "gpu") for sku in accelerator.skus)
    return found


def parts_of(machine_type: str, gpu_model: str | None, gpus: int) -> tuple[Part, ...] | None:
    """Parts of one machine; None when it cannot be composed.

    `gpu_model` and `gpus` matter for machine types without accelerators of their own only.
    """
    parts = machine_types().get(machine_type)
    if gpus < 0:
        return None
    if parts is None or gpus == 0 or any(part.kind == "gpu" for part in parts):
        return parts
    attachable = any(
        series.attachable and machine_type.startswith(tuple(shape.prefix for shape in series.regular))
        for series in _table().series.values()
    )
    accelerator = _accelerator(gpu_model) if attachable else None
    return None if accelerator is None else (*parts, Part("gpu", accelerator.skus, Decimal(gpus)))


def _host(series: _Series, vcpus: int, gib: Decimal) -> tuple[Part, ...]:
    return Part("core", (series.core,), Decimal(vcpus)), Part("ram", (series.ram,), gib)


def _accelerator(gpu_model: str | None) -> _Accelerator | None:
    """The attachable accelerator that a pool's word for its GPU names, such as T4 or Tesla-V100-SXM2-16GB."""
    words = set(re.split(r"[^a-z0-9]+", (gpu_model or "").lower()))
    found = [one for one in _table().accelerators.values() if words & set(one.models)]
    return found[0] if len(found) == 1 else None
