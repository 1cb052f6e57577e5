"""Requests through the public door, one sample each, a bounded number in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from device_agent.client import AsyncClient, Prediction
from services.errors import OfframpError


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended: its sample, the true label, the time the caller waited, and the answer or the error.

    `at`: seconds since the load began, when the request was sent.
    """

    sample: int
    truth: int
    seconds: float
    prediction: Prediction | None = None
    error: str = ""
    at: float = 0.0

    @property
    def right(self) -> bool:
        return self.prediction is not None and self.prediction.label == self.truth


async def submit(
    client: AsyncClient,
    model: str,
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    seed: int,
    in_flight: int = 1,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Sends every one of `images`, uint8 [N, H, W, C], once, in an order drawn from `seed`.

    A closed loop: the next request leaves when one of `in_flight` came back. Errors become outcomes.
    """
    outcomes: list[Outcome] = []
    began = time.perf_counter()
    order = iter(np.random.default_rng(seed).permutation(len(images)).tolist())

    async def caller(samples: Iterator[int]) -> None:
        for sample in samples:
            at = time.perf_counter() - began
            outcome = await _one(client, model, images[sample : sample + 1], sample, int(labels[sample]))
            outcome = replace(outcome, at=at)
            outcomes.append(outcome)
            on_outcome(outcome)

    await asyncio.gather(*(caller(order) for _ in range(in_flight)))
    return outcomes


async def _one(client: AsyncClient, model: str, image: npt.NDArray[np.uint8], sample: int, truth: int) -> Outcome:
    started = time.perf_counter()
    try:
        answers = await client.infer(model, image, request_id=f"sample-{sample}", trace=True)
    except OfframpError as error:
        return Outcome(sample, truth, time.perf_counter() - started, error=f"{error.reason}: {error}")
    return Outcome(sample, truth, time.perf_counter() - started, answers[0])
