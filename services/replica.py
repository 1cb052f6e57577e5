"""One replica of the tier above: the connection there, whether it is trusted, and whether it says that it serves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from services import log
from services.breaker import Breaker, BreakerState
from services.connection import Call, Connection, Silence, Unsent
from services.domain import Clock
from services.errors import DeadlineExceeded, OfframpError, UpstreamUnavailable
from services.framing import Framed

SENSIBLE_SECONDS, SENSIBLE_TIMES = 0.15, 1.5
"""A call given less than this, or than so many times what its plan expects, may have failed for want of time alone."""
CHECK_SECONDS = 1.0
_WATCH_AGAIN_SECONDS = 0.2

Greet = Callable[[Connection], Awaitable[None]]


async def _nothing(connection: Connection) -> None:
    """There is nothing to say."""


def sensible(timeout_seconds: float, expected_seconds: float | None) -> bool:
    """Whether a call was given time enough for its end to tell something of who was called."""
    return timeout_seconds >= max(SENSIBLE_SECONDS, SENSIBLE_TIMES * (expected_seconds or 0.0))


class Replica:
    """Asks one target as long as it answers; checks its health in the background while it does not.

    watched: whether to have it say when it serves and when it leaves, which is worth a stream where there are others.
    greet: what it is told when it serves, before it is asked.
    """

    def __init__(
        self,
        name: str,
        connection: Connection,
        watched: bool,
        clock: Clock = time.monotonic,
        greet: Greet = _nothing,
    ):
        self.name = name
        self.connection = connection
        self.breaker = Breaker(clock)
        self.serving = False
        self._greet = greet
        self._heard = asyncio.Event()
        self._closed = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        if watched:
            self._go_on("watch", self._watch())

    @property
    def usable(self) -> bool:
        """Whether it is asked at all, be it one request at a time."""
        return self.breaker.state is not BreakerState.OPEN

    @property
    def state(self) -> int:
        """0: asked. 1: being tried. 2: left alone, or not reached."""
        return max(int(self.breaker.state), self.connection.state)

    async def infer(self, message: Framed, timeout_seconds: float, expected_seconds: float | None) -> Call:
        """As the connection's, after `breaker.allows`; how it ends decides whether it is asked again."""
        try:
            call = await self.connection.infer(message, timeout_seconds, expected_seconds)
        except Silence as silence:
            late = isinstance(silence.error, DeadlineExceeded) and sensible(timeout_seconds, expected_seconds)
            self.fell_silent(late or isinstance(silence.error, UpstreamUnavailable))
            raise
        except Unsent:
            self.breaker.unknown()
            raise DeadlineExceeded("no time left for the way to the next tier and back") from None
        except OfframpError:
            self.breaker.succeeded()  # it is there, and says what it thinks
            raise
        except BaseException:
            self.breaker.unknown()
            raise
        self.breaker.succeeded()
        return call

    def fell_silent(self, counts: bool = True) -> None:
        """A call got no answer. counts: whether that is the replica's doing, and not that of a deadline too near."""
        if not counts:
            self.breaker.unknown()
            return
        self.breaker.failed()
        if self.usable:
            self._go_on("suspect", self._suspect())
        else:
            self._go_on("recover", self._recover())

    def heard(self) -> None:
        """It answered something: its health is worth asking for at once. It may serve only later, and greeted first."""
        self._heard.set()
        if not self.usable:
            self._go_on("recover", self._recover())  # where an error nobody expected had ended that

    def doubted(self) -> None:
        """Another one was quicker, or it is not there. Whoever is hedged is never waited for to the end, and so would
        never fall silent."""
        if self.usable:
            self._go_on("suspect", self._suspect())

    async def close(self, after_seconds: float = 0.0) -> None:
        """Ends what runs in the background at once, and calls in flight after so many seconds."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await asyncio.sleep(after_seconds)
        finally:
            await self.connection.close()

    async def _suspect(self) -> None:
        """Who does not even answer a health check is left alone at once: the next request would wait in vain, too."""
        if not await self.connection.serves(CHECK_SECONDS):
            self.breaker.dead()
            self._go_on("recover", self._recover())

    async def _recover(self) -> None:
        """Asks for its health, less and less often, until it serves."""
        while not self.usable:
            self._heard.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.breaker.due_seconds):
                    await self._heard.wait()
            if await self.connection.serves(CHECK_SECONDS):
                await self._greet(self.connection)
                self.breaker.healthy()
            else:
                self.breaker.unhealthy()

    async def _watch(self) -> None:
        """Who breaks off does not serve, as far as anybody knows."""
        while True:
            async for serving in self.connection.watch():
                if serving:
                    await self._greet(self.connection)
                    self.breaker.healthy()
                self.serving = serving
            self.serving = False
            await asyncio.sleep(_WATCH_AGAIN_SECONDS)

    def _go_on(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """In the background, unless it is under way already or nobody will ask any more."""
        under_way = self._tasks.get(name)
        if self._closed or (under_way is not None and not under_way.done()):
            work.close()
            return
        task = self._tasks[name] = asyncio.create_task(work, name=name)
        task.add_done_callback(log.ended)
        task.add_done_callback(lambda ended: self._forget(name, ended))

    def _forget(self, name: str, ended: asyncio.Task[None]) -> None:
        if self._tasks.get(name) is ended:
            del self._tasks[name]
