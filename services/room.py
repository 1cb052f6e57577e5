"""Room for messages: how many bytes of them a tier holds at once, those still on their way in included.

gRPC takes a message in whole before a handler sees it, as many side by side as peers send: 64 messages of 64 MiB
are 4 GiB before anyone could refuse. So a message is read only when there is room for the largest; once it is here
it takes what it takes, until it is answered. Who finds no room waits, which costs nothing but the call's own time.
On a stream nobody can wait with reading without keeping up those behind: there, what finds no room is refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc.aio import EOF  # type: ignore[attr-defined]

from services.arrivals import Arrivals
from services.channels import ran_out
from services.decoded import Decoded
from services.errors import DeadlineExceeded, InvalidInput, OfframpError, QueueFull
from services.triage import Triage, ended, turn_away

_SHARE = 8
"""Of the memory there is, an eighth: a message is there up to three times, and decoded again."""
_SIDE_BY_SIDE = 8
"""So many of the largest messages fit at least, so that a slow sender or two do not keep everyone waiting."""
MAX_WAITING = 128
LOOKAHEAD_BYTES = 1 << 20
"""What a sender may send ahead of its message being read, whatever its link could carry."""


@dataclass(slots=True)
class Room:
    """Holds up to `capacity` bytes, a message of up to `message_bytes` at a time. For one event loop.

    patience_seconds: how long a call that brings no deadline may wait, and any message may take to arrive. decoded: as
    much again, for what the messages turn out to hold. rejected: how many found no room, by reason.
    """

    capacity: int
    message_bytes: int
    patience_seconds: float = 10.0
    held: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    arrivals: Arrivals = field(init=False)
    decoded: Decoded = field(init=False)
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.arrivals = Arrivals(self.patience_seconds)
        self.decoded = Decoded(self.capacity, self.full)

    @classmethod
    def within(cls, memory_bytes: int, message_bytes: int, patience_seconds: float = 10.0) -> Room:
        """For a process that may take `memory_bytes`; on a small machine, messages are smaller than asked for."""
        capacity = memory_bytes // _SHARE
        return cls(capacity, min(message_bytes, capacity // _SIDE_BY_SIDE), patience_seconds)

    async def enter(self) -> int:
        """Holds room for a message of any size, and returns how much that is, for `settle` and `leave`.

        Raises QueueFull where too many wait already.
        """
        if self._waiting or not self._fits():
            await self._turn()
        else:
            self.held += self.message_bytes
        return self.message_bytes

    def settle(self, taken: int, size: int) -> int:
        """The message for which `taken` is held turned out to have `size` bytes, which are held from now on."""
        self.leave(taken - size)
        return size

    def leave(self, size: int) -> None:
        """Gives `size` back; whoever waits comes in."""
        self.held -= size
        while self._waiting and self._fits():
            turn = self._waiting.popleft()
            if not turn.done():
                self.held += self.message_bytes
                turn.set_result(None)

    def take(self, size: int) -> None:
        """Holds room for a request of a stream, which is here already, until `leave`. Raises QueueFull."""
        limit = self.capacity - (self.message_bytes if self._waiting else 0)
        if self.held and self.held + size > limit:
            raise self.full(f"{self.held} bytes of requests are here already")
        self.held += size

    def full(self, why: str, ever: bool = True) -> QueueFull:
        """The error of who finds no room, counted. ever: whether asking again may help."""
        self.rejected[QueueFull.reason] = self.rejected.get(QueueFull.reason, 0) + 1
        return QueueFull(f"{why}; try again shortly") if ever else QueueFull(why, None)

    async def _turn(self) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise self.full("too many messages are on their way in already")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(self.message_bytes)
            else:
                with suppress(ValueError):  # it may have been passed over already
                    self._waiting.remove(turn)
            raise

    def _fits(self) -> bool:
        return self.held + self.message_bytes <= self.capacity or not self.held


def held(
    handler: grpc.RpcMethodHandler[Any, Any], room: Room, triage: Triage | None = None
) -> grpc.RpcMethodHandler[Any, Any]:
    """A unary method whose message is read once there is room for it, and has it until it is answered.

    triage: says whom not to let in at all. To gRPC the request is a stream, of one message: on the wire that is the
    same, and it leaves the reading to us. What goes wrong on the way reaches the method in the message's place, as an
    OfframpError.
    """
    if handler.unary_unary is None or handler.request_deserializer is None:
        return handler  # a stream, which reads its messages one by one

    async def behaviour(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if triage is None:
            return await _answered(handler, room, context, False)
        visit = triage.enter(context.time_remaining())
        if visit is None:
            return turn_away(context)
        try:
            reply = await _answered(handler, room, context, True)
        except BaseException as error:
            ended(visit, context, error)
            raise
        ended(visit, context, answered=reply is not None)
        return reply

    return grpc.stream_unary_rpc_method_handler(behaviour, response_serializer=handler.response_serializer)


async def _answered(
    handler: grpc.RpcMethodHandler[Any, Any], room: Room, context: grpc.aio.ServicerContext[Any, Any], computes: bool
) -> Any:
    """The reply to a call, whose message holds room until then. computes: one that runs out of time has failed."""
    answer: Any = handler.unary_unary
    deserialize: Any = handler.request_deserializer
    came, taken = False, 0
    try:
        taken = await (room.enter() if _in_a_hurry(context) else room.arrivals.wait(room.enter()))
        data = await room.arrivals.wait(context.read())
        came = True
        if data is EOF:
            return await answer(await _no_message(context), context)
        taken = room.settle(taken, len(data))
        return await answer(deserialize(data), context)
    except QueueFull as error:
        return await answer(error, context)
    except TimeoutError:
        return await answer(_in_vain(room, taken), context)
    except asyncio.CancelledError:
        if computes and not came and ran_out(context):
            await answer(_in_vain(room, taken), context)  # nobody waits for it, but it counts
        raise
    finally:
        room.leave(taken)


def _in_a_hurry(context: grpc.aio.ServicerContext[Any, Any]) -> bool:
    """Whether the call has a deadline, at which gRPC ends it."""
    return context.time_remaining() is not None


async def _no_message(context: grpc.aio.ServicerContext[Any, Any]) -> OfframpError:
    """Why the call brought none. Who gave it up is no bad caller: gRPC cancels us then, a turn of the loop later."""
    if context.time_remaining() == 0:
        return _late()
    await asyncio.sleep(0)
    return InvalidInput("the call brought no message")


def _in_vain(room: Room, taken: int) -> OfframpError:
    """What the time of a call was spent on: the way of its message, or waiting for room for one."""
    return _late() if taken else room.full("there was no room for the message in time")


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the message did not arrive in time")
