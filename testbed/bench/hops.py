"""One emulated link with what a tier keeps of it: the estimator, the probes and who is on it, on a simulated clock."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import simpy

from services.domain import LinkEstimate, Tier
from services.link import LinkEstimator
from services.probing import ProbeSchedule, timeout_seconds
from services.traffic import Traffic
from testbed.bench.world import Line

_LOOK_SECONDS = 0.05

Steps = Generator[simpy.Event, None, None]
Crossing = Generator[simpy.Event, None, bool]


@dataclass(slots=True)
class VirtualHop:
    """A link from `source` up. reply_seconds: what a reply takes to come down. header_bytes: what goes up besides the
    payload; overhead_bytes: with the reply, as the estimator is told. call_seconds: of a call, besides the link.
    """

    source: Tier
    env: simpy.Environment
    line: Line
    reply_seconds: float
    header_bytes: int
    overhead_bytes: int
    call_seconds: float
    estimator: LinkEstimator = field(init=False)
    traffic: Traffic = field(init=False)
    probed_bytes: int = 0

    def __post_init__(self) -> None:
        self.estimator, self.traffic = LinkEstimator(self.source, self.clock), Traffic(self.clock)

    def clock(self) -> float:
        return float(self.env.now)

    def link(self) -> LinkEstimate:
        return self.estimator.estimate()

    def call(self, nbytes: int, deadline: float, far: Callable[[], Crossing]) -> Crossing:
        """Sends a payload, lets `far` do its part there, and comes back; False where the deadline passes before.

        A call that was given up before its first byte was on the link leaves nothing there.
        """
        env, began = self.env, self.clock()
        if self.line.free > deadline:
            return (yield from self._give_up(deadline))
        with self.traffic.crossing(nbytes) as crossing:
            arrives = self.line.send(began, nbytes + self.header_bytes) + self.call_seconds / 2
            if arrives > deadline:
                return (yield from self._give_up(deadline))
            yield env.timeout(arrives - began)
            entered = env.now
            answered = yield from far()
            held = env.now - entered
            if not answered or env.now + self._back > deadline:
                return (yield from self._give_up(deadline))
            yield env.timeout(self._back)
        self.estimator.record(nbytes, env.now - began - held, self.overhead_bytes, crossing.shared_bytes)
        return True

    def probing(self, heard: Callable[[], None]) -> Steps:
        """Probes the quiet link as `services.probing` says, to the end of the simulation."""
        schedule = ProbeSchedule(self.clock)
        while True:
            nbytes = schedule.due(self.link(), self.traffic.quiet_seconds(), self.estimator.doubtful)
            if nbytes is None:
                yield self.env.timeout(_LOOK_SECONDS)
                continue
            if (yield from self._probe(nbytes)):
                schedule.answered(nbytes)
            else:
                schedule.unanswered()
            heard()

    def _probe(self, nbytes: int) -> Crossing:
        limit = timeout_seconds(self.link(), nbytes)
        self.probed_bytes += nbytes
        with self.traffic.crossing(nbytes, probes=True) as crossing:
            took = self.line.send(self.clock(), nbytes + self.header_bytes) - self.clock()
            took += self._back + self.call_seconds / 2
            yield self.env.timeout(min(took, limit))
        if took > limit:
            self.estimator.failed()
            return False
        self.estimator.record(nbytes, took, None, crossing.shared_bytes)
        return True

    @property
    def _back(self) -> float:
        return self.line.delay_seconds + self.reply_seconds + self.call_seconds / 2

    def _give_up(self, deadline: float) -> Crossing:
        yield self.env.timeout(max(0.0, deadline - self.env.now))
        self.estimator.failed()
        return False
