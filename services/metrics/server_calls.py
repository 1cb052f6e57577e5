"""Counts the calls to a server: see `calls`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc

from services.channels import ran_out
from services.domain import Clock
from services.guard import Service
from services.methods import Method
from services.metrics.calls import Calls, MethodCalls

Context = grpc.aio.ServicerContext[Any, Any]

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]


class ServerCalls:
    """Counts what a server handles, health and reflection included.

    `services` say what a method is to its callers, however the server reads it.
    """

    def __init__(self, calls: Calls, services: Iterable[Service] = ()):
        self._calls = calls
        self._kinds = {
            f"/{service.name}/{name}": _kind(handler)
            for service in services
            for name, handler in service.methods.items()
        }

    def counted(self, path: str, handler: Method) -> Method:
        """`handler` with its calls counted. One that is not a coroutine runs in a thread, and goes uncounted."""
        method = self._calls.method(path, self._kinds.get(path) or _kind(handler))
        return _counted_handler(handler, method, self._calls.clock)


def _counted_handler(handler: Method, method: MethodCalls, clock: Clock) -> Method:
    name = _behaviour(handler)
    behaviour = getattr(handler, name)
    if inspect.isasyncgenfunction(behaviour):
        counted: Any = _generated(behaviour, method, clock, handler.request_streaming)
    elif inspect.iscoroutinefunction(behaviour):
        streams = (handler.request_streaming, handler.response_streaming)
        counted = _awaited(behaviour, method, clock, *streams)
    else:
        return handler
    make: Callable[..., Method] = getattr(grpc, f"{name}_rpc_method_handler")
    return make(counted, handler.request_deserializer, handler.response_serializer)


def _kind(handler: Method) -> str:
    names = {(False, False): "unary", (True, False): "client_stream", (False, True): "server_stream"}
    return names.get((handler.request_streaming, handler.response_streaming), "bidi_stream")


def _behaviour(handler: Method) -> str:
    return "_".join(
        "stream" if streaming else "unary" for streaming in (handler.request_streaming, handler.response_streaming)
    )


def _awaited(behaviour: Any, method: MethodCalls, clock: Clock, asks_many: bool, answers_many: bool) -> Any:
    """A coroutine: it returns its one answer, or writes its many."""

    async def counted(request: Any, context: Context) -> Any:
        begun = clock()
        method.started += 1
        if not asks_many:
            method.received += 1
        try:
            reply = await behaviour(
                _each(request, method) if asks_many else request,
                _Writes(context, method) if asks_many or answers_many else context,
            )
            if not answers_many and reply is not None:  # a refusal has none
                method.sent += 1
        except BaseException as error:
            method.handled(_code(context, error), clock() - begun)
            raise
        if context.code():
            method.handled(_code(context), clock() - begun)
        else:
            method.succeeded(clock() - begun)
        return reply

    return counted


def _generated(behaviour: Any, method: MethodCalls, clock: Clock, asks_many: bool) -> Any:
    """An asynchronous generator of answers."""

    async def counted(request: Any, context: Context) -> AsyncIterator[Any]:
        begun = clock()
        method.started += 1
        if not asks_many:
            method.received += 1
        try:
            async for reply in behaviour(_each(request, method) if asks_many else request, context):
                method.sent += 1
                yield reply
        except BaseException as error:
            method.handled(_code(context, error), clock() - begun)
            raise
        if context.code():
            method.handled(_code(context), clock() - begun)
        else:
            method.succeeded(clock() - begun)

    return counted


async def _each(requests: AsyncIterator[Any], method: MethodCalls) -> AsyncIterator[Any]:
    async for request in requests:
        method.received += 1
        yield request


class _Writes:
    """A context whose reads and writes are counted; all else is the context's own."""

    def __init__(self, context: Context, method: MethodCalls):
        self._context, self._method = context, method
        # asked for at every call, for which the detour below takes too long
        self.time_remaining, self.invocation_metadata = context.time_remaining, context.invocation_metadata

    async def read(self) -> Any:
        message = await self._context.read()
        if message is not _EOF:
            self._method.received += 1
        return message

    async def write(self, message: Any) -> None:
        await self._context.write(message)
        self._method.sent += 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _code(context: Context, error: BaseException | None = None) -> grpc.StatusCode:
    """What the caller will be told: an abort's code, else what the handler set, else what gRPC makes of `error`."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return grpc.StatusCode.DEADLINE_EXCEEDED if ran_out(context) else grpc.StatusCode.CANCELLED
    found = context.code()
    if isinstance(found, int):
        found = _BY_NUMBER.get(found, grpc.StatusCode.UNKNOWN)
    if error is not None and found in (None, grpc.StatusCode.OK):
        return grpc.StatusCode.UNKNOWN
    return found or grpc.StatusCode.OK


_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
