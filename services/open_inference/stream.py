"""One stream of requests and answers: what the first exit says at once, what the rest of the network says later.

Requests of a stream run side by side, up to a limit; who sends more is not read until one is done. Answers to one
request keep their order. Each request fails alone, in its answer, unless the client asked for a status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc

from services.channels import ran_out
from services.decoded import Decoded
from services.errors import Draining, OfframpError
from services.guard import RequestFailed, late, refusal
from services.observing import Observers
from services.open_inference import messages
from services.open_inference.replies import FINAL
from services.room import Room

IN_FLIGHT = 16
"""Requests of one stream that run side by side."""

_OUTBOX = 64
"""Answers that wait to be sent; a client that does not read them gets no early ones."""
_STATUS_HEADER = ("triton_grpc_error", "true")

Context = grpc.aio.ServicerContext[Any, Any]
Early = Callable[[Any], None]
"""Takes a ModelInferResponse that is not the last."""
Infer = Callable[[Any, Early], Awaitable[Any]]
"""A ModelInferRequest to the last ModelInferResponse."""


class OpenStreams:
    """The streams of a door that are open, which a draining server brings to an end."""

    def __init__(self) -> None:
        self._open: set[Stream] = set()
        self._room: Room | None = None
        self.decoded = Decoded()

    def within(self, room: Room) -> None:
        """What the requests of all streams take, they take of `room`."""
        self._room, self.decoded = room, room.decoded

    async def run(self, stream: Stream, requests: Any) -> None:
        """Runs `stream`; raises what it raises."""
        self._open.add(stream)
        stream.room = self._room
        try:
            await stream.run(requests)
        finally:
            self._open.discard(stream)

    def leave(self) -> None:
        """Nothing: new requests are refused one by one, each with the reason."""

    def end(self) -> None:
        """Reads no more requests; each stream ends when those it read are answered."""
        for stream in self._open:
            stream.end()


class Stream:
    """One stream. `infer` raises OfframpError for a request that it cannot answer."""

    def __init__(self, infer: Infer, context: Context, observers: Observers):
        self._infer = infer
        self._context = context
        self._observers = observers
        self.room: Room | None = None
        self._outbox: asyncio.Queue[Any] = asyncio.Queue(_OUTBOX)
        self._places = asyncio.Semaphore(IN_FLIGHT)
        self._reading: asyncio.Task[None] | None = None
        metadata: Any = context.invocation_metadata() or ()
        self._ends_with_status = _STATUS_HEADER in {(key.lower(), str(value).lower()) for key, value in metadata}

    async def run(self, requests: Any) -> None:
        """Answers until the client has said all and heard all; its going away cancels what runs for it.

        Raises the first error where the client asked for a status, Draining where the stream had to end before.
        """
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send())
                async with asyncio.TaskGroup() as running:
                    self._reading = running.create_task(self._read(requests, running))
                await self._outbox.join()
                sending.cancel()
        except ExceptionGroup as errors:
            raise _first(errors) from None
        if self._reading.cancelled():
            raise Draining("this tier is shutting down; open another stream, to another")

    def end(self) -> None:
        """Reads no more requests."""
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self, requests: Any, running: asyncio.TaskGroup) -> None:
        await self._places.acquire()
        async for request in requests:
            running.create_task(self._answer(request))
            await self._places.acquire()

    async def _send(self) -> None:
        while True:
            reply = await self._outbox.get()
            with suppress(grpc.aio.BaseError):  # the client is gone, for which gRPC cancels `run`
                await self._context.write(reply)
            self._outbox.task_done()

    async def _answer(self, request: Any) -> None:
        try:
            if isinstance(request, OfframpError):  # it came, and was no message
                raise request
            await self._outbox.put(_wrapped(await self._held(request), final=True))
        except asyncio.CancelledError:
            if ran_out(self._context):
                refusal(late(), request, self._observers)
            raise
        except Exception as error:
            if self._ends_with_status:
                raise RequestFailed(error, request) from None
            await self._outbox.put(self._failed(request, error))
        finally:
            self._places.release()

    async def _held(self, request: Any) -> Any:
        """The last answer to `request`, which takes its room meanwhile; raises QueueFull where there is none."""
        if self.room is None:
            return await self._infer(request, self._early)
        size = request.ByteSize()
        self.room.take(size)
        try:
            return await self._infer(request, self._early)
        finally:
            self.room.leave(size)

    def _early(self, reply: Any) -> None:
        if not self._outbox.full():
            self._outbox.put_nowait(_wrapped(reply, final=False))

    def _failed(self, request: Any, error: Exception) -> Any:
        _, text, _ = refusal(error, request, self._observers)
        named = {name: getattr(request, name, "") for name in ("id", "model_name", "model_version")}
        failed = _wrapped(messages.ModelInferResponse(**named), final=True)
        failed.error_message = text
        return failed


def _wrapped(reply: Any, final: bool) -> Any:
    reply.parameters[FINAL].bool_param = final
    return messages.ModelStreamInferResponse(infer_response=reply)


def _first(errors: ExceptionGroup[Any]) -> Exception:
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
