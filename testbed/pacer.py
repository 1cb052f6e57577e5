"""When bytes leave one end of a link and when they arrive at the other: arithmetic only, no clock, no sockets.

One `Pacer` is one direction of a link. Everything sent shares its serialisation clock
(``free = max(now, free) + bytes / rate``) and then travels for the delay. Jitter varies the delay per parcel; parcels
are delivered in the order in which they were sent, so it never reorders bytes.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass

from testbed.traces import ConstantRate, QuantityError, Rate

QUANTUM_SECONDS = 0.001
MIN_QUANTUM_BYTES = 1500
MAX_QUANTUM_BYTES = 64 * 1024
MAX_DELAY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class LinkShape:
    """One direction of a link: rate, one-way delay, and jitter (uniform, plus or minus, never below 0 in total).

    Raises QuantityError for a delay or jitter outside 0 to 60 seconds.
    """

    rate: Rate
    delay_seconds: float = 0.0
    jitter_seconds: float = 0.0

    def __post_init__(self) -> None:
        for what, seconds in (("delay", self.delay_seconds), ("jitter", self.jitter_seconds)):
            if not 0 <= seconds <= MAX_DELAY_SECONDS:
                raise QuantityError(f"The {what} of a link must be between 0s and 60s, not {seconds:g}s.")


def symmetric(
    rate: Rate | float, round_trip_seconds: float, jitter_seconds: float = 0.0
) -> tuple[LinkShape, LinkShape]:
    """(up, down) with the same rate (bytes per second, or a Rate) and half the round trip each way."""
    shared = rate if not isinstance(rate, float | int) else ConstantRate(float(rate))
    shape = LinkShape(shared, round_trip_seconds / 2, jitter_seconds)
    return shape, shape


@dataclass(slots=True, eq=False)
class Parcel:
    """Bytes that cross the link together. `start` and `finish` of their serialisation move when the link changes."""

    payload: bytes
    resets: bool  # with an empty payload: a reset instead of an orderly end
    remaining: float  # bytes to serialise from `start` on
    luck: float  # -1..1, times the jitter
    start: float = math.inf
    finish: float = math.inf


class Pacer:
    """Gives each parcel its times; `now` never goes back between calls."""

    def __init__(self, shape: LinkShape, now: float, rng: random.Random) -> None:
        self._shape = shape
        self._origin = now
        self._free = now
        self._carrying = True
        self._serialising: deque[Parcel] = deque()
        self._rng = rng

    @property
    def shape(self) -> LinkShape:
        return self._shape

    @property
    def carrying(self) -> bool:
        return self._carrying

    def rate_now(self, now: float) -> float:
        """Bytes per second at this moment; 0 while the link is cut."""
        return self._shape.rate.rate_at(now - self._origin) if self._carrying else 0.0

    def quantum(self, now: float) -> int:
        """Bytes to take at once: about a millisecond of the link, at least one packet."""
        if not self._carrying:
            return MIN_QUANTUM_BYTES
        start = max(now, self._free) - self._origin
        fits = self._shape.rate.capacity(start, start + QUANTUM_SECONDS)
        return int(min(max(fits, MIN_QUANTUM_BYTES), MAX_QUANTUM_BYTES))

    def send(self, payload: bytes, now: float, *, resets: bool = False) -> Parcel:
        """Queue bytes behind all others. The end of a connection costs one byte, so that an outage holds it too."""
        self._forget(now)
        parcel = Parcel(payload, resets, max(1, len(payload)), self._rng.uniform(-1.0, 1.0))
        self._schedule(parcel, now)
        self._serialising.append(parcel)
        return parcel

    def due(self, parcel: Parcel) -> float:
        """When the parcel arrives; infinite while it waits for a link that is cut."""
        return parcel.finish + max(0.0, self._shape.delay_seconds + parcel.luck * self._shape.jitter_seconds)

    def reshape(self, shape: LinkShape, now: float) -> None:
        """Change the link under whatever is on it: a parcel half serialised goes on at the new rate.

        A new trace starts at its beginning; an unchanged rate keeps its place.
        """
        self._settle(now)
        if shape.rate is not self._shape.rate:
            self._origin = now
        self._shape = shape
        self._reschedule(now)

    def set_carrying(self, carrying: bool, now: float) -> None:
        """Cut (False) or restore (True) the link: nothing is dropped; what has left already still arrives."""
        if carrying == self._carrying:
            return
        self._settle(now)
        self._carrying = carrying
        self._reschedule(now)

    def _forget(self, now: float) -> None:
        while self._serialising and self._serialising[0].finish <= now:
            self._serialising.popleft()

    def _settle(self, now: float) -> None:
        self._forget(now)
        queue = self._serialising
        if queue and queue[0].start < now:
            head, rate = queue[0], self._shape.rate
            head.remaining = max(0.0, head.remaining - rate.capacity(head.start - self._origin, now - self._origin))
            head.start = now

    def _reschedule(self, now: float) -> None:
        self._free = now
        for parcel in self._serialising:
            self._schedule(parcel, now)

    def _schedule(self, parcel: Parcel, now: float) -> None:
        if self._carrying:
            parcel.start = max(now, self._free)
            finish = self._shape.rate.finish(parcel.start - self._origin, parcel.remaining)
            parcel.finish = self._free = self._origin + finish
        else:
            parcel.start = parcel.finish = self._free = math.inf
