"""What a run costs on an offering: expected and p90, in USD, with its parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from scheduler.model.ports import Prediction
from scheduler.predict.first import lost_to_reclaims
from scheduler.predict.spot import Hazard

PRIOR_LOG_SD: Final = 0.5
"""Of a length of which nobody says how sure it is: nine in ten are under 1.9 times the median."""
_WIDEST_LOG_SD: Final = 1.5
_Z90: Final = 1.2816


@dataclass(frozen=True, slots=True)
class CostParts:
    """USD by what is paid for."""

    run_usd: Decimal
    start_usd: Decimal
    """Nodes are paid from their creation, before the run begins."""
    reclaims_usd: Decimal
    """Work that is done again."""
    egress_usd: Decimal

    @property
    def total_usd(self) -> Decimal:
        return self.run_usd + self.start_usd + self.reclaims_usd + self.egress_usd


@dataclass(frozen=True, slots=True)
class RunCost:
    expected: CostParts
    p90: CostParts


@dataclass(frozen=True, slots=True)
class Seconds:
    """One quantity: its mean and 90 % quantile."""

    expected: float
    p90: float


def run_cost(
    usd_per_hour: Decimal | None,
    run: Seconds | None,
    start: Seconds,
    hazard: Hazard | None,
    checkpoint_seconds: float | None,
    egress_usd: Decimal = Decimal(0),
) -> RunCost | None:
    """None where the price of all nodes together or the length of the run is unknown.

    `hazard` of all nodes together, None for capacity that is not reclaimed. The p90 adds the p90 of each part, as if
    they were bad together: an upper bound on the 90 % quantile of the sum where parts move together.
    """
    if usd_per_hour is None or run is None or not all(map(math.isfinite, (run.expected, run.p90))):
        return None

    def parts(run_seconds: float, start_seconds: float) -> CostParts:
        rate = 0.0 if hazard is None else hazard.mean_per_hour
        again = lost_to_reclaims(run_seconds, rate, checkpoint_seconds)
        run_usd, start_usd, again_usd = (_usd(usd_per_hour, s) for s in (run_seconds, start_seconds, again))
        return CostParts(run_usd, start_usd, again_usd, egress_usd)

    return RunCost(
        parts(run.expected, start.expected), parts(max(run.p90, run.expected), max(start.p90, start.expected))
    )


def predicted_cost(
    prediction: Prediction,
    usd_per_hour: Decimal | None,
    reclaims_per_hour: float | None,
    checkpoint_seconds: float | None,
    start_log_sd: float = PRIOR_LOG_SD,
) -> RunCost | None:
    """Of a run as it is predicted. Lengths are log-normal about their medians: the mean is median x exp(sd^2 / 2), the
    90 % quantile median x exp(1.2816 sd) (Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions" 1, 14).
    One that is said without a spread is believed, and its p90 taken with `PRIOR_LOG_SD`.

    `usd_per_hour` of all nodes together; `reclaims_per_hour` None: nothing is taken back there.
    """
    run, start = prediction.run_seconds, prediction.start_seconds
    if run is None or start is None or prediction.transfer_usd is None:
        return None
    hazard = None if reclaims_per_hour is None else Hazard(reclaims_per_hour, 1.0)
    seconds = Seconds(run, run * math.exp(_Z90 * PRIOR_LOG_SD))
    if prediction.run_log_sd:
        sd = min(_WIDEST_LOG_SD, prediction.run_log_sd)
        seconds = Seconds(run * math.exp(sd * sd / 2), run * math.exp(_Z90 * sd))
    around = Seconds(start, start * math.exp(_Z90 * start_log_sd))
    return run_cost(usd_per_hour, seconds, around, hazard, checkpoint_seconds, prediction.transfer_usd)


def _usd(usd_per_hour: Decimal, seconds: float) -> Decimal:
    return (usd_per_hour * Decimal(str(max(0.0, seconds))) / 3600).quantize(Decimal("1e-9"))
