"""Throughput learned from a small table made by a known rule; garbage teaches nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scheduler.predict.throughput import Setting, fit

SPEED = {"old": 1.0, "new": 4.0}
TABLE = {
    Setting(model, batch, 1, gpu, True): size * SPEED[gpu] / batch
    for model, size in (("a", 10.0), ("b", 20.0), ("c", 40.0), ("d", 80.0))
    for batch in (16.0, 32.0, 64.0)
    for gpu in SPEED
}


def test_pair_never_seen_follows_the_others() -> None:
    known = {s: y for s, y in TABLE.items() if (s.model, s.gpu) != ("d", "new")}
    asked = [s for s in TABLE if s not in known]
    learned = fit(list(known), list(known.values()))
    assert learned is not None
    answer = learned.predict(asked)
    np.testing.assert_allclose(answer.median, [TABLE[s] for s in asked], rtol=0.1)
    assert np.all(answer.low < answer.median)
    assert np.all(answer.median < answer.high)


@pytest.mark.parametrize("garbage", [-1.0, 0.0, math.nan, math.inf, 1e12])
def test_garbage_moves_nothing(garbage: float) -> None:
    settings, steps = list(TABLE), list(TABLE.values())
    clean = fit(settings, steps)
    dirty = fit([*settings, Setting("a", 16.0, 1, "new", True)], [*steps, garbage])
    assert clean is not None
    assert dirty is not None
    np.testing.assert_array_equal(clean.predict(settings).median, dirty.predict(settings).median)


def test_order_does_not_matter() -> None:
    settings, steps = list(TABLE), list(TABLE.values())
    one, other = fit(settings, steps), fit(settings[::-1], steps[::-1])
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.predict(settings).median, other.predict(settings).median)


def test_nothing_usable_is_no_model() -> None:
    assert fit([Setting("a", None, 1, "old", True)], [0.0]) is None


def test_unknown_model_and_gpu_have_wide_ends() -> None:
    learned = fit(list(TABLE), list(TABLE.values()))
    assert learned is not None
    answer = learned.predict([Setting("x", None, 2, "y", False), Setting("a", 16.0, 1, "new", True)])
    width = np.log(answer.high / answer.low)
    assert np.all(np.isfinite(width))
    assert width[0] > 2 * width[1]
