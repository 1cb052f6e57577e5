"""Pictures of any kind as plain ones, the same for files of a client and for uploads to the console."""

from __future__ import annotations

import numpy as np
from PIL import Image


def plain(image: Image.Image, channels: int) -> Image.Image:
    """`image` in 8 bits, grey (1 channel) or RGB (3): 16 bits are scaled down, and what is transparent is black."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I;16"):  # which Pillow would clip
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif "A" in image.getbands() or "transparency" in image.info:
        return _on_black(image if image.mode == "RGBA" else image.convert("RGBA"), mode)
    return image if image.mode == mode else image.convert(mode)


def _on_black(image: Image.Image, mode: str) -> Image.Image:
    ground = Image.new(mode, image.size)
    ground.paste(image.convert(mode), mask=image.getchannel("A"))
    return ground
