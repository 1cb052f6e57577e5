"""Names of tiers and codecs ⇄ their numbers in the protocol."""

from __future__ import annotations

from typing import Any

from services import codec
from services.domain import Tier
from services.errors import InvalidInput
from services.pb.offramp.v1 import tier_pb2 as pb

CODEC_TO_PB: dict[str, Any] = {name: pb.Codec.Value("CODEC_" + name.upper().replace("+", "_")) for name in codec.NAMES}
CODEC_FROM_PB: dict[int, str] = {number: name for name, number in CODEC_TO_PB.items()}
"""Built at import, so that a codec the protocol does not know stops the process, not a request."""

_UNSERVED = set(pb.Codec.values()) - set(CODEC_FROM_PB) - {pb.CODEC_UNSPECIFIED}
if _UNSERVED:
    raise ImportError(f"codecs of the protocol that nobody serves: {sorted(map(pb.Codec.Name, _UNSERVED))}")


_TIER_TO_PB: dict[Tier, Any] = {tier: pb.TierName.Value(f"TIER_NAME_{tier.name}") for tier in Tier}


def codec_from_pb(number: int) -> str:
    try:
        return CODEC_FROM_PB[number]
    except KeyError:
        raise InvalidInput(f"unknown codec {number}; known: {', '.join(CODEC_TO_PB)}") from None


def tier_to_pb(tier: Tier) -> Any:
    return _TIER_TO_PB[tier]


def tier_from_pb(number: int) -> Tier:
    try:
        return Tier(number - 1)
    except ValueError:
        raise InvalidInput(f"unknown tier {number}") from None
