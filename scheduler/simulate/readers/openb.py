"""Alibaba's openb pod list (cluster-trace-gpu-v2023): pods with shares of GPUs, the models they accept, and lifetimes.

A share of a GPU counts as a whole one: Overspill places whole GPUs.
"""

from __future__ import annotations

from typing import Final

from scheduler.model.resources import Resources
from scheduler.model.workload import PodSet
from scheduler.simulate.table import Row, Table
from scheduler.simulate.trace import Trace, TraceJob

COLUMNS: Final = (
    "name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec", "qos", "creation_time", "deletion_time",
)  # fmt: skip


def read(table: Table) -> Trace:
    """A pod without a deletion, or that never ran, is left out: how long it would run is not known."""
    jobs = [job for row in table.rows() if (job := _job(row)) is not None]
    return Trace(table.path.name, tuple(jobs))


def _job(row: Row) -> TraceJob | None:
    ended, scheduled = row.optional("deletion_time"), row.optional("scheduled_time")
    created = row.number("creation_time")
    began = created if scheduled is None else scheduled
    if ended is None or ended <= began:
        return None
    models = tuple(model for model in row.text("gpu_spec").split("|") if model)
    gpus = row.count("num_gpu", most=1024)
    requests = Resources(row.count("cpu_milli", most=10**7), round(row.number("memory_mib", most=1e9) * 2**20), gpus, 1)
    return TraceJob(
        row.text("name"), created, ended - began, row.text("qos", "default"),
        (PodSet("main", 1, requests, (), (), models),),
    )  # fmt: skip
