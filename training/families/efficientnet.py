"""EfficientNet V1 (Tan and Le, ICML 2019, table 1) and V2 (ICML 2021, table 4), scaled as their authors' code does.

V2 B0 to B3 scale the V2 base network by the coefficients of V1; S, M and L have tables of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from training.families.architecture import Architecture, Stage

_DIVISOR = 8
_SQUEEZE = 0.25
_EPSILON = 1e-3

# repeats, kernel, stride, expansion, channels in, channels out
_V1 = tuple(
    Stage("inverted", *row, _SQUEEZE)
    for row in (
        (1, 3, 1, 1, 32, 16),
        (2, 3, 2, 6, 16, 24),
        (2, 5, 2, 6, 24, 40),
        (3, 3, 2, 6, 40, 80),
        (3, 5, 1, 6, 80, 112),
        (4, 5, 2, 6, 112, 192),
        (1, 3, 1, 6, 192, 320),
    )
)
# width, depth, input, dropout
_V1_SCALES = {
    "efficientnet-b0": (1.0, 1.0, 224, 0.2),
    "efficientnet-b1": (1.0, 1.1, 240, 0.2),
    "efficientnet-b2": (1.1, 1.2, 260, 0.3),
    "efficientnet-b3": (1.2, 1.4, 300, 0.3),
    "efficientnet-b4": (1.4, 1.8, 380, 0.4),
    "efficientnet-b5": (1.6, 2.2, 456, 0.4),
    "efficientnet-b6": (1.8, 2.6, 528, 0.5),
    "efficientnet-b7": (2.0, 3.1, 600, 0.5),
}


def _v2(*rows: tuple[int, int, int, int, int], fused: int = 3) -> tuple[Stage, ...]:
    """Rows of (repeats, stride, expansion, in, out), kernel 3; the first `fused` of them without squeezing."""
    return tuple(
        Stage("fused", r, 3, s, e, i, o) if index < fused else Stage("inverted", r, 3, s, e, i, o, _SQUEEZE)
        for index, (r, s, e, i, o) in enumerate(rows)
    )


_V2_BASE = _v2((1, 1, 1, 32, 16), (2, 2, 4, 16, 32), (2, 2, 4, 32, 48), (3, 2, 4, 48, 96), (5, 1, 6, 96, 112),
               (8, 2, 6, 112, 192))  # fmt: skip
_V2_S = _v2((2, 1, 1, 24, 24), (4, 2, 4, 24, 48), (4, 2, 4, 48, 64), (6, 2, 4, 64, 128), (9, 1, 6, 128, 160),
            (15, 2, 6, 160, 256))  # fmt: skip
_V2_M = _v2((3, 1, 1, 24, 24), (5, 2, 4, 24, 48), (5, 2, 4, 48, 80), (7, 2, 4, 80, 160), (14, 1, 6, 160, 176),
            (18, 2, 6, 176, 304), (5, 1, 6, 304, 512))  # fmt: skip
_V2_L = _v2((4, 1, 1, 32, 32), (7, 2, 4, 32, 64), (7, 2, 4, 64, 96), (10, 2, 4, 96, 192), (19, 1, 6, 192, 224),
            (25, 2, 6, 224, 384), (7, 1, 6, 384, 640))  # fmt: skip
# table, width, depth, input, dropout
_V2_SCALES = {
    "efficientnetv2-b0": (_V2_BASE, 1.0, 1.0, 224, 0.2),
    "efficientnetv2-b1": (_V2_BASE, 1.0, 1.1, 240, 0.2),
    "efficientnetv2-b2": (_V2_BASE, 1.1, 1.2, 260, 0.3),
    "efficientnetv2-b3": (_V2_BASE, 1.2, 1.4, 300, 0.3),
    "efficientnetv2-s": (_V2_S, 1.0, 1.0, 384, 0.2),
    "efficientnetv2-m": (_V2_M, 1.0, 1.0, 480, 0.3),
    "efficientnetv2-l": (_V2_L, 1.0, 1.0, 480, 0.4),
}


def efficientnets() -> Iterator[Architecture]:
    """All of V1, then all of V2, small to large."""
    for name, (width, depth, size, dropout) in _V1_SCALES.items():
        yield _scaled(name, _V1, width, depth, size, dropout, floor=0.9)
    for name, (table, width, depth, size, dropout) in _V2_SCALES.items():
        yield _scaled(name, table, width, depth, size, dropout, floor=0.0)


def rounded(channels: float, floor: float) -> int:
    """The nearest multiple of 8, or the one above it where that would be below `floor` of `channels`."""
    found = max(_DIVISOR, int(channels + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return found + _DIVISOR if found < floor * channels else found


def _scaled(
    name: str, table: tuple[Stage, ...], width: float, depth: float, size: int, dropout: float, floor: float
) -> Architecture:
    """V1 never rounds channels down by more than a tenth (floor 0.9); V2 rounds to the nearest (floor 0)."""
    stages = [
        replace(
            stage,
            repeats=math.ceil(stage.repeats * depth),
            entering=rounded(stage.entering * width, floor),
            leaving=rounded(stage.leaving * width, floor),
        )
        for stage in table
    ]
    return Architecture(
        name,
        size,
        stem=stages[0].entering,
        stem_stride=2,
        blocks=tuple(block for stage in stages for block in stage.blocks()),
        top=rounded(1280 * width, floor),
        activation="silu",
        dropout=dropout,
        epsilon=_EPSILON,
    )
