"""Who is told how each request ended: the log, the metrics, the console. Telling never delays an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from services import log, trace_context
from services.bundle import Manifest
from services.domain import Plan, Response, Tier
from services.trace_context import Begin


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that this tier answered, with the plan it travelled by and the trace it came in."""

    request_id: str
    tier: Tier
    manifest: Manifest
    plan: Plan
    response: Response
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that ended with an error; `reason` is one of `services.errors`.

    model: as the request named it, by name or by hash, which may be neither of one that is served; empty: it did not.
    """

    request_id: str
    reason: str
    message: str
    model: str = ""


class Observer(Protocol):
    """Somebody who wants to know."""

    def answered(self, finished: Finished) -> None: ...

    def refused(self, refused: Refused) -> None: ...


class LogLines:
    """One line for each request."""

    def answered(self, finished: Finished) -> None:
        log.answered(finished.request_id, finished.tier, finished.response)

    def refused(self, refused: Refused) -> None:
        log.refused(refused.request_id, refused.reason, refused.message)


class Observers:
    """Tells each of them, in their order, when the event loop is next free.

    begin: makes the trace context of a request whose caller sent none; nothing, unless somebody records spans.
    """

    def __init__(self, observers: Iterable[Observer] = (LogLines(),), begin: Begin = trace_context.nothing):
        self._observers = list(observers)
        self.begin = begin

    def traceparent(self, metadata: trace_context.Metadata) -> str:
        """Where a call from outside belongs: in the trace that its metadata names, else in one of its own."""
        return trace_context.given(metadata) or self.begin()

    def add(self, observer: Observer) -> None:
        """Tells `observer` too, from now on."""
        self._observers.append(observer)

    def answered(self, finished: Finished) -> None:
        asyncio.get_running_loop().call_soon(self._each_answered, finished)

    def refused(self, refused: Refused) -> None:
        for observer in self._observers:
            observer.refused(refused)

    def _each_answered(self, finished: Finished) -> None:
        for observer in self._observers:
            observer.answered(finished)
