"""Connections to the console that ask for nothing: a bounded number, for a bounded time, and in nobody's way."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from device_agent.console import server
from device_agent.console.doorway import MAX_CONNECTIONS, Doorway
from tests.calls import until
from tests.consoles import Served, console

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def silent(served: Served) -> Ends:
    """A connection on which nothing is said."""
    where = urlsplit(served.url)
    return await asyncio.open_connection(where.hostname, where.port)


async def open_ones(stack: AsyncExitStack, served: Served, count: int) -> list[Ends]:
    found = [await silent(served) for _ in range(count)]
    for _, writer in found:
        stack.callback(writer.close)
    return found


async def gone(reader: asyncio.StreamReader) -> bool:
    try:
        return not await asyncio.wait_for(reader.read(1), 10)
    except ConnectionError:
        return True


async def test_more_than_may_be_open_end_the_oldest_and_the_page_is_served(tiny: Path) -> None:
    async with console(tiny) as served, AsyncExitStack() as stack:
        found = await open_ones(stack, served, MAX_CONNECTIONS + 20)
        assert (await served.ask("GET", "/api/state"))[0] == 200
        assert all([await gone(reader) for reader, _ in found[:20]])
        assert len(served.server._doorway) <= MAX_CONNECTIONS


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: x"])
async def test_who_asks_for_nothing_in_time_has_to_go(
    tiny: Path, begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "Doorway", lambda handler: Doorway(handler, silent_seconds=0.1))
    async with console(tiny) as served, AsyncExitStack() as stack:
        [(reader, writer)] = await open_ones(stack, served, 1)
        writer.write(begun)
        assert await gone(reader)
        assert (await served.ask("GET", "/api/state"))[0] == 200


async def test_who_listens_is_let_go_for_nobody(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "Doorway", lambda handler: Doorway(handler, most=1))
    async with console(tiny) as served, AsyncExitStack() as stack:
        page = await stack.enter_async_context(served.session.get(f"{served.url}/api/events"))
        assert page.status == 200
        [(refused, _)] = await open_ones(stack, served, 1)
        assert await gone(refused)
        assert await page.content.readline()


async def test_who_hangs_up_makes_room(tiny: Path) -> None:
    async with console(tiny) as served:
        for _, writer in [await silent(served) for _ in range(5)]:
            writer.close()

        async def left() -> bool:
            return len(served.server._doorway) == 0

        await until(left)
