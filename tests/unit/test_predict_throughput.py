"""Learned throughput: what it says of what it has seen, has seen in part, and has never seen."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import numpy as np
import pytest

from scheduler.predict.hardware import GPUS, facts_of
from scheduler.predict.throughput import Configuration, Spread, ThroughputModel
from scheduler.predict.throughput_kernels import COMPUTE, TRANSFER, covariance, product

GPU_SPEEDS = {"k80": 1.0, "p100": 3.0, "v100": 5.0}


def world(model: str, batch: int, gpu: str, gpus: int, consolidated: bool = True) -> float:
    """Steps per second of made-up workloads whose step is batch work plus an exchange of gradients."""
    heavy = {"a": 0.01, "b": 0.05, "c": 0.2, "d": 0.02}[model]
    transfer = 0.0 if gpus == 1 else (0.02 if consolidated else 0.1) * heavy * 20
    return gpus / (heavy * (1 + batch / 16) / GPU_SPEEDS[gpu] + transfer)


def taught(leave_out: tuple[tuple[str, str], ...] = ()) -> ThroughputModel:
    model = ThroughputModel()
    for name in "abcd":
        for gpu in GPU_SPEEDS:
            for batch in (16, 64):
                for gpus, together in ((1, True), (2, True), (4, True), (4, False)):
                    if (name, gpu) not in leave_out:
                        model.observe(
                            Configuration(name, batch, gpu, gpus, together), world(name, batch, gpu, gpus, together)
                        )
    model.refit()
    return model


@pytest.fixture(scope="module")
def full() -> ThroughputModel:
    return taught()


@pytest.fixture(scope="module")
def partial() -> dict[str, Any]:
    """The state of a model that never saw d on the V100."""
    state: dict[str, Any] = json.loads(json.dumps(taught((("d", "v100"),)).state()))
    return state


def said(model: ThroughputModel, configuration: Configuration) -> Spread:
    found = model.predict(configuration)
    assert found is not None
    assert 0 < found.low < found.median < found.high
    return found


def off(model: ThroughputModel, *where: Any) -> float:
    return abs(said(model, Configuration(*where)).median / world(*where) - 1)


def test_nothing_follows_from_nothing() -> None:
    model = ThroughputModel()
    model.refit()
    assert model.predict(Configuration("a", 16, "v100", 1)) is None


def test_what_was_seen_is_said_again_in_any_spelling(full: ThroughputModel) -> None:
    assert said(full, Configuration("a", 16, " V100", 1, False)).median == pytest.approx(world("a", 16, "v100", 1))


def test_between_batch_sizes_seen(full: ThroughputModel) -> None:
    assert off(full, "b", 32, "p100", 1) < 0.2


def test_a_pair_never_seen_follows_from_the_others(partial: dict[str, Any]) -> None:
    model = ThroughputModel.from_state(partial)
    assert max(off(model, "d", 16, "v100", 1), off(model, "d", 64, "v100", 4, False)) < 0.25


def test_one_own_observation_moves_what_is_said_of_its_pair_without_a_refit(partial: dict[str, Any]) -> None:
    """A slow V100: all of d runs there at half the speed that the others suggest."""
    model = ThroughputModel.from_state(partial)
    asked = Configuration("d", 64, "v100", 1)
    before = said(model, asked)
    model.observe(Configuration("d", 16, "v100", 1), world("d", 16, "v100", 1) * 0.5)
    after = said(model, asked)
    truth = 0.5 * world("d", 64, "v100", 1)
    assert abs(math.log(after.median / truth)) < 0.5 * abs(math.log(before.median / truth))
    assert after.high / after.low < before.high / before.low


def test_less_known_is_wider(full: ThroughputModel) -> None:
    def width(*where: Any) -> float:
        found = said(full, Configuration(*where))
        return found.high / found.low

    assert width("a", 16, "v100", 1) < width("a", 24, "v100", 1) < width("a", 16, "h100", 1)
    assert width("a", 24, "v100", 1) < width("never", 16, "v100", 1)


def test_gpus_never_seen_follow_from_their_data_sheet_and_are_said_where_there_is_none(full: ThroughputModel) -> None:
    slow, fast, strange = (said(full, Configuration("c", 16, gpu, 1)) for gpu in ("t4", "NVIDIA-H100-80GB", "npu-9"))
    assert fast.median > 3 * slow.median
    assert math.isfinite(strange.median)


def test_half_a_gpu_is_slower(full: ThroughputModel) -> None:
    half = said(full, Configuration("c", 16, "v100", 1, True, 0.5)).median
    assert 0.35 < half / world("c", 16, "v100", 1) < 0.8


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration("a", 16, "v100", 0),
        Configuration("a", 0, "v100", 1),
        Configuration("a", 16, "v100", 1, True, 0.0),
        Configuration("a", 16, "v100", 1, True, 1.5),
        Configuration("a", 16, "v100", 1, True, math.nan),
    ],
)
def test_what_cannot_be_is_unknown_and_teaches_nothing(configuration: Configuration, full: ThroughputModel) -> None:
    assert full.predict(configuration) is None
    model = ThroughputModel()
    model.observe(configuration, 1.0)
    assert model.refused == 1
    assert model.state()["cells"] == []


def test_state_is_json_and_says_the_same_again(full: ThroughputModel) -> None:
    told = json.loads(json.dumps(full.state()))
    again = ThroughputModel.from_state(told)
    asked = [Configuration(name, 24, gpu, 2) for name in ("a", "never") for gpu in ("v100", "h100")]
    assert again.state() == full.state()
    for mine, theirs in zip(again.predict_many(asked), full.predict_many(asked), strict=True):
        assert mine is not None
        assert theirs is not None
        assert mine.median == pytest.approx(theirs.median)


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 1},
        {"cells": [["a", 16, "v100", 0, True, 1.0, [0.0]]]},
        {"cells": [["a", 16, "v100", 1, True, 1.0, [math.nan]]]},
        {"cells": [["a"]]},
        {"fit": {"cells": [], "log_seconds": [1.0], "weights": [], "margins": [1, 1, 1]}},
        {"fit": {"cells": [], "log_seconds": [], "weights": [], "margins": {"any": [1, 1], "by_gpu": {}}}},
        {"refused": "many"},
    ],
)
def test_a_damaged_state_is_refused_with_the_remedy(damage: dict[str, Any], partial: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="learn it anew"):
        ThroughputModel.from_state({**partial, **damage})


def test_many_at_once_are_as_one_by_one_and_quick(full: ThroughputModel) -> None:
    """1,000 classes, of which 4 were seen, on 500 offerings of 15 GPU models, in one node or several."""
    gpus = [*GPU_SPEEDS, "t4", "a10", "a10g", "l4", "l40s", "a100-40gb", "a100-80gb", "h100", "h200", "b200", "x", "y"]
    asked = [
        Configuration("abcd"[n] if n < 4 else f"w{n}", 24, gpus[place % 15], 2 ** (n % 4), place % 2 == 0)
        for n in range(1000)
        for place in range(30)
    ]
    found = full.predict_many(asked)
    assert found[17] == full.predict(asked[17])
    began = time.process_time()
    assert full.predict_many(asked) == found
    assert time.process_time() - began < 2.0
    assert None not in found


def test_memory_is_bounded() -> None:
    model = ThroughputModel()
    for number in range(4_100):
        model.observe(Configuration(f"w{number}", 16, "v100", 1), 1.0)
    assert len(model.state()["cells"]) == 4_000


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("v100", "V100"),
        ("Tesla-V100-SXM2-16GB", "V100"),
        ("Tesla V100-PCIE-16GB", "V100-PCIE"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80GB"),
        ("nvidia-tesla-a100", "A100"),
        ("A10G", "A10G"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIE"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-ADA"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("MI300X", None),
    ],
)
def test_gpus_are_known_by_their_usual_names(name: str, want: str | None) -> None:
    assert facts_of(name) == (None if want is None else GPUS[want])


@pytest.mark.parametrize("name", sorted(GPUS))
def test_each_gpu_has_its_source_and_possible_numbers(name: str) -> None:
    facts = GPUS[name]
    assert facts.source
    assert facts.memory_gb > 0
    assert facts.memory_gb_per_s is None or facts.memory_gb_per_s > 0
    assert facts.fp32_tflops is None or facts.fp16_tflops is None or facts.fp16_tflops >= facts.fp32_tflops


def test_onnx_says_the_same() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from scheduler.predict.margins import Margins
    from scheduler.predict.throughput_fit import NORMAL_95, Learned, fit
    from scheduler.predict.throughput_kernels import prior_weights
    from scheduler.predict.throughput_onnx import inputs, to_onnx

    cells = [
        (Configuration(name, batch, gpu, gpus), math.log(world(name, batch, gpu, gpus)))
        for name in "abc"
        for gpu in GPU_SPEEDS
        for batch in (16, 64)
        for gpus in (1, 4)
    ]
    fitted = fit(cells, Learned(prior_weights(), Margins((1.1, 1.2, 1.3), {"v100": (0.9, 1.0, 1.4)})))
    assert fitted is not None
    asked = [one for one, _ in cells] + [
        Configuration("a", 24, "v100", 2, False),
        Configuration("d", None, "h100", 16, True, 0.25),
        Configuration("d", 8, "npu-9", 1),
    ]
    graph = onnxruntime.InferenceSession(to_onnx(fitted))
    (found,) = graph.run(None, {"configurations": inputs(fitted, asked)})
    middle, spread = fitted.predict(asked)
    width = NORMAL_95 * spread * fitted.margin(asked)
    assert np.log(found) == pytest.approx(np.stack([middle - width, middle, middle + width], axis=1), abs=1e-9)
    assert json.loads(graph.get_modelmeta().custom_metadata_map["overspill"])["gpus"]["v100"] == 2


@pytest.mark.parametrize("parts", [COMPUTE, TRANSFER])
def test_planned_sums_are_the_sums_of_the_parts(parts: tuple[str, ...]) -> None:
    draw = np.random.default_rng(1)
    names = {name for part in parts for name in part.split("*")}
    alike = {name: np.ones((3, 4)) if name == "1" else draw.random((3, 4)) for name in sorted(names | {"1"})}
    weights = draw.random(len(parts))
    plain = sum(weight * product(part, alike) for weight, part in zip(weights, parts, strict=True))
    assert covariance(parts, weights, alike) == pytest.approx(plain)
