"""Small calls over a link that nobody uses, so that a plan need not rest on an old estimate.

A probe is sent when no call is in flight and the estimate is older than a second, or than a tenth of one while plans
depend on the link, or it was used within ten seconds; at once where the last call was far off and one more would
decide, or where nothing is known. All probes together stay under 1 % of what the believed rate, or 0.5 Mbit/s if that
is more, could have moved meanwhile: after an outage nobody would otherwise notice that the link is back. Half of that
is for the frequent ones, which are small and show an RTT or a collapse; half is saved for one a second that carries as
many bytes as a few milliseconds of the link move, or else nothing would show the rate: what a small probe takes is lost
in the jitter. One that could not tell is not sent; time passes until it can be afforded. Only a link of unknown rate,
at the start or back from the dead, or one that left a probe without an answer, is felt out beyond that: empty probes,
then a kibibyte, then four times as much until it shows, and once more the same to confirm it. A probe that got no
answer sets the size back, so a slow link is not clogged. While calls follow each other without a pause nothing is
probed, unless they are all too small to show the rate: then one that does is sent among them every few seconds, within
the same 1 %.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from services.domain import Clock, LinkEstimate
from services.errors import OfframpError

STALE_SECONDS = 1.0
WATCHED_SECONDS = 0.1
"""The same for a link that plans depend on: one that collapses is then found out before the next request."""
MIN_BYTES, MAX_BYTES = 256, 256 * 1024
SHARE = 0.009
_TELLING_SECONDS = 0.008  # on the link: well above the jitter of a call
_FLOOR_BYTES_PER_SECOND = 62_500.0  # 0.5 Mbit/s: who believes less could else not afford to find out that it is over
_CALL_BYTES = 192  # of a probe without padding: HTTP/2 and gRPC frames
_FIRST_BYTES = 1024
_GROWTH = 4
_EMPTY_FIRST = 3
_SPENT = 0.7  # of the savings, by one probe
_LIGHT_SPENT = 0.2  # of theirs, by a frequent one
_LIGHT_BYTES = 4096
_LIGHT_SHARE = 0.5  # of what may be spent is theirs
_IN_USE_SPENT = 0.4  # by one where calls go on: another may have to confirm it
_TELLING_SHARE = 0.5  # of a useful size: less tells nothing
_MOST_ALIKE = 3  # probes of one size to confirm a rate
_UNTAUGHT_SECONDS = 3.0  # a rate that nothing has shown for so long is asked for though the link is in use
_RESTED_SECONDS = 2.0  # a rate that no probe has shown for so long may disturb a request
WATCHED_FOR_SECONDS = 10.0
_EMPTY_EVERY = 4
_RETRY_SECONDS = 0.2
_MAX_RETRY_SECONDS = 1.0
_MIN_TIMEOUT_SECONDS, _MAX_TIMEOUT_SECONDS = 1.0, 5.0
LOOK_SECONDS = 0.05


class Watched(Protocol):
    """A link, and whether it keeps a call waiting for longer than is plausible."""

    def link(self) -> LinkEstimate: ...

    @property
    def overdue(self) -> bool: ...


def late(target: Watched) -> LinkEstimate | None:
    """What is believed of a link that keeps a call waiting; of one that is dead there is nothing new to tell."""
    return target.link() if target.overdue else None


class Probed(Watched, Protocol):
    """A link that can be probed. `probe` teaches the estimate; raises OfframpError where no answer comes."""

    async def probe(self, nbytes: int, timeout_seconds: float) -> None: ...

    @property
    def doubtful(self) -> bool: ...

    def quiet_seconds(self) -> float: ...

    def untaught_seconds(self) -> float: ...


@dataclass(slots=True)
class ProbeSchedule:
    """When to probe next and with how many bytes. Pure but for the clock."""

    clock: Clock = time.monotonic
    _saved_bytes: float = 0.0
    _light_bytes: float = 0.0
    _spends_light: bool = False  # the last probe that was due
    _earned_at: float | None = None
    _largest: int = 0  # bytes that were answered
    _alike: int = 0  # probes of that size in a row
    _answered: int = 0
    _known: bool = False
    _telling_bytes: int = 1
    _told_at: float = -math.inf  # a probe of so many was answered, of
    _told_bytes: int = 0
    _emptied_at: float = -math.inf  # one without any was answered
    _answered_at: float = -math.inf
    _last_bytes: int = 0
    _not_before: float = -math.inf
    _retry_seconds: float = _RETRY_SECONDS

    def due(
        self,
        link: LinkEstimate,
        quiet_seconds: float,
        doubtful: bool = False,
        needed: bool = False,
        untaught_seconds: float = 0.0,
    ) -> int | None:
        """Bytes of the probe to send now, None for none.

        quiet_seconds: since the last call, 0 during one. needed: whether plans depend on it without any call, too.
        untaught_seconds: since calls or probes last told anything of the rate.
        """
        rate = link.up_bytes_per_second
        self._earn(rate)
        if self.clock() < self._not_before:
            return None
        if rate is None:
            return self._larger(doubtful, lost=self._known) if quiet_seconds > 0 else None
        self._known = True
        useful = int(min(max(rate * _TELLING_SECONDS, MIN_BYTES), MAX_BYTES))
        self._telling_bytes = max(MIN_BYTES, int(_TELLING_SHARE * useful))
        if quiet_seconds < WATCHED_SECONDS:
            found = self._although_in_use(useful, doubtful, untaught_seconds)
            if found is not None or quiet_seconds <= 0:
                return found
        if quiet_seconds >= STALE_SECONDS and self._largest < useful:
            return min(self._larger(), 2 * useful)
        return self._within_means(link, useful, quiet_seconds, doubtful, needed or quiet_seconds < WATCHED_FOR_SECONDS)

    def answered(self, nbytes: int) -> None:
        """A probe of `nbytes` came back."""
        self._answered += 1
        self._retry_seconds = _RETRY_SECONDS
        self._spend(nbytes + _CALL_BYTES)
        self._answered_at, self._last_bytes = self.clock(), nbytes
        if nbytes == 0:
            self._emptied_at = self._answered_at
        if nbytes >= self._telling_bytes:
            self._told_at, self._told_bytes = self.clock(), nbytes
        if nbytes >= MAX_BYTES:  # larger tells no more, whatever is still unknown
            self._not_before = self.clock() + STALE_SECONDS
        self._alike = self._alike + 1 if nbytes == self._largest else 1
        self._largest = max(self._largest, nbytes)

    def unanswered(self) -> None:
        """A probe failed: wait, twice as long each time, and begin small again."""
        self._not_before = self.clock() + self._retry_seconds
        self._retry_seconds = min(2 * self._retry_seconds, _MAX_RETRY_SECONDS)
        self._answered = self._largest = 0
        self._saved_bytes = self._light_bytes = 0.0

    def _larger(self, again: bool = False, lost: bool = False) -> int:
        """The next step up, after a few empty probes; from the beginning where the link was `lost` since the last.

        again: the last step is to be confirmed first.
        """
        self._spends_light = False
        if lost:
            self._answered = self._largest = 0
            self._known = False
        if self._answered < _EMPTY_FIRST:
            return 0
        if again and self._largest and self._alike < _MOST_ALIKE:
            return self._largest
        return min(max(self._largest * _GROWTH, _FIRST_BYTES), MAX_BYTES)

    def _although_in_use(self, useful: int, doubtful: bool, untaught_seconds: float) -> int | None:
        """A probe where calls go on that are too small to show the rate: sooner where the last was, too, as it is now.

        First an empty one: calls of one size let what the rate has become pass for the RTT. What raises a doubt is
        sent again at once, before a small call seems to settle it.
        """
        now = self.clock()
        again = doubtful and now - self._answered_at < LOOK_SECONDS
        wait = _UNTAUGHT_SECONDS if self._told_bytes >= self._telling_bytes else STALE_SECONDS
        if not again and min(untaught_seconds, now - self._told_at) < wait:
            return None
        if self._last_bytes == 0 if again else now - self._emptied_at >= wait:
            self._spends_light = True
            return 0 if self._light_bytes >= _CALL_BYTES else None
        self._spends_light = False
        return self._affordable(useful, _IN_USE_SPENT, self._telling_bytes)

    def _within_means(
        self, link: LinkEstimate, useful: int, quiet_seconds: float, doubtful: bool, watched: bool
    ) -> int | None:
        """What may be spent: all, where a doubt is to be settled; now and then nothing, for the RTT."""
        age, untold = min(quiet_seconds, link.age_seconds or 0.0), self.clock() - self._told_at
        stale = untold >= STALE_SECONDS and (quiet_seconds if watched else age) >= STALE_SECONDS
        self._spends_light = False
        if doubtful:
            fresh = age < STALE_SECONDS
            return self._affordable(min(useful, _LIGHT_BYTES) if fresh else useful, _SPENT, MIN_BYTES)
        stale = stale or (watched and untold >= _RESTED_SECONDS and age >= WATCHED_SECONDS)
        due = age >= (WATCHED_SECONDS if watched else STALE_SECONDS)
        if (stale or due) and self._answered % _EMPTY_EVERY == 0:
            self._spends_light = True
            return 0 if self._light_bytes >= _CALL_BYTES else None
        if stale and (found := self._affordable(useful, _SPENT, self._telling_bytes)) is not None:
            return found
        self._spends_light = True
        least = min(self._telling_bytes, _FIRST_BYTES)
        return self._affordable(min(useful, _LIGHT_BYTES), _LIGHT_SPENT, least) if due else None

    def _affordable(self, useful: int, share: float, least: int) -> int | None:
        """A `share` of the purse, but at least `least` and at most `useful` bytes; None where it does not hold that."""
        credit = (self._light_bytes if self._spends_light else self._saved_bytes) - _CALL_BYTES
        nbytes = min(int(max(share * credit, min(credit, least))), useful)
        return nbytes if nbytes >= least else None

    def _earn(self, rate: float | None) -> None:
        now = self.clock()
        if self._earned_at is not None:
            earned = SHARE * max(rate or 0.0, _FLOOR_BYTES_PER_SECOND) * (now - self._earned_at)
            self._light_bytes = min(self._light_bytes + _LIGHT_SHARE * earned, 4.0 * _LIGHT_BYTES)
            self._saved_bytes = min(self._saved_bytes + (1 - _LIGHT_SHARE) * earned, 2.0 * MAX_BYTES)
        self._earned_at = now

    def _spend(self, nbytes: int) -> None:
        if self._spends_light:
            self._light_bytes = max(self._light_bytes - nbytes, 0.0)
        else:
            self._saved_bytes = max(self._saved_bytes - nbytes, 0.0)


def never() -> bool:
    return False


def _nothing() -> None:
    pass


@dataclass(slots=True)
class Prober:
    """Probes one link in the background. `needed`: whether plans depend on it though nothing is sent, since a better
    link would make another one the best. `heard` is called after each probe, and while a call is overdue.
    """

    target: Probed
    needed: Callable[[], bool] = never
    heard: Callable[[], None] = _nothing
    clock: Clock = time.monotonic
    schedule: ProbeSchedule = field(init=False)

    def __post_init__(self) -> None:
        self.schedule = ProbeSchedule(self.clock)

    async def run(self, stop: asyncio.Event) -> None:
        """Probes until `stop` is set or the caller is cancelled; a probe in flight is then dropped at once."""
        tasks = [asyncio.create_task(work) for work in (self._probe_forever(), self._watch_forever(), _until(stop))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # the other two only end by an error, which must not pass unseen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def step(self) -> bool:
        """Sends the probe that is due, if one is; whether it did."""
        target, link = self.target, self.target.link()
        quiet, untaught = target.quiet_seconds(), target.untaught_seconds()
        nbytes = self.schedule.due(link, quiet, target.doubtful, self.needed(), untaught)
        if nbytes is None:
            return False
        try:
            await target.probe(nbytes, timeout_seconds(link, nbytes))
            self.schedule.answered(nbytes)
        except OfframpError:  # the estimate knows by now; to a prober it is a reason to wait
            self.schedule.unanswered()
        self.heard()
        return True

    async def _probe_forever(self) -> None:
        while True:
            if not await self.step():
                await asyncio.sleep(LOOK_SECONDS)

    async def _watch_forever(self) -> None:
        """Tells of calls that are overdue while they are: who waits for their end learns of a dead link too late.

        And once more when they no longer are: the link may be dead by then. Where this process was late itself, the
        answer may have come and wait to be read: the next look will tell.
        """
        was = False
        while True:
            looked_at = self.clock()
            await asyncio.sleep(LOOK_SECONDS)
            if self.clock() - looked_at < 1.5 * LOOK_SECONDS:
                overdue = self.target.overdue
                if overdue or was:
                    self.heard()
                was = overdue


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


def timeout_seconds(link: LinkEstimate, nbytes: int) -> float:
    """How long to wait for a probe: several times what it should take, within bounds."""
    expected = (link.rtt_seconds or 0.0) + nbytes / (link.up_bytes_per_second or float("inf"))
    return min(max(4 * expected, _MIN_TIMEOUT_SECONDS), _MAX_TIMEOUT_SECONDS)
