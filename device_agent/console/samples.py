"""The samples that travel with a bundle: to look at, to take on a journey, and to make some load with."""

from __future__ import annotations

import asyncio

import numpy as np
import numpy.typing as npt

from device_agent.console import pictures
from device_agent.console.pictures import Pixels
from services import bundle, examples
from services.bundle import Bundle
from services.domain import FloatArray
from services.errors import InvalidInput

MAX_SAMPLES = 64

_Labelled = tuple[Pixels, npt.NDArray[np.int64]]


class Samples:
    """The first samples of a bundle, read when first asked for."""

    def __init__(self, loaded: Bundle):
        self._bundle = loaded
        self._labelled: _Labelled | None = None
        self._inputs: FloatArray | None = None

    async def pixels(self, number: int) -> tuple[Pixels, str]:
        """Sample `number`, uint8 [1, H, W, C], and what it is. Raises InvalidInput where there is none."""
        images, labels = await self._read()
        if not 0 <= number < len(images):
            raise InvalidInput(f"there are {len(images)} samples here, numbered from 0; not {number}")
        return images[number : number + 1], self._bundle.manifest.labels[int(labels[number])]

    async def png(self, number: int) -> bytes:
        """Sample `number` as a PNG file."""
        return pictures.png((await self.pixels(number))[0][0])

    async def inputs(self) -> FloatArray:
        """Samples as inputs [N, …]; drawn ones where the bundle has none."""
        if self._inputs is None:
            self._inputs = await asyncio.to_thread(examples.samples, self._bundle, MAX_SAMPLES)
        return self._inputs

    async def _read(self) -> _Labelled:
        if self._bundle.manifest.samples is None or self._bundle.manifest.input.preprocessing is None:
            raise InvalidInput("this bundle carries no samples; drop a picture instead")
        if self._labelled is None:
            images, labels = await asyncio.to_thread(bundle.load_samples, self._bundle)
            with_channels = images if images.ndim == 4 else images[..., None]
            self._labelled = with_channels[:MAX_SAMPLES], labels[:MAX_SAMPLES]
        return self._labelled
