"""A Python client of the public door, blocking and async: arrays, images or files in, `Prediction`s out.

with Client("127.0.0.1:8001") as client:
    print(client.predict("digit.png").label)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, cast

import grpc
import numpy.typing as npt

from device_agent import door
from device_agent.inputs import ModelInfo, Sample, tensor_of
from device_agent.questions import (
    NONE,
    Prediction,
    Wishes,
    decoded,
    infer_request,
    model_info,
    predictions,
    whole_trace,
    wishes_of,
)
from services.channels import DEFAULT_MAX_MESSAGE_BYTES, caller_left, error_of
from services.domain import Deadline
from services.errors import InvalidInput, OfframpError, Unavailable
from services.open_inference import messages
from services.open_inference.tensors import IMAGE

__all__ = ["AsyncClient", "Client", "ModelInfo", "Prediction", "Sample", "Wishes"]

DEFAULT_TIMEOUT_SECONDS = 10.0
_CLOSED = "this client was closed"


class _Question:
    """One request and its times, so that the answer can say what the caller waited for."""

    def __init__(self, request: Any, started: float):
        self.request = request
        self._started, self._built = started, time.monotonic()

    def answered(self, reply: Any) -> list[Prediction]:
        now = time.monotonic()
        if "trace" not in reply.parameters:
            return predictions(reply)
        seen = whole_trace(reply, self._built - self._started, now - self._built, self.request.ByteSize())
        found = predictions(reply, seen)
        decoded(seen, time.monotonic() - now)
        return found


def _stream_reply(reply: Any) -> list[Prediction]:
    """Raises the error that the stream reports of this request."""
    if reply.error_message:
        raise OfframpError(reply.error_message)
    return predictions(reply.infer_response)


def _only(found: list[Prediction]) -> Prediction:
    if len(found) != 1:
        raise InvalidInput(f"this holds {len(found)} samples; ask for them with predict_many")
    return found[0]


class AsyncClient:
    """One channel to a device agent. Every call has a deadline, in seconds, for all that it takes.

    Every call raises the OfframpError that the server reported, or InvalidInput for a sample that does not fit.
    `token` is a bearer token, sent with each call; `credentials` are those of `grpc.ssl_channel_credentials`.
    """

    def __init__(
        self,
        target: str,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ):
        options = door.options(max_message_bytes)
        self._channel = (
            grpc.aio.insecure_channel(target, options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options)
        )
        self._metadata = door.metadata(token)
        self._timeout = timeout_seconds
        self._models: dict[str, ModelInfo] = {}
        self._closed = False

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Calls in flight raise Unavailable, and so do later ones."""
        self._closed = True
        await self._channel.close(None)

    async def model(self, name: str = "", timeout_seconds: float | None = None) -> ModelInfo:
        """What the server says of the model called `name`; asked once. Empty: the only one that is served."""
        if name not in self._models:
            asked = messages.ModelMetadataRequest(name=name)
            self._models[name] = model_info(await self._call("ModelMetadata", asked, timeout_seconds))
        return self._models[name]

    async def predict(self, sample: Sample, model: str = "", **options: Any) -> Prediction:
        """The answer for one sample. `options`: those of `predict_many`."""
        return _only(await self.predict_many(sample, model, **options))

    async def predict_many(
        self,
        samples: Sample,
        model: str = "",
        request_id: str = "",
        timeout_seconds: float | None = None,
        **wishes: Any,
    ) -> list[Prediction]:
        """Answers for every sample of an array, an image or a file. `wishes`: the fields of `Wishes`."""
        deadline = self._deadline(timeout_seconds)
        info = await self.model(model, deadline.remaining())
        tensor, name = tensor_of(samples, info)
        return await self.infer(info.name, tensor, name, request_id, deadline.remaining(), **wishes)

    async def infer(
        self,
        model: str,
        samples: npt.NDArray[Any],
        input_name: str = IMAGE,
        request_id: str = "",
        timeout_seconds: float | None = None,
        **wishes: Any,
    ) -> list[Prediction]:
        """Answers for uint8 [N, H, W, C] images, or for the float32 tensor that `input_name` names."""
        started = time.monotonic()
        request = infer_request(model, samples, input_name, request_id, wishes_of(wishes))
        asked = _Question(request, started)
        return asked.answered(await self._call("ModelInfer", asked.request, timeout_seconds))

    async def stream(
        self,
        sample: Sample,
        model: str = "",
        timeout_seconds: float | None = None,
        wishes: Wishes = NONE,
        request_id: str = "",
    ) -> AsyncGenerator[Prediction, None]:
        """The answers for one sample as they come: an early exit's at once, then the last, whose `final` is set."""
        deadline = self._deadline(timeout_seconds)
        info = await self.model(model, deadline.remaining())
        request = infer_request(info.name, *tensor_of(sample, info), request_id, wishes)
        with self._own_errors():
            call = self._channel.stream_stream(*door.streaming())(
                iter([request]), timeout=deadline.remaining(), metadata=(*self._metadata, door.AS_STATUS)
            )
            try:
                async for reply in call:
                    yield _only(_stream_reply(reply))
            finally:
                call.cancel()

    def _deadline(self, timeout_seconds: float | None) -> Deadline:
        return Deadline.after(self._timeout if timeout_seconds is None else timeout_seconds)

    async def _call(self, method: str, request: Any, timeout_seconds: float | None = None) -> Any:
        with self._own_errors():
            call = self._channel.unary_unary(*door.unary(method))
            left = self._deadline(timeout_seconds).remaining()
            return await call(request, timeout=left, metadata=self._metadata)

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """What ends a call becomes an OfframpError, also that this client was closed: a cancellation to gRPC."""
        if self._closed:
            raise Unavailable(_CLOSED)
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None
        except asyncio.CancelledError:
            if not self._closed or caller_left():
                raise
            raise Unavailable(_CLOSED) from None


class Client:
    """`AsyncClient`, blocking. Threads may share it."""

    def __init__(
        self,
        target: str,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        credentials: grpc.ChannelCredentials | None = None,
        token: str | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ):
        options = door.options(max_message_bytes)
        self._channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        self._metadata = door.metadata(token)
        self._timeout = timeout_seconds
        self._models: dict[str, ModelInfo] = {}
        self._closed = False

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """See `AsyncClient.close`."""
        self._closed = True
        self._channel.close()

    def model(self, name: str = "", timeout_seconds: float | None = None) -> ModelInfo:
        """See `AsyncClient.model`."""
        if name not in self._models:
            asked = messages.ModelMetadataRequest(name=name)
            self._models[name] = model_info(self._call("ModelMetadata", asked, timeout_seconds))
        return self._models[name]

    def predict(self, sample: Sample, model: str = "", **options: Any) -> Prediction:
        """See `AsyncClient.predict`."""
        return _only(self.predict_many(sample, model, **options))

    def predict_many(
        self,
        samples: Sample,
        model: str = "",
        request_id: str = "",
        timeout_seconds: float | None = None,
        **wishes: Any,
    ) -> list[Prediction]:
        """See `AsyncClient.predict_many`."""
        deadline = self._deadline(timeout_seconds)
        info = self.model(model, deadline.remaining())
        started = time.monotonic()
        request = infer_request(info.name, *tensor_of(samples, info), request_id, wishes_of(wishes))
        asked = _Question(request, started)
        return asked.answered(self._call("ModelInfer", asked.request, deadline.remaining()))

    def stream(
        self,
        sample: Sample,
        model: str = "",
        timeout_seconds: float | None = None,
        wishes: Wishes = NONE,
        request_id: str = "",
    ) -> Iterator[Prediction]:
        """See `AsyncClient.stream`."""
        deadline = self._deadline(timeout_seconds)
        info = self.model(model, deadline.remaining())
        request = infer_request(info.name, *tensor_of(sample, info), request_id, wishes)
        if self._closed:
            raise Unavailable(_CLOSED)
        call = self._channel.stream_stream(*door.streaming())(
            iter([request]), timeout=deadline.remaining(), metadata=(*self._metadata, door.AS_STATUS)
        )
        try:
            for reply in call:
                yield _only(_stream_reply(reply))
        except grpc.RpcError as error:
            raise self._error(error) from None
        finally:
            call.cancel()  # type: ignore[no-untyped-call]

    def _deadline(self, timeout_seconds: float | None) -> Deadline:
        return Deadline.after(self._timeout if timeout_seconds is None else timeout_seconds)

    def _call(self, method: str, request: Any, timeout_seconds: float | None = None) -> Any:
        if self._closed:
            raise Unavailable(_CLOSED)
        call = self._channel.unary_unary(*door.unary(method))
        left = self._deadline(timeout_seconds).remaining()
        try:
            return call(request, timeout=left, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._error(error) from None

    def _error(self, error: grpc.RpcError) -> OfframpError:
        return Unavailable(_CLOSED) if self._closed else error_of(cast(Any, error))
