"""The network's input as what it was: images. Pixels, PNG, JPEG or WebP, each sample an image of its own.

Only for split point 0 of a network with preprocessing, since that is what turns numbers into pixels and back.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from services import packing
from services.bundle import Preprocessing
from services.domain import FloatArray
from services.errors import CorruptPayload, InvalidInput
from services.images import normalise, pixels_of, within_pixels
from services.packing import Buffer

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
Shape = tuple[int, ...]
_MODES = {1: "L", 3: "RGB"}
_MOST_PIXELS = {"WEBP": 16383, "JPEG": 65500}
"""On a side, as libwebp and libjpeg have it."""
_LENGTH = np.dtype("<u4")
_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
"""Of a PNG: those of its pixels. Others can hold texts that swell."""
_FEW_CHUNKS, _CHUNK_BYTES = 8, 1 << 10
"""A few are always taken, and one more for so many bytes of the file: each takes the same time, however small."""
_SCAN, _END = b"\xff\xda", b"\xff\xd9"
"""Of a JPEG."""
_MOST_SCANS = 64
"""A progressive JPEG has ten; each goes over the whole image again."""


@dataclass(frozen=True, slots=True)
class Raw:
    """uint8 [N, H, W, C] as they are, or in one zstd frame. No parameters. Error: none."""

    zstd: bool = False

    def encode(self, images: Pixels) -> tuple[bytes, bytes]:
        data = images.tobytes()
        return (packing.deflate(data) if self.zstd else data), b""

    def decode(self, shape: Shape, data: Buffer, parameters: Buffer) -> Pixels:
        packing.expect("parameters", len(parameters), 0)
        size = math.prod(shape)
        if self.zstd:
            data = packing.inflate(data, size)
        packing.expect("data", len(data), size)
        return np.frombuffer(data, np.uint8).reshape(shape)

    def check(self, shape: Shape, data: Buffer, parameters: Buffer) -> None:
        packing.expect("parameters", len(parameters), 0)
        size = math.prod(shape)
        if self.zstd:
            packing.expect_frame(data, size)
        else:
            packing.expect("data", len(data), size)

    def estimate_bytes(self, shape: Shape) -> int:
        return math.prod(shape) if not self.zstd else math.ceil(0.7 * math.prod(shape))


@dataclass(frozen=True, slots=True)
class Compressed:
    """One image file for each sample, end to end; parameters: their lengths, uint32.

    overhead, share: bytes of a file besides the pixels, and bytes for one byte of pixels, roughly.
    """

    format: str
    overhead: int
    share: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, images: Pixels) -> tuple[bytes, bytes]:
        files = [self._file(image) for image in images]
        return b"".join(files), np.array([len(file) for file in files], _LENGTH).tobytes()

    def decode(self, shape: Shape, data: Buffer, parameters: Buffer) -> Pixels:
        images = [self._image(file, shape[1:]) for file in self._files(shape, data, parameters)]
        return np.stack(images) if images else np.empty(shape, np.uint8)

    def check(self, shape: Shape, data: Buffer, parameters: Buffer) -> None:
        """By what the headers of the files say; of a WebP, that takes no Pillow, which has libwebp allocate for it."""
        for file in self._files(shape, data, parameters):
            with _refusing(self.format):
                _check_whole(self.format, file, shape[1:])
                if self.format != "WEBP":
                    self._open(file, shape[1:]).close()

    def estimate_bytes(self, shape: Shape) -> int:
        return shape[0] * (self.overhead + math.ceil(self.share * math.prod(shape[1:])))

    def _file(self, image: Pixels) -> bytes:
        from PIL import Image  # not at import: few tiers ever see an image, and all would start later

        with io.BytesIO() as file:
            Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, self.format, **self.options)
            return file.getvalue()

    def _files(self, shape: Shape, data: Buffer, parameters: Buffer) -> Iterator[bytes]:
        """One for each sample. Raises CorruptPayload for lengths that do not fit, before the first."""
        packing.expect("parameters", len(parameters), shape[0] * _LENGTH.itemsize)
        lengths = np.frombuffer(parameters, _LENGTH).tolist()
        packing.expect("data", len(data), sum(lengths))
        whole = memoryview(data)
        for a, b in pairwise(accumulate(lengths, initial=0)):
            yield bytes(whole[a:b])

    def _image(self, file: bytes, shape: Shape) -> Pixels:
        """One image as uint8 [H, W, C], once its header says just that. Raises CorruptPayload."""
        with _refusing(self.format):
            _check_whole(self.format, file, shape)
            with self._open(file, shape) as image:
                return np.asarray(image.convert(_MODES[shape[-1]])).reshape(shape)

    def _open(self, file: bytes, shape: Shape) -> Image.Image:
        """One image whose header says that it is [H, W, C]; its pixels are not looked at yet."""
        from PIL import Image

        height, width, channels = shape
        image = Image.open(io.BytesIO(file), formats=[self.format])
        if image.size != (width, height):
            raise CorruptPayload(f"an image is {image.width} x {image.height}, not {width} x {height}")
        if image.mode != _MODES[channels] and self.format != "WEBP":
            raise CorruptPayload(f"an image is {image.mode}, not {_MODES[channels]}")
        return image


@dataclass(frozen=True, slots=True)
class ImageCoding:
    """Inputs float32 [N, C, H, W] as images, C being 1 or 3.

    Error: that of the image format, and half a level of 255 where the input was not made of whole pixels. What lies
    beyond black and white is cut off there, by any amount; `holds` tells.
    """

    format: Raw | Compressed
    preprocessing: Preprocessing

    def encode(self, tensor: FloatArray) -> tuple[bytes, bytes]:
        if tensor.ndim != 4 or tensor.shape[1] != len(self.preprocessing.mean):
            raise InvalidInput(f"an image codec cannot carry {list(tensor.shape)}; use it at split point 0")
        return self.format.encode(pixels_of(tensor, self.preprocessing))

    def holds(self, tensor: FloatArray) -> bool:
        """Whether nothing of an input would be cut off."""
        return within_pixels(tensor, self.preprocessing)

    def decode(self, shape: Shape, data: Buffer, parameters: Buffer) -> FloatArray:
        return normalise(self.format.decode(self._received(shape), data, parameters), self.preprocessing)

    def check(self, shape: Shape, data: Buffer, parameters: Buffer) -> None:
        """Leaves the pixels to who runs something: to whoever passes them on, they cost neither time nor memory."""
        self.format.check(self._received(shape), data, parameters)

    def estimate_bytes(self, shape: Shape) -> int:
        size = self.format.estimate_bytes(_pixel_shape(shape))
        return size + (shape[0] * _LENGTH.itemsize if isinstance(self.format, Compressed) else 0)

    def _received(self, shape: Shape) -> Shape:
        """Of the pixels. Raises CorruptPayload where this is no shape of images."""
        if len(shape) != 4 or shape[1] != len(self.preprocessing.mean):
            raise CorruptPayload(f"an image codec cannot carry {list(shape)}")
        return _pixel_shape(shape)


FORMATS: dict[str, Raw | Compressed] = {
    "pixels": Raw(),
    "pixels+zstd": Raw(zstd=True),
    "png": Compressed("PNG", 70, 0.6),
    "pixels+webp": Compressed("WEBP", 40, 0.5, {"lossless": True}),
    "jpeg90": Compressed("JPEG", 350, 0.2, {"quality": 90, "optimize": True}),
    "jpeg75": Compressed("JPEG", 350, 0.12, {"quality": 75, "optimize": True}),
    "webp80": Compressed("WEBP", 60, 0.1, {"quality": 80}),
}
"""A name states the quality, in the scale of libjpeg or libwebp, with 4:2:0 chroma."""
FAITHFUL = frozenset({"pixels", "pixels+zstd", "pixels+webp", "png", "jpeg90"})


def fits(preprocessing: Preprocessing | None) -> bool:
    """Whether a network with this preprocessing takes what image files hold: one channel or three."""
    return preprocessing is not None and len(preprocessing.mean) in _MODES


def holds(name: str, shape: Shape) -> bool:
    """Whether files of this format can be as large as an image of `shape`, [C, H, W]; other codecs hold anything."""
    written = FORMATS.get(name)
    most = _MOST_PIXELS.get(written.format) if isinstance(written, Compressed) else None
    return most is None or max(shape) <= most


def _pixel_shape(shape: Shape) -> Shape:
    count, channels, height, width = shape
    return count, height, width, channels


@contextmanager
def _refusing(kind: str) -> Iterator[None]:
    """Makes CorruptPayload of what goes wrong with a file: Pillow raises a dozen kinds, and each means that it does."""
    try:
        yield
    except CorruptPayload:
        raise
    except Exception:
        raise CorruptPayload(f"an image is not a whole {kind}") from None


def _check_whole(kind: str, file: bytes, shape: Shape) -> None:
    """Refuses a file that is cut short, or has something in it or behind it that is none of its pixels."""
    if kind == "PNG":
        _check_png(file)
    elif kind == "JPEG":
        _check_jpeg(file)
    else:
        _check_webp(file, (shape[1], shape[0]))


def _check_png(file: bytes) -> None:
    at, length, kind = 8, 0, b""
    for _ in range(_FEW_CHUNKS + len(file) // _CHUNK_BYTES):
        length, kind = struct.unpack_from(">I4s", file, at)
        at += length + 12
        if kind == b"IEND" or kind not in _CHUNKS:
            break
    if (kind, length, at) != (b"IEND", 0, len(file)):
        raise CorruptPayload("an image is not a whole PNG of pixels and nothing else")


def _check_jpeg(file: bytes) -> None:
    end = file.find(_END, max(file.find(_SCAN), 0))  # behind a scan, it is where it first says so
    if end < 0 or end + len(_END) != len(file):
        raise CorruptPayload("an image is not a whole JPEG")
    if (scans := file.count(_SCAN)) > _MOST_SCANS:
        raise CorruptPayload(f"an image is a JPEG of {scans} scans; {_MOST_SCANS} are enough")


def _check_webp(file: bytes, size: tuple[int, int]) -> None:
    """Looks at the size, too, since libwebp allocates for it before Pillow can say which it is."""
    riff, length, webp, chunk = struct.unpack_from("<4sI4s4s", file)
    if (riff, webp) != (b"RIFF", b"WEBP") or length + 8 != len(file) or chunk not in (b"VP8 ", b"VP8L"):
        raise CorruptPayload("an image is not a whole WebP of one still picture")
    if chunk == b"VP8 ":
        found = tuple(side & 0x3FFF for side in struct.unpack_from("<HH", file, 26))
    else:
        bits = struct.unpack_from("<I", file, 21)[0]
        found = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if found != size:
        raise CorruptPayload(f"an image is {found[0]} x {found[1]}, not {size[0]} x {size[1]}")
