"""One replica: whoever does not answer is checked on until it does. Nobody is called."""

from __future__ import annotations

import asyncio
from typing import Any

from services.breaker import Breaker, BreakerState
from services.replica import Replica
from tests.calls import until


class Healthy:
    """A connection to who is always found healthy, and tells of each check."""

    def __init__(self) -> None:
        self.checks = 0

    async def serves(self, seconds: float) -> bool:
        self.checks += 1
        return self.checks > 1


async def test_who_fails_again_in_the_moment_of_its_recovery_is_checked_on_again() -> None:
    connection: Any = Healthy()
    replica = Replica("r", connection, watched=False)
    again: list[BreakerState] = []

    def fail() -> None:
        replica.fell_silent()
        again.append(replica.breaker.state)

    class Recovers(Breaker):
        def healthy(self) -> None:
            Breaker.healthy(self)
            if not again:
                asyncio.get_running_loop().call_soon(fail)

    replica.breaker = Recovers()
    replica.fell_silent()

    async def open_again() -> bool:
        return again == [BreakerState.OPEN]

    async def usable() -> bool:
        return replica.usable

    await until(open_again)
    await until(usable)
    for task in list(replica._tasks.values()):
        task.cancel()
