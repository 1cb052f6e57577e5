"""Running segments of a bundle's network with onnxruntime.

A segment is cut out of the graph once, off the event loop, and kept: a request with a plan that is already
resident never waits for a build. Sessions are bounded in number; the one that was not used for longest goes first.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import pairwise

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

from services.bundle import Bundle, ExitSpec, SplitPointSpec
from services.domain import Clock, FloatArray, Segment
from services.errors import BundleError, InvalidInput, SettingsError, TooLarge
from services.hardware import Hardware
from services.partition import Cutter, Partition, partition
from services.sessions import SessionBuilder
from services.weights import Weight, WeightStore, detach, tensors

MAX_SESSIONS = 64

_MAX_FASTEST = _MAX_PIECES = 4096
_PACE_RUNS = 5
_Given = dict[str, FloatArray]
_HARDWARE = Hardware()

SegmentOutput = tuple[FloatArray, FloatArray | None]
"""The activation at the segment's end, and the logits of the exit there, if there is one."""


class Model:
    """The network of one bundle, runnable between any two split points. Thread-safe.

    slowdown: how many times as long each run takes, which stands for a slower machine; the rest is slept. What is
    multiplied is what `pace` says, so that a plan costs the same today and tomorrow; of what that does not know, the
    processor time of the fastest run of its kind: cold caches after a sleep and a busy machine are not that one's.
    busy: a clock that stands still while the calling thread does not run.
    """

    def __init__(
        self,
        bundle: Bundle,
        hardware: Hardware = _HARDWARE,
        max_sessions: int = MAX_SESSIONS,
        slowdown: float = 1.0,
        clock: Clock = time.perf_counter,
        sleep: Callable[[float], object] = time.sleep,
        busy: Clock = time.thread_time,
    ):
        self._file = bundle.path / bundle.manifest.graph
        self.last = bundle.manifest.last
        self._exits = {spec.split_point: spec for spec in bundle.manifest.exits}
        store = WeightStore()
        graph, weights = _graph(bundle, store)
        self._builder = SessionBuilder(weights, store, hardware)
        found = _verified(bundle, graph)
        self.manifest = bundle.manifest.model_copy(update={"split_points": found.split_points})
        self._cutter = Cutter(graph, found.split_points, found.exits)
        self._sessions: OrderedDict[Segment, ort.InferenceSession] = OrderedDict()
        self.max_sessions = max_sessions
        self._building = threading.Lock()
        self._slowdown, self._clock, self._sleep, self._busy = slowdown, clock, sleep, busy
        self._fastest: dict[tuple[Segment, int], float] = {}
        self._pieces: dict[Segment, tuple[Segment, ...]] = {}
        self._pace: Callable[[Segment, int], float | None] = lambda piece, batch_size: None

    def exit_at(self, split_point: int) -> ExitSpec | None:
        return self._exits.get(split_point)

    def pieces(self, segment: Segment) -> tuple[Segment, ...]:
        """`segment` cut after each of its exits, so that a confident sample stops there."""
        found = self._pieces.get(segment)
        if found is None:
            edges = [segment.start, *(at for at in self._exits if segment.start < at < segment.end), segment.end]
            found = tuple(Segment(a, b) for a, b in pairwise(edges) if a < b)
            if len(self._pieces) < _MAX_PIECES:
                self._pieces[segment] = found
        return found

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
        session, given = self.session(piece), {self._tensor(piece.start): tensor}
        outputs = session.run(None, given) if self._slowdown <= 1 else self._slowed(piece, session, given)
        if piece.end not in self._exits:
            return outputs[0], None
        return outputs[0], outputs[-1]

    def pace(self, seconds: Callable[[Segment, int], float | None]) -> None:
        """What a run of a piece and batch size takes without slowdown, from now on; None where that is not known."""
        self._pace = seconds

    def _slowed(self, piece: Segment, session: ort.InferenceSession, given: _Given) -> list[FloatArray]:
        """As long a run as it would be on the slower machine: sleeps for the rest."""
        outputs, seconds, busy = self._timed(session, given)
        (tensor,) = given.values()
        alone = self._pace(piece, len(tensor)) or self._note(piece, len(tensor), min(seconds, busy))
        self._sleep(max(self._slowdown * alone - seconds, 0.0))
        return outputs

    def _timed(self, session: ort.InferenceSession, given: _Given) -> tuple[list[FloatArray], float, float]:
        """Outputs, seconds, and those of them in which nobody else had the processor."""
        started, busy = self._clock(), self._busy()
        outputs: list[FloatArray] = session.run(None, given)
        return outputs, self._clock() - started, self._busy() - busy

    def _note(self, piece: Segment, batch_size: int, seconds: float) -> float:
        """The fastest run of its kind so far, one of `seconds` included."""
        key = piece, batch_size
        if len(self._fastest) >= _MAX_FASTEST:
            self._fastest.clear()
        self._fastest[key] = min(seconds, self._fastest.get(key, seconds))
        return self._fastest[key]

    def prepare(self, segments: Iterable[Segment]) -> None:
        """Makes `segments` resident and warm; blocks, while runs of what is resident go on.

        Costs nothing again, and counts as use: what is to be run soon is not to go before that.
        """
        for piece in (piece for segment in segments for piece in self.pieces(segment)):
            try:
                self._sessions.move_to_end(piece)
            except KeyError:
                self.warm([piece])

    def warm(self, segments: Iterable[Segment]) -> None:
        """Builds the sessions of `segments` and runs each on zeros: once, or until it is clear how fast it can be."""
        for segment in segments:
            for piece in self.pieces(segment):
                session, zeros = self.session(piece), self.zeros(piece.start, 1)
                session.run(None, {self._tensor(piece.start): zeros})
                for _ in range(_PACE_RUNS if self._slowdown > 1 else 0):
                    _, seconds, busy = self._timed(session, {self._tensor(piece.start): zeros})
                    self._note(piece, 1, min(seconds, busy))

    def zeros(self, split_point: int, count: int) -> FloatArray:
        return np.zeros((count, *self.manifest.split_points[split_point].shape), np.float32)

    def resident(self, segment: Segment) -> bool:
        """Whether every piece of `segment` has its session, so that running it builds nothing."""
        return segment in self._sessions or all(piece in self._sessions for piece in self.pieces(segment))

    def session(self, piece: Segment) -> ort.InferenceSession:
        """The session of one of `pieces()`; builds it if it is not resident. No lock where it is."""
        session = self._sessions.get(piece)
        if session is None:
            return self._build(piece)
        with suppress(KeyError):  # evicted since, and still good to run
            self._sessions.move_to_end(piece)
        return session

    def _build(self, piece: Segment) -> ort.InferenceSession:
        with self._building:
            session = self._sessions.get(piece) or self._built(piece)
            self._sessions[piece] = session
            if len(self._sessions) > self.max_sessions:
                self._sessions.popitem(last=False)
            return session

    def _built(self, piece: Segment) -> ort.InferenceSession:
        example = np.random.default_rng(0).standard_normal(self.zeros(piece.start, 1).shape, np.float32)
        try:
            return self._builder.build(self._cutter.cut(piece), example)
        except SettingsError:
            raise
        except Exception as error:  # onnxruntime raises many kinds; each means that the graph cannot be run
            reason = (str(error).strip() or repr(error)).splitlines()[0][:300]
            raise BundleError(f"{self._file}: segment {piece} cannot be run: {reason}") from None

    def _tensor(self, split_point: int) -> str:
        return self.manifest.split_points[split_point].tensor


def _graph(bundle: Bundle, store: WeightStore) -> tuple[onnx.ModelProto, dict[str, Weight]]:
    """The graph of `bundle`, and the weights that were detached from it."""
    try:
        graph = onnx.load_model_from_string(bundle.graph)
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors(graph.graph)):
            raise ValueError("it keeps weights in other files, whose hashes no manifest holds")
        return graph, detach(graph, store)
    except (DecodeError, ValueError, TypeError) as error:
        raise _not_splittable(bundle, error) from None


def _verified(bundle: Bundle, graph: onnx.ModelProto) -> Partition:
    """Where the graph can be cut, after holding it against what the manifest says.

    What is still the input the graph alone says: manifests of earlier releases do not.
    """
    manifest = bundle.manifest
    try:
        found = partition(graph)
    except (InvalidInput, ValueError, KeyError, IndexError) as error:
        raise _not_splittable(bundle, error) from None
    if _unmarked(found.split_points) != _unmarked(manifest.split_points):
        raise BundleError(f"{bundle.manifest_path}: the split points are not those of {manifest.graph}")
    exits = {e.output: e.split_point for e in manifest.exits}
    if found.exits != exits:
        raise BundleError(f"{bundle.manifest_path}: the exits are not those of {manifest.graph}")
    if found.split_points[-1].shape != (len(manifest.labels),):
        raise BundleError(
            f"{bundle.manifest_path}: {len(manifest.labels)} labels are not the output of {manifest.graph}"
        )
    return found


def _unmarked(points: tuple[SplitPointSpec, ...]) -> list[SplitPointSpec]:
    return [point.model_copy(update={"still_input": False}) for point in points]


def _not_splittable(bundle: Bundle, error: Exception) -> BundleError:
    return BundleError(f"{bundle.path / bundle.manifest.graph}: not a graph Offramp can split: {error}")


def _row(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))
