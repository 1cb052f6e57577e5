"""What is under way on a link, and for how long the far side may have it."""

from __future__ import annotations

import math

import pytest

from services.traffic import Held, Traffic
from tests.fakes import FakeClock


def test_calls_in_flight_together_know_of_each_others_bytes() -> None:
    traffic = Traffic(FakeClock(100))
    with traffic.crossing(1_000) as first:
        assert traffic.quiet_seconds() == 0
        with traffic.crossing(50) as second:
            pass
        with traffic.crossing(7) as third:
            pass
    assert (first.shared_bytes, second.shared_bytes, third.shared_bytes) == (57, 1_000, 1_000)


def test_a_link_is_quiet_from_its_last_call_on_whatever_the_probes() -> None:
    clock = FakeClock(100)
    traffic = Traffic(clock)
    assert traffic.quiet_seconds() == float("inf")
    with traffic.crossing(10):
        clock.now += 1
    clock.now += 3
    with traffic.crossing(10, probes=True):
        assert traffic.quiet_seconds() == 3
    assert traffic.quiet_seconds() == 3


def test_what_waits_has_been_on_the_network_since_it_began_less_what_the_far_side_may_need() -> None:
    clock = FakeClock(100)
    traffic = Traffic(clock)
    with traffic.crossing(1_000, beyond_seconds=0.05), traffic.crossing(10, probes=True), traffic.crossing(5):
        clock.now += 0.25
        waiting = traffic.waiting()
    assert [nbytes for nbytes, _ in waiting] == [1_015, 1_015, 1_015]
    assert [seconds for _, seconds in waiting] == [pytest.approx(0.2), 0.25, -math.inf]
    assert traffic.waiting() == []


def test_the_far_side_may_have_a_call_as_long_as_it_had_others_of_its_kind() -> None:
    held = Held()
    assert held.longest("plan", None) == math.inf
    assert held.longest("plan", 0.3) == 0.3
    for seconds in (0.5, *[0.02, 0.07, 0.03] * 6):
        held.note("plan", seconds)
    assert held.longest("plan", 0.3) == 0.07
    for kind in range(100):
        held.note(kind, 1.0)
    assert held.longest("plan", 0.3) == 0.3


def test_the_far_side_needs_as_long_as_the_shortest_of_lately_while_that_is_news() -> None:
    clock = FakeClock(100.0)
    held = Held(clock)
    assert held.shortest("plan") == 0.0
    for seconds in (0.5, 0.2, 0.3):
        held.note("plan", seconds)
    assert held.shortest("plan") == 0.2
    clock.now += 2.5
    assert held.shortest("plan") == 0.0
    for kind in range(100):
        held.note(kind, 1.0)
    assert held.shortest("plan") == 0.0
    assert len(held._noted_at) == len(held._seconds)
