"""Ray Serve's applications, one for each network, behind its gRPC proxy. Runs in Ray's environment."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import ray
from google.protobuf.wrappers_pb2 import BytesValue
from ray import serve
from ray.serve.config import gRPCOptions

from benchmarks.peers.servers.network import FOLDER, PORT, SPARE_PORT, Network, workers


def add_to_server(servicer: Any, server: Any) -> None:
    """What generated code would do: raw bytes in a BytesValue, both ways."""
    method = grpc.unary_unary_rpc_method_handler(servicer.Run, BytesValue.FromString, BytesValue.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("benchmarks.Peer", {"Run": method}),))


@serve.deployment(
    num_replicas=workers(),
    max_ongoing_requests=64,
    ray_actor_options={"num_cpus": 0.1},
    logging_config={"enable_access_log": False},
)
class Replica:
    def __init__(self, path: str):
        self._network = Network(Path(path))

    def Run(self, asked: BytesValue) -> BytesValue:
        return BytesValue(value=self._network.run_raw(asked.value))


def main() -> None:
    ray.init(address="local", include_dashboard=False, configure_logging=False)
    functions = ["benchmarks.peers.servers.ray_app.add_to_server"]
    http = {"host": "127.0.0.1", "port": int(os.environ[SPARE_PORT])}
    grpc_options = gRPCOptions(port=int(os.environ[PORT]), grpc_servicer_functions=functions)
    serve.start(http_options=http, grpc_options=grpc_options, logging_config={"enable_access_log": False})
    try:
        for path in sorted(Path(os.environ[FOLDER]).glob("*/plain.onnx")):
            serve.run(Replica.bind(str(path)), name=path.parent.name, route_prefix=f"/{path.parent.name}")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        while True:
            signal.pause()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    main()
