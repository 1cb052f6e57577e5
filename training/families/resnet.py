"""Residual networks for 32x32 images (He et al., CVPR 2016, section 4.2): 6n + 2 layers, shortcuts without weights."""

from __future__ import annotations

from collections.abc import Iterator

from training.families.architecture import CIFAR10, Architecture, Stage

_DEPTHS = (20, 32, 44, 56, 110)


def resnets() -> Iterator[Architecture]:
    for depth in _DEPTHS:
        n = (depth - 2) // 6
        stages = [Stage("basic", n, 3, s, 1, a, b) for a, b, s in ((16, 16, 1), (16, 32, 2), (32, 64, 2))]
        blocks = tuple(block for stage in stages for block in stage.blocks())
        yield Architecture(
            f"resnet{depth}", 32, 16, 1, blocks, top=0, activation="relu", classes=10, normalisation=CIFAR10
        )
