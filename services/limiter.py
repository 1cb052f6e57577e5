"""Admission: how many requests a tier holds at once. Refusing early is what keeps the queue bounded."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.domain import Clock
from services.errors import Draining, InvalidInput, ModelNotReady, QueueFull, TooLarge, Unavailable
from services.gradient_limit import GradientLimit

ORDINARY = 1
"""The last priority that is not low; 0 is none given, and 1 the highest that can be asked for."""

_LOW_SHARE = 0.75
_AGAIN_SECONDS = 0.05
"""After which to ask again where it is not known how long those ahead take."""

_REFUSALS = (QueueFull, Draining, ModelNotReady)


def _none() -> float:
    return 0.0


@dataclass(slots=True)
class Limiter:
    """Admits up to `max_in_flight` requests, waiting ones included; none before it is warm or while draining.

    leaving: takes requests still, though none should come any more. whole: what this is a part of, which must admit
    them too: the tier, of one of its models. rejected: how many were
    turned away, here or in a part of this, by reason. wait: seconds until one more would be done, as far as is known.
    adaptive: how many it holds at most, learned from how long they take.
    """

    max_in_flight: int
    in_flight: int = 0
    warm: bool = True
    draining: bool = False
    leaving: bool = False
    whole: Limiter | None = None
    wait: Callable[[], float] = _none
    adaptive: GradientLimit | None = None
    clock: Clock = time.monotonic
    rejected: dict[str, int] = field(default_factory=lambda: {kind.reason: 0 for kind in _REFUSALS})

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome."""
        return self.warm and not self.ending and (self.whole is None or self.whole.ready)

    @property
    def ending(self) -> bool:
        """Whether it refuses new requests, or soon will."""
        return self.leaving or self.draining or (self.whole is not None and self.whole.ending)

    @property
    def limit(self) -> int:
        """How many requests it holds at most now."""
        return self.max_in_flight if self.adaptive is None else min(self.max_in_flight, self.adaptive.limit)

    @property
    def room(self) -> int:
        """How many more requests it would hold now."""
        room = self.limit - self.in_flight
        return room if self.whole is None else min(room, self.whole.room)

    def admit(self, priority: int = 0, places: int = 1, seconds: float = math.inf, learns: bool = True) -> Places:
        """Holds a place for the body of a `with`. Raises ModelNotReady, Draining or QueueFull instead of waiting.

        priority: above 1 is low, and finds no place once three quarters are taken, so that the others still do.
        places: of so many requests, which are all admitted or none. seconds: left for them; QueueFull where those
        ahead will need that long, since they would be computed in vain. learns: whether the limit is learned from this,
        too, which takes as long as requests do.
        """
        if self.whole is not None:
            self.whole._check(self.whole.limit, places, seconds)
        self._check(self.limit if priority <= ORDINARY else math.ceil(_LOW_SHARE * self.limit), places, seconds)
        return Places(self, places, learns)

    def hold(self, places: int) -> None:
        """Takes so many places, or gives them back where that is negative."""
        self.in_flight += places
        if self.whole is not None:
            self.whole.in_flight += places

    def _check(self, limit: int, places: int, seconds: float) -> None:
        refusal = self._refusal(limit, places, seconds)
        if refusal is not None:
            for each in (self, self.whole):
                if each is not None:
                    each.rejected[refusal.reason] += places
            raise refusal

    def _refusal(self, limit: int, places: int, seconds: float) -> Unavailable | None:
        if not self.warm:
            return ModelNotReady("the model is still warming up; try again shortly")
        if self.draining:
            return Draining("this tier is shutting down; try another")
        if self.in_flight + places > limit:
            return QueueFull(
                f"{self.in_flight} requests are in flight here already; try again shortly",
                self.wait() or _AGAIN_SECONDS,
            )
        if 0 < seconds < (wait := self.wait()):
            return QueueFull(f"it would take {wait:.3f} s here, and has {seconds:.3f} s", wait)
        return None


class Places:
    """Places of a limiter, for as long as the body of a `with` runs: a class, since every request has one."""

    __slots__ = ("_began", "_learns", "_limiter", "_places")

    def __init__(self, limiter: Limiter, places: int, learns: bool):
        self._limiter = limiter
        self._places = places
        self._learns = learns
        self._began = 0.0

    def __enter__(self) -> None:
        self._limiter.hold(self._places)
        self._began = self._limiter.clock()

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        limiter = self._limiter
        if kind is None and limiter.adaptive is not None and self._learns:
            limiter.adaptive.finished(limiter.clock() - self._began, limiter.in_flight)
        limiter.hold(-self._places)


def check_batch(count: int, limit: int) -> None:
    """Raises InvalidInput for an empty batch, TooLarge for one over the limit."""
    if count < 1:
        raise InvalidInput("the batch is empty")
    if count > limit:
        raise TooLarge(f"the batch has {count} samples, this tier takes {limit}")
