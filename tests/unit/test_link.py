"""What is believed of a link, from calls whose truth is known."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain import LinkEstimate, Tier
from services.link import LinkEstimator
from tests.fakes import FakeClock
from tests.unit.roads import MBIT, SIZES, Road

UNKNOWN = LinkEstimate(Tier.DEVICE)


@given(
    sizes=st.lists(st.integers(200, 500_000), min_size=5, max_size=7),
    again=st.floats(1, 2),
    at=st.integers(0, 7),
    mbit=st.floats(0.5, 200),
    rtt=st.floats(0.001, 0.2),
)
def test_any_mix_of_sizes_that_tells_gives_rate_and_rtt(
    sizes: list[int], again: float, at: int, mbit: float, rtt: float
) -> None:
    """At most ten calls, two of them of a size that tells; a rate seen once could as well be a stall."""
    road = Road(rtt, mbit * MBIT, jitter=1e-9)
    telling = 20_000 + int(0.05 * road.rate)
    for size in [300, telling, *sizes[:at], int(again * telling), *sizes[at:]]:
        road.call(size)
    assert road.rate_error < 0.15
    found = road.link.estimate().rtt_seconds
    assert found == pytest.approx(rtt, rel=0.1, abs=0.003)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rtt", [0.001, 0.02, 0.2])
@pytest.mark.parametrize("mbit", [0.5, 5, 50, 200])
def test_ten_mixed_calls_with_jitter_are_enough(mbit: float, rtt: float, seed: int) -> None:
    road = Road(rtt, mbit * MBIT, seed)
    road.mixed()
    assert road.rate_error < 0.15
    assert road.link.estimate().rtt_seconds == pytest.approx(rtt, rel=0.1, abs=0.003)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("before", "after"), [(100, 1), (20, 2), (5, 1)])
def test_a_link_that_got_worse_is_believed_after_two_calls(before: float, after: float, seed: int) -> None:
    road = Road(rate=before * MBIT, seed=seed)
    road.mixed(20)
    road.rate = after * MBIT
    for size in (60_000, 15_000):
        road.call(size)
    assert road.rate_error < 0.3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("before", "after"), [(1, 100), (2, 20), (1, 5)])
def test_a_link_that_got_better_is_believed_within_a_few_calls(before: float, after: float, seed: int) -> None:
    road = Road(rate=before * MBIT, seed=seed)
    road.mixed(20)
    road.rate = after * MBIT
    for size in (60_000, 15_000, 60_000, 60_000):
        road.call(size)
    assert road.rate_error < 0.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1_000, 60_000])
def test_one_stalled_call_among_many_moves_little_and_the_next_ends_the_doubt(size: int, seed: int) -> None:
    road = Road(seed=seed)
    road.mixed(20)
    road.call(size, extra=2.0)
    assert road.link.doubtful
    believed = road.link.estimate().up_bytes_per_second
    assert believed is not None
    assert believed > road.rate / 4
    for _ in range(2):
        road.call(60_000)
    assert not road.link.doubtful
    assert road.rate_error < 0.3


def test_a_doubt_outlasts_a_call_too_small_to_settle_it() -> None:
    road = Road(rate=100 * MBIT)
    road.mixed(20)
    road.call(250_000, extra=0.060)
    assert road.link.doubtful
    road.call(200)
    assert road.link.doubtful
    road.call(250_000)
    assert not road.link.doubtful


def test_a_round_trip_that_grew_is_not_taken_for_a_slow_rate() -> None:
    road = Road(rtt=0.010, rate=50 * MBIT)
    road.mixed(20)
    road.rtt = 0.110
    for size in (200, 200, 60_000, 250_000, 1_000):
        road.call(size)
    assert road.link.estimate().rtt_seconds == pytest.approx(0.110, rel=0.1)
    assert road.rate_error < 0.3


def test_header_and_reply_are_part_of_the_round_trip_of_a_call() -> None:
    road = Road(rtt=0.010, rate=1 * MBIT, jitter=1e-6)
    for size in SIZES[:4] * 3:
        road.call(size, overhead=500)
    found = road.link.estimate()
    assert found.rtt_seconds == pytest.approx(0.010 + 500 / road.rate, abs=0.001)
    assert road.rate_error < 0.05


def test_probes_tell_the_rtt_where_all_calls_are_alike() -> None:
    road = Road()
    for _ in range(10):
        road.call(30_000)
    found = road.link.estimate()
    assert (found.rtt_seconds, found.up_bytes_per_second) == (None, None)
    for _ in range(3):
        road.call(0)
    assert road.rate_error < 0.15
    assert road.link.estimate().rtt_seconds == pytest.approx(road.rtt, abs=0.003)


@pytest.mark.parametrize("size", [3_000, 30_000])
def test_calls_all_alike_in_size_tell_neither(size: int) -> None:
    road = Road()
    for _ in range(24):
        road.call(size)
    found = road.link.estimate()
    assert (found.rtt_seconds, found.up_bytes_per_second) == (None, None)


def test_nothing_measured_is_unknown_not_zero() -> None:
    assert Road().link.estimate() == UNKNOWN


def test_a_rate_too_fast_to_show_is_bounded_not_infinite() -> None:
    road = Road(rtt=0.0005, rate=1e12)
    road.mixed()
    found = road.link.estimate().up_bytes_per_second
    assert found is not None
    assert 50e6 < found <= 1e10


def test_calls_that_shared_the_link_do_not_make_it_look_slow() -> None:
    road = Road()
    road.mixed(20)
    for _ in range(6):
        road.call(60_000, extra=100_000 / road.rate, shared=200_000)
    assert road.rate_error < 0.15


def test_calls_that_shared_the_link_show_that_it_got_much_slower() -> None:
    road = Road()
    road.mixed(20)
    road.rate /= 50
    for _ in range(4):
        road.call(60_000, shared=120_000)
    found = road.link.estimate().up_bytes_per_second
    assert found is not None
    assert found < 4 * road.rate


def test_two_failures_make_it_unknown_and_one_success_brings_it_back() -> None:
    road = Road()
    road.mixed(20)
    road.link.failed()
    assert road.link.estimate() != UNKNOWN
    road.link.failed()
    assert road.link.estimate() == UNKNOWN
    road.call(30_000)
    assert road.rate_error < 0.3


def test_one_failure_and_two_seconds_of_silence_make_it_unknown() -> None:
    road = Road()
    road.mixed(20)
    road.link.failed()
    road.clock.now += 1.9
    assert road.link.estimate() != UNKNOWN
    road.clock.now += 0.2
    assert road.link.estimate() == UNKNOWN


def test_back_from_the_dead_an_empty_call_tells_the_rtt_but_no_rate() -> None:
    road = Road()
    road.mixed(20)
    road.link.failed()
    road.link.failed()
    road.call(0)
    found = road.link.estimate()
    assert found.rtt_seconds == pytest.approx(road.rtt, abs=0.003)
    assert found.up_bytes_per_second is None


def test_an_estimate_ages_and_expires() -> None:
    road = Road()
    road.mixed()
    road.clock.now += 30
    assert road.link.estimate().age_seconds == pytest.approx(30)
    assert road.link.estimate().rtt_seconds is not None
    road.clock.now += 31
    assert road.link.estimate() == UNKNOWN


def test_after_a_minute_of_silence_an_empty_call_tells_the_rtt_but_no_rate() -> None:
    road = Road()
    road.mixed(20)
    road.clock.now += 61
    road.call(0)
    found = road.link.estimate()
    assert found.rtt_seconds == pytest.approx(road.rtt, abs=0.003)
    assert found.up_bytes_per_second is None
    road.mixed(10)
    assert road.rate_error < 0.15


def test_a_call_shorter_than_what_the_far_side_claims_is_no_negative_time() -> None:
    link = LinkEstimator(Tier.DEVICE, FakeClock(100))
    for size in (0, 1_000, 0, 50_000):
        link.record(size, -0.5)
    assert link.estimate().rtt_seconds == 0.0


@given(st.lists(st.tuples(st.integers(0, 10_000_000), st.floats(0, 100), st.floats(0, 100)), max_size=40))
def test_no_measurements_make_it_negative_infinite_or_nan(calls: list[tuple[int, float, float]]) -> None:
    clock = FakeClock(100)
    link = LinkEstimator(Tier.DEVICE, clock)
    for size, seconds, pause in calls:
        clock.now += pause
        link.record(size, seconds)
        found = link.estimate()
        assert found.rtt_seconds is None or 0 <= found.rtt_seconds < 1e6
        assert found.up_bytes_per_second is None or 0 < found.up_bytes_per_second <= 1e10


def test_record_and_estimate_are_cheap() -> None:
    road = Road()
    started = time.perf_counter()
    for _ in range(200):
        road.mixed(5)
        road.link.estimate()
    assert (time.perf_counter() - started) / 1000 < 0.0005  # about 20 us where nothing else runs
