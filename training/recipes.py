"""How each data set is learnt: network, augmentation and schedule."""

from __future__ import annotations

from dataclasses import dataclass

from training.augment import Augmentation
from training.models import NetworkConfig
from training.residual import ResidualConfig


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that, with the data and a seed, decides the weights."""

    network: NetworkConfig | ResidualConfig
    augmentation: Augmentation
    epochs: int
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    exit_weights: tuple[float, float, float] = (0.5, 0.7, 1.0)
    label_smoothing: float = 0.0
    patience: int = 10


RECIPES = {
    "digits": Recipe(
        NetworkConfig(
            device=(1, 2),
            device_sends=1,
            device_head=2,
            edge=(12, 16),
            edge_sends=3,
            edge_head=8,
            cloud=(48, 48),
        ),
        Augmentation(degrees=10, scale=0.1, shear=0.1, shift=2),
        epochs=60,
        batch_size=32,
        exit_weights=(0.2, 0.5, 1.0),
        patience=20,
    ),
    "mnist": Recipe(
        NetworkConfig(device=(12, 24), device_sends=10, edge=(64, 64), edge_sends=28),
        Augmentation(degrees=12, scale=0.12, shear=0.2, shift=2),
        epochs=20,
        exit_weights=(0.3, 0.5, 1.0),
    ),
    "fashion-mnist": Recipe(
        NetworkConfig(device=(16, 32), device_sends=14, edge=(64, 64), edge_sends=36, dropout=0.3),
        Augmentation(scale=0.05, shift=1.5, flip=0.5, erase=0.1),
        epochs=22,
        weight_decay=0.03,
        exit_weights=(0.3, 0.5, 1.0),
    ),
    "cifar10": Recipe(
        ResidualConfig(),
        Augmentation(flip=0.5, crop=3),
        epochs=16,
        weight_decay=0.05,
        exit_weights=(0.2, 0.3, 1.0),
    ),
}
