"""Requests to the containers, and waiting for what comes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from device_agent.client import AsyncClient, Prediction
from tests.containers.conftest import Stack

AT_ONCE = 8


async def ask(stack: Stack, images: npt.NDArray[np.uint8]) -> list[Prediction]:
    """An answer for each image, in order; each is a request of its own."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with AsyncClient(stack.target) as client:

        async def one(image: npt.NDArray[np.uint8]) -> Prediction:
            async with gate:
                return (await client.infer("digits", image[None]))[0]

        return await asyncio.gather(*map(one, images))


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Asks again and again; each asking takes its time, so nothing sleeps in between."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"not so within {seconds} s"
