"""Who is told how each request ended: the log, the metrics, the console. Telling never delays its answer."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from services import log, trace_context
from services.bundle import Manifest
from services.domain import Plan, Tier
from services.response import Predictions, Response
from services.trace_context import Begin

TOGETHER_SECONDS = 0.01
MOST_TOGETHER = 64
"""Telling holds up the event loop, and what waits for it holds memory."""


class Finished(NamedTuple):
    """A request that this tier answered, with the plan it travelled by and the trace it came in.

    at: when that was, in nanoseconds since 1970; observers hear of it later.
    members: the ids of the requests that travelled as this one, each with as many of its samples; empty: one did.
    """

    request_id: str
    tier: Tier
    manifest: Manifest
    plan: Plan
    response: Response
    at: int
    traceparent: str = ""
    members: tuple[str, ...] = ()

    @property
    def requests(self) -> int:
        """How many requests it was."""
        return len(self.members) or 1

    def each(self) -> Iterator[tuple[str, Predictions]]:
        """The id and the answers of each of them."""
        answers = self.response.predictions
        if not self.members:
            yield self.request_id, answers
        samples = len(answers) // self.requests
        for start, name in zip(range(0, len(answers), samples), self.members, strict=False):
            yield name, answers.part(slice(start, start + samples))


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that ended with an error; `reason` is one of `services.errors`.

    model, version: as the request named it, by name or by hash, which may be neither of one that is served; empty: it
    did not.
    """

    request_id: str
    reason: str
    message: str
    model: str = ""
    version: str = ""


class Observer(Protocol):
    """Somebody who wants to know."""

    def answered(self, finished: Finished) -> None: ...

    def refused(self, refused: Refused) -> None: ...


Told = Callable[[Sequence[Finished]], None]
"""Hears of requests that ended at about the same time; an observer's `answered_together`, where it has one."""


class LogLines:
    """One line for each request."""

    def answered(self, finished: Finished) -> None:
        self.answered_together((finished,))

    def answered_together(self, finished: Sequence[Finished]) -> None:
        log.answered_together(
            (name, each.tier, answers, each.response.trace) for each in finished for name, answers in each.each()
        )

    def refused(self, refused: Refused) -> None:
        log.refused(refused.request_id, refused.reason, refused.message)


class Observers:
    """Tells each, in their order, once the answer has left: of all requests at once that ended meanwhile.

    A request is told of when the event loop is next free; one that ends soon after others were told of waits for more,
    up to TOGETHER_SECONDS, since telling of many takes little longer than telling of one. Who is asked for what was
    told, `tell`s before.
    begin: makes the trace context of a request whose caller sent none; nothing, unless somebody records spans.
    """

    def __init__(self, observers: Iterable[Observer] = (LogLines(),), begin: Begin = trace_context.nothing):
        self._observers: list[Observer] = []
        self._told: list[Told] = []
        self._counting: list[Callable[[str], None]] = []
        self._ended: list[Finished] = []
        self._next = -math.inf
        self.begin = begin
        for observer in observers:
            self.add(observer)

    def traceparent(self, metadata: trace_context.Metadata) -> str:
        """Where a call from outside belongs: in the trace that its metadata names, else in one of its own."""
        return trace_context.given(metadata) or self.begin()

    def add(self, observer: Observer) -> None:
        """Tells `observer` too, of what ends from now on."""
        self.tell()
        self._observers.append(observer)
        if (count := getattr(observer, "turned_away", None)) is not None:
            self._counting.append(count)
        self._told.append(getattr(observer, "answered_together", None) or partial(_one_by_one, observer))

    def answered(self, finished: Finished) -> None:
        self._ended.append(finished)
        if len(self._ended) == 1:
            loop, wait = asyncio.get_running_loop(), self._next - time.monotonic()
            loop.call_later(wait, self.tell) if wait > 0 else loop.call_soon(self.tell)
        elif len(self._ended) == MOST_TOGETHER:
            asyncio.get_running_loop().call_soon(self.tell)

    def refused(self, refused: Refused) -> None:
        for observer in self._observers:
            try:
                observer.refused(refused)
            except Exception:
                _failed()

    def turned_away(self, reason: str) -> None:
        """A call that nobody looked at. Told to those who count such; a line for each would cost what that saves."""
        for count in self._counting:
            count(reason)

    def tell(self) -> None:
        """Now, of all that ended."""
        if not self._ended:
            return
        ended, self._ended = self._ended, []
        self._next = time.monotonic() + TOGETHER_SECONDS
        for told in self._told:
            try:
                told(ended)
            except Exception:
                _failed()


def _failed() -> None:
    """An observer: which must not keep anything from the others, and no answer from its caller."""
    log.event("failed", logging.ERROR, exc_info=True, task="observer")


def _one_by_one(observer: Observer, ended: Sequence[Finished]) -> None:
    for finished in ended:
        observer.answered(finished)
