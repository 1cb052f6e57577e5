"""Running segments of a bundle's network with onnxruntime.

A segment is cut out of the graph once, off the event loop, and kept: a request with a plan that is already
resident never waits for a build. Sessions are bounded in number; the one built first goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

from services.bundle import Bundle, ExitSpec
from services.domain import FloatArray, Segment
from services.errors import BundleError, InvalidInput, TooLarge
from services.partition import Cutter, partition

MAX_SESSIONS = 64

SegmentOutput = tuple[FloatArray, FloatArray | None]
"""The activation at the segment's end, and the logits of the exit there, if there is one."""


class Model:
    """The network of one bundle, runnable between any two split points. Thread-safe."""

    def __init__(self, bundle: Bundle, threads: int = 1, max_sessions: int = MAX_SESSIONS):
        self.manifest = bundle.manifest
        self._exits = {spec.split_point: spec for spec in bundle.manifest.exits}
        self._cutter = _cutter(bundle)
        self._options = _session_options(threads)
        self._sessions: OrderedDict[Segment, ort.InferenceSession] = OrderedDict()
        self._max_sessions = max_sessions
        self._building = threading.Lock()

    @property
    def last(self) -> int:
        return self.manifest.last

    def exit_at(self, split_point: int) -> ExitSpec | None:
        return self._exits.get(split_point)

    def pieces(self, segment: Segment) -> list[Segment]:
        """`segment` cut after each of its exits, so that a confident sample stops there."""
        inside = [at for at in self._exits if segment.start < at < segment.end]
        edges = [segment.start, *inside, segment.end]
        return [Segment(a, b) for a, b in pairwise(edges) if a < b]

    def check(self, split_point: int, shape: tuple[int, ...]) -> None:
        """Raises InvalidInput unless `shape`, [N, …], is what crosses `split_point`, TooLarge for too many samples."""
        if not 0 <= split_point <= self.last:
            raise InvalidInput(f"split point {split_point} is outside 0..{self.last}")
        expected = self.manifest.split_points[split_point].shape
        if shape[1:] != expected:
            raise InvalidInput(f"split point {split_point} carries [N, {_row(expected)}], got [{_row(shape)}]")
        limit = self.manifest.input.max_batch
        if limit is not None and shape[0] > limit:
            raise TooLarge(f"model {self.manifest.name!r} takes {limit} sample at a time, got {shape[0]}")

    def run(self, piece: Segment, tensor: FloatArray) -> SegmentOutput:
        """Runs one of `pieces()` on float32 [N, …]; blocks, and builds the session if it is not resident."""
        outputs = self.session(piece).run(None, {self._tensor(piece.start): tensor})
        if piece.end not in self._exits:
            return outputs[0], None
        return outputs[0], outputs[-1]

    def warm(self, segments: Iterable[Segment]) -> None:
        """Builds the sessions of `segments` and runs each once on zeros."""
        for segment in segments:
            for piece in self.pieces(segment):
                self.run(piece, self.zeros(piece.start, 1))

    def zeros(self, split_point: int, count: int) -> FloatArray:
        return np.zeros((count, *self.manifest.split_points[split_point].shape), np.float32)

    def resident(self, piece: Segment) -> bool:
        return piece in self._sessions

    def session(self, piece: Segment) -> ort.InferenceSession:
        session = self._sessions.get(piece)
        return session if session is not None else self._build(piece)

    def _build(self, piece: Segment) -> ort.InferenceSession:
        with self._building:
            if piece not in self._sessions:
                graph = self._cutter.cut(piece).SerializeToString()
                self._sessions[piece] = self._session_of(graph, piece)
                if len(self._sessions) > self._max_sessions:
                    self._sessions.popitem(last=False)
            return self._sessions[piece]

    def _session_of(self, graph: bytes, piece: Segment) -> ort.InferenceSession:
        try:
            return ort.InferenceSession(graph, self._options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many kinds; each means that the graph cannot be run
            reason = str(error).strip().splitlines()[0][:300]
            raise BundleError(f"segment {piece} of model {self.manifest.name!r} cannot be run: {reason}") from None

    def _tensor(self, split_point: int) -> str:
        return self.manifest.split_points[split_point].tensor


def _cutter(bundle: Bundle) -> Cutter:
    """Cuts the graph of a verified bundle, after holding it against what its manifest says."""
    manifest = bundle.manifest
    try:
        graph = onnx.load_model_from_string(bundle.graph)
        found = partition(graph)
    except (InvalidInput, DecodeError, ValueError, KeyError, IndexError) as error:
        raise BundleError(f"{bundle.path / manifest.graph}: not a graph Offramp can split: {error}") from None
    if found.split_points != manifest.split_points:
        raise BundleError(f"{bundle.manifest_path}: the split points are not those of {manifest.graph}")
    exits = {e.output: e.split_point for e in manifest.exits}
    if found.exits != exits:
        raise BundleError(f"{bundle.manifest_path}: the exits are not those of {manifest.graph}")
    if found.split_points[-1].shape != (len(manifest.labels),):
        raise BundleError(
            f"{bundle.manifest_path}: {len(manifest.labels)} labels are not the output of {manifest.graph}"
        )
    return Cutter(graph, manifest.split_points, exits)


def _session_options(threads: int) -> ort.SessionOptions:
    """One caller's share of the machine: threads never spin, since other tiers and requests want the cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _row(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))
