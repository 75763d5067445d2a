"""Two workloads on one GPU: what is foretold of pairs never seen, what is kept, and how the predictor uses it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scheduler.cli.main import invoke
from scheduler.model.workload import Hints
from scheduler.predict.alike import REPLICAS_LABEL, configuration_of, replicas_of
from scheduler.predict.learned import Known, LearnedPredictor
from scheduler.predict.learning import Began, Learning
from scheduler.predict.sharing import Alone, Beside, SharingModel
from scheduler.predict.sharing_fit import fit_fits
from scheduler.predict.throughput import Configuration, ThroughputModel
from tests.unit.engine_world import pods, pool, workload

SUFFERS = {"a": 0.2, "b": 0.5, "c": 0.9, "d": 0.4}
PRESSES = {"a": 0.7, "b": 0.3, "c": 0.5, "d": 0.9}
"""The log of what is kept is minus the sum of both."""


def kept(own: str, other: str) -> float:
    return math.exp(-SUFFERS[own] - PRESSES[other])


def beside(own: str, other: str, gpu: str = "v100") -> Beside:
    return Beside(Alone(own, 32, 10.0), Alone(other, 32, 10.0), gpu)


def learned(*without: tuple[str, str]) -> SharingModel:
    model = SharingModel()
    for own in SUFFERS:
        for other in PRESSES:
            if (own, other) not in without:
                model.observe(beside(own, other), 10.0 * kept(own, other))
    model.refit()
    return model


def test_a_pair_never_seen_follows_from_what_each_does_to_others() -> None:
    model = learned(("a", "d"), ("d", "a"))
    for own, other in (("a", "d"), ("d", "a")):
        said = model.predict(beside(own, other))
        assert said is not None
        assert said.median == pytest.approx(kept(own, other), rel=0.12)
        assert said.low < kept(own, other) < said.high <= 1.0


def test_of_a_model_never_seen_it_is_less_sure() -> None:
    model = learned()
    known, unknown = model.predict(beside("a", "b")), model.predict(beside("a", "new"))
    assert known is not None
    assert unknown is not None
    assert known.high / known.low < unknown.high / unknown.low
    assert 0 < unknown.low < unknown.median < unknown.high <= 1.0


def test_beside_anyone_each_is_as_likely_and_more_take_more() -> None:
    model = learned()
    one = model.beside_anyone(Alone("a", 32, 10.0), "v100")
    three = model.beside_anyone(Alone("a", 32, 10.0), "v100", others=3)
    assert one is not None
    assert three is not None
    mean = math.exp(np.mean([math.log(kept("a", other)) for other in PRESSES]))
    assert one.median == pytest.approx(mean, rel=0.1)
    assert one.low < min(kept("a", other) for other in PRESSES)
    assert 1 / three.median - 1 == pytest.approx(3 * (1 / one.median - 1))
    assert model.beside_anyone(Alone("a", 32, 10.0), "h100") is None


def test_its_state_says_the_same_and_damage_is_refused() -> None:
    model = learned(("a", "d"))
    state = json.loads(json.dumps(model.state()))
    back = SharingModel.from_state(state)
    assert back.state() == state
    assert back.predict(beside("a", "d")) == model.predict(beside("a", "d"))
    for damage in ({"version": 9}, {"weights": [1.0]}, {"seen": [["a"]]}, {"weights": [float("nan")] * 21}):
        with pytest.raises(ValueError, match="learn it anew"):
            SharingModel.from_state({**state, **damage})


@pytest.mark.parametrize("steps", [0.0, -1.0, math.nan, math.inf, 1e9, 1e-9])
def test_what_cannot_be_teaches_nothing(steps: float) -> None:
    model = learned()
    before = {**model.state(), "refused": 1}
    model.observe(beside("a", "b"), steps)
    assert model.state() == before


def test_which_pairs_fit_is_learned_from_what_each_takes_up() -> None:
    """Sizes 1 to 4 on a GPU of 5: sums up to 5 fit."""
    sizes = {"a": 1, "b": 2, "c": 3, "d": 4}
    every = [(beside(own, other), sizes[own] + sizes[other] <= 5) for own in sizes for other in sizes]
    fit = fit_fits([each for each in every if {each[0].own.model, each[0].other.model} != {"c", "d"}])
    assert fit.chance([beside("c", "d")])[0] < 0.5
    assert fit.chance([beside("a", "b")])[0] > 0.5


def shared_pool(replicas: str) -> Any:
    one = pool("onprem", "shared", gpu_model="V100")
    return replace(one, labels=(*one.labels, (REPLICAS_LABEL, replicas)))


@pytest.mark.parametrize(("said", "want"), [("2", 2), ("1", 1), ("0", 1), ("many", 1), ("", 1), ("12345", 1)])
def test_shares_are_read_from_the_label(said: str, want: int) -> None:
    assert replicas_of(shared_pool(said)) == want


def test_a_share_of_a_gpu_is_foretold_from_whole_ones_until_it_was_seen_itself() -> None:
    speeds = ThroughputModel()
    speeds.observe(Configuration("a", 32, "V100", 1), 10.0)
    speeds.refit()
    job = workload("w", pods(1, 1), hints=Hints(model="a", batch_size=32, total_steps=36_000))
    there = shared_pool("2")
    assert configuration_of(job, there) == Configuration("a", 32, "V100", 1, True, 0.5)
    view = LearnedPredictor(Known(throughput=speeds, sharing=learned()))
    plain = LearnedPredictor(Known(throughput=speeds))
    company = learned().beside_anyone(Alone("a", 32, 10.0), "v100")
    run, proportional = view.predict(job, there, 0).run_seconds, plain.predict(job, there, 0).run_seconds
    assert company is not None
    assert run == pytest.approx(3600 / company.median, rel=0.02)
    assert proportional == pytest.approx(7200, rel=0.05)
    assert view.predict(job, replace(there, labels=()), 0).run_seconds == pytest.approx(3600, rel=0.02)
    assert view.alike(there) != view.alike(replace(there, labels=()))
    speeds.observe(Configuration("a", 32, "V100", 1, True, 0.5), 4.0)
    again = LearnedPredictor(Known(throughput=speeds, sharing=learned())).predict(job, there, 0).run_seconds
    assert again == pytest.approx(9000, rel=0.02)


def test_the_daemon_learns_from_runs_beside_each_other_and_keeps_it() -> None:
    learning, names = Learning(), ("a", "b", "c", "d")
    for name in names:
        learning.throughput.observe(Configuration(name, 32, "V100", 1), 10.0)
    there = shared_pool("2")
    for own in names:
        for other in names:
            for uid, name in ((f"{own}{other}-1", own), (f"{own}{other}-2", other)):
                job = workload(uid, pods(1, 1), hints=Hints(model=name, batch_size=32, total_steps=1e5))
                learning.began(Began(uid, 0.0, job, there))
            learning.speed(f"{own}{other}-1", 10.0 * kept(own, other), beside=f"{own}{other}-2")
    assert len(learning.sharing) == 16
    assert learning.wants_refit
    learning.learn_anew(1.0)
    said = learning.predictor(1.0).known.sharing
    assert said is not None
    found = said.predict(Beside(Alone("new", 32, 10.0), Alone("a", 32, 10.0), "v100"))
    assert found is not None
    back = Learning.from_state(json.loads(json.dumps(learning.state())))
    assert back.sharing.state() == learning.sharing.state()


def write_tables(folder: Path) -> Path:
    """Four models with two batch sizes on two GPUs, every pair in both orders; `d` at 64 beside itself does not fit."""
    speeds, lines = ["model,batch_size,scale_factor,gpu,consolidated,steps_per_s"], []
    works = [(model, batch) for model in SUFFERS for batch in (32, 64)]
    for gpu in ("v100", "k80"):
        speeds += [f"{model},{batch},1,{gpu},1,{320 / batch}" for model, batch in works]
        for own, own_batch in works:
            for other, batch in works:
                steps = (320 / own_batch * kept(own, other), 320 / batch * kept(other, own))
                if (own, own_batch, other, batch) == ("d", 64, "d", 64):
                    steps = (0.0, 0.0)
                sides = f"{own} (batch size {own_batch}),1,{other} (batch size {batch}),1"
                lines.append(f"{gpu},{sides},{steps[0]},{steps[1]}")
    (folder / "gavel_throughput.csv").write_text("\n".join(speeds) + "\n")
    (folder / "pairs.csv").write_text(
        "gpu,job_a,scale_a,job_b,scale_b,steps_per_s_a,steps_per_s_b\n" + "\n".join(lines) + "\n"
    )
    return folder / "pairs.csv"


def test_evaluation_holds_whole_pairs_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = write_tables(tmp_path)
    assert invoke(["model", "evaluate", "--colocation", str(pairs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["median_ape"] < 0.1 < found["baselines"]["median_by_gpu"]["median_ape"]
    assert found["coverage_90"] > 0.85
    assert found["fits"]["do_not_fit"] == 2


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        (["--colocation", "pairs.csv"], "name their table with --throughput"),
        (["--colocation", "pairs.csv", "--throughput", "alone.csv", "--holdout", "two"], "pair, pair-batch, model"),
        (["--colocation", "alone.csv", "--throughput", "alone.csv"], "no column job_a"),
        (["--colocation", "pairs.csv", "--throughput", "alone.csv", "--durations", "x.csv"], "name one file"),
        (["--colocation", "pairs.csv", "--throughput", "alone.csv"], "too few pairs"),
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
    write_tables(tmp_path)
    (tmp_path / "gavel_throughput.csv").rename("alone.csv")
    head = Path("pairs.csv").read_text().splitlines()[:3]
    Path("pairs.csv").write_text("\n".join(head) + "\n")
    assert invoke(["model", "evaluate", *arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert want in told[0]
