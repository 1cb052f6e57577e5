"""Pixels to the tensor a network takes, as its manifest says."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from services.bundle import InputSpec, Preprocessing
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
        could = len(spec.shape) == 3 and spec.shape[0] in (1, 3)
        raise InvalidInput("this model does not take images" + ("; adopt it with --mean and --std" if could else ""))
    if pixels.shape[1:] != image_shape(spec):
        raise InvalidInput(f"images are {list(pixels.shape[1:])}, the model takes {list(image_shape(spec) or ())}")
    return normalise(pixels, spec.preprocessing)


def normalise(pixels: npt.NDArray[Any], preprocessing: Preprocessing) -> FloatArray:
    """uint8 [N, H, W, C] to float32 [N, C, H, W]: (pixel / 255 - mean) / std, per channel."""
    mean, std = _moments(preprocessing)
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def pixels_of(tensor: FloatArray, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Undoes `normalise`: float32 [N, C, H, W] to the nearest uint8 [N, H, W, C], ends clipped to 0..255."""
    mean, std = _moments(preprocessing)
    scaled = (tensor.transpose(0, 2, 3, 1) * std + mean) * np.float32(255)
    return np.asarray(np.rint(scaled).clip(0, 255), np.uint8)


def within_pixels(tensor: FloatArray, preprocessing: Preprocessing) -> bool:
    """Whether `pixels_of` would clip nothing of float32 [N, C, H, W] by more than half a level of 255."""
    mean, std = _moments(preprocessing)
    ends = np.stack((tensor.min(axis=(0, 2, 3)), tensor.max(axis=(0, 2, 3))))
    scaled = (ends * std + mean) * np.float32(255)
    return bool(((scaled >= -0.5) & (scaled <= 255.5)).all())  # what is not a number lies nowhere


def _moments(preprocessing: Preprocessing) -> tuple[FloatArray, FloatArray]:
    return np.asarray(preprocessing.mean, np.float32), np.asarray(preprocessing.std, np.float32)
