"""Inputs to measure with: the samples that travel with a bundle, or else drawn ones."""

from __future__ import annotations

import numpy as np

from services import bundle, images
from services.bundle import Bundle, Manifest
from services.domain import FloatArray
from services.errors import BundleError, InvalidInput

_SHAPES = 9  # along each side of a drawn image


def samples(loaded: Bundle, count: int) -> FloatArray:
    """Up to `count` of the bundle's own samples as inputs [N, …]; drawn ones where it has none that can be used."""
    manifest = loaded.manifest
    if manifest.samples is None or manifest.input.preprocessing is None:
        return inputs(manifest, count)
    try:
        pixels = bundle.load_samples(loaded)[0][:count]
        return images.preprocess(pixels if pixels.ndim == 4 else pixels[..., None], manifest.input)
    except (BundleError, InvalidInput):
        return inputs(manifest, count)


def inputs(manifest: Manifest, count: int) -> FloatArray:
    """`count` inputs [N, …] drawn from a fixed seed: soft shapes with some grain, or normal numbers for no images."""
    rng = np.random.default_rng(0)
    shape = images.image_shape(manifest.input)
    if shape is None:
        return rng.standard_normal((count, *manifest.input.shape), np.float32)
    from PIL import Image  # only here: a tier that knows its machine starts without

    height, width, channels = shape
    coarse = rng.integers(0, 256, (count, channels, _SHAPES, _SHAPES), np.uint8)
    planes = [[Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC) for plane in c] for c in coarse]
    grained = np.array([[np.asarray(plane) for plane in each] for each in planes]) + rng.normal(0, 5, (height, width))
    return images.preprocess(grained.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1), manifest.input)
