"""Who may bring a message, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from services import memory, room
from services.errors import DeadlineExceeded, QueueFull
from services.limiter import Limiter
from services.room import Room, held
from services.triage import Triage

MEGABYTE = 1 << 20


async def asked(place: Room, taken: asyncio.Event, leave: asyncio.Event, size: int | None = None) -> None:
    held = await place.enter()
    try:
        if size is not None:
            held = place.settle(held, size)
        taken.set()
        await leave.wait()
    finally:
        place.leave(held)


async def crowd(place: Room, count: int, leave: asyncio.Event) -> tuple[list[asyncio.Task[None]], list[asyncio.Event]]:
    """`count` who come one after the other and stay until `leave`; a turn of the loop later."""
    taken = [asyncio.Event() for _ in range(count)]
    tasks = [asyncio.create_task(asked(place, each, leave)) for each in taken]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks, taken


async def test_as_many_as_fit_read_at_once_and_the_others_in_turn() -> None:
    place, leave = Room(capacity=3, message_bytes=1), asyncio.Event()
    tasks, taken = await crowd(place, 5, leave)
    assert [each.is_set() for each in taken] == [True] * 3 + [False] * 2
    leave.set()
    await asyncio.gather(*tasks)
    assert all(each.is_set() for each in taken)
    assert place.held == 0


async def test_a_small_message_makes_room_as_soon_as_its_size_is_known() -> None:
    place, leave = Room(capacity=100, message_bytes=100), asyncio.Event()
    small = asyncio.create_task(asked(place, asyncio.Event(), leave, size=0))
    _, taken = await crowd(place, 1, leave)
    assert taken[0].is_set()
    leave.set()
    await small


async def test_one_message_is_always_let_in() -> None:
    place = Room(capacity=1, message_bytes=100)
    await place.enter()
    assert place.held == 100


async def test_who_gives_up_waiting_leaves_no_trace() -> None:
    place, leave = Room(capacity=1, message_bytes=1), asyncio.Event()
    (first, second, third), taken = await crowd(place, 3, leave)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    leave.set()
    await asyncio.gather(first, third)
    assert (taken[1].is_set(), taken[2].is_set(), place.held) == (False, True, 0)


async def test_who_gives_up_when_it_is_their_turn_hands_it_on() -> None:
    place, leave = Room(capacity=1, message_bytes=1), asyncio.Event()
    first = await place.enter()
    (second, third), taken = await crowd(place, 2, leave)
    place.leave(first)
    second.cancel()
    leave.set()
    await asyncio.gather(second, third, return_exceptions=True)
    assert (second.cancelled(), taken[1].is_set(), place.held) == (True, True, 0)


async def test_more_than_may_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MAX_WAITING", 1)
    place, leave = Room(capacity=1, message_bytes=1), asyncio.Event()
    tasks, _ = await crowd(place, 3, leave)
    leave.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), type(None), QueueFull]


@pytest.mark.parametrize(("left", "fails"), [(0.0, True), (0.004, True), (3.0, False), (None, False)])
@pytest.mark.parametrize(("full", "told"), [(False, DeadlineExceeded), (True, QueueFull)])
async def test_whose_time_is_up_before_its_message_is_in_has_failed_and_who_leaves_has_not(
    left: float | None, fails: bool, full: bool, told: type[Exception]
) -> None:
    place, heard = Room(capacity=1, message_bytes=1), list[type[Exception]]()
    place.held = int(full)

    async def answer(request: Any, context: Any) -> None:
        heard.append(type(request))

    async def read() -> bytes:
        await asyncio.Event().wait()
        return b""

    handler = grpc.unary_unary_rpc_method_handler(answer, request_deserializer=bytes)
    context = SimpleNamespace(read=read, time_remaining=lambda: left)
    behaviour: Any = held(handler, place, Triage(Limiter(4))).stream_unary
    call = asyncio.create_task(behaviour(None, context))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert heard == [told] * fails
    assert place.rejected.get("QUEUE_FULL", 0) == (fails and full)
    assert place.held == int(full)


@pytest.mark.parametrize("left", [None, 60.0])
async def test_a_call_without_a_deadline_waits_for_room_no_longer_than_is_patient(left: float | None) -> None:
    place, heard = Room(capacity=1, message_bytes=1, patience_seconds=0.05), list[type[Exception]]()
    place.held = 1

    async def answer(request: Any, context: Any) -> None:
        heard.append(type(request))

    handler = grpc.unary_unary_rpc_method_handler(answer, request_deserializer=bytes)
    context = SimpleNamespace(read=lambda: pytest.fail("there was no room"), time_remaining=lambda: left)
    behaviour: Any = held(handler, place).stream_unary
    call = asyncio.create_task(behaviour(None, context))
    await asyncio.sleep(0)
    assert len(place._waiting) == 1
    if left is None:
        await asyncio.wait_for(call, 5)
    else:
        assert not place.arrivals._due  # gRPC ends it
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert heard == ([QueueFull] if left is None else [])
    assert place.rejected == ({"QUEUE_FULL": 1} if left is None else {})
    assert (len(place._waiting), place.held) == (0, 1)


def test_on_a_small_machine_messages_are_smaller_and_still_several_fit() -> None:
    small, large = Room.within(256 * MEGABYTE, 64 * MEGABYTE), Room.within(64 << 30, 64 * MEGABYTE)
    assert small.message_bytes == 4 * MEGABYTE
    assert small.capacity == 8 * small.message_bytes
    assert large.message_bytes == 64 * MEGABYTE


@pytest.mark.parametrize(("text", "expected"), [("268435456\n", 256 * MEGABYTE), ("max\n", None), ("", None)])
def test_the_memory_there_is_is_what_the_container_allows(tmp_path: Path, text: str, expected: int | None) -> None:
    whole = memory.limit_bytes(tmp_path)
    (tmp_path / "memory.max").write_text(text)
    assert memory.limit_bytes(tmp_path) == (expected or whole)
    assert whole > 256 * MEGABYTE


def test_what_came_on_a_stream_has_room_until_it_is_answered_or_is_refused() -> None:
    place = Room(capacity=100, message_bytes=10)
    place.take(60)
    with pytest.raises(QueueFull):
        place.take(60)
    place.leave(60)
    place.take(500)  # one is always let in
    place.leave(500)
    assert place.held == 0


async def test_who_finds_no_room_is_counted_with_those_whom_the_limiter_turns_away() -> None:
    limiter, leave = Limiter(4), asyncio.Event()
    place = Room(capacity=1, message_bytes=1, rejected=limiter.rejected)
    tasks, _ = await crowd(place, 1 + room.MAX_WAITING, leave)
    with pytest.raises(QueueFull):
        await place.enter()
    with pytest.raises(QueueFull):
        place.take(1)
    assert limiter.rejected["QUEUE_FULL"] == 2
    leave.set()
    await asyncio.gather(*tasks)


async def test_streams_leave_room_for_a_message_that_waits_to_be_read() -> None:
    place, leave = Room(capacity=100, message_bytes=60), asyncio.Event()
    place.take(50)
    tasks, taken = await crowd(place, 1, leave)
    with pytest.raises(QueueFull):
        place.take(10)
    place.leave(50)
    leave.set()
    await asyncio.gather(*tasks)
    assert taken[0].is_set()
