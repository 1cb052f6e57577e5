"""Activation ⇄ bytes. A codec is a quantiser, optionally followed by a lossless stage: `int8+zstd`.

Every sample is encoded on its own ranges, so that what a sample decodes to does not depend on its batch.
Lengths are checked before anything is allocated; nothing here ever unpickles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import google_crc32c
import numpy as np
import zstandard

from services.domain import FloatArray, Payload
from services.errors import CorruptPayload, InvalidInput

Encoded = tuple[bytes | memoryview, bytes]
"""Data, then the parameters that decoding needs besides it."""

_RANGE_BYTES = 8  # per quantisation group: a float32 minimum and a float32 step
_WIDEST = float(np.finfo(np.float32).max) / 2
_ZSTD_LEVEL = 1
_ZSTD_RATIO = 0.75
"""What zstd makes of quantised ReLU activations, roughly, for estimates only (performance notes: 0.6–0.9)."""


@dataclass(frozen=True, slots=True)
class Quantiser:
    """How numbers become bytes. `data_bytes` and `parameter_bytes` give exact sizes for a shape [N, …]."""

    encode: Callable[[FloatArray], Encoded]
    decode: Callable[[tuple[int, ...], Encoded], FloatArray]
    data_bytes: Callable[[tuple[int, ...]], int]
    parameter_bytes: Callable[[tuple[int, ...]], int]


@dataclass(frozen=True, slots=True)
class Codec:
    """A named way to turn a float32 tensor [N, …] into a Payload and back."""

    name: str
    quantiser: Quantiser
    lossless: bool

    def encode(self, tensor: FloatArray) -> Payload:
        """Encodes float32 [N, …]. Raises InvalidInput where a value is not finite."""
        tensor = np.ascontiguousarray(tensor, np.float32)
        if not _finite(tensor):
            raise InvalidInput("the activation is not finite; no codec can carry it")
        data, parameters = self.quantiser.encode(tensor)
        if self.lossless:
            data, parameters = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(parameters + data), b""
        return Payload(tensor.shape, self.name, data, parameters, checksum(parameters, data))

    def decode(self, payload: Payload) -> FloatArray:
        """Decodes to float32 of `payload.shape`. Raises CorruptPayload; allocates only what the shape needs."""
        if any(size < 0 for size in payload.shape) or not payload.shape:
            raise CorruptPayload(f"shape {list(payload.shape)} is not [samples, …] with sizes of at least 0")
        if checksum(payload.parameters, payload.data) != payload.crc32c:
            raise CorruptPayload("the checksum (CRC32C) of the activation does not match")
        tensor = self.quantiser.decode(payload.shape, self._unpacked(payload))
        if not _finite(tensor):
            raise CorruptPayload("the activation decodes to values that are not finite")
        return tensor

    def estimate_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes on the wire for [N, …]: exact without a lossless stage, a typical ratio with one."""
        size = self.quantiser.data_bytes(shape) + self.quantiser.parameter_bytes(shape)
        return math.ceil(size * _ZSTD_RATIO) if self.lossless else size

    def _unpacked(self, payload: Payload) -> Encoded:
        """Data and parameters, each of exactly the size that the shape needs."""
        size = self.quantiser.data_bytes(payload.shape)
        parameters = self.quantiser.parameter_bytes(payload.shape)
        self._expect("parameters", len(payload.parameters), 0 if self.lossless else parameters)
        if self.lossless:
            frame = _inflate(payload.data, parameters + size)
            return memoryview(frame)[parameters:], frame[:parameters]
        self._expect("data", len(payload.data), size)
        return payload.data, payload.parameters

    def _expect(self, what: str, actual: int, expected: int) -> None:
        if actual != expected:
            raise CorruptPayload(f"{self.name} {what} is {actual} bytes long, its shape needs {expected}")


def get(name: str) -> Codec:
    """The codec called `name`. Raises InvalidInput listing those there are."""
    try:
        return CODECS[name]
    except KeyError:
        raise InvalidInput(f"unknown codec {name[:40]!r}; known: {', '.join(CODECS)}") from None


def checksum(parameters: bytes, data: bytes | memoryview) -> int:
    """CRC32C over parameters, then data."""
    return int(google_crc32c.extend(google_crc32c.value(parameters), bytes(data)))


def _finite(tensor: FloatArray) -> bool:
    """Without a temporary of the tensor's size, in one pass: only where the sum of squares overflows, in two more."""
    flat = tensor.reshape(-1)
    if math.isfinite(np.vdot(flat, flat)):
        return True
    return not tensor.size or bool(np.isfinite((tensor.min(), tensor.max())).all())  # a NaN would be both


def _inflate(data: bytes | memoryview, size: int) -> bytes:
    """Undoes zstd, refusing by the frame's own header whatever does not become exactly `size` bytes."""
    try:
        if zstandard.frame_content_size(data) != size:
            raise CorruptPayload(f"the compressed activation does not announce the {size} bytes its shape needs")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError):
        raise CorruptPayload("the compressed activation is not a zstd frame") from None


def _plain(dtype: str) -> Quantiser:
    """The numbers as they are, in a little-endian float type. Error: none (f4), relative 2^-11 (f2)."""
    kind = np.dtype(dtype)

    def encode(tensor: FloatArray) -> Encoded:
        limits = np.finfo(kind)
        fitting = tensor if kind.itemsize == 4 else tensor.clip(limits.min, limits.max)
        return fitting.astype(kind, copy=False).tobytes(), b""

    def decode(shape: tuple[int, ...], encoded: Encoded) -> FloatArray:
        return np.frombuffer(encoded[0], kind).astype(np.float32, copy=False).reshape(shape)

    return Quantiser(encode, decode, lambda shape: math.prod(shape) * kind.itemsize, lambda shape: 0)


def _rows(shape: tuple[int, ...]) -> tuple[int, int]:
    """Quantisation groups of [N, C, …] and their size: one per sample and channel, or per sample of [N, F]."""
    groups = math.prod(shape[:2]) if len(shape) > 2 else shape[0]
    return groups, math.prod(shape) // groups if groups else 0


def _encode_int8(tensor: FloatArray) -> Encoded:
    rows = tensor.reshape(_rows(tensor.shape))
    if not rows.size:
        return b"", bytes(_RANGE_BYTES * len(rows))
    low = rows.min(axis=1)
    spans = rows.max(axis=1).astype(np.float64) - low
    if spans.max() > _WIDEST:
        raise InvalidInput(f"the activation ranges over more than {_WIDEST:.1e}; int8 cannot carry it")
    step = (spans / 255).astype("<f4")
    divisor = np.where(step > 0, step, 1)[:, None]
    levels = np.rint((rows - low[:, None]) / divisor).clip(0, 255).astype(np.uint8)
    return levels.tobytes(), low.astype("<f4", copy=False).tobytes() + step.tobytes()


def _decode_int8(shape: tuple[int, ...], encoded: Encoded) -> FloatArray:
    data, parameters = encoded
    low, step = np.frombuffer(parameters, "<f4").reshape(2, -1, 1)
    if not (np.isfinite(low).all() and np.isfinite(step).all() and (step >= 0).all()):
        raise CorruptPayload("a quantisation range is not finite or negative")
    levels = np.frombuffer(data, np.uint8).reshape(_rows(shape))
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is refused by the caller
        return np.asarray(levels * step + low, np.float32).reshape(shape)


QUANTISERS: dict[str, Quantiser] = {
    "fp32": _plain("<f4"),
    "fp16": _plain("<f2"),
    "int8": Quantiser(_encode_int8, _decode_int8, math.prod, lambda shape: _rows(shape)[0] * _RANGE_BYTES),
}
"""int8: affine per sample and channel, q = round((x - low) / step), step = (high - low) / 255.
Its parameters are all the lows, then all the steps: the lows of what passed a ReLU are mostly zeros in a row.
Error at most step / 2, plus float32 rounding."""

CODECS: dict[str, Codec] = {
    name + suffix: Codec(name + suffix, quantiser, bool(suffix))
    for name, quantiser in QUANTISERS.items()
    for suffix in ("", "+zstd")
}
