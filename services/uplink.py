"""The connection to the tier above: one per process, shared by all models. Every call over it teaches its estimate."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import grpc

from services import framing, screening, wire
from services.describing import Description
from services.domain import Clock, LinkEstimate, Plan, Tier
from services.errors import DeadlineExceeded, InternalError, OfframpError, TooLarge
from services.exchange import Broken, Exchange, Unanswered
from services.framing import Framed
from services.link import LinkEstimator
from services.outbox import GATHERED_BYTES
from services.pb.offramp.v1 import tier_pb2 as pb
from services.secure_channel import Trust, channel
from services.tls_hints import Hints
from services.traffic import Crossing, Traffic
from services.wire_beliefs import description_from_pb

_SERVICE = pb.DESCRIPTOR.services_by_name["Tier"].full_name
INFER = f"/{_SERVICE}/Infer"
EXCHANGE = f"/{_SERVICE}/Exchange"
DESCRIBE = f"/{_SERVICE}/Describe"
PREPARE = f"/{_SERVICE}/Prepare"
PROBE = f"/{_SERVICE}/Probe"
DEFAULT_MAX_MESSAGE_BYTES = 64 << 20
_OWN_CALL_BYTES = 1 << 20
_SILENCE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

_STATES = {grpc.ChannelConnectivity.CONNECTING: 1, grpc.ChannelConnectivity.TRANSIENT_FAILURE: 2}

Transport = Literal["exchange", "unary"]


def channel_options(max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> list[tuple[str, Any]]:
    """Options of every channel Offramp opens.

    A dead tier is tried again within a second; no proxy of the environment comes between two tiers.
    """
    return [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5_000),  # how long connecting itself may take
        ("grpc.max_reconnect_backoff_ms", 1_000),
        ("grpc.enable_http_proxy", 0),
    ]


@dataclass(frozen=True, slots=True)
class Call:
    """An answered call: what came back, how long it took here, and with whom it shared the link.

    connected: whether the link was up before it; else its seconds are those of connecting, too.
    """

    reply: pb.InferReply
    seconds: float
    crossing: Crossing
    connected: bool


class Uplink:
    """One channel to the tier above, what is believed of the link, and who is on it. Needs a running event loop.

    counted: makes of a channel one that tells somebody of its calls.
    """

    def __init__(
        self,
        source: Tier,
        target: str,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        clock: Clock = time.monotonic,
        trust: Trust | None = None,
        transport: Transport = "exchange",
        counted: Callable[[Any], Any] | None = None,
    ):
        self._channel = channel(target, channel_options(max_message_bytes), trust)
        calls = self._channel if counted is None else counted(self._channel)
        self._hints = Hints(target, trust)
        self._infer = calls.unary_unary(
            INFER, request_serializer=framing.serialize, response_deserializer=screening.reply(pb.InferReply)
        )
        self._prepare = calls.unary_unary(
            PREPARE,
            request_serializer=pb.PrepareRequest.SerializeToString,
            response_deserializer=screening.reply(pb.PrepareReply),
        )
        self._describe = calls.unary_unary(
            DESCRIBE,
            request_serializer=pb.DescribeRequest.SerializeToString,
            response_deserializer=screening.reply(pb.DescribeReply),
        )
        self._probe = calls.unary_unary(
            PROBE,
            request_serializer=pb.ProbeRequest.SerializeToString,
            response_deserializer=screening.reply(pb.ProbeReply),
        )
        streams = calls.stream_stream(EXCHANGE, request_serializer=None, response_deserializer=None)
        self._exchange = Exchange(lambda: streams(None), min(GATHERED_BYTES, max_message_bytes // 2), clock)
        self._most_streamed_bytes = min(_OWN_CALL_BYTES, max_message_bytes // 2) if transport == "exchange" else -1
        self._clock = clock
        self._estimator = LinkEstimator(source, clock)
        self._traffic = Traffic(clock)

    async def infer(self, message: Framed, timeout_seconds: float) -> Call:
        """Sends one request and waits for its reply; raises what the far side raised."""
        connected, started = self._connected(), self._clock()
        with self._traffic.crossing(message.nbytes) as crossing:
            reply = await self._reply(message, timeout_seconds, connected)
        return Call(reply, self._clock() - started, crossing, connected)

    def learn(self, call: Call, header_bytes: int, held_seconds: float) -> None:
        """Takes `call` as a measurement. header_bytes: of the request; held_seconds: what the far side had it for."""
        if call.connected:
            overhead = header_bytes + call.reply.ByteSize()
            crossing = call.crossing
            self._estimator.record(crossing.nbytes, call.seconds - held_seconds, overhead, crossing.shared_bytes)

    async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None:
        """Has the tiers above make ready what `plan` will run there; raises what they raised."""
        message = pb.PrepareRequest(model_hash=model_hash, plan=wire.plan_to_pb(plan), remaining_seconds=seconds)
        try:
            await self._prepare(message, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise _own_or_above(error) from None

    async def describe(self, timeout_seconds: float, model_hash: str = "") -> Description:
        """What the next tier and those above believe of themselves and a model; raises what the next tier raised."""
        try:
            message = pb.DescribeRequest(model_hash=model_hash)
            reply: pb.DescribeReply | None = await self._describe(message, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise _own_or_above(error) from None
        if reply is None:
            raise InternalError("the next tier's description is not one")
        return description_from_pb(reply)

    async def probe(self, nbytes: int, timeout_seconds: float) -> None:
        """Times a call of `nbytes` that does nothing, for the link estimate; raises what the next tier raised."""
        message = pb.ProbeRequest(padding=random.Random(nbytes).randbytes(nbytes))  # no middlebox can compress it
        connected, started = self._connected(), self._clock()
        try:
            with self._traffic.crossing(nbytes, probes=True) as crossing:
                reply: pb.ProbeReply | None = await self._probe(message, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise self._unanswered(error) from None
        if reply is None:
            raise InternalError("the next tier's answer to a probe is not one")
        if connected:
            seconds = self._clock() - started - reply.held_seconds
            self._estimator.record(nbytes, seconds, shared_bytes=crossing.shared_bytes)

    @property
    def state(self) -> int:
        """0: calls go out. 1: it is being connected to. 2: that failed, and is tried again soon."""
        return _STATES.get(self._channel.get_state(), 0)

    def link(self) -> LinkEstimate:
        return self._estimator.estimate()

    @property
    def doubtful(self) -> bool:
        """Whether one more measurement would decide what the link has become."""
        return self._estimator.doubtful

    def quiet_seconds(self) -> float:
        """Since the last inference ended, 0 while one is in flight. Probes do not count."""
        return self._traffic.quiet_seconds()

    async def close(self) -> None:
        await self._hints.close()
        await self._exchange.close()
        await self._channel.close(None)

    async def _reply(self, message: Framed, timeout_seconds: float, connected: bool) -> pb.InferReply:
        """Over the stream where there can be one; whoever it leaves without an outcome asks again on its own.

        Large requests go on their own: gRPC lets calls take turns on a connection, but not messages on a stream.
        """
        if not connected:
            self._exchange.retire()  # a stream of the connection before ends with it
        elif message.nbytes <= self._most_streamed_bytes:
            asked = self._clock()
            try:
                return await self._exchange.ask(message, timeout_seconds)
            except Unanswered as error:
                self._estimator.failed()
                raise DeadlineExceeded(str(error)) from None
            except Broken:
                spent = self._clock() - asked
                timeout_seconds = max(timeout_seconds - spent, 0.0)
                message.header.remaining_seconds -= spent
        return await self._alone(message, timeout_seconds)

    async def _alone(self, message: Framed, timeout_seconds: float) -> pb.InferReply:
        try:
            reply: pb.InferReply | None = await self._infer(message, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise self._unanswered(error) from None
        if reply is None:  # what gRPC makes of bytes that do not parse
            raise InternalError("the next tier's answer is not one")
        return reply

    def _connected(self) -> bool:
        return bool(self._channel.get_state() == grpc.ChannelConnectivity.READY)

    def _unanswered(self, error: grpc.aio.AioRpcError) -> OfframpError:
        """The domain error; where the far side did not say it itself, the link may be dead."""
        if error.code() in _SILENCE and wire.DETAILS_KEY not in _trailing(error):
            self._estimator.failed()
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._hints.failed()
        return _own_or_above(error)


def _own_or_above(error: grpc.aio.AioRpcError) -> OfframpError:
    """A reply too large to receive is the next tier's doing, not the caller's; only its own TooLarge says so."""
    found = error_of(error)
    said = wire.DETAILS_KEY in _trailing(error)
    return found if said or not isinstance(found, TooLarge) else InternalError(str(found))


def error_of(error: grpc.aio.AioRpcError) -> OfframpError:
    """The domain error behind a failed gRPC call."""
    metadata = _trailing(error)
    return wire.error_from(error.code(), error.details() or error.code().name, metadata)


def _trailing(error: grpc.aio.AioRpcError) -> dict[str, str | bytes]:
    trailing: Any = error.trailing_metadata() or ()
    return {str(key): value for key, value in trailing}
