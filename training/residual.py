"""A three-part residual network for images of 32x32 pixels.

Residual blocks (He, Zhang, Ren and Sun, Deep Residual Learning, CVPR 2016, section 4.2) in stages that are wide inside
and narrow where they join: a join is the place to split, since one small tensor crosses it. While training, what
crosses is disturbed as quantisation will disturb it, so that few bits are enough when it is sent.

Classifiers are pooling and convolutions, as in `training.models`, for the same reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from training.models import ThreeParts


@dataclass(frozen=True, slots=True)
class Stage:
    """A convolution to `width` channels, then residual blocks at that width.

    A join has no activation function, so that few channels carry much (Sandler et al., MobileNetV2, CVPR 2018).
    """

    width: int
    blocks: int = 0
    stride: int = 1
    join: bool = False


@dataclass(frozen=True, slots=True)
class ResidualConfig:
    """The stages of the three parts; the last one of device and of edge is what they send.

    `*_head`: widths of an early exit's two convolutions. `sent_levels`: levels of the quantisation that joins are
    trained to endure; 0: none.
    """

    side: ClassVar[int] = 32

    classes: int = 10
    channels: int = 3
    device: tuple[Stage, ...] = (Stage(32), Stage(64, 1, 2), Stage(20, 0, 2, join=True))
    device_head: tuple[int, int] = (64, 96)
    edge: tuple[Stage, ...] = (Stage(128, 1), Stage(16, join=True))
    edge_head: tuple[int, int] = (64, 128)
    cloud: tuple[Stage, ...] = (Stage(128, 1),)
    dropout: float = 0.0
    sent_levels: int = 15

    def build(self) -> ResidualNetwork:
        return ResidualNetwork(self)


class Disturbance(nn.Module):
    """Uniform noise of one quantisation step, over the range of each sample; nothing in evaluation mode."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, sent: Tensor) -> Tensor:
        """float32 [N, C, H, W] to the same shape."""
        if not self.training or not self.levels:
            return sent
        flat = sent.detach().flatten(1)
        step = ((flat.amax(1) - flat.amin(1)) / self.levels)[:, None, None, None]
        return sent + (torch.rand_like(sent) - 0.5) * step


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut: float32 [N, width, H, W] to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.path = nn.Sequential(*_step(width, width), *list(_step(width, width))[:2])

    def forward(self, entered: Tensor) -> Tensor:
        return torch.relu(entered + self.path(entered))


class ResidualNetwork(ThreeParts):
    """32x32 images to the logits of three exits."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__(config.channels, config.side, config.classes)
        self.device = _part(config.channels, config.device, config.sent_levels)
        self.edge = _part(config.device[-1].width, config.edge, config.sent_levels)
        self.cloud = _part(config.edge[-1].width, config.cloud, 0)
        self.device_exit = _early_exit(config.device[-1].width, config.device_head, config.classes)
        self.edge_exit = _early_exit(config.edge[-1].width, config.edge_head, config.classes)
        self.cloud_exit = _classifier(config.cloud[-1].width, config.classes, config.dropout)


def _step(entering: int, leaving: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(entering, leaving, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(leaving), nn.ReLU(inplace=True))


def _stage(entering: int, stage: Stage, sent_levels: int) -> nn.Sequential:
    step = list(_step(entering, stage.width, stage.stride))
    if stage.join:
        return nn.Sequential(*step[:2], Disturbance(sent_levels))
    return nn.Sequential(*step, *(ResidualBlock(stage.width) for _ in range(stage.blocks)))


def _part(entering: int, stages: tuple[Stage, ...], sent_levels: int) -> nn.Sequential:
    widths = pairwise((entering, *(stage.width for stage in stages)))
    return nn.Sequential(*(_stage(before, s, sent_levels) for (before, _), s in zip(widths, stages, strict=True)))


def _early_exit(entering: int, widths: tuple[int, int], classes: int) -> nn.Sequential:
    first, second = widths
    return nn.Sequential(_step(entering, first), _step(first, second, stride=2), _classifier(second, classes))


def _classifier(entering: int, classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Mean over the map, then a convolution: float32 [N, entering, H, W] to logits [N, classes]."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Dropout(dropout), nn.Conv2d(entering, classes, 1), nn.Flatten())
