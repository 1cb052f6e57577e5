"""How much of an input an activation gives away: a decoder trained to undo the network up to a split point.

The attack is the plain inversion of He et al., "Model Inversion Attacks Against Collaborative Inference" (ACSAC
2019), black-box setting: whoever sees activations may ask the device about images of the same kind, and learns to
draw the image from the activation. It bounds from below what can be seen, never from above.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from services.codec import Codec
from services.domain import FloatArray

STEPS = 300
BATCH = 32
WIDTH = 24
_WINDOW = 7


@dataclass(frozen=True, slots=True)
class Attack:
    """What came out: images as drawn, float32 [N, H, W, C] in 0 to 1, and how like the originals they are.

    `ssim`: mean structural similarity (Wang et al., 2004), 1 the same image. `blind`: that of the mean image, which
    needs no activation at all.
    """

    drawn: FloatArray
    ssim: float
    blind: float


def attack(
    known: FloatArray,
    known_images: FloatArray,
    seen: FloatArray,
    seen_images: FloatArray,
    codec: Codec,
    seed: int,
    on_step: Callable[[], None] = lambda: None,
    steps: int = STEPS,
) -> Attack:
    """Trains on `known` activations [N, …] of `known_images` [N, H, W, C] in 0 to 1; draws `seen_images` from `seen`.

    Both cross `codec`, as on the wire: the attacker is the far end, or listens to an unencrypted hop.
    """
    torch.manual_seed(seed)
    carried, scale = _planes(codec.decode(codec.encode(known)))
    drawer = Drawer(carried.shape[1:], known_images.shape[1:])
    _train(drawer, carried, torch.from_numpy(known_images).permute(0, 3, 1, 2).contiguous(), seed, on_step, steps)
    with torch.no_grad():
        attacked, _ = _planes(codec.decode(codec.encode(seen)), scale)
        found = drawer.eval()(attacked)
    drawn = found.permute(0, 2, 3, 1).contiguous().numpy()
    mean = np.broadcast_to(known_images.mean(axis=0), seen_images.shape)
    return Attack(drawn, ssim(seen_images, drawn), ssim(seen_images, mean))


def ssim(originals: FloatArray, drawn: FloatArray) -> float:
    """Mean structural similarity of images [N, H, W, C] in 0 to 1, window 7."""
    values = [
        float(structural_similarity(one, other, win_size=_WINDOW, data_range=1.0, channel_axis=-1))  # type: ignore[no-untyped-call]
        for one, other in zip(originals, drawn, strict=True)
    ]
    return float(np.mean(values))


class Drawer(nn.Module):
    """Activation to image: as many planes as come in, mixed, brought to the image's size, and mixed again."""

    def __init__(self, shape: torch.Size, image: tuple[int, ...]):
        super().__init__()
        height, width, channels = image
        self.enlarge = nn.Sequential(
            nn.Conv2d(shape[0], WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Upsample((height, width), mode="bilinear", align_corners=False),
        )
        if shape[1:] == (1, 1):  # nothing is left of where it was: every pixel sees everything
            self.enlarge = nn.Sequential(
                nn.Flatten(),
                nn.Linear(shape[0], WIDTH * height * width),
                nn.ReLU(),
                nn.Unflatten(1, (WIDTH, height, width)),
            )
        self.draw = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(WIDTH, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, activation: Tensor) -> Tensor:
        drawn: Tensor = self.draw(self.enlarge(activation))
        return drawn


def _planes(activation: FloatArray, scale: float | None = None) -> tuple[Tensor, float]:
    """float32 [N, C, H, W] over `scale`, which is their own greatest value where none is given, and that scale.

    What has no height and width becomes [N, C, 1, 1].
    """
    spread = activation if activation.ndim == 4 else activation.reshape(len(activation), -1, 1, 1)
    scale = scale or float(np.abs(spread).max()) or 1.0
    return torch.from_numpy(np.ascontiguousarray(spread / np.float32(scale))), scale


def _train(
    drawer: Drawer, activations: Tensor, images: Tensor, seed: int, on_step: Callable[[], None], steps: int
) -> None:
    chooser = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(drawer.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,), generator=chooser)
        loss = nn.functional.mse_loss(drawer(activations[rows]), images[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        on_step()
