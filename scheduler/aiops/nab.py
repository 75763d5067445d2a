"""The scoring of the Numenta Anomaly Benchmark (Lavin and Ahmad 2015, arXiv:1510.03336; NAB v1.1 `sweeper.py`).

Every row of a file has a worth if it were flagged: inside a window the more the earlier, outside a cost that grows
with the distance behind the last window. Of a window only the best flagged row counts; a window that is missed costs.
One threshold for the whole corpus is chosen for each profile, at which the sum is greatest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.series import Floats

PROBATION_SHARE: Final = 0.15
PROBATION_ROWS: Final = 5000
"""Files longer than this are treated as if they were that long."""
_FAR_BEHIND: Final = 3.0


@dataclass(frozen=True, slots=True)
class Profile:
    true_positive: float
    false_positive: float
    false_negative: float


PROFILES: Final[Mapping[str, Profile]] = MappingProxyType(
    {
        "standard": Profile(1.0, 0.11, 1.0),
        "reward_low_FP_rate": Profile(1.0, 0.22, 1.0),
        "reward_low_FN_rate": Profile(1.0, 0.11, 2.0),
    }
)


@dataclass(frozen=True, slots=True)
class Scored:
    """One file: a score for each row, and its anomaly windows as first and last row, ordered and apart."""

    name: str
    scores: Floats
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """Rows at the start in which nothing is scored."""
        return probation_rows(len(self.scores))


@dataclass(frozen=True, slots=True)
class Best:
    """The best threshold for one profile; rows at or above it are flagged."""

    threshold: float
    raw: float
    normalised: float
    """100 for a detector that flags exactly the first row of each window, 0 for one that never flags."""


def probation_rows(rows: int) -> int:
    return int(min(np.floor(PROBATION_SHARE * rows), PROBATION_SHARE * PROBATION_ROWS))


def sigmoid_worth(position: Floats) -> Floats:
    """2 / (1 + exp(5 y)) - 1 for a position y relative to a window's right edge; -1 from three widths behind it on."""
    near = np.minimum(position, _FAR_BEHIND)
    return np.where(position >= _FAR_BEHIND, -1.0, 2.0 / (1.0 + np.exp(5.0 * near)) - 1.0)


def worths(file: Scored) -> tuple[Floats, NDArray[np.int64]]:
    """Of each row: what it is worth if flagged, unweighted (1 at best, -1 at worst); and its window, -1 for none."""
    rows = np.arange(len(file.scores))
    position = np.full(len(rows), _FAR_BEHIND)
    window = np.full(len(rows), -1, dtype=np.int64)
    for number, (first, last) in enumerate(file.windows):
        behind = rows > last
        position[behind] = (rows[behind] - last) / max(last - first, 1)
        window[first : last + 1] = number
    worth = sigmoid_worth(position)
    at_best = float(sigmoid_worth(np.array([-1.0]))[0])
    for first, last in file.windows:
        inside = rows[first : last + 1]
        worth[inside] = sigmoid_worth(-(last - inside + 1) / (last - first + 1)) / at_best
    return worth, window


def best_threshold(files: Sequence[Scored], profile: Profile) -> Best:
    """The threshold of the greatest sum over `files`, exactly: every score that occurs is tried.

    Among equals the highest threshold. Without any window the score is 100 less what false alarms cost, which the
    best threshold avoids.
    """
    points = [_points(file, profile) for file in files]
    scores = np.concatenate([point.scores for point in points]) if points else np.zeros(0)
    gains = np.concatenate([point.gains for point in points]) if points else np.zeros(0)
    null = sum(point.null for point in points)
    perfect = sum(point.perfect for point in points)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    sums = np.concatenate([[null], null + np.cumsum(gains[order])])
    thresholds = np.concatenate([[np.inf], ranked])
    ends = np.append(thresholds[1:] != thresholds[:-1], True)
    at = int(np.flatnonzero(ends)[np.argmax(sums[ends])])
    raw = float(sums[at])
    normalised = 100.0 * (raw - null) / (perfect - null) if perfect > null else 100.0
    return Best(float(thresholds[at]), raw, normalised)


def score_at(files: Sequence[Scored], profile: Profile, threshold: float) -> float:
    """The normalised score at a threshold that was chosen elsewhere."""
    points = [_points(file, profile) for file in files]
    null = sum(point.null for point in points)
    perfect = sum(point.perfect for point in points)
    gained = sum(float(point.gains[point.scores >= threshold].sum()) for point in points)
    return 100.0 * gained / (perfect - null) if perfect > null else 100.0


@dataclass(frozen=True, slots=True)
class _Points:
    scores: Floats
    gains: Floats
    """What flagging the row adds when all rows of a higher score are flagged already."""
    null: float
    perfect: float


def _points(file: Scored, profile: Profile) -> _Points:
    worth, window = worths(file)
    rows = np.arange(file.probation, len(file.scores))
    gains = np.where(window >= 0, 0.0, worth * profile.false_positive)
    null = perfect = 0.0
    for number in range(len(file.windows)):
        inside = rows[window[rows] == number]
        if not len(inside):
            continue
        order = inside[np.argsort(-file.scores[inside], kind="stable")]
        value = worth[order] * profile.true_positive
        best = np.maximum.accumulate(np.concatenate([[-profile.false_negative], value]))
        gains[order] = np.diff(best)
        null -= profile.false_negative
        perfect += float(value.max())
    return _Points(file.scores[rows], gains[rows], null, perfect)


@dataclass(frozen=True, slots=True)
class Detections:
    """What a threshold flags in one file, probation left out."""

    name: str
    windows: int
    found: int
    false_alarms: int
    delays: tuple[float, ...]
    """Of each found window: how far into it the first flagged row lies, 0 to 1."""


def detections(file: Scored, threshold: float) -> Detections:
    _, window = worths(file)
    rows = np.arange(file.probation, len(file.scores))
    flagged = rows[file.scores[rows] >= threshold]
    scored = {int(one) for one in np.unique(window[rows])} - {-1}
    delays = []
    for number in sorted(scored):
        first, last = file.windows[number]
        inside = flagged[window[flagged] == number]
        if len(inside):
            delays.append(float(inside[0] - first) / max(last - first, 1))
    return Detections(file.name, len(scored), len(delays), int((window[flagged] < 0).sum()), tuple(delays))
