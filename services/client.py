"""The next tier, over gRPC: encode, spend what is left of the deadline, time the call for the link estimate."""

from __future__ import annotations

import time
from typing import Any

import grpc

from services import codec, framing, wire
from services.domain import Clock, LinkEstimate, Request, Tier
from services.errors import DeadlineExceeded, InternalError, OfframpError, TooLarge
from services.framing import Framed
from services.link import LinkEstimator
from services.pb.offramp.v1 import tier_pb2 as pb
from services.tier import Forwarded

INFER = f"/{pb.DESCRIPTOR.services_by_name['Tier'].full_name}/Infer"
DEFAULT_MAX_MESSAGE_BYTES = 64 << 20
_MIN_MARGIN_SECONDS = 0.010
_MARGIN_SHARE = 0.05


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
    ):
        self._channel = grpc.aio.insecure_channel(target, channel_options(max_message_bytes))
        self._infer = self._channel.unary_unary(
            INFER, request_serializer=framing.serialize, response_deserializer=pb.InferReply.FromString
        )
        self._classes = classes
        self._clock = clock
        self._estimator = LinkEstimator(source, clock)

    async def infer(self, request: Request, codec_name: str) -> Forwarded:
        """Forwards `request` with its activation encoded by `codec_name`; raises what the far side raised."""
        started = self._clock()
        rtt = self.link().rtt_seconds or 0.0
        remaining = _spendable(request.deadline.remaining(), rtt)
        payload = codec.get(codec_name).encode(request.activation)
        header = _header(request, remaining - rtt / 2)  # what is left when it arrives
        message = Framed(header, wire.payload_to_pb(payload), payload.data)
        encoded = self._clock()
        reply: pb.InferReply = await self._call(message, remaining)
        answered = self._clock()
        response = wire.response_from_pb(reply, len(request.activation), self._classes)
        self._estimator.record(payload.nbytes, answered - encoded - response.trace.seconds)
        return Forwarded(response, encoded - started, payload.nbytes, reply.ByteSize())

    def link(self) -> LinkEstimate:
        return self._estimator.estimate()

    async def close(self) -> None:
        await self._channel.close(None)

    async def _call(self, message: Framed, timeout_seconds: float) -> pb.InferReply:
        try:
            reply: pb.InferReply | None = await self._infer(message, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise _own_or_above(error) from None
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
