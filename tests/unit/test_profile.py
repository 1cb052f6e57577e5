"""What a machine's segments cost, and how a loaded machine shows."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.domain import CodecCost, Segment, SegmentTime, Tier
from services.profile import Expectation, Measured, Profiler
from tests.fakes import FakeClock

A, B, WHOLE = Segment(0, 2), Segment(2, 4), Segment(0, 4)
MEASURED = Measured(
    (SegmentTime(A, 1, 1.0), SegmentTime(WHOLE, 1, 3.0), SegmentTime(A, 9, 5.0)), (CodecCost("int8", 1.0, 2.0, 0.25),)
)


@pytest.fixture
def profiler(clock: FakeClock) -> Profiler:
    found = Profiler(Tier.EDGE, holds=WHOLE, clock=clock)
    found.learn(MEASURED)
    return found


def test_nothing_that_never_ran_has_a_time() -> None:
    profile = Profiler(Tier.EDGE).profile([(A, 1)])
    assert (profile.tier, profile.queue_seconds, profile.segments) == (Tier.EDGE, 0.0, ())
    assert (profile.slowdown, profile.holds) == (1.0, None)
    assert Profiler(Tier.EDGE).seconds(A, 1) is None


def test_times_are_kept_apart_by_segment_and_batch_size() -> None:
    profiler = Profiler(Tier.EDGE)
    profiler.record(A, 1, 1.0, 0.0)
    profiler.record(A, 8, 5.0, 0.0)
    profiler.record(B, 1, 2.0, 0.0)
    known = {SegmentTime(A, 1, 1.0), SegmentTime(A, 8, 5.0), SegmentTime(B, 1, 2.0)}
    assert set(profiler.full_profile().segments) == known
    assert profiler.profile([(A, 8), (B, 2)]).segments == (SegmentTime(A, 8, 5.0),)


def test_one_slow_run_does_not_move_the_median() -> None:
    profiler = Profiler(Tier.EDGE)
    for seconds in (1.0, 1.0, 60.0, 1.0, 1.0):
        profiler.record(A, 1, seconds, seconds)
    assert profiler.seconds(A, 1) == 1.0
    assert profiler.profile([]).queue_seconds == 1.0


def test_old_runs_are_forgotten() -> None:
    profiler = Profiler(Tier.EDGE)
    for seconds in [9.0] * 100 + [1.0] * 31:
        profiler.record(A, 1, seconds, seconds)
    assert profiler.seconds(A, 1) == 1.0
    assert profiler.profile([]).queue_seconds == 1.0


def test_any_number_of_segments_takes_bounded_memory() -> None:
    profiler = Profiler(Tier.EDGE)
    for size in range(1000):
        profiler.record(A, size, 1.0, 0.0)
    assert len(profiler._runs) == 256
    assert profiler.seconds(A, 999) == 1.0


def test_of_batch_sizes_that_were_not_measured_only_the_last_few_are_told(profiler: Profiler) -> None:
    profiler.record(B, 9, 1.0, 0.0)
    for size in range(100, 200):
        profiler.record(A, 42, 1.0, 0.0)
        profiler.record(A, size, 1.0, 0.0)
    segments = profiler.full_profile().segments
    assert segments[: len(MEASURED.segments)] == MEASURED.segments
    assert {(time.segment, time.batch_size) for time in segments[len(MEASURED.segments) :]} == {
        (B, 9),
        *((A, size) for size in (42, *range(193, 200))),
    }


def test_times_that_did_not_change_are_told_the_same_whoever_ran_last() -> None:
    profiler = Profiler(Tier.EDGE)
    told = []
    for segment in (A, B, A, B, A):
        profiler.record(segment, 1, 1.0, 0.0)
        told.append(profiler.full_profile().segments)
    assert told[1] == told[2] == told[3] == told[4]


def test_what_was_measured_is_told_in_full_and_only_what_ran_otherwise(profiler: Profiler) -> None:
    profiler.record(A, 1, 1.0, 0.5)
    full, brief = profiler.full_profile(), profiler.profile([(A, 1)])
    assert (full.segments, full.codecs, full.holds) == (MEASURED.segments, MEASURED.codecs, WHOLE)
    assert (brief.segments, brief.codecs) == ((SegmentTime(A, 1, 1.0),), ())
    assert full.queue_seconds == brief.queue_seconds == 0.5


def test_what_a_codec_makes_of_what_is_sent_takes_the_place_of_what_was_measured(profiler: Profiler) -> None:
    for _ in range(200):
        profiler.sent("int8", 0.5)
    (cost,) = profiler.profile([]).codecs
    assert cost == replace(MEASURED.codecs[0], ratio=pytest.approx(0.5, rel=0.02))
    assert profiler.full_profile().codecs == (cost,)


def test_one_odd_payload_is_not_taken_for_all_and_as_measured_is_no_news(profiler: Profiler) -> None:
    for ratio in (0.251, 0.249) * 100:
        profiler.sent("int8", ratio)
    assert profiler.profile([]).codecs == ()
    profiler.sent("int8", 1.0)
    assert profiler.profile([]).codecs[0].ratio < 0.3


def test_planners_are_told_of_payloads_only_when_their_mean_has_moved(profiler: Profiler) -> None:
    told = [profiler.profile([]).codecs]
    for _ in range(1000):
        profiler.sent("int8", 0.5)
        told.append(profiler.profile([]).codecs)
    assert sum(before is not after for before, after in pairwise(told)) < 40


def test_payloads_of_a_codec_that_was_not_measured_tell_nothing(profiler: Profiler) -> None:
    profiler.sent("jpeg90", 0.1)
    assert profiler.full_profile().codecs == MEASURED.codecs


def test_what_a_piece_should_take_is_exact_or_the_difference_of_two_heads() -> None:
    expectation = Expectation(MEASURED.segments)
    assert expectation.seconds(WHOLE, 1) == 3.0
    assert expectation.seconds(B, 1) == 2.0
    assert expectation.seconds(A, 3) == pytest.approx(1.0 + 4.0 * 2 / 8)
    unknown = [(Segment(1, 2), 1), (Segment(2, 3), 1), (B, 9), (B, 3), (A, 10), (A, 0)]
    assert [expectation.seconds(*key) for key in unknown] == [None] * len(unknown)
    assert Expectation().seconds(A, 1) is None


def test_a_batch_that_nothing_was_measured_for_takes_at_most_what_its_samples_take_alone(profiler: Profiler) -> None:
    assert profiler.at_most(WHOLE, 1) == profiler.expected(WHOLE, 1) == 3.0
    assert profiler.expected(WHOLE, 20) is None
    assert profiler.at_most(WHOLE, 20) == 60.0
    assert profiler.at_most(Segment(2, 3), 20) is None


def test_a_loaded_machine_shows_within_a_few_requests_and_recovers(profiler: Profiler) -> None:
    for _ in range(20):
        profiler.record(B, 1, 2.0, 0.0)
    assert profiler.profile([]).slowdown == pytest.approx(1.0)
    for _ in range(6):
        profiler.record(B, 1, 6.0, 0.0)
    assert profiler.profile([]).slowdown == pytest.approx(3.0, rel=1e-3)
    for _ in range(6):
        profiler.record(B, 1, 2.0, 0.0)
    assert profiler.full_profile().slowdown == pytest.approx(1.0)


def test_two_runs_are_too_few_to_call_a_machine_slow(profiler: Profiler) -> None:
    for _ in range(2):
        profiler.record(A, 1, 50.0, 0.0)
    assert profiler.profile([]).slowdown == 1.0


def test_load_is_forgotten_when_nobody_asks_for_a_while(profiler: Profiler, clock: FakeClock) -> None:
    for _ in range(5):
        profiler.record(A, 1, 4.0, 2.0)
    clock.now += 9.0
    assert profiler.profile([]).slowdown > 3.9
    clock.now += 2.0
    forgotten = profiler.profile([])
    assert (forgotten.slowdown, forgotten.queue_seconds) == (1.0, 0.0)


def test_runs_that_nothing_was_measured_for_do_not_tell_the_slowdown(profiler: Profiler) -> None:
    for _ in range(5):
        profiler.record(Segment(1, 3), 1, 100.0, 0.0)
    assert profiler.profile([]).slowdown == 1.0


def test_a_small_difference_of_two_long_heads_tells_no_slowdown_and_what_runs_took_takes_its_place(
    clock: FakeClock,
) -> None:
    profiler, middle = Profiler(Tier.EDGE, clock=clock), Segment(10, 11)
    heads = (SegmentTime(Segment(0, 10), 1, 0.0300), SegmentTime(Segment(0, 11), 1, 0.0302))
    profiler.learn(Measured(heads))
    for _ in range(8):
        profiler.record(middle, 1, 0.0015, 0.0)
    full = profiler.full_profile()
    assert full.slowdown == 1.0
    assert full.segments == (*heads, SegmentTime(middle, 1, pytest.approx(0.0015)))


def test_the_full_profile_adds_what_else_ran_as_it_would_take_on_an_idle_machine(profiler: Profiler) -> None:
    for _ in range(5):
        profiler.record(A, 1, 2.0, 0.0)
        profiler.record(Segment(1, 3), 1, 8.0, 0.0)
    *measured, other = profiler.full_profile().segments
    assert tuple(measured) == MEASURED.segments
    assert (other.segment, other.seconds) == (Segment(1, 3), pytest.approx(4.0, rel=1e-3))


def test_load_is_forgotten_of_what_was_not_measured_itself_too(profiler: Profiler, clock: FakeClock) -> None:
    for _ in range(20):
        profiler.record(B, 1, 20.0, 0.0)
    clock.now += 11.0
    full = profiler.full_profile()
    assert full.slowdown == 1.0
    assert full.segments[-1] == SegmentTime(B, 1, pytest.approx(2.0, rel=1e-3))


def test_a_wake_up_does_not_make_a_very_short_run_look_slow(clock: FakeClock) -> None:
    profiler = Profiler(Tier.DEVICE, clock=clock)
    profiler.learn(Measured((SegmentTime(A, 1, 0.00003),)))
    for _ in range(5):
        profiler.record(A, 1, 0.00006, 0.0)
    assert profiler.profile([]).slowdown < 1.3


@given(st.lists(st.floats(0, 1e12), min_size=3))
def test_the_slowdown_is_always_a_number_that_can_be_planned_with(seconds: list[float]) -> None:
    profiler = Profiler(Tier.EDGE, clock=FakeClock())
    profiler.learn(MEASURED)
    for each in seconds:
        profiler.record(A, 1, each, 0.0)
    assert 0.01 <= profiler.profile([]).slowdown <= 100
    assert math.isfinite(profiler.full_profile().slowdown)


def test_a_slowed_machine_has_slower_segments_and_the_same_codecs() -> None:
    slowed = MEASURED.slowed(8.0)
    assert [t.seconds for t in slowed.segments] == [8.0, 24.0, 40.0]
    assert [t.segment for t in slowed.segments] == [t.segment for t in MEASURED.segments]
    assert slowed.codecs == MEASURED.codecs


def test_newer_measurements_take_the_place_of_older_ones_and_leave_the_others() -> None:
    newer = Measured((SegmentTime(A, 1, 0.5), SegmentTime(B, 1, 2.5)), (CodecCost("int8", 3.0, 4.0, 0.2),))
    both = MEASURED.updated(newer)
    assert set(both.segments) == {*newer.segments, *MEASURED.segments[1:]}
    assert both.codecs == newer.codecs


def test_a_batch_is_as_large_as_the_most_samples_that_were_measured_to_pay() -> None:
    times = {1: 1.0, 8: 4.0, 32: 20.0, 64: 60.0}
    profiler = Profiler(Tier.EDGE)
    profiler.learn(Measured(tuple(SegmentTime(A, size, seconds) for size, seconds in times.items())))
    assert [profiler.batch(A, most) for most in (1, 4, 8, 16, 32, 64, 100)] == [1, 4, 8, 16, 32, 32, 32]
    assert profiler.batch(B, 32) == 1
    profiler.learn(Measured((SegmentTime(A, 1, 1.0), SegmentTime(A, 8, 7.0))))
    assert profiler.batch(A, 32) == 1
    profiler.learn(Measured())
    assert profiler.batch(A, 32) == 1
