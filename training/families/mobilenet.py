"""MobileNetV2 (Sandler et al., CVPR 2018, table 2)."""

from __future__ import annotations

from collections.abc import Iterator

from training.families.architecture import Architecture, Stage

# expansion, channels in, channels out, repeats, stride
_TABLE = (
    (1, 32, 16, 1, 1),
    (6, 16, 24, 2, 2),
    (6, 24, 32, 3, 2),
    (6, 32, 64, 4, 2),
    (6, 64, 96, 3, 1),
    (6, 96, 160, 3, 2),
    (6, 160, 320, 1, 1),
)


def mobilenets() -> Iterator[Architecture]:
    stages = [Stage("inverted", n, 3, s, t, entering, leaving) for t, entering, leaving, n, s in _TABLE]
    blocks = tuple(block for stage in stages for block in stage.blocks())
    yield Architecture("mobilenetv2", 224, 32, 2, blocks, top=1280, activation="relu6", dropout=0.2)
