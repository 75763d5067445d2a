"""A forest whose leaves hold histograms of log duration: one predictive distribution for each query, as arrays.

Fitted by scikit-learn, kept and asked as plain numpy arrays, so that it can be saved without pickle. Follows N.
Meinshausen, "Quantile Regression Forests", JMLR 7 (2006), with P. Geurts et al., "Extremely randomized trees" (2006).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scheduler.predict import arrays

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_BINS: Final = 160
_AT_ONCE: Final = 1024


@dataclass(frozen=True, slots=True)
class Forest:
    """`roots`: each tree's first node. By node: child (-1: a leaf), feature and threshold, and where its bins begin.

    Only the bins of a leaf that any run fell into are kept: as many in a tree as runs at most.
    """

    roots: Integers
    left: Integers
    right: Integers
    feature: Integers
    threshold: Floats
    start: Integers
    """Nodes + 1: a node's bins are `bins[start[node]:start[node + 1]]`, none for inner nodes."""
    bins: Integers
    mass: Floats
    """Beside `bins`; sums to 1 in each leaf."""
    edges: Floats
    """Bins + 1 values of the target, rising."""

    def distribution(self, features: Floats) -> Floats:
        """Rows x bins: the average of the leaves that each row falls into."""
        narrow = features.astype(np.float32)
        parts = [self._distribution(narrow[at : at + _AT_ONCE]) for at in range(0, len(narrow), _AT_ONCE)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.edges) - 1))

    def _distribution(self, narrow: NDArray[np.float32]) -> Floats:
        rows, trees, size = len(narrow), len(self.roots), len(self.edges) - 1
        leaf = self._leaves(narrow)
        first = self.start[leaf]
        count = self.start[leaf + 1] - first
        ends = count.cumsum()
        at = np.arange(ends[-1]) + np.repeat(first - (ends - count), count)
        cell = np.repeat(np.arange(rows).repeat(trees) * size, count) + self.bins[at]
        return np.bincount(cell, self.mass[at], minlength=rows * size).reshape(rows, size) / trees

    def _leaves(self, narrow: NDArray[np.float32]) -> Integers:
        """Of each row in each tree, all trees of a row together."""
        node = np.tile(self.roots, len(narrow))
        row = np.arange(len(narrow)).repeat(len(self.roots))
        inner = np.arange(len(node))
        while True:
            here = node[inner]
            on = self.left[here] >= 0
            if not on.all():
                inner, here = inner[on], here[on]
            if not len(inner):
                return node
            goes_left = narrow[row[inner], self.feature[here]] <= self.threshold[here]
            node[inner] = np.where(goes_left, self.left[here], self.right[here])

    @property
    def columns(self) -> int:
        """So many features it looks at, at least."""
        return int(self.feature.max(initial=-1)) + 1

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "roots": arrays.to_json(self.roots),
            "left": arrays.to_json(self.left.astype("i4")),
            "right": arrays.to_json(self.right.astype("i4")),
            "feature": arrays.to_json(self.feature.astype("i2")),
            "threshold": arrays.to_json(self.threshold),
            "start": arrays.to_json(self.start.astype("i4")),
            "bins": arrays.to_json(self.bins.astype("i2")),
            "mass": arrays.to_json(self.mass.astype("f4")),
            "edges": arrays.to_json(self.edges),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Forest:
        """Raises: ValueError, KeyError for what is no forest: every index is checked, and every walk ends."""
        whole = [arrays.from_json(state[name]).astype("i8") for name in ("roots", "left", "right", "feature")]
        roots, left, right, feature = whole
        start, bins = (arrays.from_json(state[name]).astype("i8") for name in ("start", "bins"))
        threshold, mass, edges = (arrays.from_json(state[name]).astype("f8") for name in ("threshold", "mass", "edges"))
        forest = cls(roots, left, right, feature, threshold, start, bins, mass, edges)
        if not forest._sound():
            raise ValueError("a forest whose parts do not fit together")
        return forest

    def _sound(self) -> bool:
        nodes = len(self.left)
        own = np.arange(nodes)
        inner = self.left >= 0
        return bool(
            all(part.ndim == 1 for part in (self.roots, self.left, self.start, self.bins, self.edges))
            and len({nodes, len(self.right), len(self.feature), len(self.threshold), len(self.start) - 1}) == 1
            and len(self.bins) == len(self.mass)
            and len(self.edges) > 1
            and np.isfinite(self.edges).all()
            and (np.diff(self.edges) > 0).all()
            and len(self.roots)
            and ((self.roots >= 0) & (self.roots < nodes)).all()
            # Children come after their parent, so that every walk ends.
            and ((self.left[inner] > own[inner]) & (self.left[inner] < nodes)).all()
            and ((self.right[inner] > own[inner]) & (self.right[inner] < nodes)).all()
            and (self.feature[inner] >= 0).all()
            and self.start[0] == 0
            and self.start[-1] == len(self.bins)
            and (np.diff(self.start) >= 0).all()
            and ((self.bins >= 0) & (self.bins < len(self.edges) - 1)).all()
            and (np.isfinite(self.mass) & (self.mass >= 0)).all()
        )


def fit_forest(features: Floats, targets: Floats, weights: Floats, *, trees: int = 40, leaf: int = 8) -> Forest:
    """A forest over finite `features` (rows x columns); the same rows in the same order give the same forest."""
    # Loaded where it is needed: the daemon starts without it.
    from sklearn.ensemble import ExtraTreesRegressor

    model = ExtraTreesRegressor(
        n_estimators=trees, min_samples_leaf=leaf, max_features=0.9, random_state=0, bootstrap=False
    ).fit(features, targets, sample_weight=weights)
    edges = np.unique(np.quantile(targets, np.linspace(0.0, 1.0, _BINS + 1)))
    if len(edges) < 2:
        edges = np.array([edges[0] - 1e-3, edges[0] + 1e-3])
    size = len(edges) - 1
    bins = np.clip(np.searchsorted(edges, targets, side="right") - 1, 0, size - 1)
    parts: list[tuple[NDArray[Any], ...]] = []
    roots, first = [], 0
    leaves = model.apply(features)
    for index, estimator in enumerate(model.estimators_):
        tree = estimator.tree_
        cells, cell = np.unique(leaves[:, index] * size + bins, return_inverse=True)
        node, mass = cells // size, np.bincount(cell, weights)
        whole = np.bincount(node, mass, minlength=tree.node_count)
        counts = np.bincount(node, minlength=tree.node_count)
        shift = np.where(tree.children_left >= 0, first, 0)
        parts.append(
            (
                tree.children_left + shift,
                tree.children_right + shift,
                tree.feature,
                tree.threshold,
                counts,
                cells % size,
                mass / np.maximum(whole[node], 1e-12),
            )
        )
        roots.append(first)
        first += tree.node_count
    left, right, feature, threshold, counts, bins, mass = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    start = np.concatenate([[0], np.cumsum(counts)])
    exact = mass.astype(np.float32).astype(np.float64)  # as it is saved
    return Forest(np.array(roots), left, right, feature, threshold, start, bins.astype(np.int64), exact, edges)


def quantiles(mass: Floats, edges: Floats, levels: Floats) -> Floats:
    """Rows x levels: by linear interpolation inside bins. `levels` is one vector, or rows x levels."""
    cumulative = np.concatenate([np.zeros((len(mass), 1)), np.cumsum(mass, axis=1)], axis=1)
    wanted = np.broadcast_to(levels, (len(mass), np.shape(levels)[-1]))
    return np.stack([np.interp(want, row, edges) for want, row in zip(wanted, cumulative, strict=True)])
