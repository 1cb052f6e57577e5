"""Run by MLServer's environment: its codecs and stubs against `sys.argv[1]`; prints what they say as JSON."""

import json
import sys

import grpc
import numpy as np
from mlserver.codecs import NumpyCodec
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc.converters import ModelInferRequestConverter, ModelInferResponseConverter
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.types import InferenceRequest

ADDRESS, MODEL, FILE = sys.argv[1:]


def question(pixels: np.ndarray, use_raw: bool) -> pb.ModelInferRequest:
    request = InferenceRequest(id="m1", inputs=[NumpyCodec.encode_input("image", pixels)])
    return ModelInferRequestConverter.from_types(request, MODEL, use_raw=use_raw)


def outputs(reply: pb.ModelInferResponse) -> dict[str, list[object]]:
    answer = ModelInferResponseConverter.to_types(reply)
    return {output.name: NumpyCodec.decode_output(output).tolist() for output in answer.outputs}


with grpc.insecure_channel(ADDRESS) as channel:
    stub = GRPCInferenceServiceStub(channel)
    pixels = np.load(FILE)
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=MODEL), timeout=20)
    raw = outputs(stub.ModelInfer(question(pixels, True), timeout=20))
    typed = outputs(stub.ModelInfer(question(pixels, False), timeout=20))
    said = {
        "ready": [
            stub.ServerLive(pb.ServerLiveRequest(), timeout=20).live,
            stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready,
            stub.ModelReady(pb.ModelReadyRequest(name=MODEL), timeout=20).ready,
        ],
        "inputs": [tensor.name for tensor in metadata.inputs],
        "labels": raw["label"],
        "scores": raw["scores"],
        "typed": typed["scores"],
    }
    print(json.dumps(said))
