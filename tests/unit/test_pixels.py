"""Pictures become the same pixels for a client's file and for an upload to the console."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from device_agent.console import pictures
from device_agent.inputs import ModelInfo, read
from services.errors import TooLarge

GREY, COLOUR = (8, 8, 1), (8, 8, 3)
SMALL_MEMORY = 64 << 20


def both(image: Image.Image, shape: tuple[int, int, int], folder: Path) -> list[np.ndarray]:
    """What a client and what the console make of `image`."""
    file = folder / "image.png"
    image.save(file)
    info = ModelInfo("m", "1", "input", (shape[2], *shape[:2]), shape)
    return [read(file, info)[0], pictures.read(file.read_bytes(), shape)]


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_sixteen_bits_are_scaled_and_not_clipped(shape: tuple[int, int, int], tmp_path: Path) -> None:
    deep = Image.fromarray(np.full((8, 8), 0x4080, np.uint16))
    assert deep.mode == "I;16"
    for pixels in both(deep, shape, tmp_path):
        assert (pixels == 0x40).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_what_is_transparent_is_black(mode: str, shape: tuple[int, int, int], tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    clear.paste((255, 255, 255, 255), (0, 0, 8, 4))
    for pixels in both(clear.convert(mode), shape, tmp_path):
        assert (pixels[0, :4] == 255).all()
        assert (pixels[0, 4:] == 0).all()


def test_a_small_machine_unpacks_no_large_picture_but_takes_any_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures.memory, "limit_bytes", lambda: SMALL_MEMORY)
    files = {}
    for kind in ("PNG", "JPEG"):
        Image.new("RGB", (2000, 1500), "red").save(files.setdefault(kind, io.BytesIO()), kind)
    with pytest.raises(TooLarge, match="more than 1,048,576 pixels"):
        pictures.read(files["PNG"].getvalue(), COLOUR)
    assert pictures.read(files["JPEG"].getvalue(), COLOUR)[0, 0, 0, 0] > 250
