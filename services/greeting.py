"""What was prepared on the tier above is prepared anew by a replica that restarted, was away, or is new."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Protocol

from services.connection import Silence
from services.domain import Clock, Deadline, Plan, Stage
from services.errors import OfframpError, QueueFull

GREET_SECONDS = 2.0
"""A replica that is back may be kept waiting for requests so long, at most; they would wait for its builds, too."""

_MAX_PLANS = 16
_AT_ONCE = 4
_Key = tuple[str, tuple[Stage, ...]]


class Asked(Protocol):
    """What is needed here of the connection to a replica."""

    async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None: ...


class Prepared:
    """The plans that were last prepared above."""

    def __init__(self, clock: Clock = time.monotonic):
        self._clock = clock
        self._plans: OrderedDict[_Key, Plan] = OrderedDict()

    def note(self, model_hash: str, plan: Plan) -> None:
        """`plan` has been prepared; the one that was not for longest is forgotten, where there are many."""
        key = model_hash, plan.stages
        self._plans[key] = plan
        self._plans.move_to_end(key)
        if len(self._plans) > _MAX_PLANS:
            self._plans.popitem(last=False)

    async def greet(self, replica: Asked) -> None:
        """Has `replica` prepare them, the newest first, as far as it can in a while. What is there costs it nothing.

        What is prepared elsewhere meanwhile comes last.
        """
        until, turns, begun = Deadline.after(GREET_SECONDS, self._clock), asyncio.Semaphore(_AT_ONCE), set[_Key]()
        while new := {key: plan for key, plan in reversed(self._plans.items()) if key not in begun}:
            begun.update(new)
            await asyncio.gather(*(_prepare(replica, key[0], plan, until, turns) for key, plan in new.items()))


async def _prepare(replica: Asked, model_hash: str, plan: Plan, until: Deadline, turns: asyncio.Semaphore) -> None:
    """Asks again where others have asked for too much at once."""
    async with turns:
        while (left := until.remaining()) > 0:
            with suppress(OfframpError, Silence):
                try:
                    return await replica.prepare(model_hash, plan, left)
                except QueueFull as error:
                    if error.retry_seconds is not None:
                        await asyncio.sleep(min(error.retry_seconds, left))
                        continue
            return None
