"""A straight line whose offset and slope wander: one Kalman filter of two states, in plain arithmetic.

Kalman, "A New Approach to Linear Filtering and Prediction Problems", 1960. The state is (offset, slope), the
measurement is y = offset + slope * x + noise. Each measurement moves the two by how unsure each still is: small x
teach the offset, large x the slope, and where all x are alike the two stay unsure together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class DriftingLine:
    """Belief about `offset` and `slope`: means, and the covariance of their errors. Starts knowing nothing."""

    offset_variance: float
    slope_variance: float
    offset: float = 0.0
    slope: float = 0.0
    covariance: float = 0.0

    def at(self, x: float) -> float:
        """The value expected at `x`."""
        return self.offset + self.slope * x

    def variance_at(self, x: float) -> float:
        """How unsure that value is, squared."""
        return max(self.offset_variance + x * (2 * self.covariance + x * self.slope_variance), 0.0)

    def deviation_at(self, x: float) -> float:
        """How unsure that value is, in its own unit (one standard deviation)."""
        return math.sqrt(self.variance_at(x))

    def widen(self, offset_deviation: float, slope_deviation: float) -> None:
        """Makes both less sure: time has passed, or the line has jumped."""
        self.offset_variance += offset_deviation**2
        self.slope_variance += slope_deviation**2

    def move(self, x: float, surprise: float, noise_variance: float) -> None:
        """Shifts the means by what a measurement at `x`, `surprise` above expectation, says; no surer for it."""
        to_offset, to_slope, total = self._gains(x, noise_variance)
        self._shift(to_offset / total * surprise, to_slope / total * surprise)

    def learn(self, x: float, surprise: float, noise_variance: float) -> None:
        """The same, and surer by as much as the measurement is worth."""
        to_offset, to_slope, total = self._gains(x, noise_variance)
        self.offset_variance -= to_offset * to_offset / total
        self.slope_variance -= to_slope * to_slope / total
        self.covariance -= to_offset * to_slope / total
        self._shift(to_offset / total * surprise, to_slope / total * surprise)

    def _gains(self, x: float, noise_variance: float) -> tuple[float, float, float]:
        to_offset = self.offset_variance + x * self.covariance
        to_slope = self.covariance + x * self.slope_variance
        return to_offset, to_slope, self.variance_at(x) + noise_variance

    def _shift(self, of_offset: float, of_slope: float) -> None:
        """Neither may be negative; where the slope would be, the offset is the one that goes with no slope."""
        self.offset += of_offset
        self.slope += of_slope
        if self.slope < 0 < self.slope_variance:
            self.offset -= self.covariance / self.slope_variance * self.slope
        self.offset, self.slope = max(self.offset, 0.0), max(self.slope, 0.0)
