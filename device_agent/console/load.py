"""A bounded trickle of sample requests, so that a demonstration has something to show. Testbed only."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import Any

from device_agent.console.journey import Asks
from services.domain import FloatArray
from services.errors import InvalidInput, OfframpError

MAX_PER_SECOND, MAX_SECONDS = 100.0, 300.0
_MAX_IN_FLIGHT = 16


@dataclass(slots=True)
class _Running:
    per_second: float
    ends_at: float
    task: asyncio.Task[None]


class SampleLoad:
    """Sends samples, float32 [N, …], one by one and again, at an even pace. One load at a time."""

    def __init__(self, asks: Asks):
        self._asks = asks
        self._running: _Running | None = None

    def start(self, samples: FloatArray, per_second: float, seconds: float) -> None:
        """Replaces the load that runs. Raises InvalidInput for more than 100 a second, or longer than 300 s."""
        if not (0 < per_second <= MAX_PER_SECOND and 0 < seconds <= MAX_SECONDS):
            raise InvalidInput(f"at most {MAX_PER_SECOND:g} requests a second, for at most {MAX_SECONDS:g} seconds")
        self.stop()
        task = asyncio.create_task(self._send(samples, per_second, seconds), name="sample load")
        self._running = _Running(per_second, time.monotonic() + seconds, task)

    def stop(self) -> None:
        if self._running is not None:
            self._running.task.cancel()
            self._running = None

    async def close(self) -> None:
        task = self._running.task if self._running else None
        self.stop()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    def as_json(self) -> dict[str, Any] | None:
        """The load that runs: its pace and the seconds it goes on; None where none does."""
        running = self._running
        if running is None or running.task.done():
            return None
        return {"per_second": running.per_second, "seconds_left": max(running.ends_at - time.monotonic(), 0.0)}

    async def _send(self, samples: FloatArray, per_second: float, seconds: float) -> None:
        began, waiting = time.monotonic(), set[asyncio.Task[None]]()
        try:
            for number in itertools.count():
                at = number / per_second
                if at >= seconds:
                    break
                await asyncio.sleep(max(began + at - time.monotonic(), 0.0))
                if len(waiting) < _MAX_IN_FLIGHT:  # else this one is left out: a demonstration must not pile up
                    row = number % len(samples)
                    one = asyncio.create_task(self._one(samples[row : row + 1], f"sample-{number}"))
                    waiting.add(one)
                    one.add_done_callback(waiting.discard)
        finally:
            for one in waiting:
                one.cancel()

    async def _one(self, sample: FloatArray, request_id: str) -> None:
        try:
            await self._asks.ask(sample, request_id)
        except OfframpError:
            return  # it was counted where it was refused
