"""What stands between gRPC and a handler: parse errors, refusals and faults leave with the right status."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message

from services import log, screening, wire
from services.channels import ran_out
from services.errors import BundleError, DeadlineExceeded, InternalError, OfframpError
from services.observing import Observers, Refused
from services.room import Room

MAX_REQUEST_ID = 200
_MOST_TOLD = 64
"""Requests that travel as one and are refused with it; a caller's lies are not worth more lines."""

Handler = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]
Trailing = tuple[tuple[str, str | bytes], ...]


class Streams(Protocol):
    """Long-lived streams of a service, which a draining server has to bring to an end."""

    def within(self, room: Room) -> None:
        """Their requests share `room` with everybody else's."""

    def leave(self) -> None:
        """Tells callers to go elsewhere with new requests."""

    def end(self) -> None:
        """Takes no more requests; each stream ends when those it took are answered."""


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service to be served: its full name, its methods, and its file, serialised, for reflection.

    computing: those unary methods of which more may be asked than can be answered.
    """

    name: str
    methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    file: bytes
    streams: Streams | None = None
    computing: frozenset[str] = frozenset()


def unary(
    handler: Handler, request_type: Any, observers: Observers, computes: bool = False
) -> grpc.RpcMethodHandler[Any, Any]:
    """A unary method whose errors leave with the right status and without internals.

    computes: a call of it is a request, which has failed when its time is up; to look and to probe is none.
    """
    return grpc.unary_unary_rpc_method_handler(
        _guarded(handler, observers, computes),
        request_deserializer=screening.request(request_type),
        response_serializer=_serialize,
    )


def stream(handler: Handler, request_type: Any, observers: Observers) -> grpc.RpcMethodHandler[Any, Any]:
    """A stream of requests and replies; `handler` reads the requests, each maybe an OfframpError, and writes replies.

    What it raises ends the stream, guarded like a unary method.
    """
    return grpc.stream_stream_rpc_method_handler(
        _guarded(handler, observers),
        request_deserializer=screening.request(request_type),
        response_serializer=_serialize,
    )


def raw_stream(handler: Handler, observers: Observers) -> grpc.RpcMethodHandler[Any, Any]:
    """As `stream`, but `handler` reads and writes bytes as they cross the wire."""
    return grpc.stream_stream_rpc_method_handler(_guarded(handler, observers))


def refusal(error: Exception, request: Any, observers: Observers) -> tuple[grpc.StatusCode, str, Trailing]:
    """What a client is told of `error`, as observers are; what is not ours is logged here, and masked."""
    name = _id_of(request)
    if not isinstance(error, OfframpError) or isinstance(error, BundleError):  # which names files
        name = name or uuid.uuid4().hex
        log.event("failed", level=40, exc_info=error, request_id=name)
        error = InternalError(f"internal error, id={name}")
    for each in _members_of(request) or (name,):
        observers.refused(Refused(each, error.reason, str(error), *_model_of(request)))
    return wire.status_of(error)


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


class RequestFailed(Exception):
    """`error` is of this one `request` of a stream, which ends with it."""

    def __init__(self, error: Exception, request: Any):
        super().__init__(str(error))
        self.error, self.request = error, request


def late() -> DeadlineExceeded:
    """What became of a request that its caller waits for no more, since its time is up."""
    return DeadlineExceeded("time ran out before there was an answer")


def _guarded(handler: Handler, observers: Observers, computes: bool = False) -> Handler:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if isinstance(request, OfframpError):  # what went wrong before the message was one
            return _end(context, *refusal(request, None, observers))
        try:
            return await handler(request, context)
        except grpc.aio.AbortError:
            raise
        except asyncio.CancelledError:
            if computes and ran_out(context):
                refusal(late(), request, observers)
            raise
        except RequestFailed as failed:
            return _end(context, *refusal(failed.error, failed.request, observers))
        except Exception as error:  # the one place where the unexpected ends
            return _end(context, *refusal(error, request, observers))

    return guarded


def _model_of(request: Any) -> tuple[str, str]:
    """Name, or hash, and version, as far as it says."""
    named = getattr(request, "header", request)  # of a message whose payload stands apart
    name = getattr(named, "model_name", "") or getattr(named, "model_hash", "")
    return str(name), str(getattr(named, "model_version", ""))


def _end(context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, message: str, trailing: Trailing) -> None:
    """Ends the call without an answer. `abort` would, too, but in a cycle that keeps the request for long."""
    context.set_code(code)
    context.set_details(message)
    context.set_trailing_metadata(trailing)


def _members_of(request: Any) -> tuple[str, ...]:
    """The ids of the requests that travel as this one, where several do."""
    header = getattr(request, "header", None)
    found = header.members.request_ids[:_MOST_TOLD] if header is not None else ()
    return tuple(each[:MAX_REQUEST_ID] for each in found)


def _id_of(request: Any) -> str:
    name = getattr(request, "request_id", "") or getattr(request, "id", "")
    return str(name)[:MAX_REQUEST_ID]
