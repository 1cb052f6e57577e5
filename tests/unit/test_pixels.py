"""Pictures become the same pixels for a client's file and for an upload to the console."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from device_agent.console import pictures
from device_agent.inputs import ModelInfo, read, tensor_of
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


TOP = np.zeros((8, 8), np.uint8)
TOP[:4, :4] = 255
"""White in one corner: how it lies shows."""

_LYING = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.T,
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: pixels[::-1, ::-1].T,
    8: lambda pixels: np.rot90(pixels, -1),
}
"""How a camera stores what is upright, by the orientation that it notes."""


def photo(pixels: np.ndarray, exif: bytes, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, kind, exif=exif, quality=100)
    return stream.getvalue()


def lying(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def both_of(data: bytes, kind: str, folder: Path, shape: tuple[int, int, int] = GREY) -> list[np.ndarray]:
    file = folder / f"photo.{kind.lower()}"
    file.write_bytes(data)
    info = ModelInfo("m", "1", "input", (shape[2], *shape[:2]), shape)
    return [read(file, info)[0], pictures.read(data, shape)]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", list(_LYING))
def test_a_photo_that_lies_on_its_side_is_put_upright(orientation: int, kind: str, tmp_path: Path) -> None:
    stored = photo(_LYING[orientation](TOP), lying(orientation), kind)
    with Image.open(io.BytesIO(stored)) as image:
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)) > 127, TOP > 127)
    for pixels in both_of(stored, kind, tmp_path):
        assert np.array_equal(pixels[0, :, :, 0] > 127, TOP > 127)


@pytest.mark.parametrize("size", [(16, 32), (32, 16)])
def test_an_upright_photo_has_its_sides_exchanged_before_it_is_fitted(size: tuple[int, int], tmp_path: Path) -> None:
    stored = np.zeros(size, np.uint8)
    stored[:, size[1] // 2 :] = 255
    for pixels in both_of(photo(stored, lying(6)), "JPEG", tmp_path, COLOUR):
        assert (pixels[0, 5:] > 200).all()
        assert (pixels[0, :3] < 55).all()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00",
        b"Exif\x00\x00garbage that is no TIFF",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x05\x01\x12",
        b"Exif\x00\x00MM\x00*\xff\xff\xff\xff",
        lying(0),
        lying(99),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_photo_with_broken_exif_data_is_taken_as_it_lies(exif: bytes, tmp_path: Path) -> None:
    for pixels in both_of(photo(TOP, exif), "JPEG", tmp_path):
        assert np.array_equal(pixels[0, :, :, 0] > 127, TOP > 127)


def test_an_image_of_the_callers_own_is_put_upright_and_left_as_it_is() -> None:
    info = ModelInfo("m", "1", "input", (1, 8, 8), GREY)
    with Image.open(io.BytesIO(photo(_LYING[6](TOP), lying(6)))) as image:
        before = np.asarray(image).copy()
        assert np.array_equal(tensor_of(image, info)[0][0, :, :, 0] > 127, TOP > 127)
        assert np.array_equal(np.asarray(image), before)


def test_a_photo_on_its_side_is_decoded_as_finely_as_an_upright_one() -> None:
    upright = np.zeros((3200, 320), np.uint8)
    upright.reshape(3200, 40, 8)[:, :, :4] = 255
    pixels = pictures.read(photo(_LYING[6](upright), lying(6)), (8, 80, 1))
    assert pixels.std() > 60


def test_an_image_that_turns_when_it_is_loaded_is_not_turned_twice() -> None:
    info = ModelInfo("m", "1", "input", (1, 8, 8), GREY)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(_LYING[6](TOP))).save(stream, "TIFF", tiffinfo={0x0112: 6})
    with Image.open(stream) as image:
        assert np.array_equal(tensor_of(image, info)[0][0, :, :, 0] > 127, TOP > 127)
