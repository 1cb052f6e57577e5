"""A network as every peer runs it: onnxruntime, one thread for a run, no spinning. Needs nothing besides and numpy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

FOLDER = "PEER_NETWORKS"
"""The variable that names the folder with a folder for each network."""
WORKERS = "PEER_WORKERS"
"""The variable that says how many workers, processes or replicas."""
PORT = "PEER_PORT"
SPARE_PORT = "PEER_SPARE_PORT"
"""For a server that insists on one more."""


class Network:
    """One ONNX file whose first output is asked for."""

    def __init__(self, path: Path):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (given,), (output, *_) = self._session.get_inputs(), self._session.get_outputs()
        self._given, self._output = given.name, output.name
        self._shape = (-1, *given.shape[1:])

    def run(self, tensor: Any) -> Any:
        """float32 [N, *input shape] → float32 [N, …]."""
        return self._session.run([self._output], {self._given: tensor})[0]

    def run_raw(self, data: bytes | memoryview) -> bytes:
        """The same for what crosses a wire."""
        return bytes(self.run(np.frombuffer(data, np.float32).reshape(self._shape)).tobytes())


def networks() -> dict[str, Network]:
    """Those in the folder of the environment, by name."""
    return {path.parent.name: Network(path) for path in sorted(Path(os.environ[FOLDER]).glob("*/plain.onnx"))}


def workers() -> int:
    return int(os.environ.get(WORKERS, "1"))
