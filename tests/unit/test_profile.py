"""What a machine's segments cost."""

from __future__ import annotations

from services.domain import Segment, SegmentTime, Tier
from services.profile import Profiler

A, B = Segment(0, 2), Segment(2, 4)


def test_nothing_that_never_ran_has_a_time() -> None:
    profile = Profiler(Tier.EDGE).profile([(A, 1)])
    assert (profile.tier, profile.queue_seconds, profile.segments) == (Tier.EDGE, 0.0, ())
    assert Profiler(Tier.EDGE).seconds(A, 1) is None


def test_times_are_kept_apart_by_segment_and_batch_size() -> None:
    profiler = Profiler(Tier.EDGE)
    profiler.record(A, 1, 1.0, 0.0)
    profiler.record(A, 8, 5.0, 0.0)
    profiler.record(B, 1, 2.0, 0.0)
    assert set(profiler.profile().segments) == {SegmentTime(A, 1, 1.0), SegmentTime(A, 8, 5.0), SegmentTime(B, 1, 2.0)}
    assert profiler.profile([(A, 8), (B, 2)]).segments == (SegmentTime(A, 8, 5.0),)


def test_one_slow_run_does_not_move_the_median() -> None:
    profiler = Profiler(Tier.EDGE)
    for seconds in (1.0, 1.0, 60.0, 1.0, 1.0):
        profiler.record(A, 1, seconds, seconds)
    assert profiler.seconds(A, 1) == 1.0
    assert profiler.profile().queue_seconds == 1.0


def test_old_runs_are_forgotten() -> None:
    profiler = Profiler(Tier.EDGE)
    for seconds in [9.0] * 100 + [1.0] * 31:
        profiler.record(A, 1, seconds, seconds)
    assert profiler.seconds(A, 1) == 1.0
    assert profiler.profile().queue_seconds == 1.0


def test_any_number_of_segments_takes_bounded_memory() -> None:
    profiler = Profiler(Tier.EDGE)
    for size in range(1000):
        profiler.record(A, size, 1.0, 0.0)
    sizes = [time.batch_size for time in profiler.profile().segments]
    assert len(sizes) == 256
    assert max(sizes) == 999
