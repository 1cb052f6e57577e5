"""The next tier, over gRPC: encode, spend what is left of the deadline, time the call for the link estimate."""

from __future__ import annotations

import random
import time
from typing import Any

import grpc

from services import codec, framing, wire
from services.bundle import Preprocessing
from services.describing import Description
from services.domain import Clock, LinkEstimate, Plan, Request, Tier
from services.errors import DeadlineExceeded, InternalError, OfframpError, TooLarge
from services.framing import Framed
from services.journey import Forwarded
from services.link import LinkEstimator
from services.pb.offramp.v1 import tier_pb2 as pb
from services.traffic import Traffic
from services.wire_beliefs import description_from_pb

_SERVICE = pb.DESCRIPTOR.services_by_name["Tier"].full_name
INFER = f"/{_SERVICE}/Infer"
DESCRIBE = f"/{_SERVICE}/Describe"
PREPARE = f"/{_SERVICE}/Prepare"
PROBE = f"/{_SERVICE}/Probe"
DEFAULT_MAX_MESSAGE_BYTES = 64 << 20
_MIN_MARGIN_SECONDS = 0.010
_MARGIN_SHARE = 0.05
_FRESH_SECONDS = 2.0
_SILENCE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


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


class GrpcNextTier:
    """One channel to the tier above. Needs a running event loop."""

    def __init__(
        self,
        source: Tier,
        target: str,
        classes: int,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        clock: Clock = time.monotonic,
        preprocessing: Preprocessing | None = None,
    ):
        self._channel = grpc.aio.insecure_channel(target, channel_options(max_message_bytes))
        self._infer = self._channel.unary_unary(
            INFER, request_serializer=framing.serialize, response_deserializer=pb.InferReply.FromString
        )
        self._prepare = self._channel.unary_unary(
            PREPARE,
            request_serializer=pb.PrepareRequest.SerializeToString,
            response_deserializer=pb.PrepareReply.FromString,
        )
        self._describe = self._channel.unary_unary(
            DESCRIBE,
            request_serializer=pb.DescribeRequest.SerializeToString,
            response_deserializer=pb.DescribeReply.FromString,
        )
        self._probe = self._channel.unary_unary(
            PROBE,
            request_serializer=pb.ProbeRequest.SerializeToString,
            response_deserializer=pb.ProbeReply.FromString,
        )
        self._classes = classes
        self._preprocessing = preprocessing
        self._clock = clock
        self._estimator = LinkEstimator(source, clock)
        self._traffic = Traffic(clock)

    async def infer(self, request: Request, codec_name: str) -> Forwarded:
        """Forwards `request` with its activation encoded by `codec_name`; raises what the far side raised."""
        started = self._clock()
        rtt = _fresh_rtt(self.link())
        remaining = _spendable(request.deadline.remaining(), rtt)
        payload = codec.at(codec_name, request.at, self._preprocessing).encode(request.activation)
        header = _header(request, remaining - rtt / 2)  # what is left when it arrives
        message = Framed(header, wire.payload_to_pb(payload), payload.data)
        connected, encoded = self._connected(), self._clock()
        with self._traffic.crossing(payload.nbytes) as crossing:
            reply: pb.InferReply = await self._call(message, remaining)
        answered = self._clock()
        response = wire.response_from_pb(reply, len(request.activation), self._classes)
        if connected:  # else the time is that of connecting, too
            overhead = header.ByteSize() + reply.ByteSize()
            seconds = answered - encoded - response.trace.seconds
            self._estimator.record(payload.nbytes, seconds, overhead, crossing.shared_bytes)
        return Forwarded(response, encoded - started, payload.nbytes, reply.ByteSize())

    async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None:
        """Has the tiers above make ready what `plan` will run there; raises what they raised."""
        message = pb.PrepareRequest(model_hash=model_hash, plan=wire.plan_to_pb(plan), remaining_seconds=seconds)
        try:
            await self._prepare(message, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise _own_or_above(error) from None

    async def describe(self, timeout_seconds: float) -> Description:
        """What the next tier and those above it believe of themselves; raises what the next tier raised."""
        try:
            reply: pb.DescribeReply | None = await self._describe(pb.DescribeRequest(), timeout=timeout_seconds)
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

    def link(self) -> LinkEstimate:
        return self._estimator.estimate()

    @property
    def doubtful(self) -> bool:
        """Whether one more measurement would decide what the link has become."""
        return self._estimator.doubtful

    def quiet_seconds(self) -> float:
        """Since the last inference ended, 0 while one is in flight. Probes do not count."""
        return self._traffic.quiet_seconds()

    def _connected(self) -> bool:
        return bool(self._channel.get_state() == grpc.ChannelConnectivity.READY)

    def _unanswered(self, error: grpc.aio.AioRpcError) -> OfframpError:
        """The domain error; where the far side did not say it itself, the link may be dead."""
        if error.code() in _SILENCE and wire.DETAILS_KEY not in _trailing(error):
            self._estimator.failed()
        return _own_or_above(error)

    async def close(self) -> None:
        await self._channel.close(None)

    async def _call(self, message: Framed, timeout_seconds: float) -> pb.InferReply:
        try:
            reply: pb.InferReply | None = await self._infer(message, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise self._unanswered(error) from None
        if reply is None:  # what gRPC makes of bytes that do not parse
            raise InternalError("the next tier's answer is not one")
        return reply


def _spendable(remaining: float, rtt_seconds: float) -> float:
    """What the call to the next tier may take: what remains, less a margin in which this tier can still answer.

    Raises DeadlineExceeded where not even the way there and back fits, as far as is known.
    """
    spendable = remaining - max(_MIN_MARGIN_SECONDS, _MARGIN_SHARE * remaining)
    if spendable <= rtt_seconds:
        raise DeadlineExceeded("no time left to go on to the next tier")
    return spendable


def _fresh_rtt(link: LinkEstimate) -> float:
    """Seconds; 0 where it is unknown, or too old to skip a hop for it: the link may have recovered unseen."""
    fresh = link.age_seconds is not None and link.age_seconds <= _FRESH_SECONDS
    return link.rtt_seconds or 0.0 if fresh else 0.0


def _header(request: Request, remaining_seconds: float) -> pb.InferRequest:
    return pb.InferRequest(
        request_id=request.request_id,
        model_hash=request.model_hash,
        plan=wire.plan_to_pb(request.plan),
        at=request.at,
        remaining_seconds=remaining_seconds,
        thresholds=request.thresholds or (),
    )


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
