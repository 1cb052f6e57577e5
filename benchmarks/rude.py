"""Clients that do not behave: they vanish in the middle of a call, or leave a stream half open and say nothing more."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from device_agent.client import AsyncClient, Wishes
from services.errors import OfframpError
from testbed.links import EmulatedLink, parse_address
from testbed.pacer import LinkShape
from testbed.traces import ConstantRate

MOST_HALF_OPEN = 32
_SHAPE = LinkShape(ConstantRate(2_500_000.0), 0.002)
_NEVER = Wishes(exit_threshold=2.0)
_VANISHES_WITHIN = 0.08


@dataclass(slots=True)
class _Visit:
    """One connection of one client, over a link of its own, which can be cut or torn."""

    link: EmulatedLink
    client: AsyncClient
    calls: list[asyncio.Task[None]] = field(default_factory=list)

    async def end(self) -> None:
        """Tears the link, which resets the connection, and lets go of the client."""
        await asyncio.to_thread(self.link.close)
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*self.calls, return_exceptions=True)
        await self.client.close()


class Rude:
    """Rude clients of the door at `target`, until `until`. `counts`: what they did."""

    def __init__(self, target: str, model: str, images: Sequence[npt.NDArray[np.uint8]], seed: int):
        self._target = parse_address(target)
        self._model = model
        self._images = images
        self._rng = random.Random(seed)
        self._half_open: deque[_Visit] = deque()
        self.counts: Counter[str] = Counter()

    async def run(self, until: asyncio.Event, every_seconds: float = 0.5) -> None:
        """One visit after the other; the oldest half-open stream is torn where there are `MOST_HALF_OPEN`."""
        try:
            while not until.is_set():
                await (self._vanish() if self._rng.random() < 0.5 else self._leave_half_open())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(until.wait(), every_seconds)
        finally:
            await asyncio.gather(*(visit.end() for visit in self._half_open))

    async def _vanish(self) -> None:
        visit = self._visit()
        for images in self._rng.sample(list(self._images), 2):
            visit.calls.append(asyncio.create_task(self._ask(visit.client, images)))
        await asyncio.sleep(self._rng.uniform(0, _VANISHES_WITHIN))
        await visit.end()
        self.counts["vanished"] += 1

    async def _leave_half_open(self) -> None:
        visit = self._visit()
        visit.calls.append(asyncio.create_task(self._stream(visit.client)))
        await asyncio.sleep(self._rng.uniform(0, _VANISHES_WITHIN))
        visit.link.cut()
        self._half_open.append(visit)
        self.counts["left_half_open"] += 1
        if len(self._half_open) > MOST_HALF_OPEN:
            await self._half_open.popleft().end()

    def _visit(self) -> _Visit:
        link = EmulatedLink(("127.0.0.1", 0), self._target, _SHAPE, _SHAPE)
        link.start()
        host, port = link.address
        return _Visit(link, AsyncClient(f"{host}:{port}"))

    async def _ask(self, client: AsyncClient, images: npt.NDArray[np.uint8]) -> None:
        with contextlib.suppress(OfframpError):
            await client.infer(self._model, images, exit_threshold=2.0)

    async def _stream(self, client: AsyncClient) -> None:
        single = next(images for images in self._images if len(images) == 1)
        with contextlib.suppress(OfframpError):
            async with aclosing(client.stream(single, self._model, 3600.0, _NEVER)) as answers:
                async for _ in answers:
                    pass
