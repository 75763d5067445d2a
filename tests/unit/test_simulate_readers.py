"""Readers of job logs: what each makes of its rows, and what is said of rows that cannot be."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from scheduler.model.errors import InvalidObjectError
from scheduler.model.resources import Resources
from scheduler.model.workload import PodSet
from scheduler.simulate.readers import read_trace, reader_names

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"
GIB = 2**30


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_own_format(tmp_path: Path) -> None:
    text = (
        "arrival_s,run_s,name,queue,pods,gpus,cpu,memory_gib,gpu_models,priority,deadline_s,checkpoint_s\n"
        "30,60,b,q,2,4,1.5,16,H100|A100-80GB,7,3600,300\n"
        "\n"
        "5,0.5,a,,,,,,,,,\n"
    )
    first, second = read_trace(write(tmp_path / "t.csv", text)).jobs
    assert (first.name, first.arrival_seconds, first.run_seconds, first.queue) == ("a", 5.0, 0.5, "default")
    assert first.pod_sets == (PodSet("main", 1, Resources(4000, 32 * GIB, 0, 1)),)
    assert (first.priority, first.deadline_seconds, first.checkpoint_seconds) == (0, None, None)
    assert (second.name, second.queue, second.priority) == ("b", "q", 7)
    assert second.pod_sets == (PodSet("main", 2, Resources(1500, 16 * GIB, 4, 1), (), (), ("H100", "A100-80GB")),)
    assert (second.deadline_seconds, second.checkpoint_seconds, second.gpus) == (3600.0, 300.0, 8)


@pytest.mark.parametrize(
    ("gpus", "want"), [(1, [(1, 1)]), (8, [(8, 1)]), (12, [(8, 1), (4, 1)]), (16, [(8, 2)]), (20, [(8, 2), (4, 1)])]
)
def test_philly_jobs_are_gangs_of_pods_of_at_most_eight_gpus(
    tmp_path: Path, gpus: int, want: list[tuple[int, int]]
) -> None:
    (job,) = read_trace(write(tmp_path / "p.csv", f"arrival_s,duration_s,num_gpus,vc\n9,8.5,{gpus},vc1\n")).jobs
    assert (job.name, job.arrival_seconds, job.run_seconds, job.queue) == ("job-000000", 9.0, 8.5, "vc1")
    assert [(each.requests.gpus, each.count) for each in job.pod_sets] == want
    assert job.gpus == gpus


def test_gavel_jobs_run_as_measured(tmp_path: Path) -> None:
    write(
        tmp_path / "gavel_throughput.csv",
        "model,batch_size,scale_factor,gpu,consolidated,steps_per_s\n"
        "LM,10,1,v100,1,4\nLM,10,1,k80,1,1\nLM,10,1,p100,1,0\nLM,10,1,v100,0,3\nBig,1,1,p100,1,2\n",
    )
    text = "vc,model,batch_size,scale_factor,total_steps,arrival_s\nx,LM,10,1,400,0\nx,Big,1,1,30,1\nx,LM,10,2,40,2\n"
    found = read_trace(write(tmp_path / "g.csv", text))
    lm, big, wide = found.jobs
    assert (lm.run_seconds, big.run_seconds, wide.run_seconds) == (100.0, 15.0, 10.0)
    assert found.speeds["LM/10/1"] == {"K80": 0.25, "V100": 1.0}
    assert found.speeds["Big/1/1"] == {"P100": 1.0}
    assert lm.pod_sets[0].gpu_models == ("K80", "V100")
    assert wide.gpus == 2


def test_openb_pods(tmp_path: Path) -> None:
    head = (
        "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time"
    )
    rows = ["a,6000,2048,1,500,V100M32|T4,LS,Running,10,110,20", "b,1,1,0,0,,BE,Failed,5,,", "c,1,1,0,0,,BE,X,50,49,49"]
    (job,) = read_trace(write(tmp_path / "o.csv", "\n".join([head, *rows]))).jobs
    assert (job.name, job.arrival_seconds, job.run_seconds, job.queue) == ("a", 10.0, 90.0, "LS")
    assert job.pod_sets == (PodSet("main", 1, Resources(6000, 2 * GIB, 1, 1), (), (), ("V100M32", "T4")),)


def test_gzipped(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write("\ufeffarrival_s,run_s\n1,2\n")
    assert len(read_trace(tmp_path / "t.csv.gz").jobs) == 1


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    rows = [f"{at},{length},{gpus},vc" for at, length, gpus in [(5, 9, 1), (5, 8, 1), (5, 8, 2), (1, 3, 4), (5, 8, 1)]]
    head = "arrival_s,duration_s,num_gpus,vc"
    forth = read_trace(write(tmp_path / "p.csv", "\n".join([head, *rows])))
    assert read_trace(write(tmp_path / "p.csv", "\n".join([head, *reversed(rows)]))) == forth
    assert [job.arrival_seconds for job in forth.jobs] == [1, 5, 5, 5, 5]
    assert len({job.name for job in forth.jobs}) == 5


OWN = "arrival_s,run_s,gpus,name\n"
MISTAKES = [
    ("", "t.csv: the file is empty; the first line must name the columns"),
    ("when,what\n1,2\n", "t.csv:1: no known job log has these columns; known are "),
    (OWN, "t.csv: holds no job"),
    (OWN + "1,2,3\n", "t.csv:2: 3 cells where the header names 4"),
    (OWN + "x,2,3,a\n", "t.csv:2: arrival_s: 'x' is not a number from 0 to "),
    (OWN + "-1,2,3,a\n", "t.csv:2: arrival_s: '-1' is not a number from 0 to "),
    (OWN + "nan,2,3,a\n", "t.csv:2: arrival_s: 'nan' is not a number"),
    (OWN + "inf,2,3,a\n", "t.csv:2: arrival_s: 'inf' is not a number"),
    (OWN + "1,0,3,a\n", "t.csv:2: run_s: '0' is not a number from 0.001 to "),
    (OWN + "1,1e30,3,a\n", "t.csv:2: run_s: '1e30' is not a number"),
    (OWN + "1,,3,a\n", "t.csv:2: run_s: '' is not a number"),
    (OWN + "\n1,2,1.5,a\n", "t.csv:3: gpus: '1.5' is not a whole number"),
    (OWN + "1,2,1000000,a\n", "t.csv:2: gpus: '1000000' is not a number from 0 to 1024"),
    (OWN + "1,2,1,a\n5,2,1,a\n", "t.csv: 2 jobs are called 'a'; give each its own name, or none"),
    (OWN + f"1,2,1,{'x' * 5000}\n", "t.csv:2: a cell is longer than 4096 characters"),
]


@pytest.mark.parametrize(("text", "want"), MISTAKES)
def test_mistakes_name_their_place(tmp_path: Path, text: str, want: str) -> None:
    with pytest.raises(InvalidObjectError) as caught:
        read_trace(write(tmp_path / "t.csv", text))
    assert str(caught.value).startswith(f"{tmp_path}/{want}")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidObjectError, match="no such file"):
        read_trace(tmp_path / "missing.csv")
    (tmp_path / "t.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(InvalidObjectError, match="not readable as a CSV file"):
        read_trace(tmp_path / "t.csv.gz")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidObjectError, match="not readable as a CSV file"):
        read_trace(tmp_path / "b.csv")


def test_a_job_of_an_unmeasured_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "gavel_throughput.csv", "model,batch_size,scale_factor,gpu,consolidated,steps_per_s\n")
    text = "model,batch_size,scale_factor,total_steps,arrival_s\nLM,10,1,400,0\n"
    with pytest.raises(InvalidObjectError, match=r"g\.csv:2: gavel_throughput\.csv has no throughput of LM/10/1"):
        read_trace(write(tmp_path / "g.csv", text))


RECORDED = [
    ("philly_jobs.csv.gz", 62_194, 1.0),
    ("gavel_physical_traces.csv", 196, 1.0),
    ("gavel_philly_traces.csv.gz", 15_264, 1.0),
    ("openb_pods_gpuspec33.csv.gz", 8_152, 0.5),
]


@pytest.mark.parametrize(("name", "rows", "least"), RECORDED)
def test_recorded_logs_are_read_whole(name: str, rows: int, least: float) -> None:
    if not (TRACES / name).exists():
        pytest.skip(f"../shared/data/traces/{name} is not there")
    found = read_trace(TRACES / name)
    assert least * rows <= len(found.jobs) <= rows
    arrivals = [job.arrival_seconds for job in found.jobs]
    assert arrivals == sorted(arrivals)
    assert all(job.run_seconds > 0 and job.pod_sets for job in found.jobs)


def test_a_window_counts_from_its_beginning(tmp_path: Path) -> None:
    found = read_trace(write(tmp_path / "t.csv", "arrival_s,run_s\n1,9\n5,9\n9,9\n10,9\n"))
    assert [job.arrival_seconds for job in found.window(5.0, 5.0).jobs] == [0.0, 4.0]


def test_every_reader_names_its_columns() -> None:
    assert reader_names() == ("gavel", "jobs", "openb", "philly")
