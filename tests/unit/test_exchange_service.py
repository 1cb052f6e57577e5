"""How a tier takes up the calls of one message, as far as gRPC has no part in it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from services import exchange_frames, wire
from services.exchange_service import ExchangeService
from services.framing import Framed, varint
from services.observing import Observers
from services.pb.offramp.v1 import tier_pb2 as pb
from services.room import Room
from tests.fakes import FakeClock
from tests.far_side import name_in, reply, request

CALLS = 50
EACH_SECONDS = 0.0004


class Context:
    """A stream that brings one message, and then nothing until it is told to end."""

    def __init__(self, message: bytes):
        self.coming = [message]
        self.written: list[str] = []
        self.refused: list[str] = []

    async def read(self) -> bytes:
        if self.coming:
            return self.coming.pop()
        await asyncio.Event().wait()
        return b""

    async def write(self, message: bytes) -> None:
        outcomes = pb.ExchangeReply.FromString(message).outcomes
        self.written += [name_in(each.reply) for each in outcomes if not each.status]
        self.refused += [wire.error_from_status(each.status).reason for each in outcomes if each.status]


def served(clock: FakeClock) -> tuple[ExchangeService, Any, list[int]]:
    """A service whose answers take time of the clock and never wait; its stream; how many were answered, as it goes."""
    answered: list[int] = []

    async def answer(framed: Framed, arrived: float) -> pb.InferReply:
        clock.now += EACH_SECONDS
        answered.append(len(answered) + 1)
        return reply(framed.request_id)

    message = exchange_frames.request([(number, request(f"r{number}")) for number in range(1, CALLS + 1)])
    return ExchangeService(answer, 10.0, Observers(()), clock), Context(message), answered


async def test_the_calls_of_one_message_leave_others_their_turn() -> None:
    service, context, answered = served(FakeClock())
    stream = asyncio.create_task(service.exchange(None, context))
    seen = [0]
    while seen[-1] < CALLS:
        await asyncio.sleep(0)
        seen.append(len(answered))
    assert max(b - a for a, b in pairwise(seen)) <= 3
    service.end()
    await stream
    assert len(context.written) == CALLS


async def test_what_was_read_is_answered_though_the_stream_ends_meanwhile() -> None:
    service, context, answered = served(FakeClock())
    stream = asyncio.create_task(service.exchange(None, context))
    while not answered:
        await asyncio.sleep(0)
    service.end()
    await stream
    assert sorted(context.written) == sorted(f"r{number}" for number in range(1, CALLS + 1))


async def test_a_call_takes_the_room_that_all_of_it_takes_not_only_its_payload() -> None:
    free = asyncio.Event()

    async def answer(framed: Framed, arrived: float) -> pb.InferReply:
        await free.wait()
        return reply(framed.request_id)

    room, service = Room(capacity=100_000, message_bytes=1), ExchangeService(answer, 10.0, Observers(()))
    service.within(room)
    context: Any = Context(exchange_frames.request([(n, padded(f"r{n}", 60_000)) for n in (1, 2)]))
    stream = asyncio.create_task(service.exchange(None, context))
    while not context.refused:
        await asyncio.sleep(0)
    assert 60_000 < room.held < 61_000
    free.set()
    service.end()
    await stream
    assert (context.written, context.refused, room.held) == (["r1"], ["QUEUE_FULL"], 0)


def padded(name: str, nbytes: int) -> Framed:
    """A request of ten bytes, and of a field that nobody knows in its header."""
    framed = request(name, 10)
    framed.header.MergeFromString(b"\xfa\x7f" + varint(nbytes) + bytes(nbytes))
    return framed
