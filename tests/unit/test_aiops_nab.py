"""NAB's scoring on small cases that were worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scheduler.aiops.nab import (
    PROFILES,
    Profile,
    Scored,
    best_threshold,
    detections,
    probation_rows,
    score_at,
    sigmoid_worth,
    worths,
)

STANDARD = PROFILES["standard"]


def scored(rows: int, *windows: tuple[int, int], **high: float) -> Scored:
    """Zeros, but `row_N=score`."""
    scores = np.zeros(rows)
    for key, score in high.items():
        scores[int(key.removeprefix("row_"))] = score
    return Scored("a.csv", scores, windows)


@pytest.mark.parametrize(("rows", "want_rows"), [(0, 0), (10, 1), (100, 15), (4032, 604), (5000, 750), (22695, 750)])
def test_probation_is_fifteen_percent_and_no_more_than_750_rows(rows: int, want_rows: int) -> None:
    assert probation_rows(rows) == want_rows


@pytest.mark.parametrize(
    ("position", "want_worth"),
    [(-1.0, 0.98661), (-0.5, 0.84828), (0.0, 0.0), (1.0, -0.98661), (3.0, -1.0), (99.0, -1.0)],
)
def test_the_sigmoid_at_the_points_that_nab_publishes(position: float, want_worth: float) -> None:
    assert sigmoid_worth(np.array([position]))[0] == pytest.approx(want_worth, abs=1e-5)


def test_worths_by_row() -> None:
    worth, window = worths(scored(100, (40, 49)))
    half = (2 / (1 + math.exp(-5 * 0.5)) - 1) / (2 / (1 + math.exp(-5)) - 1)
    assert worth[39] == -1.0  # nothing before it: as bad as far behind
    assert worth[40] == pytest.approx(1.0)
    assert worth[45] == pytest.approx(half)
    assert worth[58] == pytest.approx(2 / (1 + math.exp(5)) - 1)  # nine rows behind, a width of 9
    assert worth[80] == -1.0
    assert window[39:51].tolist() == [-1, *[0] * 10, -1]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_null_detector_has_0_and_the_perfect_one_100(profile: Profile) -> None:
    windows = ((40, 49), (70, 79))
    null = scored(100, *windows)
    perfect = scored(100, *windows, row_40=1.0, row_70=1.0)
    assert score_at([null], profile, math.inf) == 0.0
    assert best_threshold([perfect], profile).normalised == pytest.approx(100.0)
    assert best_threshold([perfect], profile).threshold == 1.0


@pytest.mark.parametrize(
    ("name", "high", "want"),
    [
        ("one of two found", {"row_40": 1.0}, 50.0),
        ("a false alarm far before costs its weight", {"row_40": 1.0, "row_30": 2.0}, (2.0 - 0.11) / 4 * 100),
        ("a lower false alarm is left out", {"row_40": 2.0, "row_30": 1.0}, 50.0),
        ("only the best row of a window counts", {"row_40": 1.0, "row_41": 3.0, "row_49": 2.0}, 50.0),
        ("what lies in the probation costs nothing", {"row_40": 1.0, "row_3": 9.0}, 50.0),
        ("an alarm that is only false is never chosen", {"row_30": 1.0}, 0.0),
    ],
)
def test_standard_score(name: str, high: dict[str, float], want: float) -> None:
    assert best_threshold([scored(100, (40, 49), (70, 79), **high)], STANDARD).normalised == pytest.approx(want), name


def test_a_missed_window_costs_more_where_false_negatives_are_dear() -> None:
    one = [scored(100, (40, 49), (70, 79), row_40=1.0)]
    best = best_threshold(one, PROFILES["reward_low_FN_rate"])
    assert best.raw == pytest.approx(1.0 - 2.0)
    assert best.normalised == pytest.approx(50.0)


def test_one_threshold_holds_for_all_files() -> None:
    """The second file's window is found only at a score at which the first raises 30 false alarms."""
    noisy = scored(100, (40, 49), row_40=5.0, **{f"row_{row}": 2.0 for row in range(60, 90)})
    quiet = scored(100, (40, 49), row_40=1.0)
    best = best_threshold([noisy, quiet], STANDARD)
    assert best.threshold == 5.0
    assert best.normalised == pytest.approx(50.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_sweep_is_what_trying_every_threshold_gives(seed: int, profile: Profile) -> None:
    rng = np.random.default_rng(seed)
    files = [
        Scored(f"{number}.csv", rng.integers(0, 6, 120).astype(float), ((30, 40), (60, 75))) for number in range(3)
    ]
    want = max(score_at(files, profile, threshold) for threshold in [*range(6), math.inf])
    best = best_threshold(files, profile)
    assert best.normalised == pytest.approx(want)
    assert score_at(files, profile, best.threshold) == pytest.approx(want)


def test_detections_by_file() -> None:
    found = detections(scored(100, (40, 49), (70, 79), row_43=2.0, row_44=3.0, row_60=2.0, row_5=9.0), 2.0)
    assert (found.windows, found.found, found.false_alarms) == (2, 1, 1)
    assert list(found.delays) == pytest.approx([3 / 9])
