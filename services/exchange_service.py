"""`Exchange` as a tier serves it: many requests on one stream, each run, cancelled, timed and answered on its own."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from services import eager, exchange_frames, wire
from services.domain import Clock
from services.errors import DeadlineExceeded, InvalidInput
from services.exchange_frames import Asked
from services.framing import Framed
from services.guard import refusal
from services.observing import Observers
from services.outbox import Outbox
from services.pb.offramp.v1 import tier_pb2 as pb

Answer = Callable[[Framed, float], Awaitable[pb.InferReply]]
"""Runs one request that arrived at a time of the clock; what `Infer` does."""
Context = grpc.aio.ServicerContext[Any, Any]

STREAM_SECONDS = 45.0
"""How old a stream gets in use: less than a connection is given to end in, which therefore cuts none off."""
_GATHERED_BYTES = 1 << 15
_MOST_WAITING = 4096
_begin = eager.start if eager.NATIVE else asyncio.ensure_future
_MOST_WAITING_BYTES = 4 << 20


class ExchangeService:
    """All streams of a tier. A request without a deadline gets `deadline_seconds`."""

    def __init__(self, answer: Answer, deadline_seconds: float, observers: Observers, clock: Clock = time.monotonic):
        self._answer = answer
        self._deadline_seconds = deadline_seconds
        self._observers = observers
        self._clock = clock
        self._streams: set[_Stream] = set()
        self._leaving = False

    async def exchange(self, requests: object, context: Context) -> None:
        """Serves one stream until its caller ends it, or this tier does."""
        stream = _Stream(context, self._one, self._clock)
        self._streams.add(stream)
        if self._leaving:
            stream.leave()
        try:
            await stream.live()
        finally:
            self._streams.discard(stream)

    def leave(self) -> None:
        """Tells all callers to go elsewhere with new requests."""
        self._leaving = True
        for stream in self._streams:
            stream.leave()

    def end(self) -> None:
        """Reads no more requests, and ends each stream when those on it are answered."""
        for stream in self._streams:
            stream.end()

    async def _one(self, framed: Framed, arrived: float) -> tuple[bytes | None, bytes]:
        """The reply, or None and a status; both serialised."""
        asked = framed.header.remaining_seconds
        seconds = min(asked, self._deadline_seconds) if asked > 0 else self._deadline_seconds
        try:
            try:
                async with asyncio.timeout(seconds):
                    return (await self._answer(framed, arrived)).SerializeToString(), b""
            except TimeoutError:
                raise DeadlineExceeded("the request's deadline has passed") from None
        except Exception as error:
            _, _, trailing = refusal(error, framed, self._observers)
            return None, wire.status_in(trailing)


class _Stream:
    """One caller's stream."""

    def __init__(
        self,
        context: Context,
        answer: Callable[[Framed, float], Awaitable[tuple[bytes | None, bytes]]],
        clock: Clock,
    ):
        self._context = context
        self._answer = answer
        self._clock = clock
        self._outbox: Outbox[bytes] = Outbox(_MOST_WAITING, _MOST_WAITING_BYTES, _GATHERED_BYTES)
        self._running: dict[int, asyncio.Future[None]] = {}
        self._newest = 0
        self._old_at = clock() + STREAM_SECONDS
        self._tells = False
        self._reading: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[None] | None = None

    def leave(self) -> None:
        """Tells the caller to go elsewhere with new requests."""
        self._tells = True
        self._pump()

    def end(self) -> None:
        """Reads no more; the stream ends when what it read is answered."""
        if self._reading is not None:
            self._reading.cancel()

    async def live(self) -> None:
        """Until one side ends it. Raises InvalidInput or TooLarge for what is no message of an exchange."""
        self._reading = asyncio.create_task(self._read())
        try:
            await asyncio.wait([self._reading])
            failed = not self._reading.cancelled() and self._reading.exception() is not None
            if self._running and not failed:
                await asyncio.wait(self._running.values())
            if self._writing is not None:
                await self._writing  # gRPC cannot end a call while it writes; it cancels us if nobody reads
            if failed:
                self._reading.result()
        finally:
            for task in (self._reading, *self._running.values()):
                task.cancel()

    async def _read(self) -> None:
        while isinstance(data := await self._context.read(), bytes):  # what is none is the end
            self._take(exchange_frames.read_request(data), self._clock())
            await self._outbox.room()

    def _take(self, asked: Asked, arrived: float) -> None:
        for number, framed in asked.calls:
            if number <= self._newest:
                raise InvalidInput("the numbers of the calls on a stream must go up")
            self._newest = number
            task = _begin(self._run(number, framed, arrived))
            if not task.done():
                self._running[number] = task
        for number in asked.cancelled:
            if number in self._running:
                self._running.pop(number).cancel()

    async def _run(self, number: int, framed: Framed, arrived: float) -> None:
        try:
            outcome = exchange_frames.outcome(number, *await self._answer(framed, arrived))
            self._outbox.put(outcome, len(outcome))
            self._pump()
        finally:
            self._running.pop(number, None)

    def _pump(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = eager.start(self._write())

    async def _write(self) -> None:
        with contextlib.suppress(grpc.aio.BaseError):  # the caller is gone, which ends `live`, too
            while message := self._message():
                await self._context.write(message)

    def _message(self) -> bytes:
        """The next one; empty where there is nothing to say."""
        outcomes = self._outbox.take()
        old = bool(outcomes) and self._clock() >= self._old_at
        tells, self._tells = self._tells or old, False
        self._old_at = math.inf if tells else self._old_at
        return exchange_frames.reply(outcomes, leaving=tells)
