"""Requests of lower tiers on a stream, each on one of its own, as if each were a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.rpc import code_pb2, status_pb2

from services import wire
from services.pb.offramp.v1 import tier_pb2 as pb
from tests.e2e.bad_input import field


class Refused(grpc.RpcError):
    """An outcome that is a refusal, as a call would have ended with it."""

    def __init__(self, details: bytes):
        self._details = details
        self._status = status_pb2.Status.FromString(details)

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode[code_pb2.Code.Name(self._status.code)]

    def details(self) -> str:
        return str(self._status.message)

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        return ((wire.DETAILS_KEY, self._details),)


def on_a_stream(channel: grpc.Channel, path: str) -> Callable[..., bytes]:
    """Sends a message that may be no request; raises what it, or the whole stream, is refused with."""
    exchange = channel.stream_stream(f"/{path}")

    def ask(request: bytes, **how: Any) -> bytes:
        message = field(1, b"\x08\x01" + field(15, request))
        (reply,) = exchange(iter([message]), **how)
        (outcome,) = pb.ExchangeReply.FromString(reply).outcomes
        if outcome.status:
            raise Refused(outcome.status)
        answer: bytes = outcome.reply.SerializeToString()
        return answer

    return ask
