"""What a bundle is told of how pixels become its input, where it is adopted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from services.bundle import InputSpec
from services.errors import InvalidInput
from services.images import preprocess
from testbed.adopt import adopt, preprocessing
from tests.networks import three_exit_graph
from tests.unit.test_adopt import dense, save


@pytest.mark.parametrize(
    ("mean", "std", "reason"),
    [
        ("0.5", None, "--mean and --std go together"),
        (None, "1", "--mean and --std go together"),
        ("0.5,a", "1,1", "--mean 'a': give finite numbers, one per channel"),
        ("", "1", "--mean '': give finite"),
        ("nan", "1", "--mean 'nan': give finite"),
        ("0", "0", "--std '0': give numbers of at least 1e-06, one per channel"),
        ("0", "-1", "--std '-1': give numbers of at least"),
        ("0,0", "1, inf", "--std 'inf': give numbers of at least"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused(mean: str | None, std: str | None, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        preprocessing(mean, std)


def test_preprocessing_is_refused_where_the_input_is_no_image(tmp_path: Path) -> None:
    flat = dense(
        [helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": np.ones((784, 2), np.float32)}, ["n", 784], ["n", 2]
    )
    with pytest.raises(InvalidInput, match=r"takes \[784\], which is no image \[channels, height, width\]"):
        adopt(save(flat, tmp_path), tmp_path / "b", preprocessing=preprocessing("0.5", "0.5"))


@pytest.mark.parametrize(
    ("shape", "hint"), [((3, 8, 8), "; adopt it with --mean and --std"), ((4, 8, 8), ""), ((784,), "")]
)
def test_images_for_a_network_that_takes_none_are_refused_with_what_would_help(
    shape: tuple[int, ...], hint: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        preprocess(np.zeros((1, 8, 8, 3), np.uint8), InputSpec(name="x", shape=shape))
    assert str(refused.value) == f"this model does not take images{hint}"


def test_preprocessing_must_fit_the_channels(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1 channels"):
        adopt(save(three_exit_graph(), tmp_path), tmp_path / "b", preprocessing=preprocessing("0,0", "1,1"))
