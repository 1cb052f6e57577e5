"""Activation ⇄ bytes. A codec is a quantiser, optionally followed by a lossless stage: `int8+zstd`.

Every sample is encoded on its own ranges, so that what a sample decodes to does not depend on its batch.
Lengths are checked before anything is allocated; nothing here ever unpickles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from services import image_codec, packing
from services.bundle import Manifest, Preprocessing
from services.domain import FloatArray, Payload
from services.errors import CorruptPayload, InvalidInput, NotCarried
from services.packing import Buffer, checksum
from services.quantise import QUANTISERS, Quantiser

__all__ = [
    "CODECS",
    "IMAGE",
    "INTERIOR",
    "NAMES",
    "Codec",
    "at",
    "carrying",
    "checksum",
    "faithful",
    "get",
    "shows",
    "usable",
]

Encoded = tuple[Buffer, bytes]
"""Data, then the parameters that decoding needs besides it."""

_ZSTD_RATIO = 0.75
"""What zstd makes of quantised ReLU activations, roughly, for estimates only (performance notes: 0.6–0.9)."""
_ZEROS = 0.5
"""The share of zeros behind a ReLU, roughly, for estimates only."""


class Coding(Protocol):
    """How a tensor becomes data and parameters, and back. `decode` raises CorruptPayload and nothing else.

    `check` raises it for lengths that cannot be right, where that is to be seen without decoding.
    """

    def encode(self, tensor: FloatArray) -> Encoded: ...

    def decode(self, shape: tuple[int, ...], data: Buffer, parameters: Buffer) -> FloatArray: ...

    def check(self, shape: tuple[int, ...], data: Buffer, parameters: Buffer) -> None: ...

    def estimate_bytes(self, shape: tuple[int, ...]) -> int: ...


@dataclass(frozen=True, slots=True)
class Packed:
    """Levels packed several to a byte; parameters on their own."""

    quantiser: Quantiser

    def encode(self, tensor: FloatArray) -> Encoded:
        levels, parameters = self.quantiser.quantise(tensor)
        return packing.pack(levels, self.quantiser.bits), parameters

    def decode(self, shape: tuple[int, ...], data: Buffer, parameters: Buffer) -> FloatArray:
        self.check(shape, data, parameters)
        levels = packing.unpack(data, self.quantiser.bits, self.quantiser.symbols(shape))
        return self.quantiser.restore(shape, levels, parameters)

    def check(self, shape: tuple[int, ...], data: Buffer, parameters: Buffer) -> None:
        size, count = self.quantiser.parameter_bytes(shape), self.quantiser.symbols(shape)
        packing.expect("parameters", len(parameters), size)
        packing.expect("data", len(data), packing.packed_bytes(count, self.quantiser.bits))

    def estimate_bytes(self, shape: tuple[int, ...]) -> int:
        """Exact."""
        levels = packing.packed_bytes(self.quantiser.symbols(shape), self.quantiser.bits)
        return levels + self.quantiser.parameter_bytes(shape)


@dataclass(frozen=True, slots=True)
class Zstd:
    """Parameters, then packed levels, in one zstd frame."""

    quantiser: Quantiser

    def encode(self, tensor: FloatArray) -> Encoded:
        data, parameters = Packed(self.quantiser).encode(tensor)
        return packing.deflate(parameters + data), b""

    def decode(self, shape: tuple[int, ...], data: Buffer, parameters: Buffer) -> FloatArray:
        packing.expect("parameters", len(parameters), 0)
        plain, size = Packed(self.quantiser), self.quantiser.parameter_bytes(shape)
        frame = memoryview(packing.inflate(data, plain.estimate_bytes(shape)))
        return plain.decode(shape, frame[size:], frame[:size])

    def check(self, shape: tuple[int, ...], data: Buffer, parameters: Buffer) -> None:
        packing.expect("parameters", len(parameters), 0)
        packing.expect_frame(data, Packed(self.quantiser).estimate_bytes(shape))

    def estimate_bytes(self, shape: tuple[int, ...]) -> int:
        return math.ceil(_ZSTD_RATIO * Packed(self.quantiser).estimate_bytes(shape))


@dataclass(frozen=True, slots=True)
class Bitmap:
    """Parameters, then levels, each as a bitmap of what is not 0 and then only that: for what passed a ReLU."""

    quantiser: Quantiser

    def encode(self, tensor: FloatArray) -> Encoded:
        levels, parameters = self.quantiser.quantise(tensor)
        ranges = packing.without_zeros(np.frombuffer(parameters, np.uint8), 8)
        return ranges + packing.without_zeros(levels, self.quantiser.bits), b""

    def decode(self, shape: tuple[int, ...], data: Buffer, parameters: Buffer) -> FloatArray:
        packing.expect("parameters", len(parameters), 0)
        ranges, rest = packing.with_zeros(memoryview(data), 8, self.quantiser.parameter_bytes(shape))
        levels, rest = packing.with_zeros(rest, self.quantiser.bits, self.quantiser.symbols(shape))
        packing.expect("data", len(data), len(data) - len(rest))
        return self.quantiser.restore(shape, levels, ranges.data)

    def check(self, shape: tuple[int, ...], data: Buffer, parameters: Buffer) -> None:
        packing.expect("parameters", len(parameters), 0)
        rest = packing.past_zeros(memoryview(data), 8, self.quantiser.parameter_bytes(shape))
        rest = packing.past_zeros(rest, self.quantiser.bits, self.quantiser.symbols(shape))
        packing.expect("data", len(data), len(data) - len(rest))

    def estimate_bytes(self, shape: tuple[int, ...]) -> int:
        count, size = self.quantiser.symbols(shape), self.quantiser.parameter_bytes(shape)
        return -(-count // 8) + math.ceil(_ZEROS * Packed(self.quantiser).estimate_bytes(shape)) + -(-size // 8)


@dataclass(frozen=True, slots=True)
class Codec:
    """A named way to turn a float32 tensor [N, …] into a Payload and back."""

    name: str
    coding: Coding

    def encode(self, tensor: FloatArray) -> Payload:
        """Encodes float32 [N, …]. Raises NotCarried where a value is not finite."""
        tensor = np.ascontiguousarray(tensor, np.float32)
        if not _finite(tensor):
            raise NotCarried("the activation is not finite; no codec can carry it")
        data, parameters = self.coding.encode(tensor)
        return Payload(tensor.shape, self.name, data, parameters, checksum(parameters, data))

    def decode(self, payload: Payload) -> FloatArray:
        """Decodes to float32 of `payload.shape`. Raises CorruptPayload; allocates only what the shape needs."""
        return _checked(self._decoded(payload))

    def estimate_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes on the wire for [N, …]: exact without a lossless stage, a typical ratio with one."""
        return self.coding.estimate_bytes(shape)

    def check(self, payload: Payload) -> None:
        """Raises CorruptPayload for a wrong checksum or length; what else `decode` would find is left to it."""
        self._verify(payload)
        self.coding.check(payload.shape, payload.data, payload.parameters)

    def _decoded(self, payload: Payload) -> FloatArray:
        self._verify(payload)
        return self.coding.decode(payload.shape, payload.data, payload.parameters)

    def _verify(self, payload: Payload) -> None:
        if not payload.shape or min(payload.shape) < 0:
            raise CorruptPayload(f"shape {list(payload.shape)} is not [samples, …] with sizes of at least 0")
        if checksum(payload.parameters, payload.data) != payload.crc32c:
            raise CorruptPayload("the checksum (CRC32C) of the activation does not match")


_STAGES: dict[str, type[Packed] | type[Zstd] | type[Bitmap]] = {"": Packed, "+zstd": Zstd, "+bitmap": Bitmap}
CODECS: dict[str, Codec] = {
    name + stage: Codec(name + stage, coding(quantiser))
    for name, quantiser in QUANTISERS.items()
    for stage, coding in _STAGES.items()
    if stage != "+bitmap" or name.startswith("int")  # floats hardly ever have whole bytes of zeros
}
"""The interior codecs: for any activation, at any split point."""
INTERIOR = tuple(CODECS)
IMAGE = tuple(image_codec.FORMATS)
"""For split point 0 of networks that take images."""
NAMES = (*INTERIOR, *IMAGE)
_NUMBERS = "fp32+zstd"


def get(name: str, preprocessing: Preprocessing | None = None) -> Codec:
    """The codec called `name`; images need the `preprocessing` that made the input of them.

    Raises InvalidInput for an unknown name, listing those there are, and for an image codec without preprocessing.
    """
    if name in CODECS:
        return CODECS[name]
    if name not in image_codec.FORMATS:
        raise InvalidInput(f"unknown codec {name[:40]!r}; known: {', '.join(NAMES)}")
    if preprocessing is None or not image_codec.fits(preprocessing):
        raise InvalidInput(
            f"codec {name} carries images: it is for split point 0 of a model whose manifest has preprocessing "
            f"for 1 or 3 channels; use one of {', '.join(INTERIOR)}"
        )
    return Codec(name, image_codec.ImageCoding(image_codec.FORMATS[name], preprocessing))


def at(name: str, split_point: int, preprocessing: Preprocessing | None) -> Codec:
    """The codec called `name` for an activation at `split_point`; raises as `get` does."""
    return get(name, preprocessing if split_point == 0 else None)


def carrying(tensor: FloatArray, name: str, split_point: int, preprocessing: Preprocessing | None) -> Codec:
    """As `at`, for `tensor`: an input that no image can show goes as the numbers it is, not cut off at black and white.

    A receiver decodes by the codec that a payload names, whatever the plan says.
    """
    by = at(name, split_point, preprocessing)
    return by if shows(by, tensor) else CODECS[_NUMBERS]


def shows(by: Codec, tensor: FloatArray) -> bool:
    """Whether nothing of `tensor` would be cut off: only an image codec ever does."""
    return not isinstance(by.coding, image_codec.ImageCoding) or by.coding.holds(tensor)


def usable(manifest: Manifest, split_point: int) -> tuple[str, ...]:
    """Names of the codecs that can carry what crosses `split_point`."""
    if split_point or not image_codec.fits(manifest.input.preprocessing):
        return INTERIOR
    return tuple(name for name in NAMES if image_codec.holds(name, manifest.input.shape))


def faithful(name: str) -> bool:
    """Whether `name` counts as harmless to accuracy where that was measured nowhere: at most half a step of 8 bits or,
    of images, what is hardly seen (decision 0022)."""
    return name.split("+")[0] in ("fp32", "fp16", "int8") or name in image_codec.FAITHFUL


def _checked(tensor: FloatArray) -> FloatArray:
    if not _finite(tensor):
        raise CorruptPayload("the activation decodes to values that are not finite")
    return tensor


def _finite(tensor: FloatArray) -> bool:
    """Without a temporary of the tensor's size, in one pass: only where the sum of squares overflows, in two more."""
    flat = tensor.reshape(-1)
    if math.isfinite(np.vdot(flat, flat)):
        return True
    return not tensor.size or bool(np.isfinite((tensor.min(), tensor.max())).all())  # a NaN would be both
