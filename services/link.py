"""Belief about the link above this tier, from what calls really took.

A call of b bytes takes t = RTT + b / R on the network: the time at the caller less the time the far side held it, so
that no two clocks are compared. RTT and 1 / R are one `DriftingLine`: small calls teach the RTT, large ones the rate,
the RTT is taken to be stable and the rate to change by half within a second, so the last large calls count most.

How a stalled call is told from a link that got worse: a call far off expectation moves the belief only as far as
would still have been plausible; the second in a row that is off the same way is believed, as far as the milder of the
two goes. One stall among many thus costs little and is forgotten with the next call; a worse link is believed after
two calls, a better one after two as well (only one if the belief was old).

A call teaches the rate only where its bytes take longer, at the rate believed or slower ones that are plausible, than
calls differ in anyway: by their jitter, and by how they are handled, which does not average out. Small ones teach the
RTT alone. One call that took long, as the first to show a rate, waits for a second: it may have stalled. Where no size
shows a rate, what is told is the least that it can be.

Calls that shared the link with others took anything between their own bytes' time and that of all the bytes in flight
with them; only what lies outside of that is news. A call still in flight that is overdue is a measurement, too, of
which only the lower bound is known: whatever is sent now is taken to be held up by as much, until a call comes back.
It has to be later than calls were lately that only stalled: on a busy machine, every other answer waits to be read.
A call that outlasted a link's absence is no such stall; the next absence would be taken for one.
What cannot be told is *unknown* (None): a rate where all sizes were alike or too small for it to show, everything
after failures without a success in between, or after a minute of silence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from services.domain import Clock, LinkEstimate, Tier
from services.drifting_line import DriftingLine

_MAX_AGE_SECONDS = 60.0
_DEAD_AFTER_FAILURES = 2
_DEAD_AFTER_SECONDS = 2.0
_PRIOR_RTT_SECONDS = 1.0
_PRIOR_SECONDS_PER_BYTE = 2e-4
_RATE_DRIFT = 0.5  # of the rate, per square root of a second
_RTT_DRIFT = 0.02
_RTT_DRIFT_SECONDS = 0.0002
_DRIFT_SECONDS = 4.0  # of silence, after which the rate is as unsure as it gets
_JITTER_SECONDS = 0.002  # at first; then measured
_MIN_JITTER_SECONDS = 0.0003
_RATE_NOISE = 0.05  # what a call's own time on the link varies by, relative
_PLAUSIBLE_DEVIATIONS = 3.0
_TELLING_BYTES = 2048  # a call no larger than this is not asked whether the rate has collapsed
_TELLING_SECONDS = 0.002  # on the link: what calls of one size, but of different kinds, differ by
_TELLING_JITTERS = 2.0
_ALONE_CALLS = 4  # after which a rate that one call has shown is believed without a second
_STALL_SECONDS, _MOST_STALL_SECONDS = 0.03, 0.3  # a call so late is no news: at least, and where it happens often
_STALL_HALVES_SECONDS = 60.0
_BEYOND_STALLS = 1.5
_REFERENCE_BYTES = 65536
_UNSURE = 0.3  # relative: an RTT, or the time of the reference bytes, less sure than this is unknown
_UNSURE_SECONDS = 0.003  # unless it is surer than this
_SLIGHT = 0.03  # or than this share of the other of the two
_BLAME_RTT = 0.03  # of a change that large calls saw
_VAGUE = 0.5
_LEAST_SECONDS_PER_BYTE = 1e-10
_LEARNING_SHARE = 0.1


@dataclass(slots=True)
class LinkEstimator:
    """Fits RTT and upstream rate to the calls over one link, newest first."""

    source: Tier
    clock: Clock = time.monotonic
    _line: DriftingLine = field(default_factory=lambda: _unknown_line())
    _jitter: float = _JITTER_SECONDS
    _spread: float | None = None
    _overhead_bytes: float = 0.0
    _heard_at: float = -math.inf
    _doubted: tuple[float, float] | None = None  # size and seconds of a call far off, waiting for a second
    _excuses: int = 0  # late calls in a row that may have stalled
    _rtt_known: bool = False
    _rate_known: bool = False
    _rate_sure: bool = False  # though maybe shown by a single call
    _learned: int = 0
    _shown: int = 0  # calls that took measurably long for their size
    _shown_last: int = 0  # of those learned, the last of them
    _drifted: float = 0.0  # seconds since a call taught the rate, as far as they count
    _taught_at: float = math.inf  # the last that did
    _stall: tuple[float, float] = (0.0, 0.0)  # seconds that a call lately stalled for, and when
    _failures: int = 0
    _failing_since: float = math.inf
    _given_up: tuple[int, float] | None = None  # bytes of the last call that got no answer, and since when it waits

    def record(
        self, bytes_up: int, network_seconds: float, overhead_bytes: int | None = None, shared_bytes: int = 0
    ) -> None:
        """Adds one successful call.

        bytes_up: its payload. network_seconds: as above. overhead_bytes: what else it moved, header and reply (None
        for a probe, which has next to none). shared_bytes: of all calls that were in flight with it.
        """
        if overhead_bytes is not None:
            share = _LEARNING_SHARE if self._overhead_bytes else 1.0
            self._overhead_bytes += share * (overhead_bytes - self._overhead_bytes)
        size, seconds = float(bytes_up + (overhead_bytes or 0)), max(network_seconds, 0.0)
        self._pass_time()
        surprise = seconds - self._line.at(size)
        if surprise > 0 and shared_bytes:
            size += min(shared_bytes, max(surprise / self._line.slope, 0.0) if self._line.slope else math.inf)
        self._take(size, seconds)
        self._judge()

    def failed(self, bytes_up: int = 0, network_seconds: float = 0.0) -> None:
        """Adds a call that got no answer. Two in a row, or one and two seconds without success: unknown.

        network_seconds: for how long `bytes_up` were waited for, less what the far side should need; where nothing is
        left, that says nothing of the link.
        """
        self._failures += 1
        self._failing_since = min(self._failing_since, self.clock())
        self._given_up = bytes_up, self.clock() - network_seconds if network_seconds > 0 else math.inf

    @property
    def doubtful(self) -> bool:
        """Whether the last call was far off what the others said, so that one more would decide."""
        alone = self._shown_by_one() and not self._rate_known
        return self._doubted is not None or self._given_up is not None or alone

    def untaught_seconds(self) -> float:
        """Since a call that was not small taught the rate, 0 before any did: small ones alone may go on for ever."""
        return max(self.clock() - self._taught_at, 0.0)

    def estimate(self, waiting: Iterable[tuple[int, float]] = ()) -> LinkEstimate:
        """What is believed now; every unknown is None.

        waiting: of each call in flight, its bytes and how long it has been on the network at least.
        """
        age = self.clock() - self._heard_at
        if age > _MAX_AGE_SECONDS or self._dead():
            return LinkEstimate(self.source)
        rtt = self._line.at(self._overhead_bytes) + self._held_up(waiting)
        return LinkEstimate(
            self.source,
            rtt_seconds=rtt if self._rtt_known else None,
            up_bytes_per_second=1 / self._cautious_slope() if self._rate_known else None,
            spread=self._spread,
            age_seconds=age,
        )

    def overdue(self, waiting: Iterable[tuple[int, float]]) -> bool:
        """Whether one of the calls in flight, or the one given up last, takes longer than is plausible.

        On a dead link none does: that it is dead is known, and lasts.
        """
        return any(self._late(nbytes, seconds) for nbytes, seconds in (*waiting, *self._in_vain())) and not self._dead()

    def _late(self, bytes_up: int, seconds: float) -> bool:
        surprise, limit = self._surprise(bytes_up + self._overhead_bytes, seconds)
        return surprise > max(limit, self._stalls())

    def _stalls(self) -> float:
        """Seconds by which calls are late though nothing is wrong with the link."""
        return min(max(self._stalled(), _STALL_SECONDS), _MOST_STALL_SECONDS)

    def _stalled(self) -> float:
        """Seconds for which calls stalled lately, and half as much again."""
        seconds, at = self._stall
        return _BEYOND_STALLS * seconds * math.exp2((at - self.clock()) / _STALL_HALVES_SECONDS)

    def _shown_by_one(self) -> bool:
        """Whether a single call has shown a rate, so far, and it is too early to believe that one."""
        return self._shown == 1 and self._learned - self._shown_last < _ALONE_CALLS

    def _held_up(self, waiting: Iterable[tuple[int, float]]) -> float:
        """Seconds that a call sent now is held up by those that are overdue, or were given up last.

        What has lasted so long is expected to last as long again, and has not ended because nobody waits any more.
        """
        calls = (*waiting, *self._in_vain())
        return max((seconds for nbytes, seconds in calls if self._late(nbytes, seconds)), default=0.0)

    def _in_vain(self) -> tuple[tuple[int, float], ...]:
        """The bytes of the call given up last, while none has come back since, and the seconds since it began."""
        return () if self._given_up is None else ((self._given_up[0], self.clock() - self._given_up[1]),)

    def _cautious_slope(self) -> float:
        """Seconds per byte; on the slow side where it is less sure than by half."""
        unsure = math.sqrt(self._line.slope_variance)
        return max(self._line.slope + max(unsure - _VAGUE * self._line.slope, 0.0), _LEAST_SECONDS_PER_BYTE)

    def _judge(self) -> None:
        """Whether RTT and rate are known: sure enough once is enough, until the link is lost."""
        line, overhead = self._line, self._overhead_bytes
        rtt, transfer = line.at(overhead), line.slope * _REFERENCE_BYTES
        rtt_limit = max(_UNSURE_SECONDS, _UNSURE * rtt, _SLIGHT * transfer)
        self._rtt_known = self._rtt_known or line.deviation_at(overhead) <= rtt_limit
        rate_limit = max(_UNSURE_SECONDS, _UNSURE * transfer, _SLIGHT * rtt)
        self._rate_sure = self._rate_sure or (
            self._rtt_known and math.sqrt(line.slope_variance) * _REFERENCE_BYTES <= rate_limit
        )
        self._rate_known = self._rate_known or (self._rate_sure and not self._shown_by_one())

    def _dead(self) -> bool:
        return self._failures >= _DEAD_AFTER_FAILURES or self.clock() - self._failing_since >= _DEAD_AFTER_SECONDS

    def _pass_time(self) -> None:
        """Drift since the last call; after failures, or a long silence, the rate may be any."""
        now, line = self.clock(), self._line
        age = max(now - self._heard_at, 0.0)
        silent = min(age, _DRIFT_SECONDS)
        drift = min(silent, _DRIFT_SECONDS - self._drifted)
        self._drifted += drift
        if self._dead() or _MAX_AGE_SECONDS < age < math.inf:
            line.widen(_RTT_DRIFT * line.offset, self._cautious_slope())
            self._rate_known = self._rate_sure = False
        line.widen(
            math.sqrt(silent) * (_RTT_DRIFT * line.offset + _RTT_DRIFT_SECONDS),
            math.sqrt(drift) * _RATE_DRIFT * (line.slope or self._cautious_slope()),
        )
        self._heard_at, self._failures, self._failing_since, self._given_up = now, 0, math.inf, None

    def _take(self, size: float, seconds: float) -> None:
        surprise, limit = self._surprise(size, seconds)
        if abs(surprise) <= limit:
            if settled := self._settles(size, limit):
                self._note_stall()
            self._learn(size, seconds)
            if settled:
                self._doubted, self._excuses = None, 0
        elif self._doubted is not None and self._same_way(surprise) and not self._excused(surprise):
            self._jump((size, seconds), self._doubted)
        else:
            x, noise = self._lesson(size, seconds)
            self._line.move(x, math.copysign(limit, surprise), noise)
            self._excuses += self._doubted is not None and self._same_way(surprise)
            self._doubted = size, seconds

    def _excused(self, surprise: float) -> bool:
        """Whether two late calls in a row may both have stalled, where calls lately did for as long; not a third."""
        return self._excuses == 0 and 0 < surprise <= self._stalled()

    def _surprise(self, size: float, seconds: float) -> tuple[float, float]:
        """Seconds over expectation, and how many of them are plausible."""
        limit = _PLAUSIBLE_DEVIATIONS * math.sqrt(self._line.variance_at(size) + self._noise(size, seconds))
        return seconds - self._line.at(size), limit

    def _noise(self, size: float, seconds: float) -> float:
        return self._jitter**2 + (_RATE_NOISE * min(size * self._line.slope, seconds)) ** 2

    def _settles(self, size: float, limit: float) -> bool:
        """Whether an expected call of this size clears the doubt: it would have shown what the doubted call says."""
        if self._doubted is None:
            return True
        doubted_size, doubted_seconds = self._doubted
        surprise, plausible = self._surprise(doubted_size, doubted_seconds)
        change = abs(surprise) / (doubted_size + _TELLING_BYTES) * (size + _TELLING_BYTES)
        return abs(surprise) <= plausible or change > limit

    def _note_stall(self) -> None:
        """The call that was doubted had only stalled, if it was late; unless by so much that the link was away."""
        if self._doubted is not None:
            late = self._doubted[1] - self._line.at(self._doubted[0])
            if late <= _MOST_STALL_SECONDS and _BEYOND_STALLS * late > self._stalled():
                self._stall = late, self.clock()

    def _same_way(self, surprise: float) -> bool:
        assert self._doubted is not None
        size, seconds = self._doubted
        return (seconds - self._line.at(size)) * surprise > 0

    def _jump(self, *calls: tuple[float, float]) -> None:
        """The link has changed: opens the belief as far as the milder of two calls needs, and takes in both."""
        mild, other = sorted(calls, key=lambda call: abs(call[1] - self._line.at(call[0])) / (call[0] + _TELLING_BYTES))
        size, surprise = mild[0], mild[1] - self._line.at(mild[0])
        of_rate = max(size - _TELLING_BYTES, 0.0) / (size + 1)
        if surprise < 0 < of_rate:  # nothing stalls the other way
            of_rate = size / (size + _TELLING_BYTES)
        of_rtt = 1 + _BLAME_RTT - of_rate
        most = self._line.offset if surprise < 0 else math.inf  # an RTT shrinks by no more than itself
        self._line.widen(min(of_rtt * abs(surprise), most), of_rate * abs(surprise) / (size + 1))
        self._doubted, self._excuses, self._rate_sure = None, 0, self._rate_known
        self._learn(*mild)
        self._take(*other)

    def _learn(self, size: float, seconds: float) -> None:
        surprise, noise = seconds - self._line.at(size), self._noise(size, seconds)
        ours = self._jitter**2 / (self._line.variance_at(size) + noise)  # the share that jitter has in the surprise
        x, noise = self._lesson(size, seconds)
        self._line.learn(x, surprise, noise)
        self._learned += 1
        if x:
            self._drifted = 0.0
            self._taught_at = self.clock() if size > _TELLING_BYTES else min(self._taught_at, self.clock())
            if size * self._line.slope >= self._telling_seconds():
                self._shown, self._shown_last = self._shown + 1, self._learned
        step = (
            max(_LEARNING_SHARE, 1 / (self._learned + 1)) * ours * (min(abs(surprise), 3 * self._jitter) - self._jitter)
        )
        self._jitter = max(self._jitter + step, _MIN_JITTER_SECONDS)
        relative = abs(surprise) / max(seconds, _MIN_JITTER_SECONDS)
        self._spread = relative if self._spread is None else self._spread + _LEARNING_SHARE * (relative - self._spread)

    def _lesson(self, size: float, seconds: float) -> tuple[float, float]:
        """Of what size a call counts, and its noise: as one of no size where its bytes take too little to be told.

        What they take is then subtracted as it is believed, and as unsure as that is.
        """
        variance, noise = self._line.slope_variance, self._noise(size, seconds)
        if size * (self._line.slope + math.sqrt(variance)) >= self._telling_seconds():
            return size, noise
        return 0.0, noise + size * size * variance

    def _telling_seconds(self) -> float:
        return max(_TELLING_SECONDS, _TELLING_JITTERS * self._jitter)


def _unknown_line() -> DriftingLine:
    return DriftingLine(_PRIOR_RTT_SECONDS**2, _PRIOR_SECONDS_PER_BYTE**2)
