"""How a tier takes up the calls of one message, as far as gRPC has no part in it."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from services import exchange_frames
from services.exchange_service import ExchangeService
from services.framing import Framed
from services.observing import Observers
from services.pb.offramp.v1 import tier_pb2 as pb
from tests.fakes import FakeClock
from tests.far_side import name_in, reply, request

CALLS = 50
EACH_SECONDS = 0.0004


class Context:
    """A stream that brings one message, and then nothing until it is told to end."""

    def __init__(self, message: bytes):
        self.coming = [message]
        self.written: list[str] = []

    async def read(self) -> bytes:
        if self.coming:
            return self.coming.pop()
        await asyncio.Event().wait()
        return b""

    async def write(self, message: bytes) -> None:
        outcomes = pb.ExchangeReply.FromString(message).outcomes
        self.written += [name_in(each.reply) for each in outcomes]


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
