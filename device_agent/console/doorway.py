"""How many connections the console holds, and for how long one that asks for nothing.

A web server reads whatever comes; each connection costs a descriptor and some memory, asked for anything or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.typedefs import Handler

MAX_CONNECTIONS = 64
"""Sixteen pages, each with the few connections that a browser opens."""
SILENT_SECONDS = 10.0
"""So long a connection may take to ask its first question; from then on the web server itself minds it."""


class Doorway:
    """Lets so many connections in. Where there is no room, the oldest that has asked nothing goes, or the new one."""

    def __init__(
        self,
        server: Callable[[], asyncio.BaseProtocol],
        most: int = MAX_CONNECTIONS,
        silent_seconds: float = SILENT_SECONDS,
    ):
        self._server = server
        self._most = most
        self._silent_seconds = silent_seconds
        self._silent: dict[asyncio.Transport, asyncio.TimerHandle] = {}
        self._asking: set[asyncio.Transport] = set()

    def __call__(self) -> asyncio.Protocol:
        return _Guest(self, self._server())

    def __len__(self) -> int:
        return len(self._silent) + len(self._asking)

    def enter(self, transport: asyncio.Transport) -> bool:
        """Whether there is room for it."""
        if len(self) >= self._most and not self._dismiss():
            return False
        self._silent[transport] = asyncio.get_running_loop().call_later(self._silent_seconds, transport.abort)
        return True

    def asked(self, transport: asyncio.Transport | None) -> None:
        """It has sent the head of a request."""
        if transport is not None and (timer := self._silent.pop(transport, None)) is not None:
            timer.cancel()
            self._asking.add(transport)

    def leave(self, transport: asyncio.Transport) -> None:
        self._asking.discard(transport)
        if (timer := self._silent.pop(transport, None)) is not None:
            timer.cancel()

    @web.middleware
    async def noticed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Middleware, the outermost: whoever asks is silent no more."""
        self.asked(request.transport)
        return await handler(request)

    def _dismiss(self) -> bool:
        """Ends the oldest that has asked for nothing, if there is one."""
        oldest = next(iter(self._silent), None)
        if oldest is None:
            return False
        oldest.abort()
        self.leave(oldest)
        return True


class _Guest(asyncio.Protocol):
    """One connection: hands everything on to `handler`, unless there is no room for it."""

    def __init__(self, doorway: Doorway, handler: asyncio.BaseProtocol):
        self._doorway = doorway
        self._handler: asyncio.Protocol | None = cast(asyncio.Protocol, handler)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        connection = cast(asyncio.Transport, transport)  # of TCP it is one, whatever the event loop calls it
        if self._handler is None or not self._doorway.enter(connection):
            self._handler = None
            connection.abort()
            return
        self._transport = connection
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._handler is not None:
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._handler is None else self._handler.eof_received()

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._doorway.leave(self._transport)
        if self._handler is not None:
            self._handler.connection_lost(exc)
