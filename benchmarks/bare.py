"""What gRPC costs by itself: a minimal grpc.aio server of raw bytes, as a process of its own, and calls to it."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort

from services import process
from services.channels import channel_options
from testbed.local import part

_SERVICE = "benchmarks.Bare"


@dataclass(frozen=True, slots=True)
class Bare:
    """Calls: bytes up, as many as asked for down; over a unary call or a stream that stays. Or a network's output."""

    channel: grpc.aio.Channel
    stream_call: Any

    async def unary(self, message: bytes) -> None:
        await self.channel.unary_unary(f"/{_SERVICE}/Echo")(message, timeout=10)

    async def stream(self, message: bytes) -> None:
        await self.stream_call.write(message)
        await self.stream_call.read()

    async def run(self, tensor: bytes) -> bytes:
        reply: bytes = await self.channel.unary_unary(f"/{_SERVICE}/Run")(tensor, timeout=10)
        return reply


def asking_for(nbytes: int, payload: bytes) -> bytes:
    """A message that is answered with `nbytes`."""
    return nbytes.to_bytes(4, "little") + payload


@asynccontextmanager
async def serving(log: Path, model: Path | None = None) -> AsyncIterator[Bare]:
    """The server, and a connection to it. model: an ONNX file that `run` runs, one thread, on the event loop."""
    arguments = ("benchmarks.bare", *(("--model", str(model)) if model is not None else ()))
    async with (
        part("bare", arguments, log) as server,
        grpc.aio.insecure_channel(server.address, channel_options()) as channel,
    ):
        stream_call: Any = channel.stream_stream(f"/{_SERVICE}/Stream")()
        yield Bare(channel, stream_call)
        stream_call.cancel()


def session(model: Path) -> ort.InferenceSession:
    """One thread, no spinning."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


async def _echo(request: bytes, context: object) -> bytes:
    return bytes(int.from_bytes(request[:4], "little"))


async def _stream(_: object, context: Any) -> None:
    while isinstance(request := await context.read(), bytes):
        await context.write(await _echo(request, context))


def _running(model: Path) -> Any:
    running = session(model)
    (given,), (output, *_) = running.get_inputs(), running.get_outputs()
    shape = (-1, *given.shape[1:])

    async def run(request: bytes, context: object) -> bytes:
        tensor = np.frombuffer(request, np.float32).reshape(shape)
        return bytes(running.run([output.name], {given.name: tensor})[0].tobytes())

    return run


async def _serve(model: Path | None) -> None:
    process.tune_allocator()
    server = grpc.aio.server(options=channel_options())
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(_echo),
        "Stream": grpc.stream_stream_rpc_method_handler(_stream),
    }
    if model is not None:
        methods["Run"] = grpc.unary_unary_rpc_method_handler(_running(model))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"event": "ready", "address": f"127.0.0.1:{port}"}), flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bare", description=__doc__)
    parser.add_argument("--model", type=Path, help="ONNX file to run")
    asyncio.run(_serve(parser.parse_args().model))
