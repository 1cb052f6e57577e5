"""What is counted up while requests are served: plain numbers, for a counter of the client library takes a lock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client.core import Metric

from services.domain import Tier
from services.metrics.live import Spread, family
from services.metrics.table import DEVICE_ONLY, series


@dataclass(slots=True)
class Count:
    """One value of a counter or a gauge."""

    value: float = 0.0

    def inc(self, by: float = 1.0) -> None:
        self.value += by

    def set(self, value: float) -> None:
        self.value = value


@dataclass(slots=True)
class Counts:
    """One histogram: how many values fell between each two bounds, the last ones above all, and their sum."""

    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


class Counted:
    """Every series of the table that is counted up, by its name and the values of its labels; a collector."""

    def __init__(self, tier: Tier):
        kept = (each for each in series() if tier is Tier.DEVICE or each.name not in DEVICE_ONLY)
        self._series = {each.name: each for each in kept if not each.live}
        self._values: dict[str, dict[tuple[str, ...], Count]] = {}
        self._spreads: dict[str, dict[tuple[str, ...], Counts]] = {}

    def counter(self, name: str, *labels: str) -> Count:
        return self._values.setdefault(name, {}).setdefault(labels, Count())

    def gauge(self, name: str, *labels: str) -> Count:
        return self.counter(name, *labels)

    def histogram(self, name: str, *labels: str) -> Counts:
        return self._spreads.setdefault(name, {}).setdefault(labels, Counts(self._series[name].buckets))

    def collect(self) -> Iterator[Metric]:
        """Prometheus asks from a thread of its own: what is looked through here cannot grow meanwhile."""
        for name, each in self._series.items():
            values: dict[tuple[str, ...], float | Spread] = {
                labels: found.value for labels, found in list(self._values.get(name, {}).items())
            }
            for labels, spread in list(self._spreads.get(name, {}).items()):
                values[labels] = Spread(tuple(accumulate(spread.counts)), spread.total)
            yield family(each, values)
