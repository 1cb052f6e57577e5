"""The three-part network of early exit of inference.

A small device part, a larger edge part and a largest cloud part, each ending in a classifier: distributed deep
neural networks (Teerapittayanon, McDanel and Kung, ICDCS 2017, section III) with the branches of BranchyNet
(the same authors, ICPR 2016). What leaves a part has fewer elements than what entered it.

Classifiers are convolutions, never matrix products over the batch: a runtime computes a convolution sample by
sample, so that the logits of a sample do not depend on the batch it travels in.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from services.exits import names

PARTS = ("device", "edge", "cloud")
EXITS = names(len(PARTS))
"""What the exits after the parts are called: not as tiers, since a plan may run any part anywhere."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Widths of the three parts; `*_sends` are the channels of the activation that leaves a part."""

    side: ClassVar[int] = 28

    classes: int = 10
    channels: int = 1
    device: tuple[int, int] = (8, 16)
    device_sends: int = 8
    device_head: int = 32
    edge: tuple[int, ...] = (48, 48)
    edge_sends: int = 20
    edge_head: int = 64
    cloud: tuple[int, ...] = (128, 128, 128)
    dropout: float = 0.2

    def build(self) -> ThreePartNetwork:
        return ThreePartNetwork(self)


class ThreeParts(nn.Module):
    """Three parts in a row, each with an exit after it; `side` is the height and the width of an image."""

    device: nn.Module
    edge: nn.Module
    cloud: nn.Module
    device_exit: nn.Module
    edge_exit: nn.Module
    cloud_exit: nn.Module

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.channels, self.side, self.classes = channels, side, classes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float32 [N, channels, side, side], normalised, to three float32 [N, classes] logits."""
        sent_by_device = self.device(images)
        sent_by_edge = self.edge(sent_by_device)
        in_cloud = self.cloud(sent_by_edge)
        return self.device_exit(sent_by_device), self.edge_exit(sent_by_edge), self.cloud_exit(in_cloud)


def _step(entering: int, leaving: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(entering, leaving, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(leaving), nn.ReLU(inplace=True))


def _classifier(entering: int, size: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """A convolution over the whole map: float32 [N, entering, size, size] to logits [N, classes]."""
    return nn.Sequential(nn.Dropout(dropout), nn.Conv2d(entering, classes, size), nn.Flatten())


def _device_part(config: NetworkConfig) -> nn.Sequential:
    first, second = config.device
    return nn.Sequential(
        _step(config.channels, first),
        nn.MaxPool2d(2),
        _step(first, second),
        nn.MaxPool2d(2),
        _step(second, config.device_sends),
    )


def _edge_part(config: NetworkConfig) -> nn.Sequential:
    widths = (config.device_sends, *config.edge)
    steps = [_step(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(*steps, _step(widths[-1], config.edge_sends, stride=2))


def _cloud_part(config: NetworkConfig) -> nn.Sequential:
    return nn.Sequential(*[_step(a, b) for a, b in pairwise((config.edge_sends, *config.cloud))])


class ThreePartNetwork(ThreeParts):
    """28x28 images to the logits of three exits: device sends 7x7 maps, edge sends 4x4 maps."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config.channels, config.side, config.classes)
        self.device = _device_part(config)
        self.edge = _edge_part(config)
        self.cloud = _cloud_part(config)
        self.device_exit = nn.Sequential(
            _step(config.device_sends, config.device_head, padding=0),
            _classifier(config.device_head, 5, config.classes),
        )
        self.edge_exit = nn.Sequential(
            _step(config.edge_sends, config.edge_head, padding=0),
            _classifier(config.edge_head, 2, config.classes),
        )
        self.cloud_exit = _classifier(config.cloud[-1], 4, config.classes, config.dropout)


@dataclass(frozen=True, slots=True)
class PartSize:
    """What one part costs: its weights, multiply-accumulates per sample, and the elements that leave it."""

    name: str
    parameters: int
    multiply_accumulates: int
    elements_out: int


@torch.no_grad()
def part_sizes(network: ThreeParts) -> tuple[PartSize, ...]:
    """Sizes of the three parts, each with its exit."""
    found = []
    tensor = torch.zeros(1, network.channels, network.side, network.side)
    for name in PARTS:
        body, head = getattr(network, name), getattr(network, f"{name}_exit")
        parameters = sum(p.numel() for p in (*body.parameters(), *head.parameters()))
        entered, tensor = tensor, body(tensor)
        work = _multiply_accumulates(body, entered) + _multiply_accumulates(head, tensor)
        leaving = network.classes if name == PARTS[-1] else tensor.numel()
        found.append(PartSize(name, parameters, work, leaving))
    return tuple(found)


def _multiply_accumulates(module: nn.Module, tensor: Tensor) -> int:
    counts: list[int] = []

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        counts.append(layer.weight[0].numel() * output[0].numel())

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    module(tensor)
    for hook in hooks:
        hook.remove()
    return sum(counts)
