"""A network as a table: what enters and leaves each of its blocks, without a weight in sight."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["inverted", "fused", "basic"]
"""Inverted residual (MobileNetV2; with squeeze-excitation: EfficientNet), fused inverted residual (EfficientNetV2),
and the two-convolution block of ResNet."""

Shape = tuple[int, int, int]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
"""Mean and standard deviation per channel, of pixels in 0..1."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block: channels in and out, kernel, stride, expansion of the channels inside, squeezed channels (0: none)."""

    kind: Kind
    entering: int
    leaving: int
    kernel: int = 3
    stride: int = 1
    expansion: int = 1
    squeezed: int = 0


@dataclass(frozen=True, slots=True)
class Stage:
    """A row of a published table: `repeats` blocks, of which the first changes channels and takes the stride."""

    kind: Kind
    repeats: int
    kernel: int
    stride: int
    expansion: int
    entering: int
    leaving: int
    squeeze: float = 0.0

    def blocks(self) -> Iterator[Block]:
        for index in range(self.repeats):
            entering, stride = (self.entering, self.stride) if index == 0 else (self.leaving, 1)
            squeezed = max(1, int(entering * self.squeeze)) if self.squeeze else 0
            yield Block(self.kind, entering, self.leaving, self.kernel, stride, self.expansion, squeezed)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A whole network: 3-channel images of `size` x `size` to a stem, blocks, a last 1x1 convolution and classes.

    `top`: channels of the last convolution, 0 for none. `epsilon`: of its batch normalisation.
    """

    name: str
    size: int
    stem: int
    stem_stride: int
    blocks: tuple[Block, ...]
    top: int
    activation: Literal["silu", "relu6", "relu"]
    dropout: float = 0.0
    epsilon: float = 1e-5
    classes: int = 1000
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET

    @property
    def input_shape(self) -> Shape:
        return 3, self.size, self.size

    @property
    def features(self) -> int:
        """Channels that enter the classifier."""
        return self.top or self.blocks[-1].leaving

    def block_shapes(self) -> tuple[Shape, ...]:
        """[channels, height, width] at the output of each block. A stride of 2 halves, rounding up."""
        size, found = math.ceil(self.size / self.stem_stride), []
        for block in self.blocks:
            size = math.ceil(size / block.stride)
            found.append((block.leaving, size, size))
        return tuple(found)
