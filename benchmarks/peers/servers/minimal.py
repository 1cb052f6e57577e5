"""The least a server of the Open Inference Protocol can be: grpc.aio, one method, no checks. In our environment."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from benchmarks.peers.servers.network import PORT, networks, workers
from services import process
from services.channels import channel_options
from services.open_inference import messages


def infer() -> Any:
    """The method; runs on the event loop, or in threads where more than one worker is asked for."""
    known, threads = networks(), ThreadPoolExecutor(workers()) if workers() > 1 else None

    async def call(request: Any, context: object) -> Any:
        network = known[request.model_name]
        tensor = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(tuple(request.inputs[0].shape))
        if threads is None:
            found = network.run(tensor)
        else:
            found = await asyncio.get_running_loop().run_in_executor(threads, network.run, tensor)
        reply = messages.ModelInferResponse(model_name=request.model_name, id=request.id)
        reply.outputs.add(name="scores", datatype="FP32", shape=found.shape)
        reply.raw_output_contents.append(found.tobytes())
        return reply

    return call


async def _serve() -> None:
    process.tune_allocator()
    server = grpc.aio.server(options=channel_options())
    request, reply = messages.ModelInferRequest, messages.ModelInferResponse
    method = grpc.unary_unary_rpc_method_handler(infer(), request.FromString, reply.SerializeToString)
    handler = grpc.method_handlers_generic_handler(messages.SERVICE, {"ModelInfer": method})
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{os.environ[PORT]}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve())
