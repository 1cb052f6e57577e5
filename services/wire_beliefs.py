"""What a tier believes ⇄ messages: profiles of machines, estimates of links."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from services.describing import Description
from services.domain import CodecCost, LinkEstimate, Segment, SegmentTime, TierProfile
from services.errors import InternalError, InvalidInput
from services.pb.offramp.v1 import tier_pb2 as pb
from services.wire_names import CODEC_TO_PB, codec_from_pb, tier_from_pb, tier_to_pb

_SMALL = 1 << 10
"""Bytes of what is kept. A reply tells the times of what it ran, a description those of everything."""
_LINK_FIELDS = ("rtt_seconds", "up_bytes_per_second", "spread", "age_seconds")


def profile_to_pb(profile: TierProfile) -> pb.TierProfile:
    """Absent fields say what is true of most: not slowed down, holds everything."""
    holds = profile.holds
    return pb.TierProfile(
        tier=tier_to_pb(profile.tier),
        queue_seconds=profile.queue_seconds,
        segments=[
            pb.SegmentTime(start=t.segment.start, end=t.segment.end, batch_size=t.batch_size, seconds=t.seconds)
            for t in profile.segments
        ],
        codecs=[_cost_to_pb(cost) for cost in profile.codecs],
        slowdown=None if profile.slowdown == 1 else profile.slowdown,
        holds=None if holds is None else pb.Span(start=holds.start, end=holds.end),
    )


def profile_from_pb(message: pb.TierProfile) -> TierProfile:
    """Raises ValueError for numbers that cannot be times, InvalidInput for an unknown tier or codec."""
    data = message.SerializeToString()
    return _profile(data) if len(data) <= _SMALL else _read(message)


@lru_cache(maxsize=256)
def _profile(data: bytes) -> TierProfile:
    """Replies that come together say the same of their tier."""
    return _read(pb.TierProfile.FromString(data))


def _read(message: pb.TierProfile) -> TierProfile:
    slowdown = message.slowdown if message.HasField("slowdown") else 1.0
    if slowdown <= 0 or not _times((message.queue_seconds, slowdown, *(t.seconds for t in message.segments))):
        raise ValueError("a profile with times that cannot be")
    if not all(t.batch_size for t in message.segments):
        raise ValueError("a profile of runs without samples")
    return TierProfile(
        tier_from_pb(message.tier),
        message.queue_seconds,
        tuple(SegmentTime(Segment(t.start, t.end), t.batch_size, t.seconds) for t in message.segments),
        tuple(_cost_from_pb(cost) for cost in message.codecs),
        slowdown,
        Segment(message.holds.start, message.holds.end) if message.HasField("holds") else None,
    )


def link_to_pb(link: LinkEstimate) -> pb.LinkEstimate:
    known = {name: value for name in _LINK_FIELDS if (value := getattr(link, name)) is not None}
    return pb.LinkEstimate(source=tier_to_pb(link.source), **known)


def link_from_pb(message: pb.LinkEstimate) -> LinkEstimate:
    """Raises ValueError for numbers that are not finite, or negative: an RTT below 0 would look faster than none."""
    known = {name: getattr(message, name) for name in _LINK_FIELDS if message.HasField(name)}
    if not _times(known.values()):
        raise ValueError("a link estimate that cannot be")
    return LinkEstimate(tier_from_pb(message.source), **known)


def description_from_pb(message: pb.DescribeReply) -> Description:
    """What a tier says of itself and those above. Raises InternalError where that cannot be."""
    try:
        return Description(
            tuple(profile_from_pb(profile) for profile in (message.profile, *message.above)),
            tuple(link_from_pb(link) for link in message.links),
            message.model_hash,
        )
    except (ValueError, InvalidInput) as error:
        raise InternalError(f"the next tier's description makes no sense: {error}") from None


def _cost_to_pb(cost: CodecCost) -> pb.CodecCost:
    return pb.CodecCost(
        codec=CODEC_TO_PB[cost.codec],
        encode_seconds_per_byte=cost.encode_seconds_per_byte,
        decode_seconds_per_byte=cost.decode_seconds_per_byte,
        ratio=cost.ratio,
    )


def _cost_from_pb(message: pb.CodecCost) -> CodecCost:
    numbers = (message.encode_seconds_per_byte, message.decode_seconds_per_byte, message.ratio)
    if not _times(numbers):
        raise ValueError("a codec with costs that cannot be")
    return CodecCost(codec_from_pb(message.codec), *numbers)


def _times(numbers: Iterable[float]) -> bool:
    return all(math.isfinite(number) and number >= 0 for number in numbers)
