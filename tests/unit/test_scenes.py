"""Images to measure with: made from a seed, or a user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from services.bundle import InputSpec, Preprocessing
from services.errors import InvalidInput
from testbed.scenes import inputs, photos, synthetic

COLOUR = InputSpec(name="x", shape=(3, 16, 24))


def test_the_same_seed_makes_the_same_images_of_the_size_asked_for() -> None:
    first = synthetic(2, 16, 24, 3, seed=4)
    assert first.shape == (2, 16, 24, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, synthetic(2, 16, 24, 3, seed=4))
    assert not np.array_equal(first, synthetic(2, 16, 24, 3, seed=5))
    assert not np.array_equal(first[0], first[1])


def test_synthetic_images_are_smooth_as_scenes_are() -> None:
    pixels = synthetic(4, 64, 64, 3).astype(float)
    step = np.abs(np.diff(pixels, axis=2)).mean()
    shuffled = np.random.default_rng(0).permutation(pixels.reshape(-1))
    assert step < 0.5 * np.abs(np.diff(shuffled)).mean()


def test_a_photo_is_cropped_to_the_middle_and_scaled(tmp_path: Path) -> None:
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 40:60] = 255
    Image.fromarray(picture).save(tmp_path / "p.png")
    found = photos(tmp_path / "p.png", 20, 20, 3)
    assert found.shape == (1, 20, 20, 3)
    assert found[0, :, 9:11].min() == 255
    assert found[0, :, 0].max() == 0


def test_at_most_eight_photos_of_a_directory_are_read_in_order(tmp_path: Path) -> None:
    for index in range(10):
        Image.new("L", (8, 8), 20 * index).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert photos(tmp_path, 8, 8, 1)[:, 0, 0, 0].tolist() == [20 * index for index in range(8)]


def test_a_directory_without_images_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no images here"):
        photos(tmp_path, 8, 8, 3)
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with pytest.raises(InvalidInput, match=r"bad\.png"):
        photos(tmp_path, 8, 8, 3)
    with pytest.raises(InvalidInput, match=r"gone\.png"):
        photos(tmp_path / "gone.png", 8, 8, 3)


def test_inputs_are_preprocessed_where_the_network_says_how_and_else_lie_in_0_to_1() -> None:
    plain, what = inputs(COLOUR, None)
    assert plain.shape == (4, 3, 16, 24)
    assert "0..1" in what
    assert plain.min() >= 0
    assert plain.max() <= 1
    shifted, _ = inputs(
        COLOUR.model_copy(update={"preprocessing": Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3)}), None
    )
    np.testing.assert_allclose(shifted, (plain - 0.5) / 0.5, atol=1e-6)


def test_a_network_that_takes_no_images_gets_noise_and_no_photos(tmp_path: Path) -> None:
    spec = InputSpec(name="x", shape=(10,))
    noise, what = inputs(spec, None)
    assert noise.shape == (4, 10)
    assert "noise" in what
    with pytest.raises(InvalidInput, match="leave --images out"):
        inputs(spec, tmp_path)
