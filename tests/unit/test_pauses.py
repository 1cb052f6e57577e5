"""How long plans that could not be prepared are left alone."""

from __future__ import annotations

import pytest

from device_agent.pauses import Pauses
from services.domain import Plan, Segment, Stage, Tier


def plan(end: int, expected_seconds: float | None = None) -> Plan:
    return Plan((Stage(Tier.DEVICE, Segment(0, end)),), expected_seconds)


def waits(pauses: Pauses, failures: int) -> list[float]:
    """How long the pause was after each of several failures, to a quarter of a second."""
    found, now = list[float](), 0.0
    for _ in range(failures):
        pauses.failed(plan(1), now)
        since = now
        while not pauses.over(plan(1), now):
            now += 0.25
        found.append(now - since)
    return found


def test_pauses_double_up_to_half_a_minute() -> None:
    assert waits(Pauses(), 8) == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_what_may_be_gone_in_a_moment_is_tried_again_soon_however_often_it_failed() -> None:
    pauses = Pauses()
    waits(pauses, 5)
    pauses.failed(plan(1), 1000.0, passing=True)
    assert pauses.over(plan(1), 1001.0)


def test_after_a_success_the_next_failure_is_the_first_again() -> None:
    pauses = Pauses()
    waits(pauses, 5)
    pauses.prepared(plan(1))
    assert waits(pauses, 1) == [1.0]


def test_a_pause_is_of_the_plans_stages_whatever_is_expected_of_them() -> None:
    pauses = Pauses()
    pauses.failed(plan(1, 0.5), 0.0)
    assert not pauses.over(plan(1, 0.7), 0.5)
    assert pauses.over(plan(2, 0.5), 0.5)


def test_those_that_fail_together_count_once() -> None:
    pauses = Pauses()
    for now in (0.0, 0.1, 0.2):
        pauses.failed(plan(1), now)
    assert pauses.over(plan(1), 1.0)


@pytest.mark.parametrize("count", [64, 1000])
def test_plans_without_end_are_not_kept(count: int) -> None:
    pauses = Pauses()
    for end in range(count):
        pauses.failed(plan(end), 0.0)
    assert len(pauses._until) == 64
    assert not pauses.over(plan(count - 1), 0.5)
