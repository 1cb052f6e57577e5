"""Images to measure with: a user's photos fitted to a network's input, or synthetic ones made from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from services.bundle import InputSpec
from services.domain import FloatArray
from services.errors import InvalidInput
from services.images import preprocess

Pixels = npt.NDArray[np.uint8]

_FORMATS = ("PNG", "JPEG", "WEBP")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)
_MOST = 8
_FALL = 1.25
_LUMINANCE = 0.85
"""How much of a pixel's variation its channels share: colours of a scene differ less than its light."""


def synthetic(count: int, height: int, width: int, channels: int, seed: int = 0) -> Pixels:
    """uint8 [count, height, width, channels]: noise whose amplitude falls with frequency, as that of scenes does.

    Amplitudes of scenes fall as f to the power of 0.8 to 1.5 (Tolhurst, Tadmor and Chao, Amplitude spectra of
    natural images, Ophthalmic and Physiological Optics 12, 1992).
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    fall = np.hypot(rows, columns) ** _FALL
    fall[0, 0] = np.inf

    def fields(number: int) -> npt.NDArray[np.float64]:
        spectrum = np.fft.rfft2(rng.normal(size=(number, height, width))) / fall
        maps = np.fft.irfft2(spectrum, s=(height, width))
        return np.asarray(maps / maps.std(axis=(1, 2), keepdims=True))

    shared, own = fields(count)[..., None], fields(count * channels).reshape(count, channels, height, width)
    mixed = _LUMINANCE * shared + np.sqrt(1 - _LUMINANCE**2) * own.transpose(0, 2, 3, 1)
    return np.asarray((255 * (0.45 + 0.3 * mixed)).clip(0, 255), np.uint8)


def varied(count: int, height: int, width: int, channels: int, seed: int = 0) -> Pixels:
    """Synthetic images, the last one noise without any structure: the widest range a network should be settled on."""
    images = synthetic(count, height, width, channels, seed)
    images[-1] = np.random.default_rng(seed).integers(0, 256, images[-1].shape)
    return images


def photos(path: Path, height: int, width: int, channels: int) -> Pixels:
    """The image at `path`, or the first few in that directory, cropped to the middle and scaled: uint8 [N, H, W, C].

    Raises InvalidInput where there is none, or one cannot be read.
    """
    files = files_in(path, _MOST) if path.is_dir() else [path]
    return np.concatenate([_photo(file, height, width, channels) for file in files])


def files_in(folder: Path, most: int) -> list[Path]:
    """The first image files of a directory, by name. Raises InvalidInput where there is none."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)[:most]
    if not files:
        raise InvalidInput(f"{folder}: no images here; give a directory of {', '.join(_SUFFIXES)} files")
    return files


def _photo(file: Path, height: int, width: int, channels: int) -> Pixels:
    fitted = ImageOps.fit(opened(file, "L" if channels == 1 else "RGB"), (width, height))
    return np.asarray(fitted, np.uint8).reshape(1, height, width, channels)


def opened(file: Path, mode: str) -> Image.Image:
    """The image in `file`, in Pillow's `mode`. Raises InvalidInput for what is none, or too large."""
    try:
        with Image.open(file, formats=_FORMATS) as image:
            return image.convert(mode)
    except _UNREADABLE as error:
        raise InvalidInput(f"{file}: not an image: {str(error)[:100] or type(error).__name__}") from None


def inputs(spec: InputSpec, images: Path | None, count: int = 4) -> tuple[FloatArray, str]:
    """float32 [N, *shape] to measure a network with, and a sentence saying what they are.

    Photos of `images` where the network takes images; without, synthetic images, or noise where it takes none.
    """
    takes_images = len(spec.shape) == 3 and spec.shape[0] in (1, 3)
    if not takes_images:
        if images is not None:
            raise InvalidInput(f"an input of shape {list(spec.shape)} takes no images; leave --images out")
        noise = np.random.default_rng(0).normal(size=(count, *spec.shape))
        return noise.astype(np.float32), f"{count} samples of seeded noise"
    channels, height, width = spec.shape
    if images is None:
        pixels, what = synthetic(count, height, width, channels), f"{count} synthetic images (give --images for photos)"
    else:
        pixels = photos(images, height, width, channels)
        what = f"{len(pixels)} {'photo' if len(pixels) == 1 else 'photos'} of {images}"
    if spec.preprocessing is not None:
        return preprocess(pixels, spec), what
    unit = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
    return unit, f"{what}, as numbers in 0..1 (give --mean and --std for what the network was trained on)"
