"""One replica: whoever does not answer is checked on until it does. Nobody is called."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from services.breaker import Breaker, BreakerState
from services.connection import Connection, Silence
from services.domain import Tier
from services.errors import UpstreamUnavailable
from services.framing import Framed
from services.pb.offramp.v1 import tier_pb2 as pb
from services.replica import Replica
from tests.calls import until

SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()


class Healthy:
    """A connection to who is always found healthy, and tells of each check."""

    def __init__(self) -> None:
        self.checks = 0

    async def serves(self, seconds: float) -> bool:
        self.checks += 1
        return self.checks > 1


class Odd:
    """A connection whose first health check goes wrong in a way that nobody expects; healthy from then on."""

    def __init__(self) -> None:
        self.checks = 0

    async def serves(self, seconds: float) -> bool:
        self.checks += 1
        if self.checks == 1:
            raise RuntimeError("unheard of")
        return True

    async def close(self) -> None:
        pass


class Leaving:
    """A connection whose call ends without an answer when `lost`; nothing can be asked once it is closed."""

    def __init__(self) -> None:
        self.lost, self.closed = asyncio.Event(), asyncio.Event()

    async def infer(self, *asked: object) -> None:
        await self.lost.wait()
        raise Silence(UpstreamUnavailable("gone"))

    async def serves(self, seconds: float) -> bool:
        await self.closed.wait()
        raise RuntimeError("closed")

    async def close(self) -> None:
        self.closed.set()


async def test_who_was_closed_is_not_checked_on_when_its_last_call_fails(caplog: pytest.LogCaptureFixture) -> None:
    connection: Any = Leaving()
    replica = Replica("r", connection, watched=False)
    call = asyncio.create_task(replica.infer(Framed(pb.InferRequest(), pb.Activation(), b""), 5.0, None))
    await asyncio.sleep(0)
    closing = asyncio.create_task(replica.close(after_seconds=0.05))
    await asyncio.sleep(0)
    connection.lost.set()
    with caplog.at_level(logging.ERROR, "offramp"), pytest.raises(Silence):
        await call
    replica.doubted()
    assert not replica._tasks
    with caplog.at_level(logging.ERROR, "offramp"):
        await closing
        for _ in range(5):
            await asyncio.sleep(0)
    assert not caplog.records


async def test_who_fails_again_in_the_moment_of_its_recovery_is_checked_on_again() -> None:
    connection: Any = Healthy()
    replica = Replica("r", connection, watched=False)
    again: list[BreakerState] = []

    def fail() -> None:
        replica.fell_silent()
        again.append(replica.breaker.state)

    class Recovers(Breaker):
        def healthy(self) -> None:
            Breaker.healthy(self)
            if not again:
                asyncio.get_running_loop().call_soon(fail)

    replica.breaker = Recovers()
    replica.fell_silent()

    async def open_again() -> bool:
        return again == [BreakerState.OPEN]

    async def usable() -> bool:
        return replica.usable

    await until(open_again)
    await until(usable)
    for task in list(replica._tasks.values()):
        task.cancel()


async def test_who_is_heard_after_its_recovery_went_wrong_is_checked_on_again(caplog: pytest.LogCaptureFixture) -> None:
    connection: Any = Odd()
    replica = Replica("r", connection, watched=False)
    replica.breaker.dead()

    async def given_up() -> bool:
        return connection.checks == 1 and not replica._tasks

    async def usable() -> bool:
        return replica.usable

    with caplog.at_level(logging.ERROR, "offramp"):
        replica.fell_silent()
        replica.heard()
        await until(given_up)
    assert not replica.usable
    for _ in range(2):
        replica.heard()
    assert list(replica._tasks) == ["recover"]
    await until(usable)
    assert connection.checks == 2
    await replica.close()


@asynccontextmanager
async def garbled() -> AsyncIterator[Connection]:
    """To one whose answers about its health do not parse; who goes on watching hears then that it serves."""

    async def check(request: bytes, context: Any) -> bytes:
        return b"\xff"

    async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"\xff"
        yield SERVING

    server = grpc.aio.server()
    methods = {
        "Check": grpc.unary_unary_rpc_method_handler(check),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connection = Connection(Tier.DEVICE, f"127.0.0.1:{port}")
    yield connection
    await connection.close()
    await server.stop(None)


async def test_a_health_check_whose_answer_does_not_parse_finds_nobody_serving() -> None:
    async with garbled() as connection:
        assert not await connection.serves(5.0)


async def test_news_of_its_health_that_do_not_parse_mean_that_it_does_not_serve_and_the_next_are_heard() -> None:
    async with garbled() as connection, asyncio.timeout(5.0):
        assert [serving async for serving in connection.watch()] == [False, True]
