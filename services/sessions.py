"""Building onnxruntime sessions of segments that share their weights.

A session that optimises its graph keeps its own copy of every weight, in the layout it likes best. So each
segment is optimised once, with the weights written out; the session that stays runs that graph as it is, on
weights from one store, where equal ones of other segments are the same memory. onnxruntime gives wrong answers
without a word where weights handed to it meet its optimiser, so no session stays that has not answered as the
ordinary one does.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from services import log, weights
from services.domain import FloatArray
from services.errors import SettingsError
from services.hardware import PROVIDERS, Hardware
from services.weights import Weight, WeightStore

TOLERANCE = 1e-4
"""How far answers of the two sessions may be apart, over the largest magnitude of each output."""

_PACKED_UP_TO_BYTES = 1 << 20
_CPU = Hardware()


class SessionBuilder:
    """Makes sessions out of cuts of one model. Not thread-safe.

    shared: the weights that the cuts refer to by name; none, and every session is an ordinary one.
    """

    def __init__(self, shared: Mapping[str, Weight], store: WeightStore, hardware: Hardware = _CPU):
        self._shared = shared
        self._store = store
        self._hardware = hardware
        self._warned = False

    def build(self, cut: onnx.ModelProto, example: FloatArray) -> ort.InferenceSession:
        """A session of `cut` that answers `example` as one optimised in the ordinary way.

        Raises what onnxruntime raises where `cut` cannot be run, SettingsError where what should run it is not there.
        """
        if self._hardware.accelerated:
            return self._accelerated(cut, example)
        if not self._shared:
            return self._ordinary(cut)
        try:
            return self._sharing(cut, example)
        except Exception as error:  # no place for files, or any of the many kinds that onnxruntime raises
            self._warn(str(error))
            return self._ordinary(cut)

    def _accelerated(self, cut: onnx.ModelProto, example: FloatArray) -> ort.InferenceSession:
        """A session on what settings ask for besides the processor, or on that where the two answer differently."""
        wanted = self._hardware.providers[0]
        session = self._ordinary(cut, hardware=self._hardware)
        if PROVIDERS[wanted] not in session.get_providers():  # onnxruntime goes on without, and only warns
            raise SettingsError(f"providers: {wanted} is installed but does not start here; see to it, or ask for cpu")
        ordinary = self._ordinary(cut)
        if alike(ordinary, session, example):
            return session
        self._warn(f"{wanted} answered differently", "provider_not_used")
        return ordinary

    def _sharing(self, cut: onnx.ModelProto, example: FloatArray) -> ort.InferenceSession:
        with tempfile.TemporaryDirectory(prefix="offramp-", ignore_cleanup_errors=True) as folder:
            ordinary = self._ordinary(cut, Path(folder))
            shared = self._of_optimised(Path(folder))
        if alike(ordinary, shared, example):
            return shared
        self._warn("a session on shared weights answered differently")
        return ordinary

    def _ordinary(
        self, cut: onnx.ModelProto, folder: Path | None = None, hardware: Hardware | None = None
    ) -> ort.InferenceSession:
        """The session that onnxruntime makes by itself; writes what it made of `cut` to `folder`, if there is one."""
        options = _options(self._hardware)
        if names := [tensor.name for tensor in cut.graph.initializer if tensor.name in self._shared]:
            # these reach the optimiser as if they stood in the graph; it copies them
            options.add_external_initializers(names, [self._shared[name].value for name in names])
            options.enable_cpu_mem_arena = False
        if folder is not None:
            options.optimized_model_filepath = str(_graph(folder))
            entry = "session.optimized_model_external_initializers_{}"
            options.add_session_config_entry(entry.format("file_name"), _content(folder).name)
            options.add_session_config_entry(entry.format("min_size_in_bytes"), str(weights.LARGE_BYTES))
        return ort.InferenceSession(cut.SerializeToString(), options, _providers(hardware or _CPU))

    def _of_optimised(self, folder: Path) -> ort.InferenceSession:
        """A session of the optimised graph in `folder` that runs on weights of the store."""
        options = _options(self._hardware)
        options.enable_cpu_mem_arena = False
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        kept = {name: self._store.add(array) for name, array in weights.read(_graph(folder), _content(folder))}
        if sum(weight.array.nbytes for weight in kept.values() if weight.array.ndim == 2) > _PACKED_UP_TO_BYTES:
            # Packing copies matrices. Smaller ones are packed all the same, since a batch and its samples one by
            # one then agree to the last bit.
            options.add_session_config_entry("session.disable_prepacking", "1")
        for name, weight in kept.items():
            options.add_initializer(name, weight.value)
        session = ort.InferenceSession(str(_graph(folder)), options, _providers(_CPU))
        session.weights = tuple(kept.values())  # they must live as long
        return session

    def _warn(self, reason: str, event: str = "weights_not_shared") -> None:
        if not self._warned:
            log.event(event, logging.WARNING, reason=reason[:300])
        self._warned = True


def alike(one: ort.InferenceSession, other: ort.InferenceSession, example: FloatArray) -> bool:
    """Whether both give the same outputs, finite and equal up to TOLERANCE, for `example`, [N, …]."""
    inputs = {one.get_inputs()[0].name: example}
    pairs = zip(one.run(None, inputs), other.run(None, inputs), strict=True)
    return all(bool(np.abs(a - b).max() <= TOLERANCE * np.abs(a).max()) for a, b in pairs)


def _options(hardware: Hardware) -> ort.SessionOptions:
    """One caller's share of the machine: by default threads never spin, since others want the cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = hardware.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(hardware.spinning)))
    return options


def _providers(hardware: Hardware) -> list[Any]:
    """CUDA multiplies with fewer bits by default, which would not answer as the processor does."""
    exact = {PROVIDERS["cuda"]: {"use_tf32": "0"}}
    return [(name, exact[name]) if name in exact else name for name in hardware.asked]


def _graph(folder: Path) -> Path:
    return folder / "optimised.onnx"


def _content(folder: Path) -> Path:
    return folder / "optimised.weights"
