"""What a manifest says that is worth a series: the size of an input, and what the calibration promises."""

from __future__ import annotations

import math
from collections.abc import Iterator

from services.bundle import Manifest
from services.exits import expected_rate
from services.images import image_shape

_FP32_BYTES = 4


def input_forms(manifest: Manifest) -> Iterator[tuple[str, float]]:
    """(form, bytes of one sample): the tensor, its pixels where it is an image, and codecs where they were measured."""
    yield "fp32", _FP32_BYTES * math.prod(manifest.input.shape)
    if (pixels := image_shape(manifest.input)) is not None:
        yield "pixels", math.prod(pixels)
    for found in manifest.codec_accuracy:
        if found.split_point == 0 and found.bytes_per_sample is not None and found.codec not in ("fp32", "pixels"):
            yield found.codec, found.bytes_per_sample


def calibrated_shares(manifest: Manifest) -> Iterator[tuple[str, float]]:
    """(exit, share of all samples that should leave there), by the exits' curves; none without a calibration."""
    stay = 1.0 if manifest.calibration is not None else 0.0
    for spec in manifest.exits if stay else ():
        curve = ((point.threshold, point.exit_rate) for point in spec.curve)
        rate = 1.0 if spec.split_point == manifest.last else expected_rate(spec.threshold, curve)
        yield spec.name, stay * rate
        stay *= 1 - rate
