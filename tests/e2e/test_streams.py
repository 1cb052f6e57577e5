"""Streams of requests: the first exit's answer at once, better ones later, each request failing alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from services import bundle
from services.channels import channel_options
from services.domain import Request
from services.journey import Forwarded
from services.open_inference import messages
from services.open_inference.stream import IN_FLIGHT
from services.tier import NextTier
from tests.calls import DOOR, PATIENCE, arrays, asking, calling, reason, until
from tests.tiers import Running, device, three_tiers

NEVER, ALWAYS = "1.5", "0"


@pytest.fixture(scope="module")
def pixels(tiny: Path) -> np.ndarray:
    return bundle.load_samples(bundle.load(tiny))[0][..., None]


@asynccontextmanager
async def streaming(address: str, **headers: str) -> AsyncIterator[Any]:
    """A stream that has just been opened."""
    async with grpc.aio.insecure_channel(address, channel_options()) as channel:
        method = channel.stream_stream(
            f"/{DOOR}/ModelStreamInfer",
            request_serializer=lambda request: request if isinstance(request, bytes) else request.SerializeToString(),
            response_deserializer=messages.ModelStreamInferResponse.FromString,
        )
        yield method(metadata=tuple(headers.items()), timeout=PATIENCE)


def wanting(samples: np.ndarray, name: str, threshold: str = NEVER, **more: Any) -> Any:
    request = asking(samples, id=name, **more)
    request.parameters["exit_threshold"].string_param = threshold
    return request


def final(reply: Any) -> bool:
    return bool(reply.infer_response.parameters["triton_final_response"].bool_param)


async def rest(stream: Any) -> list[Any]:
    """All that still comes."""
    await stream.done_writing()
    replies = []
    while (reply := await stream.read()) is not grpc.aio.EOF:
        replies.append(reply)
    return replies


class Waiting:
    """A next tier that answers only when it is let."""

    def __init__(self, above: NextTier):
        self.above, self.free, self.asked, self.cancelled = above, asyncio.Event(), 0, 0

    async def infer(self, request: Request, codec: str) -> Forwarded:
        self.asked += 1
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await self.above.infer(replace(request), codec)

    def link(self) -> Any:
        return self.above.link()


def held_up(running: Running) -> Waiting:
    assert running.runtime.next_tier is not None
    waiting = Waiting(running.runtime.next_tier)
    running.runtime.next_tier = waiting
    return waiting


async def test_the_first_exit_answers_while_the_rest_still_travels(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, streaming(tiers.device.address) as stream:
        above = held_up(tiers.device)
        await stream.write(wanting(pixels[:3], "r1"))
        early = await stream.read()
        assert above.asked <= 1
        assert not above.free.is_set()
        above.free.set()
        (last,) = await rest(stream)
    assert [early.error_message, last.error_message] == ["", ""]
    assert [early.infer_response.id, last.infer_response.id] == ["r1", "r1"]
    assert [final(early), final(last)] == [False, True]
    assert [r.infer_response.parameters["tier"].string_param for r in (early, last)] == ["device", "cloud"]
    assert [set(arrays(r.infer_response)["exit_index"].tolist()) for r in (early, last)] == [{0}, {2}]
    assert early.infer_response.parameters["plan"] == last.infer_response.parameters["plan"]


async def test_the_last_answer_is_the_one_that_a_single_call_gets(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, streaming(tiers.device.address) as stream:
        async with calling(tiers.device.address) as call:
            alone = arrays(await call(f"{DOOR}/ModelInfer", asking(pixels)))
        await stream.write(asking(pixels))
        replies = await rest(stream)
    assert [final(reply) for reply in replies] == [False, True]
    streamed = arrays(replies[-1].infer_response)
    assert all(np.array_equal(streamed[name], alone[name]) for name in alone)
    stayed = alone["exit_index"] == 0
    first = arrays(replies[0].infer_response)
    assert np.array_equal(first["scores"][stayed], alone["scores"][stayed])
    assert not np.array_equal(first["scores"], alone["scores"])


async def test_who_is_sure_at_the_first_exit_gets_one_answer(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, streaming(tiers.device.address) as stream:
        await stream.write(wanting(pixels[:3], "r1", ALWAYS))
        replies = await rest(stream)
    assert [final(reply) for reply in replies] == [True]


async def test_every_exit_on_the_way_answers(tiny: Path, pixels: np.ndarray) -> None:
    async with device(tiny, splits="8,8") as alone, streaming(alone.address) as stream:
        await stream.write(wanting(pixels[:3], "r1"))
        replies = await rest(stream)
    assert [r.infer_response.parameters["exit_index"].int64_param for r in replies] == [0, 1, 2]
    assert [final(reply) for reply in replies] == [False, False, True]


async def test_outputs_and_trace_are_as_asked_for(tiny: Path, pixels: np.ndarray) -> None:
    request = wanting(pixels[:1], "r1")
    request.outputs.add(name="label")
    request.parameters["trace"].bool_param = True
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    async with three_tiers(tiny) as tiers, streaming(tiers.device.address) as stream:
        await stream.write(request)
        replies = [reply.infer_response for reply in await rest(stream)]
    assert [[output.name for output in reply.outputs] for reply in replies] == [["label"], ["label"]]
    assert ["trace" in reply.parameters for reply in replies] == [False, True]


async def test_a_request_fails_alone_and_the_stream_stays_up(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, streaming(tiers.device.address) as stream:
        await stream.write(wanting(pixels[:1], "bad", model_name="other"))
        failed = await stream.read()
        await stream.write(wanting(pixels[:1], "negative", "-1"))
        refused = await stream.read()
        await stream.write(b"\xff\xff\xff\xff")
        malformed = await stream.read()
        await stream.write(wanting(pixels[:1], "good"))
        replies = await rest(stream)
        assert await stream.code() is grpc.StatusCode.OK
    assert (failed.infer_response.id, final(failed)) == ("bad", True)
    assert "no model is called 'other'" in failed.error_message
    assert refused.error_message.startswith("exit_threshold must be")
    assert "not valid protobuf" in malformed.error_message
    assert [(reply.infer_response.id, reply.error_message) for reply in replies] == [("good", "")] * 2


async def test_a_client_that_wants_statuses_gets_one_and_the_stream_ends(tiny: Path, pixels: np.ndarray) -> None:
    async with device(tiny) as front, streaming(front.address, triton_grpc_error="true") as stream:
        await stream.write(wanting(pixels[:1], "bad", model_name="other"))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await rest(stream)
        assert (refused.value.code(), reason(refused.value)) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert front.limiter.in_flight == 0


async def test_the_unexpected_is_masked_in_a_stream_too(tiny: Path, pixels: np.ndarray) -> None:
    async with device(tiny) as front, streaming(front.address) as stream:
        front.models.first.front = None  # type: ignore[assignment]
        await stream.write(wanting(pixels[:1], "r1"))
        (reply,) = await rest(stream)
    assert reply.error_message == "internal error, id=r1"


async def test_requests_of_a_stream_run_side_by_side_up_to_a_limit(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, streaming(tiers.device.address) as stream:
        above = held_up(tiers.device)
        names = [f"r{index}" for index in range(2 * IN_FLIGHT)]
        for name in names:
            await stream.write(wanting(pixels[:1], name))
        await until(reached(above, IN_FLIGHT))
        assert tiers.device.limiter.in_flight == IN_FLIGHT
        above.free.set()
        replies = await rest(stream)
    assert sorted(r.infer_response.id for r in replies if final(r)) == sorted(names)
    for name in names:
        order = [final(r) for r in replies if r.infer_response.id == name]
        assert order == sorted(order)


def reached(above: Waiting, count: int) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return above.asked >= count

    return asked


async def test_a_client_that_goes_away_cancels_its_work(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, streaming(tiers.device.address) as stream:
        above = held_up(tiers.device)
        await stream.write(wanting(pixels[:1], "r1"))
        await stream.read()
        await until(reached(above, 1))
        stream.cancel()

        async def let_go() -> bool:
            return above.cancelled == 1 and tiers.device.limiter.in_flight == 0

        await until(let_go)


async def test_a_stream_that_says_nothing_ends_well(tiny: Path) -> None:
    async with device(tiny) as front, streaming(front.address) as stream:
        assert await rest(stream) == []
        assert await stream.code() is grpc.StatusCode.OK


async def test_who_sends_much_and_reads_nothing_is_answered_when_it_reads(tiny: Path, pixels: np.ndarray) -> None:
    async with device(tiny, splits="8,8") as front, streaming(front.address) as stream:
        names = [f"r{index}" for index in range(100)]
        for name in names:
            await stream.write(wanting(pixels[:1], name))
        replies = await rest(stream)
    assert [r.infer_response.id for r in replies if final(r)] != []
    assert sorted(r.infer_response.id for r in replies if final(r)) == sorted(names)


async def test_a_draining_server_answers_what_it_read_and_ends_the_stream(tiny: Path, pixels: np.ndarray) -> None:
    async with three_tiers(tiny) as tiers, streaming(tiers.device.address) as stream:
        above = held_up(tiers.device)
        await stream.write(wanting(pixels[:1], "r1"))
        await stream.read()
        draining = asyncio.create_task(tiers.device.server.drain(0, 20))
        await until(lambda: asyncio.sleep(0, tiers.device.limiter.draining))
        above.free.set()
        assert final(await stream.read())
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.read()
        await asyncio.wait_for(draining, 10)
    assert (ended.value.code(), reason(ended.value)) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")


async def test_an_idle_stream_does_not_hold_up_a_draining_server(tiny: Path, pixels: np.ndarray) -> None:
    async with device(tiny) as front, streaming(front.address) as stream:
        await stream.write(wanting(pixels[:1], "r1"))
        await stream.read()
        await asyncio.wait_for(front.server.drain(0, 60), 10)
