"""A forest whose leaves hold histograms of log duration: one predictive distribution for each query, as arrays.

Fitted by scikit-learn, kept and asked as plain numpy arrays, so that it can be saved without pickle. Follows N.
Meinshausen, "Quantile Regression Forests", JMLR 7 (2006), with P. Geurts et al., "Extremely randomized trees" (2006).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_BINS: Final = 160


@dataclass(frozen=True, slots=True)
class Forest:
    """`trees` first nodes; child, feature and threshold by node; `mass` by node is the distribution over bins."""

    roots: Integers
    left: Integers
    right: Integers
    feature: Integers
    threshold: Floats
    mass: NDArray[np.float32]
    """Nodes x bins; rows of leaves sum to 1."""
    edges: Floats
    """Bins + 1 values of the target, rising."""

    def distribution(self, features: Floats) -> Floats:
        """Rows x bins: the average of the leaves that each row falls into."""
        total = np.zeros((len(features), self.mass.shape[1]))
        rows = np.arange(len(features))
        narrow = features.astype(np.float32)
        for root in self.roots:
            node = np.full(len(features), root, dtype=np.int64)
            while True:
                inner = np.flatnonzero(self.left[node] >= 0)
                if not len(inner):
                    break
                here = node[inner]
                goes_left = narrow[rows[inner], self.feature[here]] <= self.threshold[here]
                node[inner] = np.where(goes_left, self.left[here], self.right[here])
            total += self.mass[node]
        return total / len(self.roots)


def fit_forest(features: Floats, targets: Floats, weights: Floats, *, trees: int = 40, leaf: int = 8) -> Forest:
    """A forest over finite `features` (rows x columns); the same rows in the same order give the same forest."""
    model = ExtraTreesRegressor(
        n_estimators=trees, min_samples_leaf=leaf, max_features=0.9, random_state=0, bootstrap=False
    ).fit(features, targets, sample_weight=weights)
    edges = np.unique(np.quantile(targets, np.linspace(0.0, 1.0, _BINS + 1)))
    if len(edges) < 2:
        edges = np.array([edges[0] - 1e-3, edges[0] + 1e-3])
    bins = np.clip(np.searchsorted(edges, targets, side="right") - 1, 0, len(edges) - 2)
    parts: list[tuple[NDArray[np.generic], ...]] = []
    roots, start = [], 0
    leaves = model.apply(features)
    for index, estimator in enumerate(model.estimators_):
        tree = estimator.tree_
        mass = np.zeros((tree.node_count, len(edges) - 1))
        np.add.at(mass, (leaves[:, index], bins), weights)
        mass /= np.maximum(mass.sum(axis=1, keepdims=True), 1e-12)
        shift = np.where(tree.children_left >= 0, start, 0)
        parts.append(
            (tree.children_left + shift, tree.children_right + shift, tree.feature, tree.threshold, mass.astype("f4"))
        )
        roots.append(start)
        start += tree.node_count
    left, right, feature, threshold, mass = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Forest(np.array(roots), left, right, feature, threshold, mass, edges)


def quantiles(mass: Floats, edges: Floats, levels: Floats) -> Floats:
    """Rows x levels: by linear interpolation inside bins. `levels` is one vector, or rows x levels."""
    cumulative = np.concatenate([np.zeros((len(mass), 1)), np.cumsum(mass, axis=1)], axis=1)
    wanted = np.broadcast_to(levels, (len(mass), np.shape(levels)[-1]))
    return np.stack([np.interp(want, row, edges) for want, row in zip(wanted, cumulative, strict=True)])
