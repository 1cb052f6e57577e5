"""What each codec makes of the activations of one bundle: bytes, time, accuracy. Rivals that are not offered too."""

from __future__ import annotations

import lzma
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import zstandard

from services import codec, packing
from services.bundle import Manifest
from services.codec import Codec, Encoded
from services.domain import FloatArray, Segment
from services.image_codec import Compressed, ImageCoding
from services.model import Model
from services.packing import Buffer
from services.quantise import QUANTISERS, Quantiser
from training.codec_accuracy import final_labels, mean_bytes, useful_split_points

TIMED_SAMPLES = 40
BYTES_SAMPLES = 300
_HEAD_RUNS = 15
JPEG = (10, 20, 30, 40, 50, 60, 70, 75, 80, 85, 90, 95)
WEBP = (10, 20, 40, 60, 80, 90, 95)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Row:
    """One codec at one split point, per sample sent alone.

    bytes: mean. encode_us, decode_us: medians. accuracy: of the whole network behind it, with `right` per sample.
    head_share: the share of the network's time that passes before the split point. offered: Offramp has this codec.
    answer: the activation is no more than the answer, so that nothing is left to offload.
    """

    split_point: int
    codec: str
    offered: bool
    bytes: float
    encode_us: float
    decode_us: float
    accuracy: float
    right: Mask
    head_share: float
    answer: bool

    @property
    def image(self) -> bool:
        return self.codec.startswith(("pixels", "png", "jpeg", "webp"))

    @property
    def us(self) -> float:
        return self.encode_us + self.decode_us


@dataclass(frozen=True, slots=True)
class Rival:
    """A general-purpose compressor behind a quantiser, on levels of a byte each."""

    quantiser: Quantiser
    squeeze: Callable[[bytes], bytes]
    expand: Callable[[bytes], bytes]

    def encode(self, tensor: FloatArray) -> Encoded:
        levels, parameters = self.quantiser.quantise(tensor)
        return self.squeeze(parameters + levels.tobytes()), b""

    def decode(self, shape: tuple[int, ...], data: Buffer, parameters: Buffer) -> FloatArray:
        frame, size = self.expand(bytes(data)), self.quantiser.parameter_bytes(shape)
        return self.quantiser.restore(shape, packing.unpack(frame[size:], 8, 0), frame[:size])

    def estimate_bytes(self, shape: tuple[int, ...]) -> int:
        return self.quantiser.symbols(shape)


def rows(model: Model, inputs: FloatArray, labels: npt.NDArray[np.int64]) -> Iterator[Row]:
    """Every codec and rival at the input, the natural bottlenecks and the exits, on `inputs` [N, …]."""
    at, activation, whole = 0, inputs, _seconds(model, model.last, inputs[:1])
    for split_point in useful_split_points(model.manifest):
        for piece in model.pieces(Segment(at, split_point)):
            activation = np.concatenate([model.run(piece, row[None])[0] for row in activation])
        at, right = split_point, dict[str, Mask]()
        share = _seconds(model, split_point, inputs[:1]) / whole
        answer = model.manifest.split_points[split_point].elements <= len(model.manifest.labels)
        for name, chosen in _codecs(model.manifest, split_point):
            base = name.split("+")[0]
            if base not in right:
                right[base] = final_labels(model, split_point, activation, chosen) == labels
            encode, decode = _times(chosen, activation[:TIMED_SAMPLES])
            size = mean_bytes(chosen, activation[:BYTES_SAMPLES])
            correct, offered = right[base], name in codec.NAMES
            accuracy = float(correct.mean())
            yield Row(split_point, name, offered, size, encode, decode, accuracy, correct, share, answer)


def _codecs(manifest: Manifest, split_point: int) -> Iterator[tuple[str, Codec]]:
    preprocessing = manifest.input.preprocessing
    for name in codec.usable(manifest, split_point):
        yield name, codec.at(name, split_point, preprocessing)
    for name in ("int8", "int4"):
        for suffix, squeeze, expand in _COMPRESSORS:
            yield f"{name}+{suffix}", Codec(f"{name}+{suffix}", Rival(QUANTISERS[name], squeeze, expand))
    if split_point or preprocessing is None or "png" not in codec.usable(manifest, 0):
        return
    for kind, qualities in (("jpeg", JPEG), ("webp", WEBP)):
        for quality in qualities:
            name, options = f"{kind}{quality}", {"quality": quality} | ({"optimize": True} if kind == "jpeg" else {})
            if name not in codec.NAMES:
                yield name, Codec(name, ImageCoding(Compressed(kind.upper(), 0, 0, options), preprocessing))


def _zstd(level: int) -> Callable[[bytes], bytes]:
    return lambda data: zstandard.ZstdCompressor(level=level).compress(data)


_LZMA: dict[str, object] = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "lc": 0, "pb": 0}]}
_COMPRESSORS: tuple[tuple[str, Callable[[bytes], bytes], Callable[[bytes], bytes]], ...] = (
    ("zstd3", _zstd(3), zstandard.decompress),
    ("zstd19", _zstd(19), zstandard.decompress),
    ("zlib6", zlib.compress, zlib.decompress),
    ("lzma", lambda data: lzma.compress(data, **_LZMA), lambda data: lzma.decompress(data, **_LZMA)),  # type: ignore[arg-type]
)


def _times(chosen: Codec, activation: FloatArray) -> tuple[float, float]:
    """Median microseconds to encode and to decode one sample."""
    encoding, decoding = [], []
    for sample in activation[:, None]:
        started = time.perf_counter()
        payload = chosen.encode(sample)
        encoded = time.perf_counter()
        chosen.decode(payload)
        encoding.append(encoded - started)
        decoding.append(time.perf_counter() - encoded)
    return 1e6 * statistics.median(encoding), 1e6 * statistics.median(decoding)


def _seconds(model: Model, end: int, sample: FloatArray) -> float:
    """Seconds of [0, end) on one sample: the least of some runs, since other work on the machine only adds."""
    runs = []
    for _ in range(_HEAD_RUNS):
        started, tensor = time.perf_counter(), sample
        for piece in model.pieces(Segment(0, end)):
            tensor, _ = model.run(piece, tensor)
        runs.append(time.perf_counter() - started)
    return min(runs)
