"""`overspill model evaluate`: what it says of a log, and of input that it cannot use. Champion and challenger."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scheduler.cli.main import invoke
from scheduler.predict.champion import Choice, choose


def write_log(path: Path, runs: int) -> Path:
    """Two queues: runs of one take about 100 s, of the other about 3,000 s; all one GPU."""
    noise = np.exp(np.random.default_rng(7).normal(0.0, 0.2, runs))
    lines = [f"{60 * at},{(100 if at % 2 else 3000) * noise[at]:.3f},1,{'ab'[at % 2]}" for at in range(runs)]
    path.write_text("arrival_s,duration_s,num_gpus,vc\n" + "\n".join(lines) + "\n")
    return path


def test_it_knows_queues_apart_and_says_how_sure_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "runs.csv", 6000)
    assert invoke(["model", "evaluate", "--durations", str(log), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    # The noise alone: the median of |N(0, 0.2)| is 0.135.
    assert found["median_ape"] < 0.16
    assert found["within_2x"] > 0.99
    assert 0.86 < found["coverage_90"] < 0.94
    assert found["baselines"]["global_median"]["within_2x"] < 0.6


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ([], "--durations, --serving or --throughput"),
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
