"""How long messages may take to arrive, with one timer for all who wait: `asyncio.timeout` sets one for each."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, TypeVar

M = TypeVar("M")

_LATE = -math.inf


@dataclass(slots=True)
class Arrivals:
    """Messages on their way in, each of which may take `seconds`. For one event loop."""

    seconds: float
    _due: dict[asyncio.Task[Any], float] = field(default_factory=dict)
    _timer: asyncio.TimerHandle | None = None

    async def wait(self, message: Awaitable[M]) -> M:
        """What `message` brings. Raises TimeoutError where it takes too long; to be awaited in a task."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._due[task] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._look)
        try:
            return await message
        except asyncio.CancelledError:
            if self._due[task] == _LATE and not task.uncancel():  # nobody else wants it to end, too
                raise TimeoutError from None
            raise
        finally:
            del self._due[task]

    def _look(self) -> None:
        """Ends the waiting of those whose time is up. All may take as long, so whoever came first is due first."""
        loop, self._timer = asyncio.get_running_loop(), None
        now = loop.time()
        for task, due in self._due.items():
            if due > now:
                self._timer = loop.call_at(due, self._look)
                return
            if due != _LATE:
                self._due[task] = _LATE
                task.cancel()
