"""What every channel of Offramp is opened with, and what its failed calls mean."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from services import wire
from services.domain import TIMERS_DIFFER_SECONDS
from services.errors import InternalError, OfframpError, TooLarge

DEFAULT_MAX_MESSAGE_BYTES = 64 << 20


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


def ran_out(context: grpc.aio.ServicerContext[Any, Any]) -> bool:
    """Whether a call that is cancelled is so because its time is up, and not because its caller left."""
    left = context.time_remaining()
    return left is not None and left <= TIMERS_DIFFER_SECONDS


def caller_left() -> bool:
    """Whether the call that is cancelled is so by its caller: gRPC cancels those of a channel that is closed, too."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def own_or_above(error: grpc.aio.AioRpcError) -> OfframpError:
    """A reply too large to receive is the next tier's doing, not the caller's; only its own TooLarge says so."""
    found = error_of(error)
    said = wire.DETAILS_KEY in trailing(error)
    return found if said or not isinstance(found, TooLarge) else InternalError(str(found))


def error_of(error: grpc.aio.AioRpcError) -> OfframpError:
    """The domain error behind a failed gRPC call."""
    metadata = trailing(error)
    return wire.error_from(error.code(), error.details() or error.code().name, metadata)


def trailing(error: grpc.aio.AioRpcError) -> dict[str, str | bytes]:
    found: Any = error.trailing_metadata() or ()
    return {str(key): value for key, value in found}
