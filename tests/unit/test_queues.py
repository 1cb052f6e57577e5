from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.queues import Queueing, Queues, quickest
from services.domain import Plan, Segment, Stage, Tier
from services.traffic import Traffic
from tests.fakes import FakeClock

_LOCAL = Plan((Stage(Tier.DEVICE, Segment(0, 4)),))
_AWAY = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, 4), "int8")))
_SPLIT = Plan((Stage(Tier.DEVICE, Segment(0, 2)), Stage(Tier.EDGE, Segment(2, 4), "int8")))
HERE = Queueing(_LOCAL, 0.2, 0.2, 0.0)
AWAY = Queueing(_AWAY, 0.1, 0.0, 1.0)
SPLIT = Queueing(_SPLIT, 0.15, 0.1, 1.0)
_seconds = st.floats(0, 10)


@pytest.mark.parametrize("plan", [HERE, AWAY, SPLIT])
def test_without_queues_nobody_waits(plan: Queueing) -> None:
    assert plan.expected(Queues()) == plan.seconds


def test_each_plan_waits_for_what_it_uses() -> None:
    busy = Queues(device=0.5, link=0.3)
    assert HERE.expected(busy) == pytest.approx(0.7)
    assert AWAY.expected(busy) == pytest.approx(0.4)


def test_the_link_is_waited_for_only_beyond_what_the_device_takes_anyway() -> None:
    assert SPLIT.expected(Queues(link=0.08)) == pytest.approx(0.15)
    assert SPLIT.expected(Queues(link=0.3)) == pytest.approx(0.15 + 0.2)
    assert SPLIT.expected(Queues(device=0.1, link=0.3)) == pytest.approx(0.15 + 0.1 + 0.1)


def test_who_may_leave_before_the_link_waits_for_it_in_proportion() -> None:
    assert Queueing(_SPLIT, 0.15, 0.1, 0.25).expected(Queues(link=0.5)) == pytest.approx(0.15 + 0.25 * 0.4)


def test_a_slight_gain_is_no_reason_to_leave_the_chosen_plan() -> None:
    assert quickest(AWAY, [HERE], Queues(link=0.105)) is AWAY
    assert quickest(AWAY, [HERE], Queues(link=0.15)) is HERE
    assert quickest(AWAY, [], Queues(link=10)) is AWAY


@given(_seconds, _seconds)
def test_who_is_sent_elsewhere_is_expected_to_gain(device: float, link: float) -> None:
    queues = Queues(device, link)
    taken = quickest(SPLIT, [HERE, AWAY], queues)
    assert taken is SPLIT or taken.expected(queues) < SPLIT.expected(queues)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100.0)


def test_calls_in_flight_leave_one_after_the_other(clock: FakeClock) -> None:
    traffic = Traffic(clock)
    assert traffic.ahead_seconds(1000.0) == 0
    with traffic.crossing(500):
        clock.now += 0.25
        with traffic.crossing(1000):
            assert traffic.ahead_seconds(1000.0) == pytest.approx(1.25)
            assert traffic.ahead_seconds(2000.0) == pytest.approx(0.5)
        assert traffic.ahead_seconds(1000.0) == pytest.approx(0.25)


def test_what_should_have_left_by_now_holds_nobody_up(clock: FakeClock) -> None:
    traffic = Traffic(clock)
    with traffic.crossing(500):
        clock.now += 3
        assert traffic.ahead_seconds(1000.0) == 0
        with traffic.crossing(100):
            assert traffic.ahead_seconds(1000.0) == pytest.approx(0.1)
