"""Streams whose requests find no room, or a full queue: each is told for itself, and when to ask again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services import wire
from services.errors import OfframpError, QueueFull
from services.framing import Framed
from services.observing import Observers
from services.open_inference import messages
from services.open_inference.stream import OpenStreams, Stream
from services.pb.offramp.v1 import tier_pb2 as pb
from services.room import Room
from tests.calls import until
from tests.far_side import FarSide, linked, name_in, request, serving, streams_of

LATER_SECONDS = 0.1


class Busy(FarSide):
    """Refuses the first so many requests of a stream, and says when to ask again."""

    refuses: int = 0

    def __init__(self, refuses: int) -> None:
        super().__init__()
        self.refuses, self.times = refuses, list[float]()

    async def answer(self, framed: Framed, arrived: float) -> pb.InferReply:
        self.times.append(time.monotonic())
        if len(self.times) <= self.refuses:
            raise QueueFull("full", LATER_SECONDS)
        return await super().answer(framed, arrived)


async def test_a_stream_whose_requests_find_no_room_goes_on_for_the_others() -> None:
    far = FarSide()
    streams = streams_of(far)
    streams.within(Room(capacity=100_000, message_bytes=1000))

    async def both_there() -> bool:
        return len(far.streamed) == 2

    async with serving(far, streams.exchange), linked(far) as uplink:
        far.free.clear()
        held = [asyncio.create_task(uplink.infer(request(name, 40_000), 5.0)) for name in ("a", "b")]
        await until(both_there)
        for _ in range(3):
            with pytest.raises(QueueFull):
                await uplink.infer(request("refused", 40_000), 5.0)
        far.free.set()
        assert [name_in((await each).reply) for each in held] == ["a", "b"]
        assert name_in((await uplink.infer(request("c", 40_000), 5.0)).reply) == "c"
    assert far.streamed == ["a", "b", "c"]
    assert far.alone == []


async def test_a_refused_request_asks_again_when_it_was_told_to() -> None:
    far = Busy(refuses=2)
    async with serving(far, streams_of(far).exchange), linked(far) as uplink:
        assert name_in((await uplink.infer(request(), 5.0)).reply) == "r"
    assert len(far.times) == 3
    assert min(later - before for before, later in zip(far.times, far.times[1:], strict=False)) >= LATER_SECONDS


async def test_a_request_that_has_no_time_to_ask_again_is_told_at_once() -> None:
    far = Busy(refuses=9)
    async with serving(far, streams_of(far).exchange), linked(far) as uplink:
        with pytest.raises(QueueFull) as refused:
            await uplink.infer(request(), 1.0, expected_seconds=0.95)
    assert refused.value.retry_seconds == LATER_SECONDS
    assert len(far.times) == 1


async def test_asking_again_stays_within_the_budget() -> None:
    far = Busy(refuses=10_000)
    async with serving(far, streams_of(far).exchange), linked(far) as uplink:
        ends = await asyncio.gather(*(uplink.infer(request(f"r{n}"), 5.0) for n in range(40)), return_exceptions=True)
        assert {type(end) for end in ends} == {QueueFull}
        assert uplink.retries["over_budget"] > 0
    assert len(far.times) <= 40 + 10 + 0.2 * 41


async def test_on_a_public_stream_too_only_what_finds_no_room_is_refused() -> None:
    told: list[Any] = []
    done = asyncio.Event()

    class Context:
        def invocation_metadata(self) -> tuple[()]:
            return ()

        async def write(self, message: Any) -> None:
            told.append(message)
            if message.error_message:
                done.set()

    async def requests() -> AsyncIterator[Any]:
        for name in ("a", "b"):
            yield messages.ModelInferRequest(id=name, raw_input_contents=[bytes(1000)])
        await done.wait()
        yield messages.ModelInferRequest(id="c")

    async def infer(request: Any, early: Any) -> Any:
        await done.wait()
        return messages.ModelInferResponse(id=request.id)

    place, streams = Room(capacity=1500, message_bytes=100), OpenStreams()
    streams.within(place)
    await streams.run(Stream(infer, Context(), Observers([])), requests())  # type: ignore[arg-type]
    assert {each.infer_response.id: bool(each.error_message) for each in told} == {"a": False, "b": True, "c": False}
    assert place.held == 0


def test_what_a_full_queue_says_crosses_a_stream() -> None:
    _, _, trailing = wire.status_of(QueueFull("full", LATER_SECONDS))
    found: OfframpError = wire.error_from_status(wire.status_in(trailing))
    assert isinstance(found, QueueFull)
    assert found.retry_seconds == LATER_SECONDS
