"""Pictures of any kind as plain ones, the same for files of a client and for uploads to the console."""

from __future__ import annotations

import numpy as np
from PIL import Image

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What puts a picture upright, by the orientation that its EXIF data tell."""


def plain(image: Image.Image, channels: int) -> Image.Image:
    """`image` upright and in 8 bits, grey (1 channel) or RGB (3): see `_converted`. Photos may lie on their side."""
    image.load()  # some formats turn by themselves then
    found = _converted(image, "L" if channels == 1 else "RGB")
    turn = _turn(image)
    return found if turn is None else found.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """None for a picture that is upright, or does not tell. Not `exif_transpose`, which copies those, too."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF data raise almost anything; the picture is then taken as it lies
        return None


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """16 bits are scaled down, and what is transparent is black."""
    if image.mode.startswith("I;16"):  # which Pillow would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif "A" in image.getbands() or "transparency" in image.info:
        return _on_black(image if image.mode == "RGBA" else image.convert("RGBA"), mode)
    return image if image.mode == mode else image.convert(mode)


def _on_black(image: Image.Image, mode: str) -> Image.Image:
    ground = Image.new(mode, image.size)
    ground.paste(image.convert(mode), mask=image.getchannel("A"))
    return ground
