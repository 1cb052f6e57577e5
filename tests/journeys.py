"""Requests and runtimes for tests of the request path: a small real network, and fakes of one method around it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import numpy as np

from services.domain import Deadline, FloatArray, Plan, Request, Segment, Stage, Tier
from services.model import Model
from services.response import Predictions, Response, Trace
from services.tier import NextTier, TierRuntime
from tests.fakes import Above, FakeClock, InlineWorkers
from tests.networks import CLASSES, SHAPE

NEVER = (2.0, 2.0, 0.0)
ALWAYS = (0.0, 0.0, 0.0)
D, E, C = Tier
_TURNS = 10
"""Of the event loop, in which whoever can go on does."""


def plan(first: int = 2, second: int = 4, last: int = 8) -> Plan:
    return Plan(
        (
            Stage(Tier.DEVICE, Segment(0, first)),
            Stage(Tier.EDGE, Segment(first, second), "int8"),
            Stage(Tier.CLOUD, Segment(second, last), "fp16"),
        )
    )


def stages(*parts: tuple[Tier, int, int]) -> Plan:
    return Plan(tuple(Stage(tier, Segment(start, end)) for tier, start, end in parts))


def samples(count: int = 24, seed: int = 3) -> FloatArray:
    return np.random.default_rng(seed).uniform(-2, 2, (count, *SHAPE)).astype(np.float32)


def request(
    model: Model, clock: FakeClock, tensor: FloatArray | None = None, seconds: float = 1e6, **changes: object
) -> Request:
    tensor = samples() if tensor is None else tensor
    made = Request("r", model.manifest.model_hash, plan(), 0, tensor, Deadline.after(seconds, clock))
    return replace(made, **changes)


def runtime(
    model: Model,
    clock: FakeClock,
    next_tier: NextTier | None = None,
    tier: Tier = Tier.DEVICE,
    holds: Segment | None = None,
) -> TierRuntime:
    return TierRuntime(tier, model, InlineWorkers(), next_tier, holds, clock)


def three(model: Model, clock: FakeClock) -> TierRuntime:
    cloud = runtime(model, clock, tier=Tier.CLOUD)
    edge = runtime(model, clock, Above(cloud, clock), Tier.EDGE)
    return runtime(model, clock, Above(edge, clock))


class Busy(InlineWorkers):
    """Workers that take a job only after `seconds`, and are back `after` seconds when it is done."""

    def __init__(self, clock: FakeClock, seconds: float, after: float = 0.0):
        self._clock, self._seconds, self._after = clock, seconds, after

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._clock.now += self._seconds
        done = super().submit(job, *args, **kwargs)
        self._clock.now += self._after
        return done


class OneByOne(Executor):
    """One worker, which runs a job only when nothing else can go on."""

    def __init__(self) -> None:
        self._jobs = list[Callable[[], object]]()

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._jobs.append(job)
        return Future()

    async def work_for(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Until all `tasks` are done."""
        together = asyncio.gather(*tasks)
        while not together.done():
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            if self._jobs:
                self._jobs.pop(0)()
        await together


def answers(count: int, exit_index: int = 2, tier: Tier = Tier.EDGE) -> Predictions:
    """Answers whose label tells the row they were given for."""
    given = Predictions.empty(count, CLASSES)
    given.scores[np.arange(count), np.arange(count) % CLASSES] = 1
    given.confidences[:] = np.arange(count) / 100
    given.exits[:], given.tiers[:] = exit_index, tier
    return given


def answering(request: Request) -> Response:
    return Response(answers(len(request.activation)), Trace())
