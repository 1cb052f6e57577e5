"""One picture's journey, and what of pictures is refused."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from device_agent.console import pictures
from device_agent.console.journey import Journeys, steps
from services.domain import Deadline, FloatArray
from services.errors import InvalidInput, TooLarge
from services.front import Answer
from services.images import preprocess
from services.model import Model
from tests.fakes import FakeClock
from tests.journeys import plan, request, three

SHAPE = (8, 8, 1)


def png(width: int = 8, height: int = 8, mode: str = "L", value: object = 200) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (width, height), value).save(stream, "PNG")
    return stream.getvalue()


class _Asks:
    """Answers over three tiers in this process."""

    def __init__(self, model: Model):
        self._model, self._clock = model, FakeClock()

    async def ask(self, samples: FloatArray, request_id: str) -> Answer:
        made = request(self._model, self._clock, samples, deadline=Deadline(1e9, self._clock), plan=plan())
        return Answer(request_id, plan(), await three(self._model, self._clock).infer(made))


async def test_a_picture_is_answered_as_a_request_and_shown_at_every_exit_and_cut(model: Model) -> None:
    journeys = Journeys(model, _Asks(model))
    found = await journeys.of(png(20, 30), "console-1")
    journeys.close()
    at = [step["split_point"] for step in found["steps"]]
    assert at == sorted({0, 2, 4, 8, *(spec.split_point for spec in model.manifest.exits)})
    said = [step["exit"]["index"] for step in found["steps"] if step["exit"]]
    assert said == [0, 1, 2]
    assert found["label"] in model.manifest.labels
    assert [step["codec"] for step in found["steps"] if step["codec"]] == ["int8", "fp16"]
    assert all(step["travelled"] == (step["split_point"] <= _left_at(model, found)) for step in found["steps"])


def _left_at(model: Model, found: dict[str, int]) -> int:
    return model.manifest.exits[found["exit"]].split_point


def test_what_the_display_computes_is_the_whole_network_where_nothing_is_lost(model: Model) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, *SHAPE), np.uint8)
    samples = preprocess(pixels, model.manifest.input)
    local = plan(8, 8, 8)
    found = steps(model, samples, local)
    made = request(model, FakeClock(), samples, plan=local, thresholds=(2.0, 2.0, 0.0))
    whole = model.run(model.pieces(made.plan.stages[0].segment)[0], samples)[0]
    assert np.allclose(found[1].activation, whole, atol=1e-5)
    assert found[-1].label is not None


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", png()[:40], b"\xff\xd8\xff" * 9])
def test_what_is_no_picture_is_refused_with_a_sentence(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="give a PNG, JPEG or WebP"):
        pictures.read(data, SHAPE)


@given(st.binary(max_size=300))
@settings(max_examples=60)
def test_no_upload_raises_anything_else(data: bytes) -> None:
    with pytest.raises((InvalidInput, TooLarge)):
        pictures.read(data, SHAPE)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_unpacked() -> None:
    bomb = png(8000, 8000, "1", 0)
    assert len(bomb) < 100_000
    with pytest.raises((TooLarge, InvalidInput)):
        pictures.read(bomb, SHAPE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3)])
def test_pictures_of_every_kind_fit_the_input(mode: str, shape: tuple[int, int, int]) -> None:
    assert pictures.read(png(30, 20, mode, None), shape).shape == (1, *shape)


def test_a_drawing_is_brought_to_the_middle_and_to_full_size() -> None:
    paper = Image.new("L", (280, 280))
    paper.paste(255, (20, 30, 40, 90))
    stream = io.BytesIO()
    paper.save(stream, "PNG")
    fitted = pictures.read(stream.getvalue(), (28, 28, 1), drawn=True)[0, ..., 0]
    rows, columns = np.nonzero(fitted > 100)
    assert (rows.min() + rows.max()) / 2 == pytest.approx(13.5, abs=1)
    assert (columns.min() + columns.max()) / 2 == pytest.approx(13.5, abs=1)
    assert rows.max() - rows.min() > 20


def test_an_empty_drawing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="nothing is drawn"):
        pictures.read(png(value=0), SHAPE, drawn=True)


@pytest.mark.parametrize(
    ("shape", "count"), [((1, 7, 7), 1), ((3, 4, 4), 3), ((64, 2, 2), 24), ((10,), 1), ((10, 1, 1), 1)]
)
def test_an_activation_becomes_a_bounded_number_of_tiles(shape: tuple[int, ...], count: int) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = pictures.tiles(values)
    assert len(found) == count
    assert all(tile.dtype == np.uint8 and tile.ndim == 2 for tile in found)


def test_tiles_of_numbers_that_are_not_finite_are_still_tiles() -> None:
    values = np.array([[[np.nan, np.inf], [-np.inf, 1.0]]], np.float32)
    assert pictures.tiles(values)[0].tolist() == [[0, 0], [0, 255]]


def test_a_tile_travels_as_a_png() -> None:
    url = pictures.data_url(np.full((4, 4), 7, np.uint8))
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        assert (image.size, image.getpixel((0, 0))) == ((4, 4), 7)
