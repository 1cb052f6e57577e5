"""A network of the families as an ONNX graph with random weights, for everything that needs no accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch
from torch import nn

from services.domain import FloatArray
from training.families.network import build, settle, with_exits
from training.graphs import exported


def untrained(
    name: str, images: FloatArray, after: Sequence[int] = (), classes: int | None = None, seed: int = 0
) -> onnx.ModelProto:
    """The graph of the network called `name`, with exits after the blocks `after` and weights from `seed`.

    images: float32 [N, 3, size, size], preprocessed: what its batch normalisation is set to. Raises InvalidInput
    for a network or a block there is none of.
    """
    plain = build(name, classes)
    network: nn.Module = with_exits(plain, after) if after else plain
    settle(network, torch.from_numpy(images), seed)
    return exported(network, plain.architecture.input_shape, len(set(after)) + 1)
