"""A channel whose calls are counted, for the tier above: see `calls`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from services.domain import Clock
from services.metrics.calls import Calls, MethodCalls

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
_OK, _CANCELLED = grpc.StatusCode.OK, grpc.StatusCode.CANCELLED


class CountedChannel:
    """Makes the methods of `channel`, counted. All else is the channel's own affair."""

    def __init__(self, channel: grpc.aio.Channel, calls: Calls):
        self._channel = channel
        self._calls = calls

    def unary_unary(self, path: str, **options: Any) -> Any:
        return _counted(self._channel.unary_unary(path, **options), self._calls.method(path), self._calls.clock)

    def stream_stream(self, path: str, **options: Any) -> Any:
        method, call = self._calls.method(path, "bidi_stream"), self._channel.stream_stream(path, **options)
        return lambda *given, **options: _Stream(call(*given, **options), method, self._calls)


def _counted(call: Callable[..., Awaitable[Any]], method: MethodCalls, clock: Clock) -> Callable[..., Awaitable[Any]]:
    async def counted(message: Any, **options: Any) -> Any:
        method.started += 1
        method.sent += 1
        begun = clock()
        try:
            reply = await call(message, **options)
        except BaseException as error:
            method.handled(_code(error), clock() - begun)
            raise
        method.received += 1
        method.succeeded(clock() - begun)
        return reply

    return counted


def _code(error: BaseException) -> grpc.StatusCode:
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code()
    return _CANCELLED if isinstance(error, asyncio.CancelledError) else grpc.StatusCode.UNKNOWN


class _Stream:
    """A call of many messages both ways. It ends when it is read to its end, fails, or is cancelled."""

    def __init__(self, call: Any, method: MethodCalls, calls: Calls):
        self._call, self._method, self._calls = call, method, calls
        self._begun: float | None = calls.clock()
        method.started += 1

    async def read(self) -> Any:
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            self._ended(error.code())
            raise
        if message is _EOF:
            self._ended(_OK)
        else:
            self._method.received += 1
        return message

    async def write(self, message: Any) -> None:
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as error:
            self._ended(error.code())
            raise
        self._method.sent += 1

    def cancel(self) -> bool:
        self._ended(_CANCELLED)
        return bool(self._call.cancel())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def _ended(self, code: grpc.StatusCode) -> None:
        if self._begun is not None:
            self._method.handled(code, self._calls.clock() - self._begun)
            self._begun = None
