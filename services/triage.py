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
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

from services import log, wire
from services.domain import Clock
from services.errors import QueueFull
from services.limiter import Limiter

Context = grpc.aio.ServicerContext[Any, Any]

WINDOW_SECONDS = 0.5
LEAST_CALLS = 20
"""Of a window with fewer nothing is concluded."""
IN_VAIN = 0.2
"""The share of calls let in that end without an answer in time, from which on the tier is flooded."""
TRIAL = 16
"""One in so many of those who seem late is let in all the same, to find out whether they are."""
_MARGIN, _MOST_MARGIN, _STRICTER, _LAXER = 1.5, 16.0, 1.3, 0.7
_FEW, _HOPELESS = 0.05, 0.8
_TOLD, _DOUBT = 0.25, 0.02
"""What one trial, and a window without one, changes in what is believed of those who seem late."""
_QUICKER, _SLOWER = 0.9, 1.026
"""What a call that took less, or more, than was thought needed makes of that: it settles where a fifth take less."""
_EARLY_SECONDS = 0.005
"""Timers of callers, gRPC and this process need not agree by more."""
_SHORT_SECONDS = 0.05
_AGAIN_SECONDS = 0.2


@dataclass(slots=True)
class Visit:
    """A call that was let in, until it ends one way or the other. until: its deadline; trial: though it seemed late.

    here: whether its message has arrived. Until then, a caller that sends slowly is to blame, and not this tier; unless
    it was taken up so late that it had next to no time left.
    """

    triage: Triage
    began: float
    until: float
    trial: bool
    here: bool = False

    def answered(self) -> None:
        """It has its answer, in time."""
        self.triage.answered(self.triage.clock() - self.began, self.trial)

    def left(self) -> None:
        """Nobody waits for it any more: its time ran out, or else its caller left, which says nothing."""
        ours = self.here or self.until - self.began < max(self.triage.needed, _SHORT_SECONDS)
        if ours and self.triage.clock() >= self.until - _EARLY_SECONDS:
            self.triage.in_vain(self.trial)


@dataclass(slots=True)
class Window:
    """How calls ended in it: those let in, those of them on trial that had no answer, and those turned away."""

    answered: int = 0
    in_vain: int = 0
    trials_in_vain: int = 0
    turned_away: int = 0

    def lost(self, hopeless: float) -> float:
        """Calls that could not be answered, if a share of `hopeless` of those turned away could not."""
        return self.in_vain + hopeless * self.turned_away


@dataclass(slots=True)
class Triage:
    """Of one tier, whose `limiter` counts those turned away. draw: tells who is let in on trial, of 0 to 1.

    needed: seconds that the quicker calls took lately; nobody is answered in much less. Calls of several kinds cannot
    be told apart before they are read. That those turned away are really too late is therefore tried out all the time.
    """

    limiter: Limiter
    clock: Clock = time.monotonic
    draw: Callable[[], float] = field(default_factory=lambda: random.Random(0).random)
    flooded: bool = False
    needed: float = 0.0
    _margin: float = _MARGIN
    _hopeless: float = 1.0
    _window: Window = field(default_factory=Window)
    _ends_at: float = 0.0

    def enter(self, remaining: float | None) -> Visit | None:
        """None where a call with so many seconds left, None for any number, is to be turned away."""
        now = self.clock()
        if now >= self._ends_at:
            self._conclude(now)
        late = self._turns_away and remaining is not None and remaining < self._margin * self.needed
        if late and self.draw() >= 1 / TRIAL:
            self._window.turned_away += 1
            self.limiter.rejected[QueueFull.reason] += 1
            return None
        return Visit(self, now, math.inf if remaining is None else now + remaining, late)

    @property
    def _turns_away(self) -> bool:
        """A tier that drains has callers go elsewhere, which only who is let in is told."""
        return self.flooded and not self.limiter.draining

    def answered(self, seconds: float, trial: bool) -> None:
        """A call that was let in was answered after so many seconds."""
        self._window.answered += 1
        self.needed = self.needed * (_QUICKER if seconds < self.needed else _SLOWER) if self.needed else seconds
        if trial:
            self._hopeless -= _TOLD * self._hopeless

    def in_vain(self, trial: bool) -> None:
        """A call that was let in ran out of time."""
        self._window.in_vain += 1
        if trial:
            self._window.trials_in_vain += 1
            self._hopeless += _TOLD * (1 - self._hopeless)

    def _conclude(self, now: float) -> None:
        """What the calls of the window that ended say of the next."""
        window, recent = self._window, now < self._ends_at + WINDOW_SECONDS
        let_in, lost = window.answered + window.in_vain, window.lost(self._hopeless)
        was, self.flooded = (
            self.flooded,
            recent and lost >= max(LEAST_CALLS, IN_VAIN * (let_in + window.turned_away)),
        )
        if window.turned_away or self.flooded:
            log.event("flooded", logging.WARNING, turned_away=window.turned_away, over=not self.flooded)
        if not self.flooded:
            self._margin, self._hopeless = _MARGIN, 1.0
        elif was:
            self._adjust(window.in_vain - window.trials_in_vain > _FEW * let_in)
        self._window, self._ends_at = Window(), now + WINDOW_SECONDS

    def _adjust(self, many_in_vain: bool) -> None:
        """Turns fewer away where those on trial are answered, more where others end in vain."""
        if self._hopeless < _HOPELESS:
            self._margin *= _LAXER
        elif many_in_vain:
            self._margin = min(_STRICTER * self._margin, _MOST_MARGIN)
        self._hopeless += _DOUBT * (1 - self._hopeless)


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
