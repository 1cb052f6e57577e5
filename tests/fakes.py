"""Stand-ins of one method each: a clock, workers, a next tier."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from services.domain import LinkEstimate, Request, Tier
from services.journey import Forwarded
from services.response import Response
from services.tier import TierRuntime


@dataclass(slots=True)
class FakeClock:
    """Stands still at `now`, or moves on by `step` each time it is read."""

    now: float = 0.0
    step: float = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class InlineWorkers(Executor):
    """Runs each job where it is submitted."""

    def submit(self, job: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(job(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


@dataclass(slots=True)
class FakeNext:
    """A next tier that answers with `answer`, or raises it, and keeps what it was asked."""

    answer: Callable[[Request], Response] | Exception
    asked: list[tuple[Request, str]] = field(default_factory=list)

    async def infer(self, request: Request, codec: str) -> Forwarded:
        self.asked.append((request, codec))
        if isinstance(self.answer, Exception):
            raise self.answer
        return Forwarded(self.answer(request), encode_seconds=0.0, bytes_up=100, bytes_down=10, codec=codec)

    def link(self) -> LinkEstimate:
        return LinkEstimate(Tier.DEVICE)


@dataclass(slots=True)
class Above:
    """A next tier in this process: hands the request to another runtime, on its own clock."""

    runtime: TierRuntime
    clock: Callable[[], float]
    encode_seconds: float = 0.0

    async def infer(self, request: Request, codec: str) -> Forwarded:
        self.clock()
        response = self.runtime.report(await self.runtime.infer(request))
        return Forwarded(response, self.encode_seconds, bytes_up=100, bytes_down=10, codec=codec)

    def link(self) -> LinkEstimate:
        return LinkEstimate(self.runtime.tier)
