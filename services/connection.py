"""The connection to one target of the tier above, shared by all models. Every call over it teaches its estimate."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal

import grpc
from grpc_health.v1 import health_pb2

from services import framing, screening, wire
from services.channels import DEFAULT_MAX_MESSAGE_BYTES, caller_left, channel_options, own_or_above, trailing
from services.describing import Description
from services.domain import Clock, LinkEstimate, Plan, Tier
from services.errors import DeadlineExceeded, InternalError, OfframpError, QueueFull, UpstreamUnavailable
from services.exchange import Broken, Crowded, Exchange, Unanswered
from services.framing import Framed
from services.link import LinkEstimator
from services.outbox import GATHERED_BYTES
from services.pb.offramp.v1 import tier_pb2 as pb
from services.secure_channel import Trust, channel
from services.tls_hints import Hints
from services.traffic import FRESH_SECONDS, Crossing, Held, Traffic
from services.wire_beliefs import description_from_pb

_SERVICE = pb.DESCRIPTOR.services_by_name["Tier"].full_name
INFER = f"/{_SERVICE}/Infer"
EXCHANGE = f"/{_SERVICE}/Exchange"
DESCRIBE = f"/{_SERVICE}/Describe"
PREPARE = f"/{_SERVICE}/Prepare"
PROBE = f"/{_SERVICE}/Probe"
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
_OWN_CALL_BYTES = 1 << 20
_NO_HEALTH_SECONDS = 60.0
_TOGETHER_SECONDS = 0.001
_CLOSED = "the next tier is no longer where it was asked"
_SILENT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

_STATES = {grpc.ChannelConnectivity.CONNECTING: 1, grpc.ChannelConnectivity.TRANSIENT_FAILURE: 2}

Transport = Literal["exchange", "unary"]


@dataclass(frozen=True, slots=True)
class Call:
    """An answered call: what came back, how long it took here, and with whom it shared the link.

    connected: whether the link was up before it; else its seconds are those of connecting, too.
    """

    reply: pb.InferReply
    seconds: float
    crossing: Crossing
    connected: bool
    connection: Connection
    kind: Hashable


class Silence(Exception):
    """No answer came, and not even a refusal: `error` is what that means to a caller."""

    def __init__(self, error: OfframpError):
        super().__init__(str(error))
        self.error = error


class Unsent(Exception):
    """No time is left for the way to the next tier and back, so that it was not asked."""


class Connection:
    """One channel, what is believed of the link, and who is on it. Needs a running event loop.

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
        health = {
            "request_serializer": health_pb2.HealthCheckRequest.SerializeToString,
            "response_deserializer": health_pb2.HealthCheckResponse.FromString,
        }
        self._check = self._channel.unary_unary(CHECK, **health)
        self._watch = self._channel.unary_stream(WATCH, **health)
        streams = calls.stream_stream(EXCHANGE, request_serializer=None, response_deserializer=None)
        self._exchange = Exchange(lambda: streams(None), min(GATHERED_BYTES, max_message_bytes // 2), clock)
        self._most_streamed_bytes = min(_OWN_CALL_BYTES, max_message_bytes // 2) if transport == "exchange" else -1
        self._clock = clock
        self._estimator = LinkEstimator(source, clock)
        self._traffic, self._held = Traffic(clock), Held(clock)
        self._learned = -math.inf, 0
        self._link: tuple[LinkEstimate | None, float] = None, -math.inf
        self._closed = False

    async def infer(self, message: Framed, timeout_seconds: float, expected_seconds: float | None = None) -> Call:
        """Sends one request and waits for its reply; raises what the far side raised, or Silence.

        expected_seconds: what the whole plan should take. Raises Unsent where, by what was seen lately, the answer
        would come too late.
        """
        connected, started, kind = self._connected(), self._clock(), _kind(message)
        if timeout_seconds <= self._least_seconds(message.nbytes, kind):
            raise Unsent
        with self._traffic.crossing(
            message.nbytes, beyond_seconds=self._held.longest(kind, expected_seconds)
        ) as crossing:
            reply = await self._reply(message, timeout_seconds, connected, crossing)
        return Call(reply, self._clock() - started, crossing, connected, self, kind)

    def learn(self, call: Call, header_bytes: int, held_seconds: float) -> None:
        """Takes `call` as a measurement. header_bytes: of the request; held_seconds: what the far side had it for."""
        self._held.note(call.kind, held_seconds)
        if call.connected and self._tells(call.crossing.nbytes):
            overhead = header_bytes + call.reply.ByteSize()
            crossing = call.crossing
            self._record(crossing, call.seconds - held_seconds, overhead)

    def _tells(self, nbytes: int) -> bool:
        """Whether a call that has just ended is news: small ones of one message, which end together, tell it once."""
        now, (at, learned) = self._clock(), self._learned
        if now - at < _TOGETHER_SECONDS and nbytes <= 2 * learned and not self._estimator.doubtful:
            return False
        self._learned = now, nbytes
        return True

    async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None:
        """Has the tiers above make ready what `plan` will run there; raises what they raised, or Silence."""
        message = pb.PrepareRequest(model_hash=model_hash, plan=wire.plan_to_pb(plan), remaining_seconds=seconds)
        try:
            await self._prepare(message, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise _meaning(error) from None

    async def describe(self, timeout_seconds: float, model_hash: str = "") -> Description:
        """What the next tier and those above believe of themselves and a model; raises what it raised, or Silence."""
        try:
            message = pb.DescribeRequest(model_hash=model_hash)
            reply: pb.DescribeReply | None = await self._describe(message, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise _meaning(error) from None
        except asyncio.CancelledError:
            raise self._cancelled() from None
        if reply is None:
            raise InternalError("the next tier's description is not one")
        return description_from_pb(reply)

    async def probe(self, nbytes: int, timeout_seconds: float) -> None:
        """Times a call of `nbytes` that does nothing, for the estimate; raises what the far side raised, or Silence."""
        message = pb.ProbeRequest(padding=random.Random(nbytes).randbytes(nbytes))  # no middlebox can compress it
        connected, started = self._connected(), self._clock()
        try:
            with self._traffic.crossing(nbytes, probes=True) as crossing:
                reply: pb.ProbeReply | None = await self._probe(message, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise self._unanswered(error, crossing) from None
        if reply is None:
            raise InternalError("the next tier's answer to a probe is not one")
        if not 0 <= reply.held_seconds < math.inf:
            raise InternalError(f"the next tier's answer to a probe makes no sense: held for {reply.held_seconds} s")
        if connected:
            self._record(crossing, self._clock() - started - reply.held_seconds)

    async def serves(self, timeout_seconds: float) -> bool:
        """Whether it answers and says that it serves; who knows no health checks, and says so, serves, too."""
        try:
            asked = health_pb2.HealthCheckRequest()
            reply = await self._check(asked, timeout=timeout_seconds, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            return error.code() not in _SILENT and error.code() is not grpc.StatusCode.CANCELLED
        return bool(reply is not None and reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def watch(self) -> AsyncIterator[bool]:
        """Whether it serves, now and at each change; ends with the connection, waits for one without limit."""
        try:
            async for reply in self._watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
                yield reply is not None and reply.status == health_pb2.HealthCheckResponse.SERVING
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                yield True
                await asyncio.sleep(_NO_HEALTH_SECONDS)

    @property
    def state(self) -> int:
        """0: calls go out. 1: it is being connected to. 2: that failed, and is tried again soon."""
        return _STATES.get(self._channel.get_state(), 0)

    def link(self) -> LinkEstimate:
        """What is believed of it, as of a millisecond ago at most: to find out looks at every call in flight."""
        now, (believed, at) = self._clock(), self._link
        if believed is None or not 0 <= now - at < _TOGETHER_SECONDS:
            believed = self._estimator.estimate(self._traffic.waiting())
            self._link = believed, now
        return believed

    def ahead_seconds(self) -> float:
        """Until the link has carried what is in flight, at the rate believed; 0 where that is unknown."""
        if self._traffic.idle:  # every request asks
            return 0.0
        rate = self.link().up_bytes_per_second
        return self._traffic.ahead_seconds(rate) if rate else 0.0

    @property
    def doubtful(self) -> bool:
        """Whether one more measurement would decide what the link has become."""
        return self._estimator.doubtful

    @property
    def overdue(self) -> bool:
        """Whether a call in flight, or the one given up last, takes longer than is plausible."""
        return self._estimator.overdue(self._traffic.waiting())

    def quiet_seconds(self) -> float:
        """Since the last inference ended, 0 while one is in flight. Probes do not count."""
        return self._traffic.quiet_seconds()

    def untaught_seconds(self) -> float:
        """Since anything sent told of the rate."""
        return self._estimator.untaught_seconds()

    async def close(self) -> None:
        """Calls in flight end in Silence."""
        self._closed = True
        await self._hints.close()
        await self._exchange.close()
        await self._channel.close(None)

    async def _reply(
        self, message: Framed, timeout_seconds: float, connected: bool, crossing: Crossing
    ) -> pb.InferReply:
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
                self._failed(crossing)
                raise Silence(DeadlineExceeded(str(error))) from None
            except Crowded as error:
                raise Silence(QueueFull(str(error))) from None
            except Broken:
                spent, given = self._clock() - asked, message.header.remaining_seconds
                if 0 < given <= spent:
                    raise Silence(DeadlineExceeded("the stream broke, and no time is left to ask again")) from None
                timeout_seconds = max(timeout_seconds - spent, 0.0)
                message.header.remaining_seconds = given - spent if given else 0.0
        return await self._alone(message, timeout_seconds, crossing)

    async def _alone(self, message: Framed, timeout_seconds: float, crossing: Crossing) -> pb.InferReply:
        if self._closed:
            raise Silence(UpstreamUnavailable(_CLOSED))
        try:
            reply: pb.InferReply | None = await self._infer(message, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise self._unanswered(error, crossing) from None
        except asyncio.CancelledError:
            raise self._cancelled() from None
        if reply is None:  # what gRPC makes of bytes that do not parse
            raise InternalError("the next tier's answer is not one")
        return reply

    def _cancelled(self) -> BaseException:
        """What a call was ended by: its caller, or gRPC with the channel."""
        if not self._closed or caller_left():
            return asyncio.CancelledError()
        return Silence(UpstreamUnavailable(_CLOSED))

    def _least_seconds(self, nbytes: int, kind: Hashable) -> float:
        """What so many bytes need on the link, and the far side at least, as far as that is fresh news."""
        link = self.link()
        if link.age_seconds is None or link.age_seconds > FRESH_SECONDS:
            return 0.0
        way = nbytes / link.up_bytes_per_second if link.up_bytes_per_second else 0.0
        return (link.rtt_seconds or 0.0) + way + self._held.shortest(kind)

    def _connected(self) -> bool:
        return bool(self._channel.get_state() == grpc.ChannelConnectivity.READY)

    def _unanswered(self, error: grpc.aio.AioRpcError, crossing: Crossing) -> OfframpError | Silence:
        """What it means; after silence the link may be dead."""
        if _silent(error):
            self._failed(crossing)
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                self._hints.failed()
        return _meaning(error)

    def _record(self, crossing: Crossing, seconds: float, overhead_bytes: int | None = None) -> None:
        self._link = None, -math.inf
        self._estimator.record(crossing.nbytes, seconds, overhead_bytes, crossing.shared_bytes)

    def _failed(self, crossing: Crossing) -> None:
        self._link = None, -math.inf
        self._estimator.failed(crossing.nbytes + crossing.shared_bytes, self._traffic.on_network(crossing))


def _kind(message: Framed) -> Hashable:
    """What decides how long the far side needs: the network, who runs which part of it, and for how many, about."""
    header, samples = message.header, message.activation.shape[0]
    return (header.model_hash, samples.bit_length(), *(stage.SerializeToString() for stage in header.plan.stages))


def _silent(error: grpc.aio.AioRpcError) -> bool:
    """Whether the far side did not say it itself."""
    return error.code() in _SILENT and wire.DETAILS_KEY not in trailing(error)


def _meaning(error: grpc.aio.AioRpcError) -> OfframpError | Silence:
    return Silence(own_or_above(error)) if _silent(error) else own_or_above(error)
