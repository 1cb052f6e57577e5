"""A client that knows nothing but the address: what it sends and reads, it learns by server reflection."""

import json
import sys

import grpc
import numpy as np
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

ADDRESS, MODEL, FILE = sys.argv[1:]

with grpc.insecure_channel(ADDRESS) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    service = pool.FindServiceByName("inference.GRPCInferenceService")

    def call(name: str, **fields: object) -> object:
        method = service.methods_by_name[name]
        ask = channel.unary_unary(
            f"/{service.full_name}/{name}",
            lambda message: message.SerializeToString(),
            GetMessageClass(method.output_type).FromString,
        )
        return ask(GetMessageClass(method.input_type)(**fields), timeout=20)

    pixels = np.load(FILE)
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape)}
    answer = call("ModelInfer", model_name=MODEL, inputs=[tensor], raw_input_contents=[pixels.tobytes()])
    raw = {output.name: data for output, data in zip(answer.outputs, answer.raw_output_contents, strict=True)}
    said = {
        "services": sorted(database.get_services()),
        "methods": sorted(method.name for method in service.methods),
        "ready": call("ServerReady").ready,
        "labels": np.frombuffer(raw["label"], "<i8").tolist(),
    }
    print(json.dumps(said))
