"""Random views of training images: affine warps, mirror images and erased patches, drawn from one generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Half-widths of the uniform draws: degrees, relative scale, shear, shift in pixels; then probabilities.

    `crop`: the most whole pixels that an image is moved by, with its border mirrored into the gap.
    """

    degrees: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    flip: float = 0.0
    erase: float = 0.0
    erased_pixels: tuple[int, int] = (4, 12)
    crop: int = 0


def augment(images: Tensor, how: Augmentation, generator: Generator) -> Tensor:
    """A random view of each image: float32 [N, C, H, W] in 0..1 to the same shape and range."""
    views = _mirror(images, how.flip, generator) if how.flip else images
    if how.degrees or how.scale or how.shear or how.shift:
        views = _warp(views, how, generator)
    if how.crop:
        views = _crop(views, how.crop, generator)
    return _erase(views, how, generator) if how.erase else views


def _mirror(images: Tensor, probability: float, generator: Generator) -> Tensor:
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < probability
    return torch.where(chosen, images.flip(3), images)


def _crop(images: Tensor, most: int, generator: Generator) -> Tensor:
    """Moves each image by whole pixels, which blurs nothing."""
    count, _, height, width = images.shape
    padded = functional.pad(images, (most,) * 4, mode="reflect")
    top, left = torch.randint(0, 2 * most + 1, (2, count, 1, 1, 1), generator=generator)
    rows, columns = top + torch.arange(height)[:, None], left + torch.arange(width)
    samples, channels = torch.arange(count)[:, None, None, None], torch.arange(images.shape[1])[:, None, None]
    return padded[samples, channels, rows, columns]


def _warp(images: Tensor, how: Augmentation, generator: Generator) -> Tensor:
    count, side = len(images), images.shape[-1]

    def draw(half_width: float) -> Tensor:
        return (2 * torch.rand(count, generator=generator) - 1) * half_width

    angle, shear = draw(math.radians(how.degrees)), draw(how.shear)
    across = 1 + draw(how.scale)
    down = across * (1 + draw(how.scale / 2))
    shift_x, shift_y = draw(2 * how.shift / side), draw(2 * how.shift / side)
    rows = (
        torch.stack((angle.cos() * across, shear - angle.sin() * across, shift_x), 1),
        torch.stack((angle.sin() * down, angle.cos() * down, shift_y), 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _erase(images: Tensor, how: Augmentation, generator: Generator) -> Tensor:
    """Blackens a random rectangle of some images (Zhong et al., Random Erasing, AAAI 2020)."""
    count = len(images)
    low, high = how.erased_pixels

    def span(length: int) -> Tensor:
        size = torch.randint(low, high + 1, (count, 1), generator=generator)
        start = (torch.rand(count, 1, generator=generator) * (length - size + 1)).long()
        places = torch.arange(length)
        return (places >= start) & (places < start + size)

    patch = span(images.shape[2])[:, None, :, None] & span(images.shape[3])[:, None, None, :]
    chosen = torch.rand(count, 1, 1, 1, generator=generator) < how.erase
    return images.masked_fill(patch & chosen, 0.0)
