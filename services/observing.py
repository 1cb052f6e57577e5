"""Who is told how each request ended: the log, the metrics, the console. Telling never delays an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from services import log
from services.bundle import Manifest
from services.domain import Plan, Response, Tier


@dataclass(frozen=True, slots=True)
class Finished:
    """A request that this tier answered, with the plan it travelled by."""

    request_id: str
    tier: Tier
    manifest: Manifest
    plan: Plan
    response: Response


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that ended with an error; `reason` is one of `services.errors`."""

    request_id: str
    reason: str
    message: str


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
    """Tells each of them, in their order, when the event loop is next free."""

    def __init__(self, observers: Iterable[Observer] = (LogLines(),)):
        self._observers = list(observers)

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
