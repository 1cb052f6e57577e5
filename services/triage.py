"""Who comes too late to be let in, once more calls come than can be looked at.

gRPC queues calls where nobody sees them, first come, first served. A tier that is asked for more than it can take up
would look at each when its deadline is near, compute, and answer nobody in time. So while many calls end in vain, one
that has less time left than others needed lately is turned away before its message is read, which costs a fraction of
looking at it; the time that this saves goes to those who can still be answered.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from services import log, wire
from services.domain import TIMERS_DIFFER_SECONDS, Clock
from services.errors import QueueFull
from services.limiter import Limiter

Context = grpc.aio.ServicerContext[Any, Any]

WINDOW_SECONDS = 0.5
LEAST_CALLS = 20
"""Of a window with fewer nothing is concluded."""
IN_VAIN = 0.2
"""The share of calls let in that end without an answer in time, from which on the tier is flooded."""
TRIAL = 16
"""One in so many of those who seem late is let in all the same, to find out whether they still are."""
_MARGIN, _MOST_MARGIN, _STRICTER, _LAXER = 1.5, 4.0, 1.3, 0.85
_FEW, _TELLING = 0.05, 4
_RISE, _FALL, _LONGER = 0.2, 0.02, 1.5
_AGAIN_SECONDS = 0.2


def _nobody(reason: str) -> None:
    pass


@dataclass(slots=True)
class Visit:
    """A call that was let in, until it ends one way or the other. until: its deadline; trial: though it seemed late."""

    triage: Triage
    began: float
    until: float
    trial: bool

    def answered(self) -> None:
        """It has its answer, in time."""
        self.triage.answered(self.triage.clock() - self.began, self.trial)

    def left(self) -> None:
        """Nobody waits for it any more: its time ran out, or else its caller left, which says nothing."""
        now = self.triage.clock()
        if now >= self.until - TIMERS_DIFFER_SECONDS:
            self.triage.in_vain(now - self.began, self.trial)


@dataclass(slots=True)
class Triage:
    """Of one tier, whose `limiter` counts those turned away. needed: seconds that most calls took lately.

    tell: hears of each that is turned away, by reason, and must be quick: they are many.
    """

    limiter: Limiter
    clock: Clock = time.monotonic
    tell: Callable[[str], None] = _nobody
    flooded: bool = False
    needed: float = 0.0
    _margin: float = _MARGIN
    _answered: int = 0
    _in_vain: int = 0
    _trials: int = 0
    _trials_in_vain: int = 0
    _late: int = 0
    _turned_away: int = 0
    _ends_at: float = 0.0

    def enter(self, remaining: float | None) -> Visit | None:
        """None where a call with so many seconds left, None for any number, is to be turned away."""
        now = self.clock()
        if now >= self._ends_at:
            self._conclude(now)
        late = self._turns_away and remaining is not None and remaining < self._margin * self.needed
        self._late += late
        if late and self._late % TRIAL:
            self._turned_away += 1
            self.limiter.rejected[QueueFull.reason] += 1
            self.tell(QueueFull.reason)
            return None
        return Visit(self, now, math.inf if remaining is None else now + remaining, late)

    @property
    def _turns_away(self) -> bool:
        """A tier that drains has callers go elsewhere, which only who is let in is told."""
        return self.flooded and not self.limiter.draining

    def answered(self, seconds: float, trial: bool) -> None:
        """A call that was let in was answered after so many seconds."""
        self._answered += 1
        self._trials += trial
        self._took(seconds)

    def in_vain(self, seconds: float, trial: bool) -> None:
        """A call that was let in ran out of time after so many seconds: it would have taken longer."""
        self._in_vain += 1
        self._trials += trial
        self._trials_in_vain += trial
        self._took(max(_LONGER * seconds, self.needed))

    def _took(self, seconds: float) -> None:
        self.needed += (_RISE if seconds > self.needed else _FALL) * (seconds - self.needed)

    def _conclude(self, now: float) -> None:
        """What the calls of the window that ended say of the next."""
        ended, mistaken = self._answered + self._in_vain, self._mistaken()
        lost = self._in_vain + (0 if mistaken else self._turned_away)
        recent = now < self._ends_at + WINDOW_SECONDS
        was, self.flooded = self.flooded, recent and lost >= max(LEAST_CALLS, IN_VAIN * (ended + self._turned_away))
        if not self.flooded:
            self._margin = _MARGIN
        elif was and self._in_vain > _FEW * ended:
            self._margin = min(_STRICTER * self._margin, _MOST_MARGIN)
        elif was and mistaken:
            self._margin *= _LAXER
        if self._turned_away or self.flooded:
            log.event("flooded", logging.WARNING, turned_away=self._turned_away, over=not self.flooded)
        self._answered = self._in_vain = self._turned_away = 0
        self._ends_at = now + WINDOW_SECONDS

    def _mistaken(self) -> bool:
        """Whether those on trial were all answered, so that others who were turned away might have been.

        Where few calls come, it takes some windows to tell.
        """
        told, none_in_vain = self._trials >= _TELLING, not self._trials_in_vain
        if told or not none_in_vain:
            self._trials = self._trials_in_vain = 0
        return told and none_in_vain


_LATE = wire.status_of(QueueFull("more comes here than can be looked at in time; try again shortly", _AGAIN_SECONDS))


def turn_away(context: Context) -> None:
    """Ends the call as any that finds no place: UNAVAILABLE, QUEUE_FULL, and when to ask again."""
    code, message, trailing = _LATE
    context.set_code(code)
    context.set_details(message)
    context.set_trailing_metadata(trailing)


def ended(visit: Visit, context: Context, error: BaseException | None = None, answered: bool = False) -> None:
    """Notes how a call ended that was let in; a refusal, or a caller who left, says nothing of the time it takes."""
    if answered:
        visit.answered()
    elif isinstance(error, asyncio.CancelledError) or context.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        visit.left()
