"""What a network costs on this machine: seconds of its segments, and seconds and bytes of each codec at each cut.

Measured once per bundle and kept as JSON, since a simulation is run many times on the same costs.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path

import numpy as np

from services import codec, measuring, profile_cache
from services.bundle import Bundle, CodecAccuracy, Manifest
from services.codec import Codec
from services.domain import CodecCost, FloatArray, Segment, SegmentTime
from services.errors import OfframpError
from services.hardware import Hardware
from services.model import Model
from training.evaluate import batches

_BUDGET_SECONDS = 60.0
_TIMED_SAMPLES = 4
_CODEC_REPEATS = 2


@dataclass(frozen=True, slots=True)
class CodecAt:
    """One sample through one codec at one split point: medians of the seconds of some, mean of the bytes of all."""

    split_point: int
    codec: str
    encode_seconds: float
    decode_seconds: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians on an idle machine that is not slowed down. profiled: what its profile says of codecs, everywhere."""

    segments: tuple[SegmentTime, ...]
    codecs: tuple[CodecAt, ...]
    profiled: tuple[CodecCost, ...]
    _seconds: dict[Segment, float] = field(init=False, default_factory=dict, repr=False, compare=False)
    _at: dict[tuple[int, str], CodecAt] = field(init=False, default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._seconds.update({each.segment: each.seconds for each in self.segments if each.batch_size == 1})
        self._at.update({(each.split_point, each.codec): each for each in self.codecs})

    def seconds(self, start: int, end: int) -> float:
        """Of [start, end): as measured, else the difference of two heads. Raises OfframpError where unknown."""
        if start >= end:
            return 0.0
        if (known := self._seconds.get(Segment(start, end))) is not None:
            return known
        try:
            return max(0.0, self._seconds[Segment(0, end)] - self._seconds[Segment(0, start)])
        except KeyError:
            raise OfframpError(f"segment {start}:{end} was not measured; delete the kept measurement") from None

    def at(self, split_point: int, name: str) -> CodecAt:
        """Raises OfframpError for what was not measured."""
        if (found := self.find(split_point, name)) is None:
            raise OfframpError(
                f"codec {name} at split point {split_point} was not measured; delete the kept measurement"
            )
        return found

    def find(self, split_point: int, name: str) -> CodecAt | None:
        return self._at.get((split_point, name))

    def bytes_known(self, manifest: Manifest) -> Manifest:
        """The manifest with the bytes of every codec at every split point, as they are on these inputs."""
        known = {(e.split_point, e.codec): e for e in manifest.codec_accuracy}
        for each in self.codecs:
            key = each.split_point, each.codec
            entry = known.get(key) or CodecAccuracy(split_point=each.split_point, codec=each.codec)
            known[key] = entry.model_copy(update={"bytes_per_sample": each.bytes})
        return manifest.model_copy(update={"codec_accuracy": tuple(known.values())})

    def to_json(self) -> str:
        segments = [[s.segment.start, s.segment.end, s.batch_size, s.seconds] for s in self.segments]
        kept = {
            "segments": segments,
            "codecs": list(map(astuple, self.codecs)),
            "profiled": list(map(astuple, self.profiled)),
        }
        return json.dumps(kept, indent=0)

    @classmethod
    def from_json(cls, text: str) -> Costs:
        found = json.loads(text)
        segments = tuple(SegmentTime(Segment(a, b), size, s) for a, b, size, s in found["segments"])
        profiled = tuple(CodecCost(*row) for row in found["profiled"])
        return cls(segments, tuple(CodecAt(*row) for row in found["codecs"]), profiled)


def file_name(loaded: Bundle, inputs: FloatArray) -> str:
    """What the costs of a bundle are kept as: other machines take other times, and of other inputs codecs make other
    bytes."""
    seen = hashlib.sha256(np.ascontiguousarray(inputs).tobytes())
    seen.update(repr(profile_cache.this_machine(Hardware())).encode())
    return f"{loaded.manifest.name}-{loaded.manifest.model_hash[:12]}-{seen.hexdigest()[:12]}.json"


def of(loaded: Bundle, model: Model, inputs: FloatArray, names: Names, kept: Path) -> Costs:
    """The costs kept at `kept`, or measured now on `inputs` [N, …] and kept there.

    `names`: the codecs to measure, (at split point 0, at the others).
    """
    found = _kept(kept)
    if found is not None and {(each.split_point > 0, each.codec) for each in found.codecs} >= _wanted(names):
        return found
    told = measuring.take(loaded, model, _BUDGET_SECONDS).measured
    costs = Costs(told.segments, tuple(_codec_costs(model, inputs, names)), told.codecs)
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_name(f".{kept.name}.new")  # nobody is to find half of it
    draft.write_text(costs.to_json())
    draft.replace(kept)
    return costs


def _kept(file: Path) -> Costs | None:
    """What was measured before; None where there is nothing, or nothing that can be read."""
    try:
        return Costs.from_json(file.read_text())
    except (OSError, ValueError, KeyError, TypeError):
        return None


Names = tuple[Sequence[str], Sequence[str]]


def _wanted(names: Names) -> set[tuple[bool, str]]:
    return {(inside, name) for inside in (False, True) for name in names[inside]}


def _codec_costs(model: Model, tensor: FloatArray, names: Names) -> Iterable[CodecAt]:
    """At each split point but the last, on the activations of `tensor`, one sample at a time."""
    for split_point in range(model.last):
        for name in names[split_point > 0]:
            yield _codec_at(codec.at(name, split_point, model.manifest.input.preprocessing), split_point, tensor)
        block = Segment(split_point, split_point + 1)
        tensor = np.concatenate([model.run(block, some)[0] for some in batches(model.manifest, tensor)])


def _codec_at(each: Codec, split_point: int, tensor: FloatArray) -> CodecAt:
    encoding, decoding = [], []
    for row in np.repeat(np.arange(min(len(tensor), _TIMED_SAMPLES)), _CODEC_REPEATS):
        started = time.perf_counter()
        payload = each.encode(tensor[row : row + 1])
        encoded = time.perf_counter()
        each.decode(payload)
        encoding.append(encoded - started)
        decoding.append(time.perf_counter() - encoded)
    size = statistics.fmean(each.encode(tensor[row : row + 1]).nbytes for row in range(len(tensor)))
    return CodecAt(split_point, each.name, statistics.median(encoding), statistics.median(decoding), size)
