"""MLServer's custom runtime for ONNX files, since it has none of its own. Runs in MLServer's environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.servers.network import Network


class OnnxRuntime(MLModel):  # type: ignore[misc]
    """`uri` in model-settings.json: the ONNX file."""

    async def load(self) -> bool:
        self._network = Network(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor: Any = NumpyCodec.decode_input(payload.inputs[0])
        output = NumpyCodec.encode_output("scores", self._network.run(tensor))
        return InferenceResponse(model_name=self.name, outputs=[output])
