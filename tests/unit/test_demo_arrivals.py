from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from scheduler.cli.demo.arrivals import draw_jobs, read_trace
from scheduler.model.errors import InvalidObjectError

HEADER = "arrival_s,duration_s,num_gpus,vc\n"


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_trace_is_read_from_its_earliest_arrival_on(tmp_path: Path) -> None:
    path = written(tmp_path, HEADER + "500,60,1,a\n\n400,30.5,16,b2-c\n900,1,8,a\n")
    jobs = read_trace(path)
    assert [(job.name, job.at_seconds, job.run_seconds, job.gpus, job.queue) for job in jobs] == [
        ("job-00002", 0.0, 30.5, 16, "b2-c"),
        ("job-00001", 100.0, 60.0, 1, "a"),
        ("job-00003", 500.0, 1.0, 8, "a"),
    ]
    assert all(job.hint_seconds >= 1.0 for job in jobs)


@pytest.mark.parametrize(
    ("first", "count", "want"),
    [
        (0, None, ["job-00001", "job-00002", "job-00003"]),
        (0, 2, ["job-00001", "job-00002"]),
        (1, 1, ["job-00002"]),
        (2, 9, ["job-00003"]),
    ],
)
def test_from_and_jobs(tmp_path: Path, first: int, count: int | None, want: list[str]) -> None:
    path = written(tmp_path, HEADER + "1,60,1,a\n2,60,1,a\n3,60,1,a\n")
    jobs = read_trace(path, first=first, count=count)
    assert [job.name for job in jobs] == want
    assert jobs[0].at_seconds == 0.0


def test_columns_may_come_in_any_order_beside_others_and_gzipped(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("vc,user,num_gpus,duration_s,arrival_s\nq,me,4,9,7\n")
    (job,) = read_trace(path)
    assert (job.queue, job.gpus, job.run_seconds) == ("q", 4, 9.0)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("", "trace.csv: the file is empty"),
        ("arrival_s,duration_s,vc\n", "trace.csv:1: no column num_gpus"),
        (HEADER, "trace.csv: no job after its first 0 rows"),
        (HEADER + "1,60,1\n", "trace.csv:2: 3 cells where the header names 4"),
        (HEADER + "1,60,1,a\nx,60,1,a\n", "trace.csv:3: arrival_s: 'x' is not a number of seconds"),
        (HEADER + "-1,60,1,a\n", "trace.csv:2: arrival_s: '-1'"),
        (HEADER + "nan,60,1,a\n", "trace.csv:2: arrival_s: 'nan'"),
        (HEADER + "1,0,1,a\n", "trace.csv:2: duration_s: '0'"),
        (HEADER + "1,inf,1,a\n", "trace.csv:2: duration_s: 'inf'"),
        (HEADER + "1,60,0,a\n", "trace.csv:2: num_gpus: '0'"),
        (HEADER + "1,60,1.5,a\n", "trace.csv:2: num_gpus: '1.5'"),
        (HEADER + "1,60,99999999999999,a\n", "trace.csv:2: num_gpus"),
        (HEADER + "1,60,1,\n", "trace.csv:2: vc: ''"),
        (HEADER + "1,60,1,Not A Queue\n", "trace.csv:2: vc: 'Not A Queue'"),
        (HEADER + '1,60,1,"a' + "x" * 200_000, "trace.csv:"),
    ],
)
def test_a_malformed_trace_names_file_and_line(tmp_path: Path, text: str, want: str) -> None:
    with pytest.raises(InvalidObjectError) as caught:
        read_trace(written(tmp_path, text))
    assert want in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"not gzip at all", gzip.compress(HEADER.encode(), mtime=0)[:-9], b"\x1f\x8b"])
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(content)
    with pytest.raises(InvalidObjectError, match="not readable as a CSV file"):
        read_trace(path)


def test_binary_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InvalidObjectError, match="not readable as a CSV file"):
        read_trace(path)


def test_drawn_jobs_are_the_same_for_the_same_seed() -> None:
    assert draw_jobs(40, seed=7) == draw_jobs(40, seed=7)
    assert draw_jobs(40, seed=7) != draw_jobs(40, seed=8)


@pytest.mark.parametrize("count", [1, 2, 12, 60, 500])
def test_drawn_jobs_are_as_many_as_asked_and_in_order(count: int) -> None:
    jobs = draw_jobs(count)
    assert len(jobs) == count
    assert len({job.name for job in jobs}) == count
    assert [job.at_seconds for job in jobs] == sorted(job.at_seconds for job in jobs)
    assert jobs[0].at_seconds == 0.0
    assert all(job.run_seconds > 0 and job.hint_seconds >= 1 for job in jobs)


def test_drawn_singles_follow_the_published_figures() -> None:
    singles = [job for job in draw_jobs(20_000, seed=1) if not (job.queue == "vision" and job.gpus >= 8)]
    runs = sorted(job.run_seconds for job in singles)
    assert 1100 < runs[len(runs) // 2] < 1300  # the log's 47.5 % quantile: its longest tenth is left out
    assert 0.92 < sum(job.gpus == 1 for job in singles) / len(singles) < 0.96


def test_hints_are_wrong_but_not_biased() -> None:
    ratios = sorted(job.hint_seconds / job.run_seconds for job in draw_jobs(4000, seed=3))
    assert 0.9 < ratios[len(ratios) // 2] < 1.1
    assert ratios[0] < 0.5
    assert ratios[-1] > 2
