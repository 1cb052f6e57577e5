"""What is believed of a link, from calls whose truth is known."""

from __future__ import annotations

import random

import pytest

from services.domain import LinkEstimate, Tier
from services.link import LinkEstimator
from tests.fakes import FakeClock

UNKNOWN = LinkEstimate(Tier.DEVICE)
SIZES = [300, 2_000, 8_000, 30_000, 90_000]


def estimator(clock: FakeClock) -> LinkEstimator:
    return LinkEstimator(Tier.DEVICE, clock)


def feed(link: LinkEstimator, clock: FakeClock, rtt: float, rate: float, seed: int, outliers: float = 0.0) -> None:
    """24 calls of mixed sizes with 5 % noise; a share of them is held up by ten times as long."""
    rng = random.Random(seed)
    for _ in range(24):
        size = rng.choice(SIZES)
        seconds = (rtt + size / rate) * rng.uniform(0.95, 1.05)
        link.record(size, seconds * (10 if rng.random() < outliers else 1))
        clock.now += 0.05


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("rtt", "rate"), [(0.010, 2.5e6), (0.040, 6.25e6), (0.2, 125e3), (0.001, 10e6)])
def test_rtt_and_rate_are_found_apart(rtt: float, rate: float, seed: int) -> None:
    clock = FakeClock(100)
    link = estimator(clock)
    feed(link, clock, rtt, rate, seed)
    found = link.estimate()
    assert found.rtt_seconds == pytest.approx(rtt, rel=0.3, abs=0.002)
    assert found.up_bytes_per_second == pytest.approx(rate, rel=0.4)
    assert found.spread is not None
    assert found.spread < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_a_minority_of_calls_held_up_does_not_move_it(seed: int) -> None:
    clock = FakeClock(100)
    link = estimator(clock)
    feed(link, clock, 0.040, 1e6, seed, outliers=0.15)
    found = link.estimate()
    assert found.rtt_seconds == pytest.approx(0.040, rel=0.4)
    assert found.up_bytes_per_second == pytest.approx(1e6, rel=0.5)


def test_nothing_measured_is_unknown_not_zero() -> None:
    link = estimator(FakeClock())
    assert link.estimate() == UNKNOWN
    assert (link.estimate().rtt_seconds, link.estimate().up_bytes_per_second) == (None, None)


def test_two_calls_are_not_yet_an_estimate() -> None:
    link = estimator(FakeClock())
    link.record(1000, 0.1)
    link.record(9000, 0.2)
    assert link.estimate() == UNKNOWN


@pytest.mark.parametrize("spread", [0, 500])
def test_calls_all_alike_in_size_tell_no_rate(spread: int) -> None:
    clock = FakeClock(100)
    link = estimator(clock)
    for index in range(24):
        link.record(4_000 + index % 2 * spread, 0.050 + index % 3 * 0.001)
    found = link.estimate()
    assert found.up_bytes_per_second is None
    assert found.rtt_seconds == pytest.approx(0.050)


def test_a_link_on_which_more_bytes_are_faster_has_no_rate() -> None:
    link = estimator(FakeClock(100))
    for index in range(12):
        link.record(1_000 + 5_000 * index, 1.0 - 0.01 * index)
    assert link.estimate().up_bytes_per_second is None


def test_an_estimate_ages_and_expires() -> None:
    clock = FakeClock(100)
    link = estimator(clock)
    feed(link, clock, 0.01, 1e6, 0)
    measured = clock.now - 0.05
    clock.now = measured + 30
    assert link.estimate().age_seconds == pytest.approx(30)
    assert link.estimate().rtt_seconds is not None
    clock.now = measured + 61
    assert link.estimate() == UNKNOWN


def test_a_call_shorter_than_what_the_far_side_claims_is_no_negative_time() -> None:
    link = estimator(FakeClock(100))
    for _ in range(5):
        link.record(1_000, -0.5)
    assert link.estimate().rtt_seconds == 0.0


def test_a_link_that_got_slower_is_believed_once_most_calls_say_so() -> None:
    clock = FakeClock(100)
    link = estimator(clock)
    feed(link, clock, 0.01, 10e6, 0)
    assert link.estimate().up_bytes_per_second == pytest.approx(10e6, rel=0.5)
    feed(link, clock, 0.01, 0.5e6, 1)
    assert link.estimate().up_bytes_per_second == pytest.approx(0.5e6, rel=0.5)
