"""What a caller has at hand becomes what the model takes, or is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from device_agent.inputs import ModelInfo, read, tensor_of
from device_agent.questions import wishes_of
from services.errors import InvalidInput

INFO = ModelInfo("m", "1", "input", (1, 8, 8), (8, 8, 1))
NO_IMAGES = ModelInfo("m", "1", "input", (4,), None)


def test_an_image_of_any_size_is_fitted_to_the_model(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    Image.new("RGB", (30, 20), (255, 0, 0)).save(file)
    samples, name = read(file, INFO)
    assert (samples.shape, samples.dtype, name) == ((1, 8, 8, 1), np.uint8, "image")


@pytest.mark.parametrize(
    ("array", "shape", "name"),
    [
        (np.zeros((1, 8, 8), np.float32), (1, 1, 8, 8), "input"),
        (np.zeros((3, 1, 8, 8), np.float64), (3, 1, 8, 8), "input"),
        (np.zeros((8, 8), np.uint8), (1, 8, 8, 1), "image"),
        (np.zeros((5, 8, 8, 1), np.uint8), (5, 8, 8, 1), "image"),
        (np.zeros((5, 8, 8), np.uint8), (5, 8, 8, 1), "image"),
    ],
)
def test_an_array_finds_its_input(tmp_path: Path, array: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    np.save(tmp_path / "a.npy", array)
    samples, found = read(tmp_path / "a.npy", INFO)
    assert (samples.shape, found) == (shape, name)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize("ending", [".png", ".npy", ".txt"])
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path: Path, content: bytes, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"a\."):
        read(file, INFO)


def test_an_array_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match=r"not a \.npy array of numbers"):
        read(tmp_path / "a.npy", INFO)


def test_an_open_image_is_fitted_to_the_model() -> None:
    samples, name = tensor_of(Image.new("RGB", (30, 20), (255, 0, 0)), INFO)
    assert (samples.shape, samples.dtype, name) == ((1, 8, 8, 1), np.uint8, "image")


def test_a_path_may_be_a_string(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 8, 8), np.float32))
    samples, name = tensor_of(str(tmp_path / "a.npy"), INFO)
    assert (samples.shape, name) == ((1, 1, 8, 8), "input")


def test_an_array_of_the_wrong_shape_is_refused_with_the_right_one() -> None:
    with pytest.raises(InvalidInput, match=r"\[2, 3\] does not fit 'input', \[N, 1, 8, 8\]"):
        tensor_of(np.zeros((2, 3), np.float32), INFO)


def test_an_array_of_text_is_refused() -> None:
    with pytest.raises(InvalidInput, match="real numbers"):
        tensor_of(np.array(["a"]), INFO)


def test_an_image_for_a_model_without_images_is_refused() -> None:
    with pytest.raises(InvalidInput, match="does not take images"):
        tensor_of(Image.new("L", (8, 8)), NO_IMAGES)


@pytest.mark.parametrize(("sample", "kind"), [(None, "None"), ([1, 2], "a list"), (b"png", "a bytes")])
def test_what_is_no_sample_is_refused_with_what_may_be_given(sample: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"numpy array, an open PIL image, or the path .* got {kind}"):
        tensor_of(sample, INFO)


def test_a_wish_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(TypeError, match=r"'thresold'.* takes request_id, timeout_seconds, exit_threshold, .* trace"):
        wishes_of({"thresold": 0.5, "trace": True})
