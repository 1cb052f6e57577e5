"""What is written to a stream, and when, as far as gRPC has no part in it."""

from __future__ import annotations

import asyncio
from typing import Any

from services.exchange import Exchange
from services.exchange_frames import read_request
from tests.far_side import request

GATHERED_BYTES = 100


class Slow:
    """A call whose writes take until they are let through, and which is answered nothing."""

    def __init__(self) -> None:
        self.written: list[tuple[str, ...]] = []
        self.through = asyncio.Event()

    async def write(self, message: bytes) -> None:
        self.written.append(tuple(framed.request_id for _, framed, _ in read_request(message).calls))
        await self.through.wait()

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def done_writing(self) -> None:
        pass

    def cancel(self) -> None:
        self.through.set()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_who_leaves_while_it_waits_to_be_sent_keeps_nobody_behind_it_from_being_sent() -> None:
    call: Any = Slow()
    exchange = Exchange(lambda: call, GATHERED_BYTES)
    large = [request(name, nbytes=2 * GATHERED_BYTES) for name in "abc"]
    asking = [asyncio.create_task(exchange.ask(each, 30.0)) for each in large]
    await turns()
    assert call.written == [("a",)]
    asking[1].cancel()
    await turns()
    call.through.set()
    await turns()
    assert call.written[:2] == [("a",), ("c",)]
    await exchange.close()
    assert all(isinstance(each, BaseException) for each in await asyncio.gather(*asking, return_exceptions=True))
