"""The blocks of the published families, in torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.families.architecture import Architecture, Block

_ACTIVATIONS: dict[str, type[nn.Module]] = {"silu": nn.SiLU, "relu6": nn.ReLU6, "relu": nn.ReLU}


def convolution(
    entering: int,
    leaving: int,
    network: Architecture,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    active: bool = True,
) -> nn.Sequential:
    """Convolution, batch normalisation and, where `active`, the network's activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(entering, leaving, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(leaving, eps=network.epsilon),
    ]
    return nn.Sequential(*layers, *([_ACTIVATIONS[network.activation]()] if active else []))


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in 0..1 made from the means of all (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, maps: Tensor) -> Tensor:
        gated: Tensor = maps * self.gate(maps)
        return gated


class Inverted(nn.Module):
    """Expand, convolve, project; added to what entered, where the shapes agree.

    Fused: one full convolution expands, or does everything where nothing expands. Else: 1x1, then depthwise.
    """

    def __init__(self, block: Block, network: Architecture) -> None:
        super().__init__()
        self.residual = block.stride == 1 and block.entering == block.leaving
        self.body = nn.Sequential(*(_fused if block.kind == "fused" else _depthwise)(block, network))

    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = self.body(maps)
        return maps + found if self.residual else found


def _fused(block: Block, network: Architecture) -> list[nn.Module]:
    if block.expansion == 1:
        return [convolution(block.entering, block.leaving, network, block.kernel, block.stride)]
    inside = block.entering * block.expansion
    return [
        convolution(block.entering, inside, network, block.kernel, block.stride),
        convolution(inside, block.leaving, network, active=False),
    ]


def _depthwise(block: Block, network: Architecture) -> list[nn.Module]:
    inside = block.entering * block.expansion
    expand = [convolution(block.entering, inside, network)] if block.expansion > 1 else []
    squeeze = [SqueezeExcitation(inside, block.squeezed)] if block.squeezed else []
    return [
        *expand,
        convolution(inside, inside, network, block.kernel, block.stride, groups=inside),
        *squeeze,
        convolution(inside, block.leaving, network, active=False),
    ]


class Basic(nn.Module):
    """Two 3x3 convolutions. The shortcut takes every second pixel and fills new channels with zeros (option A)."""

    def __init__(self, block: Block, network: Architecture) -> None:
        super().__init__()
        self.stride, self.missing = block.stride, block.leaving - block.entering
        self.body = nn.Sequential(
            convolution(block.entering, block.leaving, network, block.kernel, block.stride),
            convolution(block.leaving, block.leaving, network, block.kernel, active=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        short = functional.max_pool2d(maps, 1, self.stride) if self.stride > 1 else maps
        if self.missing:
            short = functional.pad(short, (0, 0, 0, 0, self.missing // 2, self.missing - self.missing // 2))
        return torch.relu(short + self.body(maps))


def layer_of(block: Block, network: Architecture) -> nn.Module:
    return Basic(block, network) if block.kind == "basic" else Inverted(block, network)


def last_norms(network: nn.Module) -> Iterator[nn.BatchNorm2d]:
    """The batch normalisation at the end of every branch that is added to a shortcut."""
    for block in network.modules():
        if isinstance(block, Basic) or (isinstance(block, Inverted) and block.residual):
            yield [layer for layer in block.body.modules() if isinstance(layer, nn.BatchNorm2d)][-1]
