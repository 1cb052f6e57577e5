"""Ways to ask a server for an answer: each opens what it needs, and makes calls for as many callers as wanted.

A driver is a context manager that yields `connect`; each caller takes a call from it, and awaits that again and again.
Whoever speaks the Open Inference Protocol is driven by tritonclient.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import grpc
import numpy as np

from benchmarks.subjects import Subject
from services.channels import channel_options
from services.client import GrpcNextTier
from services.connection import Transport
from services.domain import Deadline, Plan, Request, Segment, Stage, Tier
from services.uplink import Uplink

Call = Callable[[], Awaitable[object]]
Connect = Callable[[], Call]
Driver = Callable[[str, Subject], AbstractAsyncContextManager[Connect]]
"""Takes HOST:PORT and what to ask there for."""

SECONDS = 60.0
"""Longer than any call here may take."""
RAW_PATH = "/benchmarks.Peer/Run"
"""A call of raw float32 bytes in a google.protobuf.BytesValue, of servers that want a protocol of one's own."""


@asynccontextmanager
async def oip(address: str, subject: Subject, outputs: tuple[str, ...] = ("scores",)) -> AsyncIterator[Connect]:
    """ModelInfer of the Open Inference Protocol. outputs: those asked for; none, and the server gives all it has."""
    from tritonclient.grpc import aio

    async with aio.InferenceServerClient(address) as client:
        asked = _asked(aio, subject, outputs)
        yield lambda: lambda: client.infer(**asked, client_timeout=SECONDS)


@asynccontextmanager
async def oip_stream(address: str, subject: Subject) -> AsyncIterator[Connect]:
    """ModelStreamInfer, which is an extension of Triton's: a stream for each caller."""
    from tritonclient.grpc import aio

    async with aio.InferenceServerClient(address) as client:
        asked = _asked(aio, subject, ("scores",))
        streams: list[Any] = []

        def connect() -> Call:
            questions: asyncio.Queue[dict[str, Any]] = asyncio.Queue(1)
            answers = client.stream_infer(_taken(questions))
            streams.append(answers)

            async def call() -> object:
                await questions.put(asked)
                result, error = await anext(aiter(answers))
                if error is not None:
                    raise error
                return result

            return call

        try:
            yield connect
        finally:
            for stream in streams:
                stream.cancel()


@asynccontextmanager
async def raw_http(address: str, subject: Subject) -> AsyncIterator[Connect]:
    """A body of raw bytes, posted to a path that is called as the network is."""
    import aiohttp

    body = subject.sample.tobytes()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SECONDS)) as session:

        async def call() -> bytes:
            headers = {"Content-Type": "application/octet-stream"}
            async with session.post(f"http://{address}/{subject.name}", data=body, headers=headers) as reply:
                reply.raise_for_status()
                return await reply.read()

        yield lambda: call


@asynccontextmanager
async def raw_grpc(address: str, subject: Subject) -> AsyncIterator[Connect]:
    """Raw bytes in a BytesValue; the application is named in the metadata."""
    from google.protobuf.wrappers_pb2 import BytesValue

    async with grpc.aio.insecure_channel(address, channel_options()) as channel:
        run = channel.unary_unary(RAW_PATH, BytesValue.SerializeToString, BytesValue.FromString)
        asked = BytesValue(value=subject.sample.tobytes())
        yield lambda: lambda: run(asked, timeout=SECONDS, metadata=(("application", subject.name),))


@asynccontextmanager
async def tier(address: str, subject: Subject, transport: Transport = "exchange") -> AsyncIterator[Connect]:
    """From tier to tier, the whole network above."""
    uplink = Uplink(Tier.DEVICE, address, transport=transport)
    next_tier = GrpcNextTier(uplink, len(subject.manifest.labels))
    request = _request(subject)
    try:
        yield lambda: lambda: next_tier.infer(request, "fp32")
    finally:
        await uplink.close()


def _request(subject: Subject) -> Request:
    plan = Plan((Stage(Tier.DEVICE, Segment(0, 0)), Stage(Tier.EDGE, Segment(0, subject.manifest.last))))
    return Request("bench", subject.manifest.model_hash, plan, 0, subject.sample, Deadline.after(3600))


def _asked(aio: Any, subject: Subject, outputs: tuple[str, ...]) -> dict[str, Any]:
    given = aio.InferInput(subject.manifest.input.name, list(subject.sample.shape), "FP32")
    given.set_data_from_numpy(np.ascontiguousarray(subject.sample))
    wanted = [aio.InferRequestedOutput(name) for name in outputs] or None
    return {"model_name": subject.name, "inputs": [given], "outputs": wanted}


async def _taken(questions: asyncio.Queue[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    while True:
        yield await questions.get()


DRIVERS: dict[str, Driver] = {
    "oip": oip,
    "oip, all outputs": partial(oip, outputs=()),
    "oip stream": oip_stream,
    "raw http": raw_http,
    "raw grpc": raw_grpc,
    "exchange": tier,
    "unary": partial(tier, transport="unary"),
}
