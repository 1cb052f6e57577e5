"""Admission."""

from __future__ import annotations

import pytest

from services.backlog import Backlog
from services.errors import Draining, ModelNotReady, QueueFull
from services.gradient_limit import GradientLimit
from services.limiter import Limiter
from tests.fakes import FakeClock


def test_as_many_as_allowed_are_held_and_no_more() -> None:
    limiter = Limiter(2)
    with limiter.admit(), limiter.admit():
        with pytest.raises(QueueFull, match="2 requests"), limiter.admit():
            pytest.fail("a third was admitted")
        assert limiter.in_flight == 2
    with limiter.admit():
        assert limiter.in_flight == 1
    assert limiter.in_flight == 0


def test_nobody_is_admitted_before_it_is_warm() -> None:
    limiter = Limiter(1, warm=False)
    with pytest.raises(ModelNotReady, match="warming up"), limiter.admit():
        pytest.fail("was admitted")
    assert not limiter.ready
    limiter.warm = True
    with limiter.admit():
        assert limiter.ready


def test_a_place_is_given_back_when_its_request_fails() -> None:
    limiter = Limiter(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), limiter.admit():
            raise ValueError("broken")
    assert limiter.in_flight == 0


def test_who_is_refused_takes_no_place() -> None:
    limiter = Limiter(1)
    with limiter.admit():
        for _ in range(3):
            with pytest.raises(QueueFull), limiter.admit():
                pass
    assert limiter.in_flight == 0


def test_nobody_is_admitted_while_draining_and_those_inside_stay() -> None:
    limiter = Limiter(2)
    with limiter.admit():
        limiter.draining = True
        with pytest.raises(Draining), limiter.admit():
            pytest.fail("admitted while draining")
        assert limiter.in_flight == 1


def test_several_places_are_given_together_or_not_at_all() -> None:
    whole = Limiter(5)
    part = Limiter(3, whole=whole)
    with part.admit(places=2):
        assert (part.in_flight, whole.in_flight, part.room) == (2, 2, 1)
        with pytest.raises(QueueFull), part.admit(places=2):
            pass
        assert (part.in_flight, whole.in_flight) == (2, 2)
    assert (part.in_flight, whole.in_flight, part.room) == (0, 0, 3)


def test_who_would_be_done_too_late_is_refused_at_once_and_told_when_to_ask_again() -> None:
    limiter = Limiter(10, wait=lambda: 0.2)
    with limiter.admit(seconds=0.3):
        assert limiter.in_flight == 1
    with pytest.raises(QueueFull, match="would take") as error, limiter.admit(seconds=0.1):
        pytest.fail("was admitted")
    assert error.value.retry_seconds == 0.2
    assert limiter.rejected["QUEUE_FULL"] == 1


def test_who_is_late_already_hears_that_from_whoever_keeps_deadlines() -> None:
    with Limiter(10, wait=lambda: 0.2).admit(seconds=-1.0):
        pass


def test_an_adaptive_limit_falls_where_requests_wait_for_each_other_and_never_exceeds_the_given_one() -> None:
    clock = FakeClock()
    limiter = Limiter(16, adaptive=GradientLimit(16), clock=clock)
    assert limiter.limit == 16
    for seconds in [0.01] * 5 + [0.2] * 50:
        with limiter.admit(places=limiter.limit):
            clock.now += seconds
    assert limiter.limit < 10
    assert limiter.room == limiter.limit
    with pytest.raises(QueueFull), limiter.admit(places=limiter.limit + 1):
        pass


def test_what_takes_longer_than_requests_do_leaves_an_adaptive_limit_alone() -> None:
    clock = FakeClock()
    limiter = Limiter(16, adaptive=GradientLimit(16), clock=clock)
    for _ in range(20):
        with limiter.admit(places=8):
            clock.now += 0.01
        with limiter.admit(places=8, learns=False):
            assert limiter.in_flight == 8
            clock.now += 2.0
    assert (limiter.limit, limiter.in_flight) == (16, 0)


def test_what_waits_is_what_is_here_times_what_one_takes_over_the_workers() -> None:
    backlog = Backlog(workers=2)
    assert backlog.wait_seconds() == 0
    for _ in range(50):
        backlog.took(0.01)
    backlog.runs = 1
    assert backlog.wait_seconds() == 0, "a worker is free"
    waits = []
    for backlog.runs in (2, 10, 100):
        waits.append(backlog.wait_seconds())
    assert waits == sorted(waits)
    assert 0.01 * 99 / 2 <= waits[-1] <= 2 * 0.01 * 99 / 2 + 0.02


@pytest.mark.parametrize(
    ("workers", "runs", "expected"), [(1, 0, 0.0), (1, 1, 0.1), (1, 3, 0.5), (2, 1, 0.0), (2, 3, 0.15)]
)
def test_a_run_begins_when_those_ahead_are_through_and_the_one_under_way_is_half_through(
    workers: int, runs: int, expected: float
) -> None:
    assert Backlog(workers, runs, 0.2).ahead_seconds() == pytest.approx(expected)
