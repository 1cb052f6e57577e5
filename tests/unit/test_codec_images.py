"""Inputs as images: there and back, only where they may be used, and every way in which a file can lie."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFile

from services import codec
from services.bundle import Preprocessing
from services.domain import FloatArray, Payload
from services.errors import CorruptPayload, InvalidInput
from services.images import normalise

Pixels = npt.NDArray[np.uint8]

EXACT = ["pixels", "pixels+zstd", "pixels+webp", "png"]
FILES = ["pixels+webp", "png", "jpeg90", "jpeg75", "webp80"]
GREY = Preprocessing(mean=(0.13,), std=(0.31,))
COLOUR = Preprocessing(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))


def preprocessing(channels: int) -> Preprocessing:
    return GREY if channels == 1 else COLOUR


@st.composite
def images(draw: st.DrawFn) -> Pixels:
    shape = (draw(st.integers(0, 3)), draw(st.integers(1, 20)), draw(st.integers(1, 20)), draw(st.sampled_from([1, 3])))
    return draw(hnp.arrays(np.uint8, shape))


def smooth(channels: int, count: int = 2, side: int = 32) -> Pixels:
    """Images such as cameras take: gradients, not noise."""
    y, x = np.mgrid[:side, :side] * (255 / side)
    planes = [x, y, (x + y) / 2][:channels]
    return np.stack([np.stack(planes, axis=-1)] * count).astype(np.uint8)


def image_codec(name: str, pixels: Pixels) -> codec.Codec:
    return codec.get(name, preprocessing(pixels.shape[-1]))


def encoded(name: str, pixels: Pixels) -> Payload:
    return image_codec(name, pixels).encode(normalise(pixels, preprocessing(pixels.shape[-1])))


def signed(payload: Payload, **changes: object) -> Payload:
    changed = replace(payload, **changes)
    return replace(changed, crc32c=codec.checksum(changed.parameters, changed.data))


def carrying(name: str, file: bytes, side: int = 32) -> Payload:
    """One grey sample whose image is `file`, with a length and a checksum that fit."""
    return signed(Payload((1, 1, side, side), name, file, struct.pack("<I", len(file))))


@pytest.mark.parametrize("name", EXACT)
@given(pixels=images())
def test_pixels_come_back_to_the_bit(name: str, pixels: Pixels) -> None:
    decoded = image_codec(name, pixels).decode(encoded(name, pixels))
    assert decoded.tobytes() == normalise(pixels, preprocessing(pixels.shape[-1])).tobytes()


@given(
    pixels=images(),
    mean=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    std=st.lists(st.floats(0.01, 4), min_size=3, max_size=3),
)
def test_pixels_come_back_whatever_the_preprocessing(pixels: Pixels, mean: list[float], std: list[float]) -> None:
    channels = pixels.shape[-1]
    given_ = Preprocessing(mean=tuple(mean[:channels]), std=tuple(std[:channels]))
    tensor = normalise(pixels, given_)
    assert np.array_equal(codec.get("pixels", given_).decode(codec.get("pixels", given_).encode(tensor)), tensor)


@given(tensor=hnp.arrays(np.float32, (2, 1, 3, 4), elements=st.floats(-9, 9, width=32)))
def test_what_was_not_whole_pixels_is_off_by_half_a_pixel_and_cut_at_black_and_white(tensor: FloatArray) -> None:
    decoded = codec.get("pixels", GREY).decode(codec.get("pixels", GREY).encode(tensor))
    black, white = normalise(np.array([[[[0]]], [[[255]]]], np.uint8), GREY).reshape(2)
    assert (np.abs(decoded - tensor.clip(black, white)) <= 0.5 / 255 / GREY.std[0] + 1e-5).all()


@pytest.mark.parametrize("name", codec.IMAGE)
@pytest.mark.parametrize(
    ("level", "image"), [(-0.6, False), (-0.4, True), (255.4, True), (255.6, False), (float("nan"), False)]
)
def test_an_input_goes_as_an_image_unless_more_than_half_a_level_of_it_were_cut_off(
    name: str, level: float, image: bool
) -> None:
    tensor = normalise(smooth(3), COLOUR)
    tensor[1, 2, 3, 4] = (level / 255 - COLOUR.mean[2]) / COLOUR.std[2]
    assert codec.carrying(tensor, name, 0, COLOUR).name == (name if image else "fp32+zstd")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "off"), [("jpeg90", 12), ("jpeg75", 20), ("webp80", 20)])
def test_a_lossy_image_is_smaller_than_its_pixels_and_about_the_same(name: str, off: int, channels: int) -> None:
    pixels = smooth(channels)
    payload = encoded(name, pixels)
    given_ = preprocessing(channels)
    decoded = image_codec(name, pixels).decode(payload)
    error = (decoded - normalise(pixels, given_)) * np.array(given_.std)[:, None, None] * 255
    assert payload.nbytes < pixels.nbytes
    assert np.abs(error).mean() < off / 4
    assert np.abs(error).max() < off * 2


def test_more_quality_takes_more_bytes_and_errs_less() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    whole, files = normalise(pixels, COLOUR), {name: encoded(name, pixels) for name in ("jpeg90", "jpeg75")}
    errors = {name: np.abs(image_codec(name, pixels).decode(file) - whole).mean() for name, file in files.items()}
    assert files["jpeg90"].nbytes > files["jpeg75"].nbytes
    assert errors["jpeg90"] < errors["jpeg75"]


@pytest.mark.parametrize("name", codec.IMAGE)
@given(pixels=images())
def test_an_image_decodes_to_the_same_alone_as_in_its_batch(name: str, pixels: Pixels) -> None:
    together = image_codec(name, pixels).decode(encoded(name, pixels))
    assert together.shape == (len(pixels), pixels.shape[3], *pixels.shape[1:3])
    for row, image in enumerate(pixels):
        assert np.array_equal(image_codec(name, pixels).decode(encoded(name, image[None]))[0], together[row])


@pytest.mark.parametrize("name", codec.IMAGE)
def test_the_estimate_is_of_the_right_order(name: str) -> None:
    pixels = smooth(3)
    estimate = image_codec(name, pixels).estimate_bytes((2, 3, 32, 32))
    assert encoded(name, pixels).nbytes / 10 < estimate <= pixels.nbytes + 8


@pytest.mark.parametrize("name", codec.IMAGE)
@pytest.mark.parametrize("spec", [None, Preprocessing(mean=(0, 0), std=(1, 1))])
def test_an_image_codec_is_refused_where_there_are_no_images(name: str, spec: Preprocessing | None) -> None:
    with pytest.raises(InvalidInput, match=f"codec {name.replace('+', '.')} carries images: it is for split point 0"):
        codec.get(name, spec)


@pytest.mark.parametrize("name", codec.IMAGE)
def test_an_image_codec_is_refused_behind_the_first_split_point(name: str) -> None:
    assert codec.at(name, 0, GREY).name == name
    with pytest.raises(InvalidInput, match="split point 0"):
        codec.at(name, 1, GREY)


@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (1, 4), (1, 1, 4)])
def test_what_is_no_image_is_neither_encoded_nor_decoded(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="cannot carry"):
        codec.get("png", GREY).encode(np.zeros(shape, np.float32))
    with pytest.raises(CorruptPayload, match="cannot carry"):
        codec.get("png", GREY).decode(signed(Payload(shape, "png", b"", bytes(4))))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_cut_short_is_refused_wherever_it_is_cut(name: str, channels: int) -> None:
    pixels = smooth(channels, count=1)
    payload = encoded(name, pixels)
    for end in {0, 1, 11, 12, 25, 40, len(payload.data) // 2, len(payload.data) - 1}:
        short = bytes(payload.data)[:end]
        with pytest.raises(CorruptPayload):
            image_codec(name, pixels).decode(signed(payload, data=short, parameters=struct.pack("<I", end)))


@pytest.mark.parametrize("name", FILES)
def test_bytes_behind_an_image_are_refused(name: str) -> None:
    payload = encoded(name, smooth(1, count=1))
    file = bytes(payload.data)
    for behind in (b"\0\0", file):
        with pytest.raises(CorruptPayload, match="not a whole"):
            codec.get(name, GREY).decode(carrying(name, file + behind))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: p + bytes(4), lambda p: b"", lambda p: b"\xff" * 8])
def test_lengths_that_do_not_fit_are_refused(name: str, change: object) -> None:
    payload = encoded(name, smooth(1))
    with pytest.raises(CorruptPayload, match="bytes long"):
        codec.get(name, GREY).decode(signed(payload, parameters=change(payload.parameters)))  # type: ignore[operator]


@pytest.mark.parametrize("name", FILES)
def test_an_image_of_another_size_or_kind_is_refused(name: str) -> None:
    other_size = bytes(encoded(name, smooth(1, count=1, side=33)).data)
    with pytest.raises(CorruptPayload, match="33 x 33, not 32 x 32"):
        codec.get(name, GREY).decode(carrying(name, other_size))
    other_format = bytes(encoded("jpeg75" if name == "png" else "png", smooth(1, count=1)).data)
    with pytest.raises(CorruptPayload, match="not a whole"):
        codec.get(name, GREY).decode(carrying(name, other_format))


@pytest.mark.parametrize(
    ("name", "mode"),
    [("png", mode) for mode in ("RGB", "P", "I;16", "1", "RGBA")] + [("jpeg90", "RGB"), ("jpeg90", "CMYK")],
)
def test_an_image_of_other_colours_is_refused(name: str, mode: str) -> None:
    with io.BytesIO() as file:
        Image.new(mode, (32, 32)).save(file, "PNG" if name == "png" else "JPEG")
        data = file.getvalue()
    for refuses in (codec.get(name, GREY).check, codec.get(name, GREY).decode):
        with pytest.raises(CorruptPayload, match="not L"):
            refuses(carrying(name, data))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, data: bytes = b"", more: bytes = b"") -> bytes:
    """A grey PNG whose header announces width x height; `more` stands behind that."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BLACK = zlib.compress(bytes(32 * 33))
"""The pixels of a PNG of 32 x 32."""


def texts(kind: bytes, between: bytes) -> bytes:
    """Chunks of a kilobyte each that hold a megabyte each."""
    swollen = zlib.compress(bytes(1 << 20), 9)
    return b"".join(chunk(kind, f"text {number}".encode() + between + swollen) for number in range(60))


def progressive(scans: int) -> bytes:
    """A JPEG that says the same again and again."""
    with io.BytesIO() as file:
        Image.fromarray(smooth(1)[0, ..., 0]).save(file, "JPEG", progressive=True)
        whole = file.getvalue()
    start, end = whole.rfind(b"\xff\xda"), len(whole) - 2
    return whole[:end] + whole[start:end] * (scans - whole.count(b"\xff\xda")) + whole[end:]


def webp(kind: bytes, width: int, height: int) -> bytes:
    """A WebP whose header announces width x height."""
    if kind == b"VP8 ":
        body = b"\x10\x00\x00\x9d\x01\x2a" + struct.pack("<HH", width, height)
    elif kind == b"VP8L":
        body = b"\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14)
    else:
        body = bytes(4) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body += bytes(len(body) % 2)
    chunks = b"WEBP" + kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


BOMBS = {
    "png": [
        *(png(30000, 30000), png(9000, 9000, zlib.compress(bytes(1 << 20))), png(1 << 31, 1)),
        *(png(32, 32, BLACK, texts(b"zTXt", b"\0\0")), png(32, 32, BLACK, texts(b"iTXt", b"\0\1\0\0\0"))),
        png(32, 32, BLACK, chunk(b"IDAT", b"") * 5000),
    ],
    "jpeg90": [progressive(65), progressive(1000)],
    "pixels+webp": [webp(b"VP8L", 16383, 16383), webp(b"VP8X", 1 << 24, 1 << 24)],
    "webp80": [webp(b"VP8 ", 16383, 16383), webp(b"VP8X", 16383, 16383)],
}


@pytest.mark.parametrize(("name", "bomb"), [(name, bomb) for name, bombs in BOMBS.items() for bomb in bombs])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_would_become_huge_is_refused_before_it_is_decoded(
    name: str, bomb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    if "webp" in name:  # for which libwebp allocates when it is opened
        monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("it was opened"))
    tracemalloc.start()
    try:
        for refuses in (codec.get(name, GREY).check, codec.get(name, GREY).decode):
            with pytest.raises(CorruptPayload):
                refuses(carrying(name, bomb))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", codec.IMAGE)
def test_an_image_is_checked_without_a_look_at_its_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = encoded(name, smooth(3, count=3))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr("services.packing.inflate", lambda *_: pytest.fail("it was decoded"))
    by = codec.get(name, COLOUR)
    by.check(payload)
    lies: list[dict[str, object]] = [{"shape": shape} for shape in ((3, 3, 32, 33), (2, 3, 32, 32), (3, 1, 32, 32))]
    lies += [{"parameters": payload.parameters + bytes(4)}, {"data": bytes(len(payload.data) + (name == "pixels"))}]
    for lie in lies:
        with pytest.raises(CorruptPayload):
            by.check(signed(payload, **lie))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("png", png(32, 32, BLACK)),
        ("png", png(32, 32, BLACK[5:], chunk(b"tRNS", bytes(2)) + chunk(b"IDAT", BLACK[:5]))),
        ("jpeg90", progressive(6)),
        ("jpeg90", progressive(64)),
    ],
)
def test_an_image_that_another_encoder_wrote_is_taken(name: str, file: bytes) -> None:
    assert codec.get(name, GREY).decode(carrying(name, file)).shape == (1, 1, 32, 32)


@given(
    name=st.sampled_from(codec.IMAGE),
    shape=st.lists(st.integers(0, 1 << 40) | st.integers(0, 3), min_size=1, max_size=5).map(tuple),
    data=st.binary(max_size=100),
    parameters=st.binary(max_size=12),
)
def test_whatever_arrives_is_decoded_or_refused_as_corrupt(
    name: str, shape: tuple[int, ...], data: bytes, parameters: bytes
) -> None:
    with contextlib.suppress(CorruptPayload):
        decoded = codec.get(name, GREY).decode(signed(Payload(shape, name, data, parameters)))
        assert decoded.shape == shape


@given(name=st.sampled_from(codec.IMAGE), channels=st.sampled_from([1, 3]), data=st.data())
def test_a_file_with_other_bytes_in_it_is_decoded_or_refused_as_corrupt(
    name: str, channels: int, data: st.DataObject
) -> None:
    pixels = smooth(channels, side=8)
    payload = encoded(name, pixels)
    whole = bytearray(payload.data)
    for at in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
        whole[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CorruptPayload):
        decoded = image_codec(name, pixels).decode(signed(payload, data=bytes(whole)))
        assert decoded.shape == payload.shape
        assert np.isfinite(decoded).all()


def test_codecs_that_count_as_harmless_unmeasured() -> None:
    harmless = {name for name in codec.NAMES if codec.faithful(name)}
    assert harmless == {
        *(f"{name}{stage}" for name in ("fp32", "fp16", "int8") for stage in ("", "+zstd")),
        *("int8+bitmap", "pixels", "pixels+zstd", "pixels+webp", "png", "jpeg90"),
    }
