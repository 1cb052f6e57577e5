"""Pictures in and out: an upload as the network's input, an activation as tiles of grey. Blocks; no event loop."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from device_agent.pixels import plain
from services import memory
from services.domain import FloatArray
from services.errors import InvalidInput, TooLarge

Pixels = npt.NDArray[np.uint8]

MAX_UPLOAD_BYTES = 8 << 20
MAX_PIXELS = 40_000_000
_MEMORY_A_PIXEL = 64
"""Of all memory; decoding takes up to 13 of these bytes."""
_FINER = 4
MAX_TILES = 24
_FORMATS = ("PNG", "JPEG", "WEBP")
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    OverflowError,
    MemoryError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_INK = 32
"""A pixel of a drawing lighter than this was drawn."""
_MARGIN = 1 / 14


def read(data: bytes, shape: tuple[int, int, int], drawn: bool = False) -> Pixels:
    """An uploaded picture as uint8 [1, H, W, C], cropped to the middle; a drawing, light on black, to what was drawn.

    Raises InvalidInput for what is not a picture, TooLarge for one of more than 40 million pixels, or than there is
    memory for: a small file may hold a large picture. JPEG is decoded no larger than it need be.
    """
    height, width, channels = shape
    most = min(MAX_PIXELS, memory.limit_bytes() // _MEMORY_A_PIXEL)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            image.draft(None, (_FINER * max(width, height),) * 2)  # it may lie on its side
            if image.width * image.height > most:
                raise TooLarge(f"the picture has more than {most:,} pixels; make it smaller")
            image.load()
            decoded = plain(image, channels)
    except _UNREADABLE:
        raise InvalidInput("this is not a picture that can be read; give a PNG, JPEG or WebP file") from None
    fitted = _drawing(decoded, width, height) if drawn else ImageOps.fit(decoded, (width, height))
    return np.asarray(fitted, np.uint8).reshape(1, height, width, channels)


def _drawing(image: Image.Image, width: int, height: int) -> Image.Image:
    """What was drawn, as large as fits, in the middle, and as soft as a scan: networks were not taught hard edges."""
    box = image.convert("L").point(lambda value: 255 * (value > _INK)).getbbox()
    if box is None:
        raise InvalidInput("nothing is drawn yet; draw on the black field first")
    drawn = image.crop(box)
    margin = max(1, round(height * _MARGIN))
    scale = min((width - 2 * margin) / drawn.width, (height - 2 * margin) / drawn.height)
    size = (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale)))
    paper = Image.new(image.mode, (width, height))
    paper.paste(drawn.resize(size, Image.Resampling.BOX), ((width - size[0]) // 2, (height - size[1]) // 2))
    return paper.filter(ImageFilter.GaussianBlur(height / 40))


def png(pixels: Pixels) -> bytes:
    """uint8 [H, W] or [H, W, 1 or 3] as a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def data_url(pixels: Pixels) -> str:
    """As `png`, in a data URL."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def tiles(activation: FloatArray) -> list[Pixels]:
    """One sample's activation [C, H, W] or [C] as grey tiles, at most 24 channels, all on the same scale.

    What has no height and width becomes a single tile, as square as its length allows.
    """
    grey = _grey(activation)
    if activation.ndim == 3 and activation.shape[1] * activation.shape[2] > 1:
        return list(grey[:MAX_TILES])
    flat = grey.reshape(-1)
    columns = min(len(flat), max(10, math.isqrt(len(flat))))
    padded = np.zeros(-(-len(flat) // columns) * columns, np.uint8)
    padded[: len(flat)] = flat
    return [padded.reshape(-1, columns)]


def _grey(values: FloatArray) -> Pixels:
    """Smallest black, largest white; what is not finite is black."""
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    return np.asarray(np.rint(255 * (finite - low) / ((high - low) or 1.0)), np.uint8)
