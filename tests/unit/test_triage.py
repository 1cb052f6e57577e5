"""Who comes too late to be let in, once more calls come than can be looked at."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc.aio import EOF  # type: ignore[attr-defined]

from services import triage, wire
from services.errors import DeadlineExceeded, InvalidInput, OfframpError, QueueFull
from services.limiter import Limiter
from services.room import Room, held
from services.triage import LEAST_CALLS, TRIAL, WINDOW_SECONDS, Triage, Visit
from tests.fakes import FakeClock

NEEDED = 0.02


class Context:
    """What gRPC gives a method: a call with so many seconds left, whose message must not be read."""

    def __init__(self, remaining: float):
        self.remaining = remaining
        self.ended: grpc.StatusCode | None = None
        self.trailing: tuple[tuple[str, Any], ...] = ()

    def time_remaining(self) -> float:
        return self.remaining

    def code(self) -> grpc.StatusCode | None:
        return self.ended

    def set_code(self, code: grpc.StatusCode) -> None:
        self.ended = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing: tuple[tuple[str, Any], ...]) -> None:
        self.trailing = trailing

    async def read(self) -> bytes:
        raise AssertionError("its message was read")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(100)


@pytest.fixture
def door(clock: FakeClock) -> Triage:
    """With one in TRIAL on trial exactly."""
    draws = itertools.cycle([*[1.0] * (TRIAL - 1), 0.0])
    return Triage(Limiter(64), clock, lambda: next(draws))


def visit(door: Triage, clock: FakeClock, remaining: float, takes: float = NEEDED) -> Visit | None:
    """A call that is answered, or whose time runs out before."""
    found = door.enter(remaining)
    if found is not None:
        before, found.here = clock.now, True
        clock.now += min(takes, remaining)
        found.answered() if takes <= remaining else found.left()
        clock.now = before  # calls run side by side
    return found


def window(door: Triage, clock: FakeClock, calls: Callable[[], object], count: int = 2 * LEAST_CALLS) -> None:
    """So many calls, then the first of the next window."""
    for _ in range(count):
        calls()
    clock.now += WINDOW_SECONDS
    visit(door, clock, 10.0)


def flood(door: Triage, clock: FakeClock) -> None:
    window(door, clock, lambda: visit(door, clock, 1.0))
    window(door, clock, lambda: visit(door, clock, NEEDED / 4))
    assert door.flooded


def test_a_tier_that_answers_in_time_turns_nobody_away(door: Triage, clock: FakeClock) -> None:
    window(door, clock, lambda: visit(door, clock, 1.0))
    assert not door.flooded
    assert door.enter(0.0001) is not None
    assert door.enter(None) is not None


def test_while_many_end_in_vain_who_has_less_time_than_others_needed_is_turned_away(
    door: Triage, clock: FakeClock
) -> None:
    flood(door, clock)
    assert door.enter(NEEDED / 2) is None
    assert door.enter(1.0) is not None
    assert door.enter(None) is not None
    assert door.limiter.rejected[QueueFull.reason] == 1


def test_one_in_so_many_is_let_in_all_the_same(door: Triage, clock: FakeClock) -> None:
    flood(door, clock)
    entered = [door.enter(NEEDED / 2) for _ in range(10 * TRIAL)]
    assert sum(each is not None for each in entered) == 10


def test_a_flood_lasts_while_many_are_turned_away_and_no_longer(door: Triage, clock: FakeClock) -> None:
    flood(door, clock)
    for _ in range(3):
        window(door, clock, lambda: visit(door, clock, NEEDED / 4))
        assert door.flooded
    window(door, clock, lambda: visit(door, clock, 1.0))
    assert not door.flooded


def test_a_flood_is_forgotten_when_nobody_comes(door: Triage, clock: FakeClock) -> None:
    flood(door, clock)
    clock.now += 5 * WINDOW_SECONDS
    assert door.enter(NEEDED / 4) is not None
    assert not door.flooded


def test_trials_that_are_answered_let_more_in(door: Triage, clock: FakeClock) -> None:
    flood(door, clock)
    for _ in range(40):
        window(door, clock, lambda: visit(door, clock, NEEDED / 4, takes=NEEDED / 10), count=20 * TRIAL)
    assert door.enter(NEEDED / 4) is not None


def test_a_few_calls_prove_nothing(door: Triage, clock: FakeClock) -> None:
    window(door, clock, lambda: visit(door, clock, NEEDED / 4), count=LEAST_CALLS - 1)
    assert not door.flooded


def test_callers_who_leave_of_themselves_say_nothing(door: Triage, clock: FakeClock) -> None:
    def leave_early() -> None:
        found = door.enter(5.0)
        assert found is not None
        found.here = True
        found.left()

    window(door, clock, leave_early)
    assert not door.flooded
    assert door.needed < NEEDED


def test_after_a_stall_a_tier_that_answers_again_turns_nobody_away_for_long(door: Triage, clock: FakeClock) -> None:
    for stalled, windows in ((False, 4), (True, 6), (False, 6)):
        for _ in range(windows):
            window(door, clock, lambda: visit(door, clock, 0.3, takes=9.0 if stalled else 0.01), count=30)  # noqa: B023
        assert door.flooded == stalled
    assert door.enter(0.3) is not None


def test_callers_whose_calls_are_hopeless_do_not_have_those_of_others_turned_away(
    door: Triage, clock: FakeClock
) -> None:
    """Quick calls with little time, long ones with much, and some that give up before anybody could answer them."""
    quick: list[bool] = []

    def mixed() -> None:
        for remaining, takes in ((0.1, 0.005), (0.1, 0.005), (0.015, 0.03), (5.0, 0.5)):
            found = visit(door, clock, remaining, takes)
            if takes == 0.005:
                quick.append(found is not None)

    for _ in range(60):
        window(door, clock, mixed, count=20)
    assert door.flooded
    assert sum(quick[-1000:]) > 950


def test_a_slow_sender_says_nothing_of_a_tier_unless_it_was_taken_up_late(door: Triage, clock: FakeClock) -> None:
    def unread(remaining: float) -> None:
        found = door.enter(remaining)
        assert found is not None
        clock.now += remaining
        found.left()
        clock.now -= remaining

    window(door, clock, lambda: unread(1.0))
    assert not door.flooded
    window(door, clock, lambda: unread(0.01))
    assert door.flooded


def test_a_tier_that_drains_turns_nobody_away_unread(door: Triage, clock: FakeClock) -> None:
    flood(door, clock)
    door.limiter.draining = True
    assert door.enter(NEEDED / 2) is not None


async def test_who_is_turned_away_is_told_so_and_its_message_is_not_read(door: Triage, clock: FakeClock) -> None:
    flood(door, clock)
    context = Context(NEEDED / 4)
    assert await _method(door)(None, context) is None
    assert context.ended is grpc.StatusCode.UNAVAILABLE
    error = wire.error_from(context.ended, context.details, dict(context.trailing))
    assert isinstance(error, QueueFull)
    assert error.retry_seconds == pytest.approx(triage._AGAIN_SECONDS)


async def test_a_call_that_is_cancelled_at_its_deadline_ended_in_vain(door: Triage, clock: FakeClock) -> None:
    class Late(Context):
        async def read(self) -> bytes:
            clock.now += self.remaining
            raise asyncio.CancelledError

    for _ in range(2 * LEAST_CALLS):
        with pytest.raises(asyncio.CancelledError):
            await _method(door)(None, Late(0.001))
    clock.now += WINDOW_SECONDS - 0.04
    door.enter(1.0)
    assert door.flooded


@pytest.mark.parametrize(("left", "code"), [(5.0, InvalidInput), (0.0, DeadlineExceeded)])
async def test_a_call_that_ends_without_its_message_is_told_why(
    door: Triage, left: float, code: type[OfframpError]
) -> None:
    class Ended(Context):
        async def read(self) -> Any:
            self.remaining = left
            return EOF

    assert isinstance(await _method(door)(None, Ended(5.0)), code)


def _method(door: Triage) -> Any:
    async def answer(request: object, context: object) -> object:
        return request

    handler = grpc.unary_unary_rpc_method_handler(answer, request_deserializer=bytes, response_serializer=bytes)
    return held(handler, Room(100, 10), door).stream_unary
