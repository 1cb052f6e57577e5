"""BentoML's service: a path for each network that takes and gives raw float32. Runs in BentoML's environment.

A file is the one kind of raw body that BentoML passes on, to a parameter that is given by position alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import ContentType

from benchmarks.peers.servers.network import networks, workers

Raw = Annotated[Path, ContentType("application/octet-stream")]


@bentoml.service(workers=workers(), traffic={"timeout": 60, "max_concurrency": 128})
class Peer:
    def __init__(self) -> None:
        self._networks = networks()

    @bentoml.api
    def tiny(self, body: Raw, /) -> np.ndarray:
        return self._answer("tiny", body)

    @bentoml.api
    def mobilenet_v2(self, body: Raw, /) -> np.ndarray:
        return self._answer("mobilenet_v2", body)

    def _answer(self, name: str, body: Path) -> np.ndarray:
        return np.frombuffer(self._networks[name].run_raw(body.read_bytes()), np.float32)
