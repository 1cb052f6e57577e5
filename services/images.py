"""Pixels to the tensor a network takes, as its manifest says."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from services.bundle import InputSpec
from services.domain import FloatArray
from services.errors import InvalidInput


def image_shape(spec: InputSpec) -> tuple[int, int, int] | None:
    """[height, width, channels] of a network that takes images, else None."""
    if spec.preprocessing is None:
        return None
    channels, height, width = spec.shape
    return height, width, channels


def preprocess(pixels: npt.NDArray[Any], spec: InputSpec) -> FloatArray:
    """uint8 [N, H, W, C] to float32 [N, C, H, W]: (pixel / 255 - mean) / std, per channel.

    Raises InvalidInput for a network that does not take images, or not of this shape.
    """
    if spec.preprocessing is None:
        raise InvalidInput("this model does not take images")
    if pixels.shape[1:] != image_shape(spec):
        raise InvalidInput(f"images are {list(pixels.shape[1:])}, the model takes {list(image_shape(spec) or ())}")
    mean = np.asarray(spec.preprocessing.mean, np.float32)
    std = np.asarray(spec.preprocessing.std, np.float32)
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
