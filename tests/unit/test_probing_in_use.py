"""A link that is in use by calls too small to show its rate is probed all the same, now and then."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from services.domain import Tier
from services.link import LinkEstimator
from services.probing import ProbeSchedule
from tests.fakes import FakeClock

MBIT = 125_000.0
_CALL_BYTES = 192  # what a probe moves besides


@dataclass(slots=True)
class Busy:
    """A link on which one small call follows the other; probes are asked for, and take their turn, between two."""

    rate: float
    seed: int
    bytes_up: int = 500
    clock: FakeClock = field(default_factory=lambda: FakeClock(100))
    link: LinkEstimator = field(init=False)
    schedule: ProbeSchedule = field(init=False)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.link, self.schedule = LinkEstimator(Tier.DEVICE, self.clock), ProbeSchedule(self.clock)
        self.rng = random.Random(self.seed)

    def feel_out(self) -> None:
        """The first probes, before anybody uses it."""
        while self.link.estimate().up_bytes_per_second is None:
            assert self._probe(quiet_seconds=10.0) is not None

    def use(self, seconds: float) -> Iterator[int]:
        """Sends calls for so long; the bytes of each probe."""
        ends = self.clock.now + seconds
        while self.clock.now < ends:
            self.link.record(self.bytes_up, self._cross(self.bytes_up + 380), 380)
            while (probe := self._probe(quiet_seconds=0.0)) is not None:
                yield probe

    def _probe(self, quiet_seconds: float) -> int | None:
        link = self.link
        due = self.schedule.due(link.estimate(), quiet_seconds, link.doubtful, True, link.untaught_seconds())
        if due is not None:
            link.record(due, self._cross(due + _CALL_BYTES))
            self.schedule.answered(due)
        return due

    def _cross(self, nbytes: int) -> float:
        seconds = 0.02 + nbytes / self.rate + self.rng.expovariate(1 / 0.0003)
        self.clock.now += seconds
        return seconds


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("before", "after"), [(1, 100), (1, 10), (10, 50), (100, 5)])
def test_steady_small_calls_do_not_hide_that_the_rate_has_changed(before: float, after: float, seed: int) -> None:
    link = Busy(before * MBIT, seed)
    link.feel_out()
    list(link.use(10))
    link.rate = after * MBIT
    list(link.use(10))
    assert link.link.estimate().up_bytes_per_second == pytest.approx(link.rate, rel=0.35)


@pytest.mark.parametrize("mbit", [0.2, 1, 10, 100])
def test_probes_among_small_calls_take_under_one_percent_of_the_link_or_of_half_a_megabit(mbit: float) -> None:
    link = Busy(mbit * MBIT, seed=1)
    link.feel_out()
    list(link.use(10))
    sent = list(link.use(60))
    assert len(sent) >= 20
    assert sum(nbytes + _CALL_BYTES for nbytes in sent) < 0.01 * max(link.rate, 62_500) * 60


@pytest.mark.parametrize("mbit", [1, 10])
def test_calls_that_show_the_rate_themselves_leave_nothing_to_probe(mbit: float) -> None:
    link = Busy(mbit * MBIT, seed=1, bytes_up=20_000)
    link.feel_out()
    assert not list(link.use(20))
