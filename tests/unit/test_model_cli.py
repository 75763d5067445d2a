"""`overspill model evaluate`: what it says of a log, and of input that it cannot use. Champion and challenger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from scheduler.cli import model_durations
from scheduler.cli.main import invoke
from scheduler.predict.champion import Choice, choose
from scheduler.predict.prequential import Ended, Predictions, predict_all


def write_log(path: Path, runs: int) -> Path:
    """Two queues: runs of one take about 100 s, of the other about 3,000 s; all one GPU."""
    noise = np.exp(np.random.default_rng(7).normal(0.0, 0.2, runs))
    lines = [f"{60 * at},{(100 if at % 2 else 3000) * noise[at]:.3f},1,{'ab'[at % 2]}" for at in range(runs)]
    path.write_text("arrival_s,duration_s,num_gpus,vc\n" + "\n".join(lines) + "\n")
    return path


def test_it_knows_queues_apart_and_says_how_sure_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Just enough to report a thousand and a half: 6,000 took 11 s of CPU, and on a busy machine longer than a test may.
    log = write_log(tmp_path / "runs.csv", 2500)
    assert invoke(["model", "evaluate", "--durations", str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["runs"] == 1500
    # The noise alone: the median of |N(0, 0.2)| is 0.135.
    assert found["median_ape"] < 0.16
    assert found["within_2x"] > 0.99
    assert 0.86 < found["coverage_90"] < 0.94
    assert found["baselines"]["global_median"]["within_2x"] < 0.6


def test_a_log_is_predicted_by_one_openmp_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> set[int]:
        return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "openmp"}

    within: list[set[int]] = []

    def watched(log: Sequence[Ended]) -> Predictions:
        within.append(threads())
        return predict_all(log)

    monkeypatch.setattr(model_durations, "predict_all", watched)
    log = write_log(tmp_path / "few.csv", 20)
    with threadpool_limits(limits=2, user_api="openmp"):
        assert invoke(["model", "evaluate", "--durations", str(log)]) == 2
        assert threads() == {2}  # as they were
    assert within == [{1}]


NAMES = ("learned", "factorisation_rank_1", "gradient_boosting", "global_median")


def test_no_word_of_the_tables_is_cut_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = dict.fromkeys(("median_ape", "mean_ape", "rmsle", "within_2x", "concordance", "coverage_90"), 12.345)
    left = {"runs": 123_456, "median_ape": 12.345, "mean_log_error": 12.345, "coverage_90": 0.9}
    found = scores | {
        "baselines": dict.fromkeys(NAMES[1:], scores),
        "coverage_90_by_gpu": {f"gpu-{at}": 0.9 for at in range(9)},
        "remaining": {"216000": left | {"baselines": dict.fromkeys(NAMES[1:], left)}},
    }
    monkeypatch.setattr(model_durations, "evaluate_durations", lambda path, from_day: found)
    monkeypatch.setenv("COLUMNS", "80")
    assert invoke(["model", "evaluate", "--durations", "any.csv"]) == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    for word in (*NAMES, "median", "mean", "concordance", "coverage", "log", "error", "123456", "12.345", "gpu-8"):
        assert word in told.split(), told
    assert told.count("coverage") == 2


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ([], "--durations, --serving, --throughput or --colocation"),
        (["--durations", "missing.csv"], "missing.csv"),
        (["--durations", "few.csv"], "too few runs"),
        (["--durations", "few.csv", "--serving", "few.csv"], "name one file"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    arguments: list[str],
    want: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "few.csv", 20)
    assert invoke(["model", "evaluate", *arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert want in told[0]


@pytest.mark.parametrize(
    ("champion", "challenger", "want_wins"),
    [
        (None, [5.0, 5.0], True),
        (None, [np.nan, 5.0], False),
        ([5.0, 5.0], [5.0, np.inf], False),
        ([5.0, 5.0], [4.0, 6.0], False),
        ([4.0, 6.0], [5.0, 5.0], True),
        ([4.0, 4.0], [3.99, 3.99], True),
    ],
)
def test_a_challenger_that_is_worse_on_the_newest_runs_is_sent_back(
    champion: list[float] | None, challenger: list[float], want_wins: bool
) -> None:
    told = None if champion is None else np.array(champion)
    choice = choose(told, np.array(challenger), np.array([5.0, 5.0]))
    assert isinstance(choice, Choice)
    assert choice.challenger_wins is want_wins


def write_speeds(path: Path) -> Path:
    """Four workloads on three GPUs, one of which nobody has heard of: each twice as fast as the one before it."""
    lines = [
        f"m{model},{batch},{gpus},{gpu},1,{gpus * 2.0**faster * 100 / (model + 2) / (batch + 16):.5f}"
        for model in range(4)
        for batch in (16, 64)
        for gpus in (1, 2)
        for faster, gpu in enumerate(("K80", "P100", "npu-9"))
    ]
    path.write_text("model,batch_size,scale_factor,gpu,consolidated,steps_per_s\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("holdout", ["pair", "two-batch"])
def test_speeds_of_a_pair_never_seen(holdout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_speeds(tmp_path / "speeds.csv")
    assert invoke(["model", "evaluate", "--throughput", str(table), "--holdout", holdout, "--json"]) in (0, 2)
    told = capsys.readouterr()
    if holdout == "two-batch":
        # One model with its batch size has two rows on a GPU: both are given back, and nothing is left to ask for.
        assert "fuller table" in told.err
        return
    found = json.loads(told.out.splitlines()[-1])
    assert found["predicted"] == 96
    assert found["median_ape"] < 0.15
    assert 0.5 < found["coverage_90"] <= 1.0
    assert found["baselines"]["hardware_ratio"]["answers"] < 1.0
    assert set(found["baselines"]) >= {"nearest_neighbour", "factorisation_rank_1", "gradient_boosting"}


@pytest.mark.parametrize(
    ("header", "row", "arguments", "want"),
    [
        ("model,gpu", "a,v100", [], "no column batch_size"),
        ("model,batch_size,scale_factor,gpu,consolidated,steps_per_s", "a,16,0,v100,1,2", [], "scale_factor"),
        ("model,batch_size,scale_factor,gpu,consolidated,steps_per_s", "a,16,1,v100,1,-2", [], "steps_per_s"),
        ("model,batch_size,scale_factor,gpu,consolidated,steps_per_s", "a,16,1,v100,1,2", [], "under 3 models"),
        (
            "model,batch_size,scale_factor,gpu,consolidated,steps_per_s",
            "a,,1,v1,1,2",
            ["--holdout", "all"],
            "pair-batch",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_told_in_one_line(
    header: str, row: str, arguments: list[str], want: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "speeds.csv"
    table.write_text(f"{header}\n{row}\n")
    assert invoke(["model", "evaluate", "--throughput", str(table), *arguments]) == 2
    told = capsys.readouterr().err
    assert want in told
    assert len(told.strip().splitlines()) == 1


def test_the_fitted_model_is_written_for_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skl2onnx")
    out = tmp_path / "speeds.onnx"
    table = write_speeds(tmp_path / "speeds.csv")
    assert invoke(["model", "export", "--throughput", str(table), "--out", str(out)]) == 0
    assert out.stat().st_size > 1000
    assert "4 models on 3 GPUs" in " ".join(capsys.readouterr().out.split())
