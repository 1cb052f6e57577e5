"""Many requests on one long-lived stream to the tier above, as many to a message as wait while one is being written.

A stream ends when the far side leaves, when it breaks, or when it falls silent; the next request then opens another, at
most one a second. Whoever has no outcome by then is told `Broken`, and asks in another way: an outcome for a number
that nobody waits for is dropped, so that nothing is answered twice.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from services import eager, exchange_frames, screening, wire
from services.domain import Clock
from services.errors import DeadlineExceeded, InternalError, OfframpError
from services.framing import Framed
from services.outbox import Outbox
from services.pb.offramp.v1 import tier_pb2 as pb

Call = grpc.aio.StreamStreamCall[Any, Any]

_MOST_ASKED = 1024
_MOST_WAITING_BYTES = 64 << 20
_REOPEN_SECONDS = 1.0
_REFUSED_SECONDS = 60.0
_LINGER_SECONDS = 30.0
_REFUSES = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""A tier that has no streams, or takes only smaller messages, will not have learnt better within a second."""


class Broken(Exception):
    """The stream is no more, or none can be had now; the request may be asked in another way."""


class Crowded(Exception):
    """Too many requests wait for being sent, or for an outcome."""


class Unanswered(DeadlineExceeded):
    """No outcome came in time, and not from the far side either."""


@dataclass(slots=True, eq=False)
class _Ask:
    """One request; its number is 0 until it is sent."""

    message: Framed
    outcome: asyncio.Future[pb.ExchangeOutcome]
    number: int = 0


class Exchange:
    """The stream to the tier above, whichever it is just now. `connect` opens one. Needs a running event loop."""

    def __init__(self, connect: Callable[[], Call], gathered_bytes: int, clock: Clock = time.monotonic):
        self._connect = connect
        self._gathered_bytes = gathered_bytes
        self._clock = clock
        self._stream: _Stream | None = None
        self._lives: set[asyncio.Task[None]] = set()
        self._not_before = -math.inf

    async def ask(self, message: Framed, timeout_seconds: float) -> pb.InferReply:
        """Raises Broken, Unanswered, Crowded where too many wait already, or what the far side raised."""
        stream, asked_at, loop = self._open(), self._clock(), asyncio.get_running_loop()
        ask = _Ask(message, loop.create_future())
        stream.send(ask)
        timer = loop.call_later(
            timeout_seconds, _expire, ask
        )  # `asyncio.timeout` would ask which task it is: see `eager`
        try:
            return _reply(await ask.outcome)
        except Unanswered:
            if stream.heard_at < asked_at:
                stream.retire()  # it may be dead; others need not wait as long to find out
            raise
        finally:
            timer.cancel()
            stream.forget(ask)

    def retire(self) -> None:
        """Requests from now on go on another stream."""
        if self._stream is not None:
            self._stream.retire()

    async def close(self) -> None:
        """Ends all streams at once."""
        for life in self._lives:
            life.cancel()
        await asyncio.gather(*self._lives, return_exceptions=True)

    def _open(self) -> _Stream:
        stream, now = self._stream, self._clock()
        if stream is not None and stream.open:
            return stream
        if stream is not None and stream.refused:
            self._not_before, self._stream = now + _REFUSED_SECONDS, None
        if now < self._not_before:
            raise Broken
        self._not_before = now + _REOPEN_SECONDS
        self._stream = stream = _Stream(self._connect(), self._gathered_bytes, self._clock)
        life = asyncio.create_task(stream.live(), name="exchange")
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        return stream


class _Stream:
    """One stream, from its first request to its last outcome."""

    def __init__(self, call: Call, gathered_bytes: int, clock: Clock):
        self.open = True
        self.refused = False
        self.heard_at = -math.inf
        self._call = call
        self._clock = clock
        self._outbox: Outbox[_Ask] = Outbox(_MOST_ASKED, _MOST_WAITING_BYTES, gathered_bytes)
        self._asked: dict[int, _Ask] = {}
        self._cancelled: list[int] = []
        self._newest = 0
        self._writing: asyncio.Future[None] | None = None

    def send(self, ask: _Ask) -> None:
        """Raises Crowded where too many requests wait for being sent, or for an outcome."""
        if self._outbox.full or len(self._outbox) + len(self._asked) >= _MOST_ASKED:
            raise Crowded(f"{len(self._outbox) + len(self._asked)} requests wait for the next tier already")
        self._outbox.put(ask, ask.message.nbytes)
        self._pump()

    def forget(self, ask: _Ask) -> None:
        """Nobody waits for `ask` any more; if it has no outcome so far, the far side need not go on with it."""
        if self._asked.pop(ask.number, None) is not None:
            self._cancelled.append(ask.number)
            self._pump()

    def retire(self) -> None:
        """No new requests; it ends when those that it has are done, or break with it after half a minute."""
        if self.open:
            self.open = False
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._call.cancel)
            self._pump()

    async def live(self) -> None:
        """Sends and receives until one side ends it; whoever still waits is told that it broke."""
        try:
            await self._read()
        finally:
            self.open = False
            self._call.cancel()
            for ask in (*self._asked.values(), *self._outbox.rest()):
                if not ask.outcome.done():
                    ask.outcome.set_exception(Broken())
            self._asked.clear()

    def _pump(self) -> None:
        """Has whatever waits written, unless that is under way."""
        if self._writing is None or self._writing.done():
            self._writing = eager.start(self._write())

    async def _write(self) -> None:
        try:
            while self._outbox or self._cancelled:
                if message := self._message():  # there is none where all that was next has left
                    await self._call.write(message)
            if not self.open and not self._asked:
                await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            self._call.cancel()  # it broke, of which the reading side tells everyone

    def _message(self) -> bytes:
        """The next one; empty where nobody waits any more for what was next."""
        calls = []
        for ask in self._outbox.take():
            if not ask.outcome.done():  # else its caller has left while it waited
                self._newest += 1
                ask.number = self._newest
                self._asked[ask.number] = ask
                calls.append((ask.number, ask.message))
        cancelled, self._cancelled = self._cancelled, []
        return exchange_frames.request(calls, cancelled)

    async def _read(self) -> None:
        """Until the far side ends the stream, which is read as no bytes, or says what is no reply."""
        try:
            while isinstance(data := await self._call.read(), bytes):
                self._take(screening.parse(pb.ExchangeReply, data, screening.MAX_REPLY_FIELDS))
        except grpc.aio.AioRpcError as error:
            self.refused = error.code() in _REFUSES
        except OfframpError:
            self.refused = True

    def _take(self, reply: pb.ExchangeReply) -> None:
        self.heard_at = self._clock()
        for outcome in reply.outcomes:
            ask = self._asked.pop(outcome.number, None)
            if ask is not None and not ask.outcome.done():
                ask.outcome.set_result(outcome)
        if reply.leaving:
            self.retire()
        elif not self.open and not self._asked:
            self._pump()


def _expire(ask: _Ask) -> None:
    if not ask.outcome.done():
        ask.outcome.set_exception(Unanswered("the next tier did not answer in time"))


def _reply(outcome: pb.ExchangeOutcome) -> pb.InferReply:
    kind = outcome.WhichOneof("outcome")
    if kind == "status":
        raise wire.error_from_status(outcome.status)
    if kind is None:
        raise InternalError("the next tier's answer is not one")
    return outcome.reply
