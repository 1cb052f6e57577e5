"""Who comes too late to be let in, once more calls come than can be looked at."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from services import server, triage, wire
from services.domain import Tier
from services.errors import QueueFull
from services.guard import Service
from services.limiter import Limiter
from services.metrics.requests import Metrics
from services.observing import LogLines, Observers
from services.pb.offramp.v1 import tier_pb2
from services.room import Room, held
from services.triage import LEAST_CALLS, TRIAL, WINDOW_SECONDS, Triage, Visit
from tests.fakes import FakeClock
from tests.scraping import of, total

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
    return Triage(Limiter(64), clock)


def visit(door: Triage, clock: FakeClock, remaining: float, takes: float = NEEDED) -> Visit | None:
    """A call that is answered, or whose time runs out before."""
    found = door.enter(remaining)
    if found is not None:
        before = clock.now
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


def test_who_is_turned_away_unread_counts_as_an_error_and_leaves_no_line(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics(Tier.EDGE, "0")
    door = Triage(Limiter(64), clock, tell=Observers((LogLines(), metrics)).turned_away)
    flood(door, clock)
    caplog.clear()
    with caplog.at_level(logging.INFO, "offramp"):
        assert door.enter(NEEDED / 2) is None
    assert total(of(metrics.registry), "offramp_request_errors_total", reason="QUEUE_FULL") == 1
    assert not caplog.records


async def test_a_server_counts_those_without_room_and_tells_of_those_turned_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    doors, rooms, limiter, observers = list[Triage](), list[Room](), Limiter(4), Observers(())

    def door_of(*given: Any, **more: Any) -> Triage:
        doors.append(Triage(*given, **more))
        return doors[-1]

    monkeypatch.setattr(server, "Triage", door_of)
    streams: Any = SimpleNamespace(within=rooms.append)
    service = Service("offramp.v1.Tier", {}, tier_pb2.DESCRIPTOR.serialized_pb, streams)
    server.TierServer([service], limiter, observers=observers)
    assert doors[0].tell == observers.turned_away
    assert rooms[0].rejected is doors[0].limiter.rejected is limiter.rejected


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
        found.left()

    window(door, clock, leave_early)
    assert not door.flooded
    assert door.needed < NEEDED


def test_after_a_stall_a_tier_that_answers_again_turns_nobody_away_for_long(door: Triage, clock: FakeClock) -> None:
    def some(takes: float) -> None:
        window(door, clock, lambda: visit(door, clock, 0.3, takes), count=30)

    for _ in range(6):
        some(takes=9.0)
    assert door.flooded
    for _ in range(4):
        some(takes=0.01)
    assert not door.flooded
    assert door.enter(0.3) is not None


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


def _method(door: Triage) -> Any:
    async def answer(request: object, context: object) -> object:
        return request

    handler = grpc.unary_unary_rpc_method_handler(answer, request_deserializer=bytes, response_serializer=bytes)
    return held(handler, Room(100, 10), door).stream_unary
