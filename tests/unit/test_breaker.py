"""A peer that fails is left alone, checked, tried once, and trusted again; retries stay a share of requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.breaker import FAILURES, FIRST_OPEN_SECONDS, MAX_OPEN_SECONDS, WINDOW_SECONDS, Breaker, BreakerState
from services.retry_budget import BURST, SHARE, RetryBudget


class Hands:
    """A clock that somebody moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def tripped(clock: Hands) -> Breaker:
    breaker = Breaker(clock)
    for _ in range(FAILURES):
        assert breaker.allows()
        breaker.failed()
    return breaker


def test_five_failures_in_a_row_open_it() -> None:
    breaker = tripped(Hands())
    assert breaker.state is BreakerState.OPEN
    assert not breaker.allows()


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker(Hands())
    for _ in range(FAILURES - 1):
        breaker.failed()
    breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed()
    assert breaker.state is BreakerState.CLOSED


def test_failures_spread_over_a_long_time_keep_it_closed() -> None:
    clock = Hands()
    breaker = Breaker(clock)
    for _ in range(3 * FAILURES):
        breaker.failed()
        clock.now += WINDOW_SECONDS / (FAILURES - 1) + 0.1
    assert breaker.state is BreakerState.CLOSED


def test_a_health_check_is_due_only_after_a_while() -> None:
    clock = Hands()
    breaker = tripped(clock)
    assert not breaker.check_due
    clock.now += FIRST_OPEN_SECONDS
    assert breaker.check_due


def test_when_healthy_one_request_tries_and_its_success_closes_it() -> None:
    breaker = tripped(Hands())
    breaker.healthy()
    assert breaker.allows()
    assert not breaker.allows()
    breaker.succeeded()
    assert breaker.allows()
    assert breaker.allows()


def test_when_the_one_that_tries_fails_it_stays_away_for_longer() -> None:
    clock = Hands()
    breaker = tripped(clock)
    breaker.healthy()
    assert breaker.allows()
    breaker.failed()
    clock.now += FIRST_OPEN_SECONDS
    assert not breaker.check_due
    clock.now += FIRST_OPEN_SECONDS
    assert breaker.check_due


def test_a_trial_that_tells_nothing_lets_another_try() -> None:
    breaker = tripped(Hands())
    breaker.healthy()
    assert breaker.allows()
    breaker.unknown()
    assert breaker.allows()


def test_it_never_stays_away_for_longer_than_the_bound() -> None:
    clock = Hands()
    breaker = tripped(clock)
    for _ in range(20):
        breaker.unhealthy()
    clock.now += MAX_OPEN_SECONDS
    assert breaker.check_due


@given(st.lists(st.booleans(), max_size=400))
def test_retries_never_exceed_their_share_and_the_burst(retried: list[bool]) -> None:
    budget, retries = RetryBudget(), 0
    for wish in retried:
        budget.asked()
        retries += wish and budget.take()
    assert retries <= SHARE * len(retried) + BURST


def test_who_is_found_dead_while_it_is_tried_is_left_alone_for_twice_as_long() -> None:
    clock = Hands()
    breaker = Breaker(clock)
    breaker.dead()
    first = breaker.due_seconds
    clock.now += first
    breaker.healthy()
    breaker.dead()
    assert breaker.state is BreakerState.OPEN
    assert breaker.due_seconds == 2 * first
    breaker.dead()
    assert breaker.due_seconds == 2 * first
