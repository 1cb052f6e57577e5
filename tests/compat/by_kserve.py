"""Run by KServe's environment: asks `sys.argv[1]` about `sys.argv[2]`, and prints what its client says as JSON."""

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

ADDRESS, MODEL, FILE = sys.argv[1:]


def question(pixels: np.ndarray, **parameters: object) -> InferRequest:
    given = InferInput("image", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels)
    return InferRequest(model_name=MODEL, infer_inputs=[given], request_id="k1", parameters=parameters or None)


async def main() -> None:
    pixels = np.load(FILE)
    async with InferenceGRPCClient(ADDRESS, timeout=20) as client:
        ready = [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready(MODEL)]
        answer = await client.infer(question(pixels))
        hurried = await client.infer(question(pixels, exit_threshold="0"))
    found = {output.name: output for output in answer.outputs}
    exits = {output.name: output for output in hurried.outputs}["exit_index"]
    said = {
        "ready": ready,
        "id": answer.id,
        "labels": found["label"].as_numpy().tolist(),
        "scores": found["scores"].as_numpy().tolist(),
        "hurried": exits.as_numpy().tolist(),
        "tier": answer.parameters["tier"].string_param,
    }
    print(json.dumps(said))


asyncio.run(main())
