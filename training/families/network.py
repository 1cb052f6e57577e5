"""A published architecture as a torch network, and exits after any of its blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from services.errors import InvalidInput
from training.families import architecture
from training.families.architecture import Architecture
from training.families.layers import convolution, last_norms, layer_of

_BRANCH_GAIN = 0.9


class BlockNetwork(nn.Module):
    """Stem, blocks, classifier: float32 [N, 3, size, size], normalised, to float32 [N, classes] logits."""

    def __init__(self, found: Architecture, classes: int | None = None) -> None:
        super().__init__()
        self.architecture, self.classes = found, classes or found.classes
        self.stem = convolution(3, found.stem, found, 3, found.stem_stride)
        self.blocks = nn.ModuleList(layer_of(block, found) for block in found.blocks)
        last = found.blocks[-1].leaving
        self.top = convolution(last, found.top, found) if found.top else nn.Sequential()
        self.classifier = classifier(found.features, self.classes, found.dropout)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.stem(images)
        for block in self.blocks:
            maps = block(maps)
        logits: Tensor = self.classifier(self.top(maps))
        return logits


class ExitNetwork(nn.Module):
    """A network with a classifier after each of the blocks `after`, numbered from 1: a tuple of logits, final last."""

    def __init__(self, network: BlockNetwork, after: tuple[int, ...]) -> None:
        super().__init__()
        self.after = after
        self.stem, self.blocks = network.stem, network.blocks
        self.top, self.classifier = network.top, network.classifier
        widths = [network.architecture.blocks[number - 1].leaving for number in after]
        self.exits = nn.ModuleList(classifier(width, network.classes) for width in widths)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps, logits = self.stem(images), list[Tensor]()
        for number, block in enumerate(self.blocks, 1):
            maps = block(maps)
            if number in self.after:
                logits.append(self.exits[len(logits)](maps))
        return *logits, self.classifier(self.top(maps))


def classifier(channels: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Mean over the map, then a 1x1 convolution, which computes sample by sample: [N, C, H, W] to [N, classes]."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Dropout(dropout), nn.Conv2d(channels, classes, 1), nn.Flatten())


def build(name: str, classes: int | None = None) -> BlockNetwork:
    """The network called `name`, with torch's own random weights. Raises InvalidInput for a name there is none of."""
    return BlockNetwork(architecture(name), classes)


def with_exits(network: BlockNetwork, after: Sequence[int]) -> ExitNetwork:
    """`network` with a classifier after each of the blocks `after`, numbered from 1.

    Raises InvalidInput for a block there is none of; after the last one stands the network's own classifier.
    """
    last = len(network.blocks) - 1
    if wrong := [number for number in after if not 1 <= number <= last]:
        raise InvalidInput(f"no exit can follow block {wrong[0]} of {network.architecture.name}; it has 1 to {last}")
    return ExitNetwork(network, tuple(sorted(set(after))))


@torch.no_grad()
def settle(network: nn.Module, images: Tensor, seed: int = 0) -> None:
    """Draws weights from `seed` and sets every batch normalisation to what it sees of `images`, then to evaluation.

    Without this, a deep network of random weights amplifies what goes through it until its answers are noise. With it,
    it still does so with what varies more than `images`: so they should vary much, and every branch beside a shortcut
    is turned down a little, lest many in a row make the smallest error loud.
    """
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
            layer.momentum = 1.0
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            layer.weight.normal_(0.0, (2.0 / fan_in) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
    network.train()
    network(images)
    network.eval()
    for norm in last_norms(network):
        norm.weight.fill_(_BRANCH_GAIN)
