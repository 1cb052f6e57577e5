"""Small calls over a link that nobody uses, so that a plan need not rest on an old estimate.

A probe is sent when no call is in flight and the estimate is older than a second, or at once where the last call was
far off and one more would decide, or where nothing is known. It carries as many bytes as a few milliseconds of the
link move, and never more than keeps all probes under 1 % of what the believed rate, or 0.5 Mbit/s if that is more,
could have moved meanwhile: after an outage nobody would otherwise notice that the link is back. Only a
link of unknown rate, at the start or back from the dead, is felt out beyond that: empty probes, then a kibibyte, then
four times as much until it shows. A probe that got no answer sets the size back, so a slow link is not clogged.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from services.domain import Clock, LinkEstimate
from services.errors import OfframpError

STALE_SECONDS = 1.0
MIN_BYTES, MAX_BYTES = 256, 256 * 1024
SHARE = 0.009
_TELLING_SECONDS = 0.008  # on the link: well above the jitter of a call
_FLOOR_BYTES_PER_SECOND = 62_500.0  # 0.5 Mbit/s: who believes less could else not afford to find out that it is over
_CALL_BYTES = 192  # of a probe without padding: HTTP/2 and gRPC frames
_FIRST_BYTES = 1024
_GROWTH = 4
_EMPTY_FIRST = 3
_SPENT = 0.7  # of the credit, by one probe
_EMPTY_EVERY = 4
_RETRY_SECONDS = 0.5
_MAX_RETRY_SECONDS = 2.0
_MIN_TIMEOUT_SECONDS, _MAX_TIMEOUT_SECONDS = 1.0, 5.0
_LOOK_SECONDS = 0.05


class Probed(Protocol):
    """A link that can be probed. `probe` teaches the estimate; raises OfframpError where no answer comes."""

    async def probe(self, nbytes: int, timeout_seconds: float) -> None: ...

    def link(self) -> LinkEstimate: ...

    @property
    def doubtful(self) -> bool: ...

    def quiet_seconds(self) -> float: ...


@dataclass(slots=True)
class ProbeSchedule:
    """When to probe next and with how many bytes. Pure but for the clock."""

    clock: Clock = time.monotonic
    _credit_bytes: float = 0.0
    _earned_at: float | None = None
    _largest: int = 0  # bytes that were answered
    _answered: int = 0
    _not_before: float = float("-inf")
    _retry_seconds: float = _RETRY_SECONDS

    def due(self, link: LinkEstimate, quiet_seconds: float, doubtful: bool = False) -> int | None:
        """Bytes of the probe to send now, None for none. quiet_seconds: since the last call, 0 during one."""
        self._earn(link.up_bytes_per_second)
        if quiet_seconds <= 0 or self.clock() < self._not_before:
            return None
        if link.up_bytes_per_second is None:
            return self._larger()
        useful = int(min(max(link.up_bytes_per_second * _TELLING_SECONDS, MIN_BYTES), MAX_BYTES))
        if quiet_seconds >= STALE_SECONDS and self._largest < useful:
            return self._larger()
        if not doubtful and min(quiet_seconds, link.age_seconds or 0.0) < STALE_SECONDS:
            return None
        return self._affordable(useful, doubtful)

    def answered(self, nbytes: int) -> None:
        """A probe of `nbytes` came back."""
        self._answered += 1
        self._retry_seconds = _RETRY_SECONDS
        self._credit_bytes = max(self._credit_bytes - nbytes - _CALL_BYTES, 0.0)
        if nbytes >= MAX_BYTES:  # larger tells no more, whatever is still unknown
            self._not_before = self.clock() + STALE_SECONDS
        self._largest = max(self._largest, nbytes)

    def unanswered(self) -> None:
        """A probe failed: wait, twice as long each time, and begin small again."""
        self._not_before = self.clock() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _MAX_RETRY_SECONDS)
        self._answered = self._largest = 0
        self._credit_bytes = 0.0

    def _larger(self) -> int:
        """The next step up, after a few empty probes."""
        if self._answered < _EMPTY_FIRST:
            return 0
        return min(max(self._largest * _GROWTH, _FIRST_BYTES), MAX_BYTES)

    def _affordable(self, useful: int, doubtful: bool) -> int | None:
        """Most of what may be spent, so that a doubt can be settled at once; now and then empty, for the RTT."""
        credit = self._credit_bytes - _CALL_BYTES
        if credit < 0:
            return None
        if not doubtful and self._answered % _EMPTY_EVERY == 0:
            return 0
        nbytes = min(int(max(_SPENT * credit, min(credit, MIN_BYTES))), useful)
        return nbytes if nbytes >= MIN_BYTES else None

    def _earn(self, rate: float | None) -> None:
        now = self.clock()
        if self._earned_at is not None:
            earned = SHARE * max(rate or 0.0, _FLOOR_BYTES_PER_SECOND) * (now - self._earned_at)
            self._credit_bytes = min(self._credit_bytes + earned, 2.0 * MAX_BYTES)
        self._earned_at = now


def _always() -> bool:
    return True


def _nothing() -> None:
    pass


@dataclass(slots=True)
class Prober:
    """Probes one link in the background. `needed`: whether a plan depends on it; `heard` is called after each probe."""

    target: Probed
    needed: Callable[[], bool] = _always
    heard: Callable[[], None] = _nothing
    clock: Clock = time.monotonic
    schedule: ProbeSchedule = field(init=False)

    def __post_init__(self) -> None:
        self.schedule = ProbeSchedule(self.clock)

    async def run(self, stop: asyncio.Event) -> None:
        """Probes until `stop` is set or the caller is cancelled; a probe in flight is then dropped at once."""
        probing, stopped = asyncio.create_task(self._forever()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((probing, stopped), return_when=asyncio.FIRST_COMPLETED)
            if probing.done():
                probing.result()  # it only ends by an error, which must not pass unseen
        finally:
            probing.cancel()
            stopped.cancel()
            await asyncio.gather(probing, stopped, return_exceptions=True)

    async def step(self) -> bool:
        """Sends the probe that is due, if one is; whether it did."""
        link = self.target.link()
        nbytes = self.schedule.due(link, self.target.quiet_seconds(), self.target.doubtful)
        if nbytes is None or not self.needed():
            return False
        try:
            await self.target.probe(nbytes, timeout_seconds(link, nbytes))
            self.schedule.answered(nbytes)
        except OfframpError:  # the estimate knows by now; to a prober it is a reason to wait
            self.schedule.unanswered()
        self.heard()
        return True

    async def _forever(self) -> None:
        while True:
            if not await self.step():
                await asyncio.sleep(_LOOK_SECONDS)


def timeout_seconds(link: LinkEstimate, nbytes: int) -> float:
    """How long to wait for a probe: several times what it should take, within bounds."""
    expected = (link.rtt_seconds or 0.0) + nbytes / (link.up_bytes_per_second or float("inf"))
    return min(max(4 * expected, _MIN_TIMEOUT_SECONDS), _MAX_TIMEOUT_SECONDS)
