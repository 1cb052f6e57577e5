"""The way to the tier above: one per process, shared by all models, over as many replicas as that tier has.

Requests take turns among the replicas that say they serve. One that is about to leave, or whose connection breaks,
costs no request: that moves on to another while its time allows. One that is merely busy is left for another within a
budget, so that retries do not multiply an overload.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from services import targets
from services.channels import DEFAULT_MAX_MESSAGE_BYTES
from services.connection import Call, Connection, Silence, Transport
from services.describing import Description
from services.domain import Clock, LinkEstimate, Plan, Tier
from services.errors import DeadlineExceeded, Draining, ModelMismatch, QueueFull, Unavailable, UpstreamUnavailable
from services.framing import Framed
from services.greeting import Prepared
from services.pb.offramp.v1 import tier_pb2 as pb
from services.replica import Replica
from services.replicas import Replicas
from services.retry_budget import RetryBudget
from services.secure_channel import Trust

MOST_ATTEMPTS = 3
T = TypeVar("T")

OUTCOMES = ("answered", "failed", "over_budget", "unneeded")
"""Of asking another replica: it answered, it did not either, there was no budget for it, or the first one answered."""


@dataclass(slots=True)
class _Ask:
    """One request on its way to some replica. again: whether it is not its first time.

    until: of the clock, how long to wait for an answer; due: when the far side should have given it, which is sooner.
    """

    message: Framed
    until: float
    due: float
    expected_seconds: float | None
    tried: list[Replica] = field(default_factory=list)
    again: bool = False

    def leaves(self, now: float) -> bool:
        """Whether there is time enough to ask again."""
        return now < self.due and self.until - now > (self.expected_seconds or 0.0)

    def resent(self, now: float) -> None:
        """Says in the message what is left of its time."""
        if self.due < math.inf:
            self.message.header.remaining_seconds = self.due - now


class Uplink:
    """The replicas of the tier above behind one face. Needs a running event loop.

    target: see `targets.parse`. counted: makes of a channel one that tells somebody of its calls. hedge_after_seconds:
    how long to wait for one replica before another is asked as well; None: not at all. opens: makes a `Connection`.
    """

    def __init__(
        self,
        source: Tier,
        target: str,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        clock: Clock = time.monotonic,
        trust: Trust | None = None,
        transport: Transport = "exchange",
        counted: Callable[[Any], Any] | None = None,
        hedge_after_seconds: float | None = None,
        opens: Callable[..., Connection] = Connection,
    ):
        self._source = source

        def connect(name: str) -> Connection:
            return opens(source, name, max_message_bytes, clock, self._trust, transport, counted)

        self._connect = connect
        self._clock = clock
        self._trust = trust
        self._hedge_after = hedge_after_seconds
        self._budget = RetryBudget()
        self._prepared = Prepared(clock)
        self.retries = dict.fromkeys(OUTCOMES, 0)
        found = targets.parse(target)
        if isinstance(found, targets.Name):
            self._trust = trust and Trust(trust.files, trust.server_name or found.host)
        self.replicas = Replicas(found, self._replica)

    async def infer(self, message: Framed, timeout_seconds: float, expected_seconds: float | None = None) -> Call:
        """Sends one request and waits for its reply; raises what the far side raised.

        expected_seconds: what the whole plan should take. Raises UpstreamUnavailable at once where all replicas have
        failed lately.
        """
        self._budget.asked()
        now, given = self._clock(), message.header.remaining_seconds
        ask = _Ask(message, now + timeout_seconds, now + given if given else math.inf, expected_seconds)
        if self._hedge_after is None or len(self.replicas) < 2:
            return await self._answer(ask, self._first(ask))
        return await self._hedged(ask, self._hedge_after)

    def learn(self, call: Call, header_bytes: int, held_seconds: float) -> None:
        """Takes `call` as a measurement. header_bytes: of the request; held_seconds: what the far side had it for."""
        call.connection.learn(call, header_bytes, held_seconds)

    async def prepare(self, model_hash: str, plan: Plan, seconds: float) -> None:
        """Has all replicas, and the tiers above, make ready what `plan` runs there; raises where none is.

        Replicas that come back, or are new, make it ready before they are asked.
        """
        asked = self.replicas.usable() or self.replicas
        each = (_heard(one.connection.prepare(model_hash, plan, seconds)) for one in asked)
        ended = await asyncio.gather(*each, return_exceptions=True)
        failed = [end for end in ended if isinstance(end, BaseException)]
        if not ended:
            raise self.replicas.nobody()
        if len(failed) == len(ended):
            raise failed[0]
        self._prepared.note(model_hash, plan)

    async def describe(self, timeout_seconds: float, model_hash: str = "") -> Description:
        """What the next tier and those above believe of themselves and a model; raises what the next tier raised."""
        return await _heard(self.replicas.lead().connection.describe(timeout_seconds, model_hash))

    async def agree(self, timeout_seconds: float, model_hash: str) -> None:
        """Asks all replicas about a model. Raises ModelMismatch where one of them says that it does not serve it."""
        asked = self.replicas.usable() or self.replicas
        each = (_heard(one.connection.describe(timeout_seconds, model_hash)) for one in asked)
        for end in await asyncio.gather(*each, return_exceptions=True):
            if isinstance(end, ModelMismatch):
                raise end

    async def probe(self, nbytes: int, timeout_seconds: float) -> None:
        """Times a call of `nbytes` that does nothing, for the link estimate; raises what the next tier raised.

        Where there is no answer, another replica is probed next.
        """
        lead = self.replicas.lead()
        try:
            await lead.connection.probe(nbytes, timeout_seconds)
        except Silence as silence:
            self.replicas.pass_lead(lead)
            if isinstance(silence.error, UpstreamUnavailable):  # what comes back in its place is to be greeted
                lead.doubted()
            raise silence.error from None
        for replica in [lead] if self.replicas.usable() else self.replicas:  # where nobody was, the link was away
            replica.heard()

    def check(self) -> None:
        """Raises UpstreamUnavailable where nobody would be asked, before anything is made ready to be sent."""
        if not any(replica.usable for replica in self.replicas):
            raise self.replicas.nobody()

    def states(self) -> list[tuple[str, int]]:
        """Each replica, with 0: asked; 1: being tried; 2: left alone, or not reached."""
        return [(replica.name, replica.state) for replica in self.replicas]

    def link(self) -> LinkEstimate:
        return self.replicas.lead().connection.link() if self.replicas else LinkEstimate(self._source)

    def ahead_seconds(self) -> float:
        """Until the link has carried what is in flight."""
        return self.replicas.lead().connection.ahead_seconds() if self.replicas else 0.0

    @property
    def doubtful(self) -> bool:
        """Whether one more measurement would decide what the link has become."""
        return bool(self.replicas) and self.replicas.lead().connection.doubtful

    @property
    def overdue(self) -> bool:
        """Whether a call to the replica whose link is believed in takes longer than is plausible."""
        return bool(self.replicas) and self.replicas.lead().connection.overdue

    def quiet_seconds(self) -> float:
        """Since the last inference ended, 0 while one is in flight. Probes do not count."""
        return min((replica.connection.quiet_seconds() for replica in self.replicas), default=float("inf"))

    def untaught_seconds(self) -> float:
        """Since anything sent told of the rate."""
        return self.replicas.lead().connection.untaught_seconds() if self.replicas else 0.0

    async def close(self) -> None:
        await self.replicas.close()

    async def _answer(self, ask: _Ask, replica: Replica) -> Call:
        """Asks `replica`, then others, until one answers or must not be asked."""
        while True:
            began, pushback = self._clock(), None
            try:
                call = await replica.infer(ask.message, max(ask.until - began, 0.0), ask.expected_seconds)
            except Silence as silence:
                self.replicas.look_again()
                if isinstance(silence.error, DeadlineExceeded) and len(self.replicas) > 1:
                    replica.doubted()  # below a fast plan no call is given time enough to tell whether it hangs
                error, free = silence.error, not (ask.again or isinstance(silence.error, QueueFull))
            except Unavailable as refusal:
                error, free = refusal, isinstance(refusal, Draining)
                if isinstance(refusal, QueueFull) and all(each in ask.tried for each in self.replicas):
                    pushback = refusal.retry_seconds
            else:
                self.retries["answered"] += ask.again
                return call
            self.retries["failed"] += ask.again
            found = self._elsewhere(ask, free) if isinstance(error, Unavailable) else None
            if found is None and pushback is not None:
                found = await self._later(ask, replica, pushback)
            if found is None:
                try:
                    raise error
                finally:
                    del error  # or its traceback would keep this frame, and the message, for long
            replica, ask.again = found, True
            ask.resent(self._clock())

    def _first(self, ask: _Ask) -> Replica:
        """Raises UpstreamUnavailable where nobody is to be asked."""
        found = self._next(ask)
        if found is None:
            raise self.replicas.nobody()
        return found

    def _elsewhere(self, ask: _Ask, free: bool) -> Replica | None:
        """Who may be asked instead; free: whether the one before did no work for it, so that no budget is spent."""
        if len(ask.tried) >= MOST_ATTEMPTS or not ask.leaves(self._clock()):
            return None
        found = self._next(ask)
        if found is not None and not free and not self._budget.take():
            found.breaker.unknown()
            self.retries["over_budget"] += 1
            return None
        return found

    async def _later(self, ask: _Ask, replica: Replica, seconds: float) -> Replica | None:
        """The same replica, after the time that it asked for, where that leaves time and the budget allows it."""
        if len(ask.tried) >= MOST_ATTEMPTS or not ask.leaves(self._clock() + seconds):
            return None
        if not self._budget.take():
            self.retries["over_budget"] += 1
            return None
        await asyncio.sleep(seconds)
        if not ask.leaves(self._clock()) or not replica.breaker.allows():
            return None
        ask.tried.append(replica)
        return replica

    def _next(self, ask: _Ask) -> Replica | None:
        found = self.replicas.take(ask.tried)
        if found is not None:
            ask.tried.append(found)
        return found

    async def _hedged(self, ask: _Ask, after_seconds: float) -> Call:
        """The first answer of one replica and, if that takes long, of another; the other call is cancelled."""
        asking = [asyncio.create_task(self._answer(ask, self._first(ask)))]
        try:
            await asyncio.wait(asking, timeout=after_seconds)
            if not asking[0].done() and (second := self._elsewhere(ask, free=False)) is not None:
                asking.append(asyncio.create_task(self._answer(_copy(ask, self._clock()), second)))
            answer = await _first_answer(asking)
            if not asking[0].done():
                ask.tried[0].doubted()
            return answer
        finally:
            self.retries["unneeded"] += len(asking) > 1 and not asking[1].done()
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    def _replica(self, name: str, watched: bool) -> Replica:
        return Replica(name, self._connect(name), watched, self._clock, self._prepared.greet)


async def _heard(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except Silence as silence:
        raise silence.error from None


def _copy(ask: _Ask, now: float) -> _Ask:
    """To be asked as well; who is tried is known to both."""
    header = pb.InferRequest()
    header.CopyFrom(ask.message.header)
    message = Framed(header, ask.message.activation, ask.message.payload)
    copied = _Ask(message, ask.until, ask.due, ask.expected_seconds, ask.tried, again=True)
    copied.resent(now)
    return copied


async def _first_answer(asking: list[asyncio.Task[T]]) -> T:
    """The first result there is; where there is none, raises what the first of them raised."""
    pending = set(asking)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if task.exception() is None:
                return task.result()
    return asking[0].result()
