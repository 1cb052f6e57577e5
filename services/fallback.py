"""What an error of the next tier means here: the caller's own, or a reason to answer without that tier."""

from __future__ import annotations

from services.domain import DegradedReason
from services.errors import (
    CorruptPayload,
    DeadlineExceeded,
    Draining,
    InvalidInput,
    ModelMismatch,
    NotCarried,
    NotHeld,
    OfframpError,
    QueueFull,
    TooLarge,
    Unavailable,
    UnknownModel,
)


def is_callers(error: OfframpError) -> bool:
    """Whether what the next tier refused was the caller's doing. Damage on the way was not, or what cannot go there."""
    return isinstance(error, InvalidInput | TooLarge) and not isinstance(error, CorruptPayload | NotCarried)


def degraded_by(error: OfframpError) -> DegradedReason:
    """Why an answer is degraded when the call to the next tier raised `error`."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    return DegradedReason.UPSTREAM_ERROR


_REASONS: tuple[tuple[type[OfframpError], DegradedReason], ...] = (
    (DeadlineExceeded, DegradedReason.DEADLINE),
    (QueueFull, DegradedReason.UPSTREAM_OVERLOADED),
    (Draining, DegradedReason.UPSTREAM_DRAINING),
    (Unavailable, DegradedReason.UPSTREAM_UNAVAILABLE),
    (ModelMismatch, DegradedReason.UPSTREAM_MISMATCH),
    (UnknownModel, DegradedReason.UPSTREAM_MISMATCH),
    (NotHeld, DegradedReason.UPSTREAM_MISMATCH),
)
