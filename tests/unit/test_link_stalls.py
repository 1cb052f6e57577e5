"""What is believed of a link whose calls stall, come late, or say little."""

from __future__ import annotations

import math

import pytest

from tests.unit.roads import MBIT, Road


def test_a_call_that_is_overdue_is_taken_to_hold_up_the_next_for_as_long_again() -> None:
    road = Road()
    road.mixed(20)
    known = road.link.estimate()
    on_time, late = (16_000, known.rtt_seconds or 0.0), (16_000, 0.5)
    assert not road.link.overdue([on_time])
    assert road.link.estimate([on_time]) == known
    assert road.link.overdue([on_time, late])
    held_up = road.link.estimate([late])
    assert (held_up.rtt_seconds or 0.0) == pytest.approx((known.rtt_seconds or 0.0) + 0.5)
    assert held_up.up_bytes_per_second == known.up_bytes_per_second


def test_a_call_given_up_counts_as_overdue_until_the_next_comes_back() -> None:
    road = Road()
    road.mixed(20)
    known = road.link.estimate().rtt_seconds or 0.0
    road.link.failed(16_000, 0.4)
    assert road.link.doubtful
    assert (road.link.estimate().rtt_seconds or 0.0) == pytest.approx(known + 0.4)
    road.clock.now += 0.1  # and has still not come back, though nobody waits for it
    assert road.link.overdue([])
    assert (road.link.estimate().rtt_seconds or 0.0) == pytest.approx(known + 0.5)
    road.call(1_000)
    assert not road.link.overdue([])
    assert (road.link.estimate().rtt_seconds or 0.0) == pytest.approx(known, rel=0.1)


def test_on_a_link_that_is_dead_no_call_is_overdue() -> None:
    road = Road()
    road.mixed(20)
    road.link.failed(16_000, 0.4)
    assert road.link.overdue([])
    road.clock.now += 2.0
    assert road.link.estimate().rtt_seconds is None
    assert not road.link.overdue([(16_000, 2.4)])


def test_a_call_given_up_for_what_the_far_side_may_need_says_nothing_of_the_link_later_either() -> None:
    road = Road()
    road.mixed(20)
    known = road.link.estimate().rtt_seconds
    road.link.failed(16_000, -0.2)
    road.clock.now += 1.0
    assert not road.link.overdue([])
    assert road.link.estimate().rtt_seconds == known


def _tiny(road: Road) -> None:
    """A request of a few hundred bytes and an empty probe: the handling of the request alone takes 0.8 ms longer."""
    road.call(road.rng.randint(100, 400), extra=0.0008 + road.rng.uniform(0.0001, 0.001), overhead=380)
    road.clock.now += 0.1
    road.call(0, extra=road.rng.uniform(0.0001, 0.001))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mbit", [2, 20, 100])
def test_small_calls_teach_the_rtt_and_leave_the_rate_as_it_was(mbit: float, seed: int) -> None:
    road = Road(0.012, mbit * MBIT, seed)
    road.mixed(20)
    for _ in range(300):
        _tiny(road)
        found = road.link.estimate().up_bytes_per_second
        assert found is not None
        assert 0.5 * road.rate < found < 1.5 * road.rate
    assert road.link.estimate().rtt_seconds == pytest.approx(road.rtt + 380 / road.rate, abs=0.003)


def test_small_calls_that_stall_do_not_make_the_rate_look_slow() -> None:
    road = Road(0.012, 20 * MBIT)
    road.mixed(20)
    for number in range(600):
        road.call(road.rng.randint(100, 400), extra=0.030 * (number % 20 in (7, 8)), overhead=380)
        found = road.link.estimate().up_bytes_per_second
        assert found is not None
        assert found > 0.4 * road.rate


def test_a_first_rate_shown_by_a_call_that_stalled_waits_for_a_second() -> None:
    road = Road(0.012, 20 * MBIT)
    for size, extra in ((0, 0.0), (0, 0.0), (1_024, 0.0), (4_096, 0.014)):
        road.call(size, extra)
    assert road.link.estimate().up_bytes_per_second is None
    assert road.link.doubtful
    for size in (4_096, 4_096, 16_384, 65_536):
        road.call(size)
    found = road.link.estimate().up_bytes_per_second
    assert found is not None
    assert found > road.rate / 2


def test_a_first_rate_shown_by_one_call_is_believed_when_the_next_few_do_not_show_any() -> None:
    road = Road(0.012, 20 * MBIT)
    for size in (0, 0, 30_000, 300, 300, 300):
        road.call(size)
    assert road.link.estimate().up_bytes_per_second is None
    road.call(300)
    assert road.rate_error < 0.2


def test_a_call_that_is_a_little_late_is_no_news_and_less_so_where_calls_stall() -> None:
    road = Road(0.012, 20 * MBIT)
    road.mixed(20)
    late = (4_096, 0.012 + 0.0016 + 0.050)
    assert not road.link.overdue([(4_096, 0.012 + 0.0016 + 0.020)])
    assert road.link.overdue([late])
    road.call(4_096, extra=0.060)
    road.call(4_096)
    assert not road.link.overdue([late])
    assert road.link.overdue([(4_096, 0.5)])
    for _ in range(30):
        road.clock.now += 10
        road.call(4_096)
    assert road.link.overdue([late])


def test_a_call_that_waited_until_a_link_was_back_is_no_stall() -> None:
    road = Road(0.012, 20 * MBIT)
    road.mixed(20)
    road.call(0, extra=0.9)
    road.call(4_096)
    assert road.link.overdue([(4_096, 0.012 + 0.0016 + 0.050)])


def test_two_late_calls_in_a_row_are_a_worse_link_but_where_calls_stall_it_takes_three() -> None:
    def late_calls(road: Road) -> int:
        for count in range(1, 9):
            road.call(60_000, extra=0.100)
            found = road.link.estimate()
            if (found.rtt_seconds or 0.0) + 60_000 / (found.up_bytes_per_second or math.inf) > 0.100:
                return count
        return 9

    steady, stalling = Road(rate=20 * MBIT), Road(rate=20 * MBIT)
    for road in (steady, stalling):
        road.mixed(20)
    stalling.call(60_000, extra=0.120)
    for _ in range(4):
        stalling.call(60_000)
    assert (late_calls(steady), late_calls(stalling)) == (2, 3)


def test_what_nobody_knows_the_duration_of_is_never_overdue() -> None:
    road = Road()
    road.mixed(20)
    assert not road.link.overdue([(16_000, -float("inf"))])
