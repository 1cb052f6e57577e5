"""What a caller has at hand, made into what a model takes: arrays, images, files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from device_agent.pixels import plain
from services.errors import InvalidInput
from services.open_inference.tensors import IMAGE

Sample = npt.NDArray[Any] | Image.Image | Path | str
"""An array, an image that is open, or a file: .png, .jpg, .npy."""

_IMAGES = (".png", ".jpg", ".jpeg")
_MAX_PIXELS = 50_000_000
_MAX_ARRAY_BYTES = 64 << 20
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    EOFError,
    OverflowError,
    MemoryError,
    TokenError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What decoders raise for files that are not what they say."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the server says of its model: its input, and how an image must be shaped, if it takes images."""

    name: str
    version: str
    input_name: str
    input_shape: tuple[int, ...]
    image_shape: tuple[int, ...] | None


Tensor = tuple[npt.NDArray[Any], str]
"""Samples, uint8 [N, H, W, C] or float32 [N, …], and the name of the input they fit."""


def tensor_of(sample: Sample, info: ModelInfo) -> Tensor:
    """The samples in an array, an image or a file, shaped for the model. Raises InvalidInput saying what is wrong."""
    if isinstance(sample, Image.Image):
        return _pixels(sample, info, "image"), IMAGE
    if isinstance(sample, np.ndarray):
        return _fitted(sample, info, "array")
    if isinstance(sample, str | Path):
        return read(Path(sample), info)
    raise TypeError(f"give a numpy array, an open PIL image, or the path of a .png, .jpg or .npy; got {_kind(sample)}")


def _kind(sample: Any) -> str:
    return "None" if sample is None else f"a {type(sample).__name__}"


def read(file: Path, info: ModelInfo) -> Tensor:
    """The samples in `file`. Raises InvalidInput for a file that cannot be read or does not fit the model."""
    if file.suffix.lower() in _IMAGES:
        return _opened(file, info), IMAGE
    if file.suffix.lower() == ".npy":
        return _fitted(_array(file), info, str(file))
    raise InvalidInput(f"{file}: give .png, .jpg or .npy")


def _opened(file: Path, info: ModelInfo) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as image:
            return _pixels(image, info, str(file))
    except InvalidInput:
        raise
    except _UNREADABLE as error:
        raise InvalidInput(f"{file}: {getattr(error, 'strerror', None) or 'not an image that can be read'}") from None


def _pixels(image: Image.Image, info: ModelInfo, name: str) -> npt.NDArray[np.uint8]:
    if info.image_shape is None:
        raise InvalidInput(f"{name}: model {info.name!r} does not take images; give a .npy of its input")
    if image.width * image.height > _MAX_PIXELS:
        raise InvalidInput(f"{name}: more than {_MAX_PIXELS:,} pixels")
    height, width, channels = info.image_shape
    fitted = plain(image, channels).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(fitted, np.uint8).reshape(1, height, width, channels)


def _array(file: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.lib.format.open_memmap(file, mode="r")  # only .npy, nothing read yet
    except _UNREADABLE as error:
        raise InvalidInput(f"{file}: {getattr(error, 'strerror', None) or 'not a .npy array of numbers'}") from None
    if array.dtype.kind not in "buif" or array.nbytes > _MAX_ARRAY_BYTES:
        raise InvalidInput(f"{file}: not a .npy array of real numbers below {_MAX_ARRAY_BYTES:,} bytes")
    return array


def _fitted(array: npt.NDArray[Any], info: ModelInfo, name: str) -> Tensor:
    if array.dtype.kind not in "buif":
        raise InvalidInput(f"{name}: not an array of real numbers")
    if array.dtype == np.uint8 and info.image_shape is not None:
        fits, tensor = info.image_shape, IMAGE
        if fits[2] == 1 and array.shape[-2:] == fits[:2] and array.ndim in (2, 3):
            array = array.reshape(-1, *fits)
    else:
        fits, tensor = info.input_shape, info.input_name
        with np.errstate(over="ignore"):  # what is infinite then is refused by the tier
            array = array.astype(np.float32)
    array = array[None] if array.shape == fits else array
    if array.shape[1:] != fits:
        raise InvalidInput(
            f"{name}: shape {list(array.shape)} does not fit {tensor!r}, [N, {', '.join(map(str, fits))}]"
        )
    return array, tensor
