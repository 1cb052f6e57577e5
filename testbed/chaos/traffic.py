"""Mixed requests through the public door, a bounded number in flight, each recorded with how it ended."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from device_agent.client import AsyncClient, Prediction, Wishes
from services.bundle import Manifest
from services.domain import Clock, Tier
from services.errors import OfframpError
from services.fixed import default_splits
from testbed.chaos.history import Asked, Ending, Given, Record
from testbed.chaos.pool import Pool

LONG_SECONDS = 10.0
_SHORT_SECONDS = (1.0, 3.0)
_PAUSE_SECONDS = 0.1
_NEVER = 2.0
_STREAMS, _BATCHED, _SHORT, _LEAVING = 0.1, 0.2, 0.1, 0.01
_LEAVES_WITHIN = 0.05
_CANARY_SHARE = 0.25
"""Of the callers: they have no others wait while what they ask for cannot be had."""

OnEnd = Callable[[Record], None]


@dataclass(frozen=True, slots=True)
class Mix:
    """What requests are drawn from. leaving: the share of clients that hang up before their answer."""

    pool: Pool
    manifest: Manifest
    leaving: float = _LEAVING

    def draw(self, rng: random.Random, number: int, canary: bool) -> tuple[Asked, Wishes]:
        """A request and what it wishes for; a canary's can only be answered whole by the cloud."""
        stream, batched = rng.random() < _STREAMS, rng.random() < _BATCHED
        singles, count = self.pool.singles, len(self.pool.images)
        inputs = rng.randrange(singles, count) if batched and not stream and count > singles else rng.randrange(singles)
        short = not canary and rng.random() < _SHORT
        wishes = self._canary() if canary else self._wishes(rng)
        asked = Asked(
            f"chaos-{number}",
            inputs,
            len(self.pool.images[inputs]),
            rng.uniform(*_SHORT_SECONDS) if short else LONG_SECONDS,
            stream,
            canary,
            rng.uniform(0, _LEAVES_WITHIN) if rng.random() < self.leaving else None,
            ", ".join(f"{name} {value}" for name, value in _given(wishes).items() if value is not None),
        )
        return asked, wishes

    def _canary(self) -> Wishes:
        first, second = default_splits(self.manifest)
        return Wishes(exit_threshold=_NEVER, split=f"{first},{second}")

    def _wishes(self, rng: random.Random) -> Wishes:
        last = len(self.manifest.exits) - 1
        return rng.choice(
            (
                Wishes(),
                Wishes(),
                Wishes(),
                Wishes(exit_threshold=0.0),
                Wishes(exit_threshold=rng.choice((0.5, 0.9))),
                Wishes(exit_threshold=_NEVER),
                Wishes(max_exit=rng.randint(0, last)),
                Wishes(policy=rng.choice(("latency", "energy", "bytes"))),
                Wishes(privacy=True, priority=rng.randint(0, 2)),
                Wishes(trace=True),
            )
        )


@dataclass(slots=True)
class Traffic:
    """Requests drawn from `mix` by `seed`, sent by `clients` in turns; `began` is when the run did, on `clock`."""

    mix: Mix
    clients: list[AsyncClient]
    seed: int
    began: float
    on_end: OnEnd = lambda record: None
    clock: Clock = time.monotonic
    records: list[Record] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _known: dict[Given, Given] = field(default_factory=dict)

    async def run(self, callers: int, until: asyncio.Event) -> list[Record]:
        """Sends until `until`, at most `callers` in flight; every request has ended when it returns."""
        canaries = math.ceil(_CANARY_SHARE * callers)
        work = (self._caller(random.Random(f"{self.seed}/{at}"), at < canaries, until) for at in range(callers))
        await asyncio.gather(*work)
        return self.records

    async def _caller(self, rng: random.Random, canary: bool, until: asyncio.Event) -> None:
        while not until.is_set():
            number = next(self._numbers)
            asked, wishes = self.mix.draw(rng, number, canary)
            record = await self._ask(self.clients[number % len(self.clients)], asked, wishes)
            self.records.append(record)
            self.on_end(record)
            await asyncio.sleep(rng.expovariate(1 / _PAUSE_SECONDS))

    async def _ask(self, client: AsyncClient, asked: Asked, wishes: Wishes) -> Record:
        at, answers, error, ending = self._now(), list[list[Prediction]](), "", Ending.ANSWERED
        try:
            async with asyncio.timeout(asked.leaves_after), aclosing(self._answers(client, asked, wishes)) as given:
                async for predictions in given:
                    answers.append(predictions)
        except TimeoutError:
            ending = Ending.CANCELLED
        except OfframpError as failure:
            ending, error = Ending.FAILED, f"{failure.reason}: {failure}"
        last = answers[-1] if answers and ending is Ending.ANSWERED else []
        return Record(
            asked,
            at,
            self._now(),
            ending,
            tuple(self._given(asked, each) for each in answers),
            sum(each[0].final for each in answers),
            frozenset(each.request_id for each in itertools.chain(*answers)),
            next((each.degraded_reason for each in last if each.degraded), ""),
            sum(each.degraded and each.tier is Tier.DEVICE for each in last),
            error,
        )

    async def _answers(
        self, client: AsyncClient, asked: Asked, wishes: Wishes
    ) -> AsyncGenerator[list[Prediction], None]:
        images, model, seconds = self.mix.pool.images[asked.inputs], self.mix.manifest.name, asked.deadline_seconds
        if asked.stream:
            async with aclosing(client.stream(images, model, seconds, wishes, asked.id)) as stream:
                async for early in stream:
                    yield [early]
        else:
            yield await client.infer(model, images, request_id=asked.id, timeout_seconds=seconds, **_given(wishes))

    def _given(self, asked: Asked, answers: list[Prediction]) -> Given:
        """The answer as a value; equal ones are one object, so that a long run fits into memory."""
        given = Given(
            asked.inputs,
            answers[0].plan,
            tuple(each.exit_index for each in answers),
            tuple(int(each.tier) for each in answers),
            np.stack([each.scores for each in answers]).tobytes(),
        )
        return self._known.setdefault(given, given)

    def _now(self) -> float:
        return self.clock() - self.began


def _given(wishes: Wishes) -> dict[str, Any]:
    return {each.name: getattr(wishes, each.name) for each in fields(wishes)}
