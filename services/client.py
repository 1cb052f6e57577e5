"""The next tier for one model: encode, spend what is left of the deadline, forward, decode the answer."""

from __future__ import annotations

import time
from collections.abc import Sequence

from services import codec, wire
from services.bundle import Preprocessing
from services.describing import Description
from services.domain import Clock, LinkEstimate, Payload, Plan, Request
from services.errors import DeadlineExceeded
from services.framing import Framed
from services.gathering import Gathering
from services.journey import Forwarded
from services.pb.offramp.v1 import tier_pb2 as pb
from services.traffic import FRESH_SECONDS
from services.uplink import Uplink

_MIN_MARGIN_SECONDS = 0.010
_MARGIN_SHARE = 0.05


class GrpcNextTier:
    """What the tier above does for one model of `classes` classes. Closing is the uplink's.

    max_batch: samples that the model takes at a time; None: any number.
    """

    def __init__(
        self,
        uplink: Uplink,
        classes: int,
        preprocessing: Preprocessing | None = None,
        clock: Clock = time.monotonic,
        max_batch: int | None = None,
    ):
        self._uplink = uplink
        self._classes = classes
        self._preprocessing = preprocessing
        self._clock = clock
        self._gathering = Gathering(self._send, most_samples=max_batch)

    async def infer(self, request: Request, codec_name: str) -> Forwarded:
        """Forwards `request` with its activation encoded by `codec_name`; raises what the far side raised."""
        return await self._gathering.infer(request, codec_name)

    async def _send(self, request: Request, codec_name: str, members: Sequence[str] = ()) -> Forwarded:
        started = self._clock()
        self._uplink.check()
        rtt = _fresh_rtt(self.link())
        _spendable(request.deadline.remaining(), rtt)  # or it would be encoded in vain
        payload = self._payload(request, codec_name)
        encoded = self._clock()
        remaining = _spendable(request.deadline.remaining(), rtt)
        header = _header(request, remaining - rtt, members)  # what is given at its very deadline is back in time
        message = Framed(header, wire.payload_to_pb(payload), payload.data)
        call = await self._uplink.infer(message, remaining, request.plan.expected_seconds)
        response = wire.response_from_pb(call.reply, len(request.activation), self._classes)
        self._uplink.learn(call, header.ByteSize(), response.trace.seconds)
        return Forwarded(response, encoded - started, payload.nbytes, call.reply.ByteSize(), payload.codec)

    def _payload(self, request: Request, codec_name: str) -> Payload:
        passing = request.passing
        if passing is not None and passing.payload.codec == codec_name:
            return passing.payload
        by = codec.carrying(request.activation, codec_name, request.at, self._preprocessing)
        return by.encode(request.activation)

    async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None:
        await self._uplink.prepare(model_hash, plan, seconds)

    async def describe(self, timeout_seconds: float, model_hash: str = "") -> Description:
        return await self._uplink.describe(timeout_seconds, model_hash)

    async def agree(self, timeout_seconds: float, model_hash: str) -> None:
        await self._uplink.agree(timeout_seconds, model_hash)

    def link(self) -> LinkEstimate:
        return self._uplink.link()


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
    fresh = link.age_seconds is not None and link.age_seconds <= FRESH_SECONDS
    return link.rtt_seconds or 0.0 if fresh else 0.0


def _header(request: Request, remaining_seconds: float, members: Sequence[str] = ()) -> pb.InferRequest:
    return pb.InferRequest(
        request_id=request.request_id,
        model_hash=request.model_hash,
        plan=wire.plan_to_pb(request.plan),
        at=request.at,
        remaining_seconds=remaining_seconds,
        thresholds=request.thresholds or (),
        traceparent=request.traceparent,
        members=pb.Members(request_ids=members) if members else None,
        priority=request.priority,
    )
