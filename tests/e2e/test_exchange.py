"""Many requests on one stream: each has its own deadline and outcome, and none is lost with the stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from services import exchange_frames
from services.domain import Tier
from services.errors import DeadlineExceeded, InternalError, InvalidInput, OfframpError, QueueFull, TooLarge
from services.exchange_service import ExchangeService
from services.framing import Framed
from services.observing import Observers
from services.pb.offramp.v1 import tier_pb2 as pb
from services.uplink import Uplink
from tests.calls import TIER, until
from tests.far_side import FarSide, linked, name_in, reply, request, serving, streams_of
from tests.tiers import upper

MIB = 1 << 20


@pytest.fixture
async def far() -> AsyncIterator[FarSide]:
    far = FarSide()
    async with serving(far, streams_of(far).exchange):
        yield far


@pytest.fixture
async def uplink(far: FarSide) -> AsyncIterator[Uplink]:
    async with linked(far) as uplink:
        yield uplink


async def ask(uplink: Uplink, name: str, nbytes: int = 16, seconds: float = 5.0) -> str:
    return name_in((await uplink.infer(request(name, nbytes, seconds), seconds)).reply)


async def have(names: list[str], count: int) -> None:
    async def there() -> bool:
        return len(names) >= count

    await until(there)


async def test_everyone_gets_his_own_answer_over_the_stream(far: FarSide, uplink: Uplink) -> None:
    names = [f"r{index}" for index in range(100)]
    assert await asyncio.gather(*(ask(uplink, name, 40_000) for name in names)) == names
    assert sorted(far.streamed) == sorted(names)
    assert far.alone == []


async def test_what_waits_is_gathered_and_small_ones_come_first() -> None:
    messages: list[list[str]] = []

    async def exchange(_: object, context: Any) -> None:
        while isinstance(data := await context.read(), bytes):
            calls = exchange_frames.read_request(data).calls
            messages.append([framed.request_id for _, framed, _ in calls])
            outcomes = [(number, reply(framed.request_id).SerializeToString()) for number, framed, _ in calls]
            await context.write(exchange_frames.reply(exchange_frames.outcome(*each) for each in outcomes))

    far = FarSide()
    async with serving(far, exchange), linked(far) as uplink:
        large = [ask(uplink, "large", 600_000) for _ in range(3)]
        small = [ask(uplink, "small", 1000) for _ in range(50)]
        await asyncio.gather(*large, *small)
    assert sorted(messages) == [["large"]] * 3 + [["small"] * 50]
    assert messages.index(["small"] * 50) <= 1  # where tasks begin at once, the first request goes before any other


async def test_who_leaves_has_his_request_stopped_and_nobody_elses(far: FarSide, uplink: Uplink) -> None:
    far.free.clear()
    asking = {name: asyncio.create_task(ask(uplink, name)) for name in ("stays", "leaves")}
    await have(far.streamed, 2)
    asking["leaves"].cancel()
    await have(far.cancelled, 1)
    far.free.set()
    assert await asking["stays"] == "stays"
    assert far.cancelled == ["leaves"]


async def test_who_leaves_before_his_request_was_sent_has_it_never_sent(far: FarSide, uplink: Uplink) -> None:
    asking = [asyncio.create_task(ask(uplink, name)) for name in ("stays", "leaves")]
    await asyncio.sleep(0)
    asking[1].cancel()
    assert await asking[0] == "stays"
    assert far.streamed == ["stays"]


async def test_each_request_ends_by_its_own_deadline_here_and_there(far: FarSide, uplink: Uplink) -> None:
    far.free.clear()
    soon = asyncio.create_task(ask(uplink, "soon", seconds=0.1))
    later = asyncio.create_task(ask(uplink, "later", seconds=5.0))
    with pytest.raises(DeadlineExceeded):
        await soon
    await have(far.cancelled, 1)
    assert far.cancelled == ["soon"]
    far.free.set()
    assert await later == "later"


async def raw_stream(far: FarSide, *messages: bytes) -> Any:
    """A stream of a stranger, after he has written `messages`."""
    channel = grpc.aio.insecure_channel(far.address)
    call = channel.stream_stream(f"/{TIER}/Exchange")()
    for message in messages:
        await call.write(message)
    return call


async def test_the_far_side_keeps_to_deadlines_that_the_caller_does_not_keep(far: FarSide) -> None:
    far.free.clear()
    call = await raw_stream(far, exchange_frames.request([(1, request("slow", seconds=0.05))]))
    (outcome,) = pb.ExchangeReply.FromString(await call.read()).outcomes
    assert far.cancelled == ["slow"]
    assert b"DEADLINE_EXCEEDED" in outcome.status
    call.cancel()


async def test_any_protobuf_peer_can_hold_a_stream(far: FarSide) -> None:
    calls = [pb.ExchangeCall(number=n, request=pb.InferRequest(request_id=f"r{n}")) for n in (1, 5)]
    call = await raw_stream(far, pb.ExchangeRequest(calls=calls).SerializeToString())
    await call.done_writing()
    replies = [pb.ExchangeReply.FromString(data) async for data in until_end(call)]
    got = {outcome.number: name_in(outcome.reply) for reply in replies for outcome in reply.outcomes}
    assert got == {1: "r1", 5: "r5"}
    assert await call.code() is grpc.StatusCode.OK


async def until_end(call: Any) -> AsyncIterator[bytes]:
    while isinstance(data := await call.read(), bytes):
        yield data


@pytest.mark.parametrize(
    "message",
    [
        b"\xff" * 40,
        exchange_frames.request([(2, request()), (2, request())]),
        exchange_frames.request([(0, request())]),
        b"\x0a\x00" * 5000,
    ],
)
async def test_what_is_no_message_ends_the_stream_and_nothing_else(
    far: FarSide, uplink: Uplink, message: bytes
) -> None:
    call = await raw_stream(far, message)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async for _ in until_end(call):
            pass
    assert error.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert await ask(uplink, "next") == "next"
    assert far.alone == []


async def test_when_the_stream_breaks_everyone_on_it_asks_again_alone_and_is_answered_once() -> None:
    broken = asyncio.Event()

    async def exchange(_: object, context: Any) -> None:
        await context.read()
        await broken.wait()
        context.set_code(grpc.StatusCode.UNAVAILABLE)

    far = FarSide()
    async with serving(far, exchange), linked(far) as uplink:
        asking = asyncio.gather(*(ask(uplink, f"r{index}") for index in range(20)))
        await asyncio.sleep(0)
        broken.set()
        names = await asking
    assert names == [f"r{index}" for index in range(20)]
    assert sorted(far.alone) == sorted(names)


async def test_outcomes_that_come_twice_or_for_nobody_change_nothing() -> None:
    async def exchange(_: object, context: Any) -> None:
        while isinstance(data := await context.read(), bytes):
            for number, framed, _ in exchange_frames.read_request(data).calls:
                right, wrong = (reply(name).SerializeToString() for name in (framed.request_id, "wrong"))
                outcomes = [(99, wrong), (number, right), (number, wrong), (0, wrong)]
                await context.write(exchange_frames.reply(exchange_frames.outcome(*each) for each in outcomes))

    far = FarSide()
    async with serving(far, exchange), linked(far) as uplink:
        for index in range(5):
            assert await ask(uplink, f"r{index}") == f"r{index}"
    assert far.alone == []


@pytest.mark.parametrize("said", [b"\xff\xff\xff", exchange_frames.outcome(1, None, b"\xff")])
async def test_a_far_side_that_answers_garbage_is_asked_the_other_way_or_named(said: bytes) -> None:
    async def exchange(_: object, context: Any) -> None:
        await context.read()
        await context.write(said)
        await context.read()

    far = FarSide()
    async with serving(far, exchange), linked(far) as uplink:
        if said[0] == 0xFF:
            assert await ask(uplink, "r") == "r"
            assert far.alone == ["r"]
        else:
            with pytest.raises(InternalError):
                await ask(uplink, "r")


async def test_a_tier_without_streams_is_asked_by_calls() -> None:
    far = FarSide()
    async with serving(far, None), linked(far) as uplink:
        for index in range(3):
            assert await ask(uplink, f"r{index}") == f"r{index}"
    assert far.alone == ["r0", "r1", "r2"]


async def test_the_errors_of_a_request_are_its_callers_and_the_stream_stays() -> None:
    async def answer(framed: Framed, arrived: float) -> pb.InferReply:
        raise {"bad": InvalidInput("bad"), "full": QueueFull("full"), "odd": RuntimeError("secret")}[framed.request_id]

    far = FarSide()
    async with serving(far, ExchangeService(answer, 10.0, Observers(())).exchange), linked(far) as uplink:
        for name, kind in (("bad", InvalidInput), ("full", QueueFull), ("odd", InternalError)):
            with pytest.raises(kind) as error:
                await ask(uplink, name)
            assert "secret" not in str(error.value)
    assert far.alone == []


async def test_more_requests_than_can_wait_are_refused_at_once(far: FarSide, uplink: Uplink) -> None:
    far.free.clear()
    asking = asyncio.gather(*(ask(uplink, f"r{index}") for index in range(1500)), return_exceptions=True)
    await have(far.streamed, 1)
    far.free.set()
    ended = await asking
    refused = [each for each in ended if isinstance(each, OfframpError)]
    assert {type(each) for each in refused} == {QueueFull}
    assert 0 < len(refused) < 1500
    assert len(far.streamed) == 1500 - len(refused)


async def test_a_request_too_large_for_the_stream_goes_alone_and_one_too_large_for_the_tier_is_refused() -> None:
    far = FarSide()
    async with serving(far, streams_of(far).exchange, limit=4 * MIB), linked(far) as uplink:
        assert await ask(uplink, "small") == "small"
        assert await ask(uplink, "large", 2 * MIB) == "large"
        with pytest.raises((TooLarge, InternalError)):
            await ask(uplink, "too large", 5 * MIB)
        assert await ask(uplink, "small again") == "small again"
    assert far.streamed == ["small", "small again"]
    assert far.alone == ["large"]


async def test_a_tier_that_takes_only_smaller_messages_still_answers_everyone() -> None:
    far = FarSide()
    async with serving(far, streams_of(far).exchange, limit=100_000), linked(far) as uplink:
        names = [f"r{index}" for index in range(16)]
        assert await asyncio.gather(*(ask(uplink, name, 40_000) for name in names)) == names


async def test_a_tier_that_leaves_answers_what_it_has_and_new_requests_go_elsewhere() -> None:
    far = FarSide()
    streams = streams_of(far)
    async with serving(far, streams.exchange), linked(far) as uplink:
        far.free.clear()
        before = asyncio.create_task(ask(uplink, "before"))
        await have(far.streamed, 1)
        streams.leave()
        await until(told(uplink))
        assert await ask(uplink, "after") == "after"
        streams.end()
        far.free.set()
        assert await before == "before"
    assert (far.streamed, far.alone, far.cancelled) == (["before"], ["after"], [])


def told(uplink: Uplink) -> Callable[[], Awaitable[bool]]:
    """Whether the far side's farewell has come."""

    async def closed() -> bool:
        stream = uplink.replicas.lead().connection._exchange._stream
        return stream is None or not stream.open

    return closed


async def test_an_idle_stream_does_not_hold_up_a_tier_that_drains(tiny: Path) -> None:
    async with upper(Tier.EDGE, tiny) as edge:
        far = FarSide(address=edge.address)
        call = await raw_stream(far, exchange_frames.request([(1, request())]))
        assert pb.ExchangeReply.FromString(await call.read()).outcomes[0].status
        async with asyncio.timeout(5):
            await edge.server.drain(0, 60)
        assert pb.ExchangeReply.FromString(await call.read()).leaving
        assert await call.read() is grpc.aio.EOF


async def test_a_stream_that_stays_silent_costs_its_requests_their_time_and_the_next_one_nothing() -> None:
    silent: list[Any] = []

    async def exchange(_: object, context: Any) -> None:
        silent.append(context)
        while isinstance(await context.read(), bytes):
            pass

    far = FarSide()
    async with serving(far, exchange), linked(far) as uplink:
        with pytest.raises(DeadlineExceeded):
            await ask(uplink, "lost", seconds=0.1)
        assert await ask(uplink, "next") == "next"
    assert len(silent) == 1
    assert far.alone == ["next"]


async def test_a_stream_in_use_for_long_is_replaced_by_another(far: FarSide, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.exchange_service.STREAM_SECONDS", 0.0)
    monkeypatch.setattr("services.exchange._REOPEN_SECONDS", 0.0)
    async with linked(far) as uplink:
        for index in range(10):
            assert await ask(uplink, f"r{index}") == f"r{index}"
    assert len(far.streamed) == 10
    assert far.alone == []
