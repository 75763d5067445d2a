"""The detector bank: calibration, thinning, the fleet's threshold, what is stored."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from scheduler.aiops import calibration
from scheduler.aiops.bank import Bank, new_bank, observe, rearrange, restored, stored
from scheduler.aiops.calibration import Tail, alarm_threshold, fit_tail, thin
from scheduler.aiops.evaluation import LabelledSeries, evaluate, score_series
from scheduler.aiops.nab import Scored
from scheduler.aiops.series import MOST_SERIES, Floats, empty, samples
from scheduler.model.errors import InvalidObjectError


def noise(rounds: int, rows: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).normal(50.0, 5.0, (rounds, rows))


def fed(bank: Bank, history: Floats, first: int = 0) -> tuple[Bank, Floats]:
    told = []
    for row, values in enumerate(history, start=first):
        bank, scores = observe(bank, samples(np.full(bank.rows, 60.0 * row), values))
        told.append(scores.score)
    return bank, np.array(told)


def series(name: str, values: Floats) -> LabelledSeries:
    return LabelledSeries(name, 300.0 * np.arange(len(values)), values, ())


def calibrated(surprises: Floats, *, arrived: bool = True) -> Floats:
    columns = empty(calibration.FIELDS, surprises.shape[1])
    scores = []
    for one in surprises:
        columns, score = calibration.calibrate(columns, one, np.full(len(one), arrived))
        scores.append(score)
    return np.array(scores)


def test_scores_do_not_look_ahead_nor_at_other_series() -> None:
    history = noise(400, 3)
    whole = score_series([series(f"{column}.csv", history[:, column]) for column in range(3)])
    (alone,) = score_series([series("1.csv", history[:250, 1])])
    np.testing.assert_allclose(whole[1][:250], alone, rtol=1e-9)


@pytest.mark.parametrize("scale", [0.5, 1.0, 8.0])
def test_calibration_makes_up_for_a_wrong_model(scale: float) -> None:
    """A score above ln 1000 comes about once in 1,000, whether the model takes surprise for too small or too large."""
    surprises = np.random.default_rng(5).exponential(scale, (4000, 50))
    passed = (calibrated(surprises)[1000:] > math.log(1000.0)).mean()
    assert 0.0003 < passed < 0.003


def test_a_silence_does_not_get_used_to_itself() -> None:
    silence = np.linspace(0.0, 300.0, 300)[:, None]
    assert calibrated(silence, arrived=False)[-1, 0] > calibrated(silence)[-1, 0]
    np.testing.assert_array_equal(np.diff(calibrated(silence, arrived=False)[20:, 0]) > 0, True)


def test_a_flat_series_that_moves_is_no_certainty() -> None:
    history = np.full((200, 1), 5.0)
    history[-1] = 6.0
    _, told = fed(new_bank(1), history)
    assert (told[:-1] == 0).all()
    assert 10.0 < told[-1, 0] < 40.0


def test_of_a_burst_only_what_is_clearly_higher_is_told() -> None:
    columns = empty(calibration.BURST_FIELDS, 1)
    told = []
    for score in [0.0, 5.0, 4.0, 5.5, 6.5, 7.0, np.nan, *[0.0] * calibration.QUIET_SAMPLES, 3.0]:
        columns, one = thin(columns, np.array([score]))
        told.append(float(one[0]))
    assert told[:7] == [0.0, 5.0, 0.0, 0.0, 6.5, 0.0, 0.0]
    assert told[-1] == 3.0


@pytest.mark.parametrize(("shape", "want"), [(0.0, 2.0 + 3.0 * math.log(100.0)), (0.5, 2.0 + 6.0 * (10.0 - 1.0))])
def test_the_threshold_of_a_known_tail(shape: float, want: float) -> None:
    tail = Tail(start=2.0, share=0.01, scale=3.0, shape=shape)
    assert tail.threshold(0.0001) == pytest.approx(want)
    assert tail.threshold(0.5) == 2.0


@pytest.mark.parametrize("per_day", [1e5, 1e7])
def test_the_rate_of_false_alarms_is_held_as_the_fleet_grows(per_day: float) -> None:
    """Fitted on a clean stretch; counted on ten other days of a fleet of that size, at 5 alarms a day."""
    rng = np.random.default_rng(11)
    tail = fit_tail(rng.exponential(1.0, 200_000), 200_000)
    threshold = alarm_threshold(tail, alarms_per_day=5.0, samples_per_day=per_day)
    expected = per_day * math.exp(-threshold)
    assert 1.0 < expected < 20.0


@pytest.mark.parametrize(
    ("act", "want"),
    [
        (lambda: fit_tail(np.ones(10), 1000), "10 peaks in 1000 samples; a tail needs 51"),
        (lambda: alarm_threshold(Tail(1, 1, 1, 0), alarms_per_day=0, samples_per_day=1), "must be above zero"),
        (lambda: new_bank(MOST_SERIES + 1), "at most 2000000"),
        (lambda: new_bank(3, ["nope"]), "no detector 'nope'"),
        (lambda: observe(new_bank(2), samples([0.0], [1.0])), "1 samples for a bank of 2 series"),
        (lambda: samples([0.0], [1.0, 2.0]), "of one length"),
        (lambda: samples([np.nan], [1.0]), "every row needs a time"),
        (lambda: restored({"peers@1/count": np.zeros(2)}), "peers: columns"),
        (lambda: restored({"peers@1/count": np.zeros(2), "peers@1/recent": np.zeros(3)}), "'recent'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(act: Callable[[], object], want: str) -> None:
    with pytest.raises(InvalidObjectError, match=want):
        act()


def test_a_stored_bank_goes_on_as_if_nothing_had_happened() -> None:
    history = noise(300, 4)
    half, _ = fed(new_bank(4), history[:200])
    _, want = fed(half, history[200:], 200)
    _, got = fed(restored(stored(half)), history[200:], 200)
    np.testing.assert_array_equal(got, want)


def test_state_of_another_version_starts_anew() -> None:
    half, _ = fed(new_bank(2), noise(200, 2))
    old = {key.replace("likelihood@", "likelihood@9").replace("@91", "@9"): one for key, one in stored(half).items()}
    bank = restored(old)
    assert (bank.parts["likelihood"]["count"] == 0).all()
    assert (bank.parts["robust_range"]["count"] == 200).all()


def test_series_come_and_go() -> None:
    half, _ = fed(new_bank(3), noise(200, 3))
    bank = rearrange(half, [2, -1, 0])
    assert bank.parts["likelihood"]["count"].tolist() == [200, 0, 200]
    np.testing.assert_array_equal(bank.parts["seasonal"]["hours"][0], half.parts["seasonal"]["hours"][2])


def test_evaluation_does_not_depend_on_the_order_of_files() -> None:
    files = [Scored("b.csv", np.eye(100)[40], ((40, 49),)), Scored("a.csv", np.eye(100)[60], ((40, 49),))]
    forward, backward = evaluate(files), evaluate(files[::-1])
    assert forward.best == backward.best
    assert forward.found == backward.found
    assert (forward.recall, forward.precision, forward.delay) == (0.5, 0.5, 0.0)


def test_evaluation_of_nothing_is_unknown() -> None:
    found = evaluate([])
    assert (found.recall, found.precision, found.delay) == (None, None, None)
    assert score_series([]) == ()
