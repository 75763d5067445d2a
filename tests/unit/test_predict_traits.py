"""What a run declares of itself, or its name and image tell: read, and used where nothing was seen."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.kinds.job import Job
from clusters.kubernetes.annotations import parse_hints
from scheduler.cli.main import invoke
from scheduler.model.traits import NO_TRAITS, Traits, inferred
from scheduler.model.workload import Hints
from scheduler.predict.learned import WORK, LearnedPredictor
from scheduler.predict.learning import Began, Learning
from scheduler.predict.throughput import Configuration
from scheduler.predict.work import Efficiencies, log_peak_speed
from tests.unit.engine_world import NOW, pods, pool, workload

LLAMA = Traits(8e9, 4096, "bf16", "pytorch")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("llama-3-8b-seq4096-bf16", Traits(8e9, 4096, "bf16")),
        ("nvcr.io/nvidia/pytorch:24.05-py3", Traits(framework="pytorch")),
        ("registry.example/nemo:24.01", Traits(framework="megatron")),
        ("opt_350m_ctx-2k", Traits(3.5e8, 2048)),
        ("qwen2.5-1.5b-context-length-32768", Traits(1.5e9, 32768)),
        ("mixtral-8x7b", NO_TRAITS),
        ("nightly-10m", NO_TRAITS),
        ("resnet50", NO_TRAITS),
        ("bert-half-0b-seq0", Traits(precision="fp16")),
        ("sequence-to-sequence", NO_TRAITS),
    ],
)
def test_words_that_tell(text: str, want: Traits) -> None:
    assert inferred([text]) == want
    assert inferred(["7b", text]).parameters == 7e9


@given(st.lists(st.text(max_size=40), max_size=4))
def test_any_words_tell_what_can_be_or_nothing(texts: list[str]) -> None:
    told = inferred(texts)
    assert told.parameters is None or 0 < told.parameters < 1e14
    assert told.sequence_length is None or told.sequence_length > 0


@pytest.mark.parametrize(
    ("name", "said", "want", "want_problem"),
    [
        ("parameters", "7B", Traits(parameters=7e9), ""),
        ("parameters", "1.3b", Traits(parameters=1.3e9), ""),
        ("parameters", "125000000", Traits(parameters=1.25e8), ""),
        ("parameters", "many", NO_TRAITS, "such as 7B"),
        ("parameters", "0", NO_TRAITS, "such as 7B"),
        ("parameters", "99999T", NO_TRAITS, "such as 7B"),
        ("sequence-length", "4096", Traits(sequence_length=4096), ""),
        ("sequence-length", "long", NO_TRAITS, "whole number"),
        ("precision", "BF16", Traits(precision="bf16"), ""),
        ("precision", "exact", NO_TRAITS, "none of fp32"),
        ("framework", "Megatron", Traits(framework="megatron"), ""),
    ],
)
def test_what_is_declared(name: str, said: str, want: Traits, want_problem: str) -> None:
    read = parse_hints({f"overspill.dev/{name}": said}, NOW)
    assert read.hints.traits == want
    assert want_problem in "".join(read.problems)
    assert bool(read.problems) == bool(want_problem)


def test_a_job_is_told_by_its_annotations_first_then_its_model_image_and_name() -> None:
    job = Job().parse(
        {
            "metadata": {
                "name": "tune-fp16",
                "namespace": "ml",
                "uid": "u",
                "creationTimestamp": "2026-01-31T12:00:00Z",
                "labels": {"overspill.dev/queue": "q"},
                "annotations": {"overspill.dev/sequence-length": "8192", "overspill.dev/model": "llama-8b-seq4096"},
            },
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "example/pytorch:2"}]}}},
        }
    )
    assert job.hints.traits == Traits(8e9, 8192, "fp16", "pytorch")


def asked(expected: float | None = None, model: str = "new", traits: Traits = LLAMA, steps: float = 1000.0) -> Hints:
    return Hints(expected, model=model, batch_size=4, total_steps=steps, traits=traits)


def test_the_first_prediction_of_all_is_what_the_arithmetic_says() -> None:
    view = LearnedPredictor()
    job, where = workload("w", pods(1, 8), hints=asked()), pool("a", "x", gpu_model="H100")
    found = view.predict(job, where, 0)
    # 6 x 8e9 x 4096 x 4 operations a step and GPU, eight GPUs, a quarter of 989.4 TFLOPS each.
    want = 1000 * 6 * 8e9 * 4096 * 4 / 8 / (0.25 * 989.4e12)
    assert found.run_seconds == pytest.approx(want)
    assert found.run_log_sd is not None
    assert found.run_log_sd > 0.8
    slower = view.predict(job, pool("a", "y", gpu_model="A100-80GB"), 0).run_seconds
    assert slower == pytest.approx(want * 989.4 / 312)
    assert view.alike(where) != view.alike(pool("a", "x", gpu_model="V100"))
    # Its user knows better than the arithmetic of somebody who was never seen.
    assert view.predict(workload("w", pods(1, 8), hints=asked(3600.0)), where, 0).run_seconds == 3600.0
    assert view.predict(workload("w", pods(1, 8), hints=asked(traits=NO_TRAITS)), where, 0).run_seconds is None
    assert view.predict(job, pool("a", "x", gpu_model="npu-9"), 0).run_seconds is None


def test_models_that_were_seen_teach_what_part_of_the_peak_is_reached() -> None:
    learning, where = Learning(), pool("a", "x", gpu_model="A100-80GB")
    for index, reached in enumerate((0.4, 0.42, 0.38, 0.41)):
        traits = Traits((index + 1) * 1e9, 2048, "bf16", "pytorch")
        seen = Configuration(f"m{index}", 4, "A100-80GB", 8)
        peak = log_peak_speed(traits, seen)
        assert peak is not None
        job = workload(f"w{index}", pods(1, 8), hints=asked(model=f"m{index}", traits=traits))
        learning.began(Began(f"u{index}", NOW, job, where))
        learning = Learning.from_state(json.loads(json.dumps(learning.state())))
        learning.speed(f"u{index}", reached * math.exp(peak))
    learning.learn_anew(NOW + 1)
    new = asked(traits=Traits(13e9, 2048, "bf16", "pytorch"))
    job = workload("new", pods(1, 8), hints=new)
    view = Learning.from_state(json.loads(json.dumps(learning.state()))).predictor(NOW + 2)
    said = view.run_seconds(job, where)[WORK]
    best = log_peak_speed(new.traits, Configuration("new", 4, "A100-80GB", 8))
    assert best is not None
    assert said.low < 1000 / (0.4 * math.exp(best)) < said.high
    assert said.median == pytest.approx(1000 / (0.36 * math.exp(best)), rel=0.1)
    before = LearnedPredictor().predict(job, where, 0).run_log_sd
    assert said.log_sd is not None
    assert before is not None
    assert said.log_sd < before
    # Without its arithmetic: as models usually go there, which is far less sure.
    blind = view.run_seconds(workload("new", pods(1, 8), hints=asked(traits=NO_TRAITS)), where)[WORK]
    assert blind.log_sd is not None
    assert blind.log_sd > said.log_sd


@given(st.lists(st.tuples(st.floats(), st.sampled_from(("a", "b", "c"))), max_size=30))
def test_what_cannot_be_teaches_no_efficiency(told: list[tuple[float, str]]) -> None:
    seen = Efficiencies()
    for speed, model in told:
        seen.learn(LLAMA, Configuration(model, 4, "H100", 8), speed)
    said = seen.view().speed(LLAMA, Configuration("new", 4, "H100", 8))
    assert said is not None
    assert 0 < said.low < said.median < said.high < math.inf
    assert Efficiencies.from_state(json.loads(json.dumps(seen.state()))).view() == seen.view()


@pytest.mark.parametrize(
    "state", [[["m", "", []]], [["m", "", [math.nan]]], [["m", "", [9.0]]], [["m", "", [-1.0] * 99]]]
)
def test_efficiencies_that_cannot_be_are_refused(state: list[object]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Efficiencies.from_state(state)


def test_a_table_may_say_what_its_models_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every model reaches a third of the peak, and their sizes differ by a factor of forty."""
    sizes = {"a": 2e8, "b": 6e8, "c": 2e9, "d": 8e9}
    header = "model,batch_size,scale_factor,gpu,consolidated,steps_per_s"
    lines, plain = [f"{header},parameters,sequence_length,precision"], [header]
    for model, size in sizes.items():
        for gpu in ("V100", "A100-80GB", "H100"):
            for batch in (4, 16):
                peak = log_peak_speed(Traits(size, 1024, "fp16"), Configuration(model, batch, gpu, 1))
                assert peak is not None
                plain.append(f"{model},{batch},1,{gpu},1,{math.exp(peak) / 3:.6g}")
                lines.append(f"{plain[-1]},{size:.0f},1024,fp16")
    declared, bare = tmp_path / "declared.csv", tmp_path / "bare.csv"
    declared.write_text("\n".join(lines) + "\n")
    bare.write_text("\n".join(plain) + "\n")
    found = {}
    for path in (declared, bare):
        assert invoke(["model", "evaluate", "--throughput", str(path), "--holdout", "model", "--json"]) == 0
        found[path.stem] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["declared"]["median_ape"] < 0.3 < found["bare"]["median_ape"]
    assert found["declared"]["coverage_90"] == 1.0
    assert found["declared"]["log_width_90"] < found["bare"]["log_width_90"]
