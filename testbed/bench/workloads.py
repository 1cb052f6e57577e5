"""What the policies are asked to run: a bundle, and the inputs that arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from services import bundle
from services.bundle import Bundle, Manifest
from services.domain import FloatArray
from services.errors import InvalidInput
from services.images import image_shape, preprocess
from testbed import samples, scenes
from training import datasets

DATA, PHOTOS = "--data", "--photos"
_SYNTHETIC = 8
_MOST = 64

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Workload:
    """A bundle and its inputs, uint8 [N, H, W, C]. `labels`: int64 [N], or None where truth is not known."""

    name: str
    bundle: Bundle
    images: Images
    labels: npt.NDArray[np.int64] | None

    def inputs(self) -> FloatArray:
        """All of them, prepared anew each time, as float32 [N, *input shape]."""
        return preprocess(self.images, self.bundle.manifest.input)

    @property
    def input_bytes(self) -> int:
        """What one takes as float32."""
        return 4 * self.bundle.manifest.split_points[0].elements


def source(manifest: Manifest) -> str | None:
    """The option that names the folder which its inputs come from; None: it brings its own."""
    if manifest.samples is not None:
        return None
    return DATA if manifest.name in datasets.NAMES else PHOTOS


def labelled(name: str, path: Path, data: Path | None, limit: int) -> Workload:
    """A bundle with labelled inputs: its own, or those of its data set in the directory `data`."""
    loaded = bundle.load(path)
    split = samples.held_out(loaded, data, limit)
    images = split.images if split.images.ndim == 4 else split.images[..., None]
    return Workload(name, loaded, images, split.labels)


def unlabelled(name: str, path: Path, photos: Path | None, seed: int = 0) -> Workload:
    """A bundle with pictures of unknown truth: crops of the first photos in a directory, or smooth synthetic ones.

    Raises InvalidInput for a network that takes no such pictures, and for a directory without any.
    """
    loaded = bundle.load(path)
    shape = image_shape(loaded.manifest.input)
    if shape is None or shape[2] != 3:
        raise InvalidInput(f"{path}: only a network of colour images can be run on photos")
    pictures = smooth(shape, seed) if photos is None else _crops_in(photos, shape[:2])
    return Workload(name, loaded, pictures, None)


def _crops_in(folder: Path, size: tuple[int, int]) -> Images:
    return np.stack([crop for file in scenes.files_in(folder, _MOST) for crop in crops(file, size)])


def crops(file: Path, size: tuple[int, int]) -> Sequence[Images]:
    """Squares from both ends of a photo, at the network's size. Raises InvalidInput for what is no image."""
    photo = scenes.opened(file, "RGB")
    side = min(photo.size)
    ends = ((0, 0), (photo.width - side, photo.height - side))
    squares = [photo.crop((x, y, x + side, y + side)) for x, y in ends]
    return [np.asarray(square.resize((size[1], size[0]), Image.Resampling.BICUBIC)) for square in squares]


def smooth(shape: tuple[int, int, int], seed: int) -> Images:
    """Pictures with as much detail at every scale as photos roughly have: noise of all sizes, halving in height."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(_SYNTHETIC):
        total = np.zeros(shape)
        for octave in range(1, 7):
            noise = rng.normal(0, 60 / octave, (2**octave, 2**octave, 3))
            bands = [Image.fromarray(noise[..., c]).resize(shape[1::-1], Image.Resampling.BICUBIC) for c in range(3)]
            total += np.stack([np.asarray(band) for band in bands], axis=-1)
        found.append((128 + total).clip(0, 255).astype(np.uint8))
    return np.stack(found)
