"""One emulated link with what a tier keeps of it: the estimator, the probes and who is on it, on a simulated clock."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import simpy

from services.breaker import Breaker, BreakerState
from services.domain import LinkEstimate, Plan, Tier
from services.link import LinkEstimator
from services.probing import LOOK_SECONDS, ProbeSchedule, timeout_seconds
from services.replica import CHECK_SECONDS, sensible
from services.traffic import Crossing, Held, Traffic
from testbed.bench.world import Line

Steps = Generator[simpy.Event, None, None]
Outcome = Generator[simpy.Event, None, bool]
"""Whether it came back in time."""


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
    held: Held = field(default_factory=Held)
    breaker: Breaker = field(init=False)
    probed_bytes: int = 0
    _checking: bool = False

    def __post_init__(self) -> None:
        self.estimator, self.traffic = LinkEstimator(self.source, self.clock), Traffic(self.clock)
        self.breaker = Breaker(self.clock)

    def clock(self) -> float:
        return float(self.env.now)

    def link(self) -> LinkEstimate:
        return self.estimator.estimate(self.traffic.waiting())

    def ahead_seconds(self) -> float:
        """Until the link has carried what is in flight, at the rate believed."""
        rate = self.link().up_bytes_per_second
        return self.traffic.ahead_seconds(rate) if rate else 0.0

    @property
    def overdue(self) -> bool:
        return self.estimator.overdue(self.traffic.waiting())

    def call(self, plan: Plan, nbytes: int, deadline: float, far: Callable[[], Outcome]) -> Outcome:
        """Sends a payload, lets `far` do its part there, and comes back; False where the deadline passes before.

        A call that was given up before its first byte was on the link leaves nothing there.
        """
        env, began = self.env, self.clock()
        beyond = self.held.longest(plan.stages, plan.expected_seconds)
        with self.traffic.crossing(nbytes, beyond_seconds=beyond) as crossing:
            if self.line.free > deadline:
                return (yield from self._give_up(crossing, deadline))
            arrives = self.line.send(began, nbytes + self.header_bytes) + self.call_seconds / 2
            if arrives > deadline:
                return (yield from self._give_up(crossing, deadline))
            yield env.timeout(arrives - began)
            entered, answering = env.now, env.process(far())
            yield answering | env.timeout(max(0.0, deadline - entered))
            held = env.now - entered
            if not (answering.triggered and answering.value) or env.now + self._back > deadline:
                return (yield from self._give_up(crossing, deadline))
            yield env.timeout(self._back)
        self.held.note(plan.stages, held)
        self.estimator.record(nbytes, env.now - began - held, self.overhead_bytes, crossing.shared_bytes)
        return True

    def ended(self, answered: bool, given_seconds: float, expected_seconds: float | None) -> None:
        """How a call ended that the breaker allowed: silence has the health of the far side checked, as a replica's."""
        if answered:
            self.breaker.succeeded()
        elif not sensible(given_seconds, expected_seconds):
            self.breaker.unknown()
        else:
            self.breaker.failed()
            if not self._checking:
                self._checking = True
                self.env.process(self._check())

    def _check(self) -> Steps:
        """Who does not answer a health check is left alone, and asked less and less often, until it does."""
        if self.breaker.state is not BreakerState.OPEN and not (yield from self._serves()):
            self.breaker.dead()
        while self.breaker.state is BreakerState.OPEN:
            yield self.env.timeout(self.breaker.due_seconds)
            healthy = yield from self._serves()
            (self.breaker.healthy if healthy else self.breaker.unhealthy)()
        self._checking = False

    def _serves(self) -> Outcome:
        took = self._round_trip(0)
        yield self.env.timeout(min(took, CHECK_SECONDS))
        return took <= CHECK_SECONDS

    def probing(self, needed: Callable[[], bool], heard: Callable[[], None]) -> Steps:
        """Probes the quiet link as `services.probing` says, to the end of the simulation."""
        schedule = ProbeSchedule(self.clock)
        while True:
            quiet, estimator = self.traffic.quiet_seconds(), self.estimator
            untaught = estimator.untaught_seconds()
            nbytes = schedule.due(self.link(), quiet, estimator.doubtful, needed(), untaught)
            if nbytes is None:
                yield self.env.timeout(LOOK_SECONDS)
                continue
            if (yield from self._probe(nbytes)):
                schedule.answered(nbytes)
            else:
                schedule.unanswered()
            heard()

    def watching(self, heard: Callable[[], None]) -> Steps:
        """Tells of overdue calls, as a prober does."""
        was = False
        while True:
            yield self.env.timeout(LOOK_SECONDS)
            overdue = self.overdue
            if overdue or was:
                heard()
            was = overdue

    def _probe(self, nbytes: int) -> Outcome:
        limit = timeout_seconds(self.link(), nbytes)
        self.probed_bytes += nbytes
        with self.traffic.crossing(nbytes, probes=True) as crossing:
            took = self._round_trip(nbytes)
            yield self.env.timeout(min(took, limit))
        if took > limit:
            self.estimator.failed(nbytes, limit)
            return False
        self.breaker.healthy()
        self.estimator.record(nbytes, took, None, crossing.shared_bytes)
        return True

    def _round_trip(self, nbytes: int) -> float:
        """Seconds that a call takes which does nothing there."""
        arrives = self.line.send(self.clock(), nbytes + self.header_bytes)
        return arrives - self.clock() + self._back + self.call_seconds / 2

    @property
    def _back(self) -> float:
        return self.line.delay_seconds + self.reply_seconds + self.call_seconds / 2

    def _give_up(self, call: Crossing, deadline: float) -> Outcome:
        yield self.env.timeout(max(0.0, deadline - self.env.now))
        self.estimator.failed(call.nbytes + call.shared_bytes, self.traffic.on_network(call))
        return False
