"""What stands between gRPC and a handler: parse errors, refusals and faults leave with the right status."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from services import log, wire
from services.errors import InternalError, InvalidInput, OfframpError
from services.observing import Observers, Refused

MAX_REQUEST_ID = 200

Handler = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Service:
    """A gRPC service to be served: its full name, its methods, and its file, serialised, for reflection."""

    name: str
    methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    file: bytes


def unary(handler: Handler, request_type: Any, observers: Observers) -> grpc.RpcMethodHandler[Any, Any]:
    """A unary method whose errors leave with the right status and without internals."""
    return grpc.unary_unary_rpc_method_handler(
        _guarded(handler, observers), request_deserializer=_lenient(request_type), response_serializer=_serialize
    )


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _lenient(request_type: Any) -> Callable[[bytes], Message | DecodeError]:
    """gRPC turns a parse error into UNKNOWN with its text; carried to the guard it gets a status of its own."""

    def deserialize(data: bytes) -> Message | DecodeError:
        try:
            message: Message = request_type.FromString(data)
            return message
        except DecodeError as error:
            return error

    return deserialize


def _guarded(handler: Handler, observers: Observers) -> Handler:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            if isinstance(request, DecodeError):
                raise InvalidInput("the message is not valid protobuf of this method's request")
            return await handler(request, context)
        except OfframpError as error:
            observers.refused(Refused(_id_of(request), error.reason, str(error)))
            code, message, trailing = wire.status_of(error)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:  # the one place where the unexpected ends: logged here, masked for the client
            name = _id_of(request) or uuid.uuid4().hex
            log.event("failed", level=40, exc_info=True, request_id=name)
            masked = InternalError(f"internal error, id={name}")
            observers.refused(Refused(name, masked.reason, str(masked)))
            code, message, trailing = wire.status_of(masked)
        await context.abort(code, message, trailing)

    return guarded


def _id_of(request: Any) -> str:
    name = getattr(request, "request_id", "") or getattr(request, "id", "")
    return str(name)[:MAX_REQUEST_ID]
