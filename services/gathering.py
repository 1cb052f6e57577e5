"""Small requests for the tier above, wanted in the same turn of the event loop, travel as one with all their samples.

Whatever a request costs besides its run, on both sides of the link, is then shared. Nobody waits for company where
requests do not queue: a turn ends when everyone has asked who can ask now, and one caller alone is not gathered at all.
Where they do, a few wait for the many that are under way, for less than queueing takes, and then go with them: small
groups would stay small, each with its own callers' next requests. Only what the tier above
ends, in a run known to be short, is joined, so that nobody waits for another longer than for a turn of its own. Each
keeps its id, its deadline and its answer; where a group does not come to a whole answer, each asks again alone.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from services import eager, log
from services.domain import Clock, Plan, Request, Stage, Tier
from services.errors import OfframpError, QueueFull, TooLarge, Unavailable
from services.journey import Forwarded
from services.outbox import GATHERED_BYTES
from services.response import Response

MOST_TOGETHER = 64
TOGETHER_SECONDS = 0.002
"""What the samples of one group may take one by one, all together."""
SHORT_SECONDS = 0.001
"""A request whose run takes longer costs little else; it travels alone."""
PATIENCE_SECONDS = 0.1
"""A request with less time left travels alone: none may end late, or by half, for the sake of another."""
_CROWD = 2
_LEAST_HALF = 8
_ENOUGH = 0.5
"""As many as half of those under way are worth a way of their own: the tier above is busy with the one or the other."""
_FORGETTING = 0.01
_MOST_HELD_SECONDS = 0.002
_FULL_SECONDS, _SMALL_SECONDS = 10.0, 600.0
"""For so long fewer travel together to a tier that has no place for so many now, or takes fewer samples ever."""
_LEAST_SECONDS = 1e-7
_MOST_PLANS = 64


class Send(Protocol):
    """Forwards one request, whose samples are those of `members` where there are any, in equal parts."""

    def __call__(self, request: Request, codec_name: str, members: Sequence[str] = ()) -> Awaitable[Forwarded]: ...


_Place = asyncio.Future[Forwarded | None]


@dataclass(slots=True, eq=False)
class _Group:
    """Up to `most` requests that want the same. A place without an answer tells its owner to ask alone."""

    head: Request
    codec: str
    most: int
    places: list[tuple[Request, _Place]] = field(default_factory=list)
    journey: asyncio.Future[None] | None = None
    timer: asyncio.TimerHandle | None = None
    due: bool = False
    split: list[_Group] = field(default_factory=list)

    def takes(self, request: Request, codec: str) -> bool:
        head = self.head
        return (
            len(self.places) < self.most
            and codec == self.codec
            and (request.plan is head.plan or request.plan.stages == head.plan.stages)
            and request.at == head.at
            and (request.thresholds, request.priority) == (head.thresholds, head.priority)
            and request.activation.shape == head.activation.shape
            and 2 * abs(request.deadline.at - head.deadline.at) <= head.deadline.remaining()
        )

    def waiting(self) -> list[tuple[Request, _Place]]:
        """Those whose callers have not left."""
        return [(request, place) for request, place in self.places if not place.done()]

    def halve(self) -> None:
        """In two, where they are many: the tier above runs one while this one deals with the answers of the other."""
        middle = len(self.places) // 2
        if middle >= _LEAST_HALF:
            halves = self.places[:middle], self.places[middle:]
            self.split = [_Group(self.head, self.codec, self.most, places) for places in halves]

    @property
    def parts(self) -> Sequence[_Group]:
        """What of it travels as one."""
        return self.split or (self,)

    def left(self) -> None:
        """One of them does not wait any more; where that leaves nobody, the journey ends."""
        for part in self.parts:
            if part.journey is not None and not part.waiting():
                part.journey.cancel()


@dataclass(slots=True)
class Crowding:
    """How long requests queue at the tier above: what their way takes beyond the least that it took lately.

    Who holds a request back for half as long lets it catch up with those before it, and it is answered no later.
    """

    seconds: float = 0.0
    _least: float = math.inf

    def note(self, seconds: float) -> None:
        """Adds one answered request: its seconds outside of the tiers above."""
        drifted = self._least + _FORGETTING * (seconds - self._least) if self._least < math.inf else seconds
        self._least = min(seconds, drifted)
        self.seconds = min((seconds - self._least) / 2, _MOST_HELD_SECONDS)


class Gathering:
    """Finds what can travel as one, to one tier and of one model, and sends it. Needs a running event loop.

    most_samples: that the model takes at a time; None: any number.
    """

    def __init__(self, send: Send, clock: Clock = time.monotonic, most_samples: int | None = None):
        self._send = send
        self._clock = clock
        self._most_samples = math.inf if most_samples is None else most_samples
        self._groups: list[_Group] = []
        self._limit = MOST_TOGETHER
        self._limited_until = -math.inf
        self._seconds: dict[tuple[Stage, ...], float] = {}
        self._last: tuple[Plan, float] | None = None
        self._asked, self._before = 0, 0
        self._under_way, self._travelling = 0, 0
        self._crowding = Crowding()

    async def infer(self, request: Request, codec: str) -> Forwarded:
        """The answer to `request`, which travels alone or with others; raises what the far side raised."""
        most = self._worthwhile(request)
        if most < _CROWD or not self._crowded():
            return await self._alone(request, codec)
        group, place = self._join(request, codec, most)
        try:
            found = await place
        except asyncio.CancelledError:
            group.left()
            raise
        return await self._alone(request, codec) if found is None else found

    async def _alone(self, request: Request, codec: str) -> Forwarded:
        forwarded = await self._sent(request, codec)
        self._learn(request.plan, forwarded.response)
        return forwarded

    async def _sent(self, request: Request, codec: str, members: Sequence[str] = ()) -> Forwarded:
        """As `send`; whoever waits to depart is looked at again when the answer is here."""
        requests = len(members) or 1
        self._under_way += 1
        self._travelling += requests
        began = self._clock()
        try:
            forwarded = await self._send(request, codec, members)
            self._crowding.note(self._clock() - began - forwarded.response.trace.seconds)
            return forwarded
        finally:
            self._under_way -= 1
            self._travelling -= requests
            if self._groups:
                asyncio.get_running_loop().call_soon(self._look_again)

    def _worthwhile(self, request: Request) -> int:
        """How many requests like this one are worth sending as one; 1 where it is to travel alone."""
        plan = request.plan
        if self._last is None or plan is not self._last[0]:
            self._last = plan, self._seconds.get(plan.stages, math.inf)
        seconds = self._last[1] * len(request.activation)
        if seconds >= SHORT_SECONDS or request.traceparent or request.passing is not None:
            return 1
        if request.deadline.remaining() < PATIENCE_SECONDS:
            return 1
        if self._clock() >= self._limited_until:
            self._limit = MOST_TOGETHER
        samples, nbytes = len(request.activation), max(request.activation.nbytes, 1)
        return int(min(self._limit, TOGETHER_SECONDS / seconds, GATHERED_BYTES / nbytes, self._most_samples / samples))

    def _reduce(self, tried: int, seconds: float) -> None:
        """The tier above does not take so many at once: half, for so long."""
        self._limit, self._limited_until = max(tried // 2, 1), self._clock() + seconds

    def _crowded(self) -> bool:
        """Whether requests come several at a time, or sooner than the tier above answers."""
        self._asked += 1
        if self._asked == 1:
            asyncio.get_running_loop().call_soon(self._turn_over)
        return self._before >= _CROWD or self._under_way >= _CROWD

    def _turn_over(self) -> None:
        self._before, self._asked = self._asked, 0

    def _join(self, request: Request, codec: str, most: int) -> tuple[_Group, _Place]:
        loop = asyncio.get_running_loop()
        group = next((group for group in self._groups if group.takes(request, codec)), None)
        if group is None:
            group = _Group(request, codec, most)
            self._groups.append(group)
            seconds = self._crowding.seconds if self._under_way else 0.0
            group.timer = loop.call_later(seconds, self._depart, group) if seconds else None
            self._due(group)
        place: _Place = loop.create_future()
        group.places.append((request, place))
        return group, place

    def _due(self, group: _Group) -> None:
        """It is looked at at the end of this turn, when all are in it that it brings."""
        if not group.due:
            group.due = True
            asyncio.get_running_loop().call_soon(self._consider, group)

    def _look_again(self) -> None:
        """An answer is here; whoever got it may ask again in this turn."""
        for group in self._groups:
            self._due(group)

    def _consider(self, group: _Group) -> None:
        """Has it depart, unless it is few beside those under way: they come back soon, and then all go together."""
        group.due = False
        if group.timer is None or len(group.places) >= _ENOUGH * self._travelling:
            self._depart(group)

    def _depart(self, group: _Group) -> None:
        if group in self._groups:
            self._groups.remove(group)
            if group.timer is not None:
                group.timer.cancel()
            if self._under_way == 0:
                group.halve()
            for part in group.parts:
                part.journey = eager.start(self._travel(part))

    async def _travel(self, group: _Group) -> None:
        """Sends those of `group` who still wait as one request; each is given its part of what comes back."""
        waiting = group.waiting()
        parts: Sequence[Forwarded | None] = [None] * len(waiting)
        try:
            if len(waiting) > 1:
                parts = await self._parts(group, [request for request, _ in waiting])
        except QueueFull:  # it may have a place for some of them, which is for each to find out
            self._reduce(len(waiting), _FULL_SECONDS)
        except TooLarge:
            self._reduce(len(waiting), _SMALL_SECONDS)
        except Unavailable as error:
            for _, place in waiting:
                if not place.done():
                    place.set_exception(copy.copy(error))
            return
        except OfframpError:  # of one of them, or of the time of one: each is told alone
            pass
        except Exception:  # each, asking alone, meets it again, and whoever asked is told
            log.event("failed", logging.ERROR, exc_info=True, task="gathering")
        finally:
            _hand_out(waiting, parts)

    async def _parts(self, group: _Group, requests: Sequence[Request]) -> Sequence[Forwarded | None]:
        nearest = min((request.deadline for request in requests), key=lambda deadline: deadline.at)
        whole = np.concatenate([request.activation for request in requests])
        joined = replace(group.head, activation=whole, deadline=nearest)
        forwarded = await self._sent(joined, group.codec, [request.request_id for request in requests])
        self._learn(group.head.plan, forwarded.response)
        if forwarded.response.predictions.reasons.any():
            return [None] * len(requests)
        return _split(forwarded, len(requests))

    def _learn(self, plan: Plan, response: Response) -> None:
        """What one sample by `plan` takes at the tier above, by its own word; infinite where it goes on from there."""
        hop = response.trace.hops[0] if response.trace.hops else None
        profile = response.profiles[0] if response.profiles else None
        seconds = math.inf
        if hop is not None and profile is not None and profile.segments and _ends_at(plan, hop.tier):
            seconds = max(sum(run.seconds / run.batch_size for run in profile.segments), _LEAST_SECONDS)
        if len(self._seconds) >= _MOST_PLANS and plan.stages not in self._seconds:
            self._seconds.clear()
        self._seconds[plan.stages] = seconds
        self._last = plan, seconds


def _ends_at(plan: Plan, tier: Tier) -> bool:
    """Whether nothing is left to run above `tier`."""
    return all(stage.segment.empty for stage in plan.stages if stage.tier > tier)


def _hand_out(waiting: Sequence[tuple[Request, _Place]], parts: Sequence[Forwarded | None]) -> None:
    for (_, place), part in zip(waiting, parts, strict=True):
        if not place.done():
            place.set_result(part)


def _split(forwarded: Forwarded, count: int) -> list[Forwarded]:
    """What came back for each of `count` requests; what the way cost is shared among them."""
    whole, seconds = forwarded.response, forwarded.encode_seconds
    size = len(whole.predictions) // count
    parts = (whole.predictions.part(slice(start, start + size)) for start in range(0, size * count, size))
    up, down = forwarded.bytes_up // count, forwarded.bytes_down // count
    each = (Response(part, whole.trace, whole.profiles, whole.links) for part in parts)
    return [Forwarded(response, seconds, up, down, forwarded.codec) for response in each]
