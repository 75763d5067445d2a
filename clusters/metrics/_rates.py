"""Rates of counters and quantiles of histograms, by the formulas of PromQL. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

Buckets = Mapping[float, float]
"""Upper bound (`le`, +Inf included) to the number of observations at or below it."""


def increase(before: float, after: float) -> float:
    """How much a counter grew between two samples.

    A counter that fell was reset to 0 in between, so it grew by what it says now (Prometheus, `rate`: "breaks in
    monotonicity are automatically adjusted for"). What it grew by before the reset cannot be known.
    """
    return after - before if after >= before else after


def histogram_quantile(quantile: float, buckets: Buckets) -> float | None:
    """The value below which the share `quantile` of the observations lies, as PromQL's histogram_quantile estimates it.

    With n the count of the bucket `+Inf`, the rank is r = quantile * n. In the first bucket whose count reaches r,
    observations are taken to be spread evenly:

        start + (end - start) * (r - count_below) / (count_in_bucket)

    where `end` is the bucket's upper bound and `start` that of the bucket before it (0 for the first one, unless its
    own bound is 0 or less: then that bound is the answer). In the bucket `+Inf` the answer is the largest finite bound.
    Counts are first made to grow with the bound, as Prometheus does, since a scrape is not atomic.
    Source: Prometheus, promql/quantile.go (`bucketQuantile`). None (there NaN): no observations, no bucket `+Inf`, or
    no other bucket.
    """
    bounds = sorted(bound for bound in buckets if not math.isnan(bound))
    if len(bounds) < 2 or bounds[-1] != math.inf:
        return None
    counts: list[float] = []
    for bound in bounds:
        counts.append(max(buckets[bound], counts[-1] if counts else 0.0))
    total = counts[-1]
    if not 0 < total < math.inf:
        return None
    rank = quantile * total
    index = next((i for i, count in enumerate(counts[:-1]) if count >= rank), len(bounds) - 1)
    if index == len(bounds) - 1:
        return bounds[-2]
    end = bounds[index]
    if index == 0:
        if end <= 0:
            return end
        return end * (rank / counts[0]) if counts[0] else 0.0
    below = counts[index - 1]
    inside = counts[index] - below
    start = bounds[index - 1]
    return start + (end - start) * ((rank - below) / inside) if inside else start
