"""Tensors of the public protocol to arrays, and what is refused on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from services.bundle import InputSpec, Preprocessing
from services.errors import InvalidInput, TooLarge
from services.images import image_shape, preprocess
from services.open_inference import messages
from services.open_inference.tensors import IMAGE, read_input

SPEC = InputSpec(name="x", shape=(3, 2, 4), preprocessing=Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0)))
PLAIN = InputSpec(name="x", shape=(5,))
LIMIT = 4


def request(array: np.ndarray, name: str = "x", raw: bool = True, datatype: str | None = None) -> Any:
    kind = ("UINT8" if array.dtype == np.uint8 else "FP32") if datatype is None else datatype
    asked = messages.ModelInferRequest()
    tensor = asked.inputs.add(name=name, datatype=kind, shape=array.shape)
    if raw:
        asked.raw_input_contents.append(array.tobytes())
    else:
        contents = tensor.contents.uint_contents if kind == "UINT8" else tensor.contents.fp32_contents
        contents.extend(array.ravel().tolist())
    return asked


@pytest.mark.parametrize("raw", [True, False])
@given(
    array=hnp.arrays(
        np.float32,
        st.integers(1, LIMIT).map(lambda n: (n, 5)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_numbers_arrive_as_they_were_sent(raw: bool, array: np.ndarray) -> None:
    got = read_input(request(array, raw=raw), PLAIN, LIMIT)
    assert (got.dtype, got.shape) == (np.float32, array.shape)
    assert np.array_equal(got, array)


@pytest.mark.parametrize("raw", [True, False])
@given(pixels=hnp.arrays(np.uint8, (2, 2, 4, 3)))
def test_pixels_are_scaled_shifted_and_channels_go_first(raw: bool, pixels: np.ndarray) -> None:
    got = read_input(request(pixels, IMAGE, raw), SPEC, LIMIT)
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.25, 2.0])
    expected = ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2)
    assert (got.dtype, got.shape) == (np.float32, (2, 3, 2, 4))
    assert np.allclose(got, expected, atol=1e-5)


def test_only_a_model_with_preprocessing_takes_images() -> None:
    assert image_shape(SPEC) == (2, 4, 3)
    assert image_shape(PLAIN) is None
    with pytest.raises(InvalidInput, match=r"no input is called 'image'; there is 'x'$"):
        read_input(request(np.zeros((1, 5), np.uint8), IMAGE), PLAIN, LIMIT)
    with pytest.raises(InvalidInput, match="does not take images"):
        preprocess(np.zeros((1, 5), np.uint8), PLAIN)


ONE = np.zeros((1, 5), np.float32)


def changed(change: Callable[[Any], object], array: np.ndarray = ONE, raw: bool = True) -> Any:
    asked = request(array, raw=raw)
    change(asked)
    return asked


def shaped(*shape: int) -> Any:
    def change(asked: Any) -> None:
        del asked.inputs[0].shape[:]
        asked.inputs[0].shape.extend(shape)

    return changed(change)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (messages.ModelInferRequest(), "exactly one input"),
        (changed(lambda r: r.inputs.add(name="x")), "exactly one input"),
        (request(ONE, "y"), "no input is called 'y'"),
        (request(ONE, ""), "no input is called ''"),
        (request(ONE, datatype="FP64"), "must be FP32, got 'FP64'"),
        (request(ONE, datatype="BYTES"), "must be FP32, got 'BYTES'"),
        (request(ONE, datatype=""), "must be FP32, got ''"),
        (shaped(), "must have shape"),
        (shaped(1), "must have shape"),
        (shaped(1, 6), "must have shape"),
        (shaped(5, 1), "must have shape"),
        (shaped(1, 5, 1), "must have shape"),
        (shaped(1, -5), "must have shape"),
        (shaped(0, 5), "empty"),
        (shaped(-1, 5), "empty"),
        (shaped(-(2**63), 5), "empty"),
        (shaped(2, 5), "20 bytes, its shape needs 40"),
        (changed(lambda r: r.raw_input_contents.append(b"")), "2 elements for 1 input"),
        (changed(lambda r: r.raw_input_contents.__setitem__(0, b"\0" * 19)), "19 bytes"),
        (changed(lambda r: r.raw_input_contents.__setitem__(0, b"")), "0 bytes"),
        (changed(lambda r: r.inputs[0].contents.fp32_contents.extend([0.0] * 5)), "not both"),
        (changed(lambda r: r.ClearField("raw_input_contents")), "no data"),
        (changed(lambda r: r.inputs[0].contents.fp32_contents.append(0.0), raw=False), "6 values"),
        (changed(lambda r: r.inputs[0].contents.ClearField("fp32_contents"), raw=False), "no data"),
        (request(np.array([[0, 0, np.nan, 0, 0]], np.float32)), "not finite"),
        (request(np.array([[0, 0, np.inf, 0, 0]], np.float32), raw=False), "not finite"),
        (request(np.array([[0, 0, 0, 0, -np.inf]], np.float32)), "not finite"),
    ],
)
def test_what_is_not_the_input_is_refused(asked: Any, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        read_input(asked, PLAIN, LIMIT)


@pytest.mark.parametrize("samples", [LIMIT + 1, 2**40, 2**62])
def test_a_batch_over_the_limit_is_refused_by_its_number(samples: int) -> None:
    with pytest.raises(TooLarge, match=f"{samples} samples, this tier takes {LIMIT}"):
        read_input(shaped(samples, 5), PLAIN, LIMIT)


@pytest.mark.parametrize("value", [256, 2**32 - 1])
def test_a_typed_pixel_above_255_is_refused(value: int) -> None:
    asked = request(np.zeros((1, 2, 4, 3), np.uint8), IMAGE, raw=False)
    asked.inputs[0].contents.uint_contents[3] = value
    with pytest.raises(InvalidInput, match="above 255"):
        read_input(asked, SPEC, LIMIT)


def test_a_name_of_any_length_is_quoted_in_part() -> None:
    with pytest.raises(InvalidInput) as refused:
        read_input(request(ONE, "n" * 100_000), PLAIN, LIMIT)
    assert len(str(refused.value)) < 200


def test_contents_without_any_content_are_no_contents() -> None:
    """MLServer's client sets the field beside its raw bytes, and leaves it empty."""
    asked = changed(lambda r: r.inputs[0].contents.SetInParent())
    assert np.array_equal(read_input(asked, PLAIN, LIMIT), ONE)


def test_more_typed_values_than_can_be_read_in_passing_are_too_large() -> None:
    wide = InputSpec(name="x", shape=((1 << 20) + 1,))
    zeros = np.zeros((1, *wide.shape), np.float32)
    assert read_input(request(zeros), wide, 1).shape == zeros.shape
    with pytest.raises(TooLarge, match="give raw_input_contents"):
        read_input(request(zeros, raw=False), wide, 1)
