"""A link whose truth is known, for what is believed of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from services.domain import Tier
from services.link import LinkEstimator
from tests.fakes import FakeClock

SIZES = [1_000, 4_000, 16_000, 64_000, 250_000]
MBIT = 125_000.0


@dataclass(slots=True)
class Road:
    """A link whose truth is known: calls over it teach `link`. Jitter only ever delays, as on real links."""

    rtt: float = 0.020
    rate: float = 10 * MBIT
    seed: int = 0
    jitter: float = 0.0003
    clock: FakeClock = field(default_factory=lambda: FakeClock(100))
    link: LinkEstimator = field(init=False)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.link = LinkEstimator(Tier.DEVICE, self.clock)
        self.rng = random.Random(self.seed)

    def call(self, size: int, extra: float = 0.0, overhead: int = 0, shared: int = 0) -> None:
        seconds = self.rtt + (size + overhead) / self.rate + self.rng.expovariate(1 / self.jitter) + extra
        self.clock.now += seconds
        self.link.record(size, seconds, overhead, shared)

    def mixed(self, count: int = 10) -> None:
        for _ in range(count // len(SIZES)):
            for size in self.rng.sample(SIZES, len(SIZES)):
                self.call(size)

    @property
    def rate_error(self) -> float:
        """Relative; infinite for unknown."""
        found = self.link.estimate().up_bytes_per_second
        return abs(found / self.rate - 1) if found else float("inf")
