"""`Exchange` as a tier serves it: many requests on one stream, each run, cancelled, timed and answered on its own."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from services import eager, exchange_frames, wire
from services.decoded import Decoded
from services.domain import Clock
from services.errors import DeadlineExceeded, InvalidInput, QueueFull
from services.exchange_frames import Asked, Called
from services.framing import Framed
from services.guard import refusal
from services.observing import Observers
from services.outbox import Outbox
from services.pb.offramp.v1 import tier_pb2 as pb
from services.room import Room

Answer = Callable[[Framed, float], Awaitable[pb.InferReply]]
"""Runs one request that arrived at a time of the clock; what `Infer` does."""
Context = grpc.aio.ServicerContext[Any, Any]

STREAM_SECONDS = 45.0
"""How old a stream gets in use: less than a connection is given to end in, which therefore cuts none off."""
_TURN_SECONDS = 0.001
"""After so long of starting calls, whatever else the event loop has to do gets its turn."""
_GRACE_SECONDS = 0.002
"""A request whose time is up may say so itself, with whatever answer it has."""
_GATHERED_BYTES = 1 << 15
_MOST_WAITING = 4096
_MOST_WAITING_BYTES = 4 << 20


class ExchangeService:
    """All streams of a tier. A request without a deadline gets `deadline_seconds`."""

    def __init__(
        self,
        answer: Answer,
        deadline_seconds: float,
        observers: Observers,
        clock: Clock = time.monotonic,
    ):
        self._answer = answer
        self._deadline_seconds = deadline_seconds
        self._observers = observers
        self.clock = clock
        self._streams: set[_Stream] = set()
        self._room: Room | None = None
        self.decoded = Decoded()
        self._leaving = False

    def within(self, room: Room) -> None:
        """What the requests of all streams take, they take of `room`."""
        self._room, self.decoded = room, room.decoded

    async def exchange(self, requests: object, context: Context) -> None:
        """Serves one stream until its caller ends it, or this tier does."""
        stream = _Stream(context, self)
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

    def seconds(self, framed: Framed) -> float:
        """What a request has left."""
        asked = framed.header.remaining_seconds
        return min(asked, self._deadline_seconds) if asked > 0 else self._deadline_seconds

    async def outcome(self, call: Called, arrived: float) -> bytes:
        """Runs one request: its outcome, serialised."""
        room, (number, framed, size) = self._room, call
        try:
            if room is not None:
                room.take(size)
        except QueueFull as error:
            return self.refused(number, framed, error)
        try:
            reply = await self._answer(framed, arrived)
        except Exception as error:
            return self.refused(number, framed, error)
        finally:
            if room is not None:
                room.leave(size)
        return exchange_frames.outcome(number, reply.SerializeToString())

    def refused(self, number: int, framed: Framed, error: Exception) -> bytes:
        """What a call is told of `error`, as an outcome."""
        _, _, trailing = refusal(error, framed, self._observers)
        return exchange_frames.outcome(number, None, wire.status_in(trailing))


@dataclass(slots=True, eq=False)
class _Work:
    """One call, while it runs."""

    call: Called
    arrived: float
    task: asyncio.Future[None] | None = None
    timer: asyncio.TimerHandle | None = None

    def stop(self) -> None:
        """Nobody waits for it any more."""
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None:
            self.task.cancel()


class _Stream:
    """One caller's stream."""

    def __init__(self, context: Context, service: ExchangeService):
        self._context = context
        self._service = service
        self._clock = service.clock
        self._outbox: Outbox[bytes] = Outbox(_MOST_WAITING, _MOST_WAITING_BYTES, _GATHERED_BYTES)
        self._running: dict[int, _Work] = {}
        self._newest = 0
        self._old_at = self._clock() + STREAM_SECONDS
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
            while not failed and (tasks := [work.task for work in self._running.values() if work.task is not None]):
                await asyncio.wait(tasks)
            if self._writing is not None:
                await self._writing  # gRPC cannot end a call while it writes; it cancels us if nobody reads
            if failed:
                self._reading.result()
        finally:
            self._reading.cancel()
            for work in tuple(self._running.values()):
                work.stop()

    async def _read(self) -> None:
        while isinstance(data := await self._context.read(), bytes):  # what is none is the end
            await self._take(exchange_frames.read_request(data), self._clock())
            await self._outbox.room()

    async def _take(self, asked: Asked, arrived: float) -> None:
        """Begins all its calls, even if it is to end meanwhile: what was read is answered."""
        began, ended = self._clock(), None
        for call in asked.calls:
            if call.number <= self._newest:
                raise InvalidInput("the numbers of the calls on a stream must go up")
            self._newest = call.number
            self._begin(_Work(call, arrived))
            if ended is None and self._clock() - began > _TURN_SECONDS:
                try:
                    await asyncio.sleep(0)
                except asyncio.CancelledError as error:
                    ended = error
                began = self._clock()
        for number in asked.cancelled:
            if (work := self._running.pop(number, None)) is not None:
                work.stop()
        if ended is not None:
            raise ended

    def _begin(self, work: _Work) -> None:
        """Runs it until it first waits; what does not has no need of a timer."""
        self._running[work.call.number] = work
        work.task = eager.start(self._run(work))
        if not work.task.done():
            left = self._service.seconds(work.call.framed) - (self._clock() - work.arrived)
            work.timer = asyncio.get_running_loop().call_later(max(left, 0.0) + _GRACE_SECONDS, self._expire, work)

    async def _run(self, work: _Work) -> None:
        outcome = await self._service.outcome(work.call, work.arrived)
        if work.timer is not None:  # which is left to answer in time where even that failed
            work.timer.cancel()
        self._answered(work, outcome)

    def _expire(self, work: _Work) -> None:
        late = DeadlineExceeded("the request's deadline has passed")
        self._answered(work, self._service.refused(work.call.number, work.call.framed, late))
        work.stop()

    def _answered(self, work: _Work, outcome: bytes) -> None:
        if self._running.pop(work.call.number, None) is not None:
            self._outbox.put(outcome, len(outcome))
        self._pump()

    def _pump(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = eager.start(self._write())

    async def _write(self) -> None:
        with contextlib.suppress(grpc.aio.BaseError):  # the caller is gone, which ends `live`, too
            while message := self._message():
                await self._context.write(message)

    def _message(self) -> bytes:
        """The next one; empty where there is nothing to say."""
        if not self._outbox and not self._tells:
            return b""
        outcomes = self._outbox.take()
        old = bool(outcomes) and self._clock() >= self._old_at
        tells, self._tells = self._tells or old, False
        self._old_at = math.inf if tells else self._old_at
        return exchange_frames.reply(outcomes, leaving=tells)
