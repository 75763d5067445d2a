"""Overspill's own format. Needed: arrival_s, run_s. May be there: name, queue, pods, gpus, cpu (cores) and memory_gib
(each of one pod), gpu_models (accepted, "A|B"), topology (node, zone or a node label), priority, deadline_s (after
arrival), checkpoint_s, and data_gib with data_at (what it reads, and in which member of the federation that lies)."""

from __future__ import annotations

from typing import Final

from scheduler.model.contract import TOPOLOGIES
from scheduler.model.ids import ClusterId
from scheduler.model.resources import Resources
from scheduler.model.workload import DataSet, PodSet
from scheduler.simulate.readers._pods import CPU_MILLI_A_GPU, MEMORY_BYTES_A_GPU
from scheduler.simulate.table import Row, Table
from scheduler.simulate.trace import Trace, TraceJob

COLUMNS: Final = ("arrival_s", "run_s")


def read(table: Table) -> Trace:
    jobs = [
        TraceJob(
            name=row.text("name"),
            arrival_seconds=row.number("arrival_s"),
            run_seconds=row.number("run_s", least=0.001),
            queue=row.text("queue", "default"),
            pod_sets=(_pods(row),),
            priority=int(row.optional("priority", least=-1e6, most=1e6) or 0),
            deadline_seconds=row.optional("deadline_s"),
            checkpoint_seconds=row.optional("checkpoint_s", least=0.001),
            data=_data(row),
        )
        for row in table.rows()
    ]
    return Trace(table.path.name, tuple(jobs))


def _data(row: Row) -> tuple[DataSet, ...]:
    size, at = row.optional("data_gib", most=2.0**30), row.text("data_at")
    return (DataSet(ClusterId(at), round(size * 2**30)),) if size and at else ()


def _pods(row: Row) -> PodSet:
    gpus = row.count("gpus", most=1024) if row.text("gpus") else 0
    cpu, memory = row.optional("cpu", most=4096), row.optional("memory_gib", most=65_536)
    models = tuple(model.strip() for model in row.text("gpu_models").split("|") if model.strip())
    requests = Resources(
        CPU_MILLI_A_GPU * max(1, gpus) if cpu is None else round(cpu * 1000),
        MEMORY_BYTES_A_GPU * max(1, gpus) if memory is None else round(memory * 2**30),
        gpus,
        1,
    )
    topology = TOPOLOGIES.get(row.text("topology"), row.text("topology"))
    return PodSet("main", row.count("pods", least=1) if row.text("pods") else 1, requests, (), (), models, topology)
