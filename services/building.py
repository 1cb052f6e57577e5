"""Building pieces of a model's network in one thread, apart from the workers that serve requests.

A build takes many times as long as a run: whoever needs a piece that is not there waits for it here, and delays nobody
else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Protocol

from services.domain import Deadline, Segment
from services.errors import MOST_RETRY_SECONDS, DeadlineExceeded, QueueFull

_MAX_RESTS = 8


class Urgency(IntEnum):
    """What is built first: what requests wait for, what a plan needs before any takes it, what may never be run."""

    REQUEST = 0
    PLAN = 1
    REST = 2


class Prepares(Protocol):
    """What is needed here of a model.

    max_sessions: how many pieces it keeps. More to be built at a time would drive each other out.
    """

    max_sessions: int

    def pieces(self, segment: Segment) -> tuple[Segment, ...]: ...

    def prepare(self, segments: Iterable[Segment]) -> None: ...


_Job = tuple[tuple[Callable[[], object], ...], Future[None]]


@dataclass(slots=True)
class _Piece:
    """To be built for so many who wait for it."""

    job: Future[None]
    built: asyncio.Future[None]
    waiting: int = 0


class Builder:
    """Builds for one model, one thing at a time. Starts its thread with the first."""

    def __init__(self, model: Prepares):
        self._model = model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="builder")
        self._pieces: dict[Segment, _Piece] = {}
        self._jobs: tuple[deque[_Job], ...] = (deque(), deque(), deque(maxlen=_MAX_RESTS))
        self._turn: Future[None] | None = None

    async def resident(self, piece: Segment, until: Deadline) -> None:
        """Returns when `piece` is built, once for all who wait for it; what nobody waits for any more is dropped.

        Raises DeadlineExceeded, QueueFull where too many pieces are waited for already, or what the model raised.
        """
        building = self._pieces.get(piece) or self._begin(piece)
        building.waiting += 1
        try:
            done, _ = await asyncio.wait([building.built], timeout=max(until.remaining(), 0.0))
        finally:
            building.waiting -= 1
            if not building.waiting and building.job.cancel():  # it has not begun
                self._forget(piece, building)
        if not done:
            raise DeadlineExceeded(f"no time left to wait until segment {piece} is built")
        building.built.result()

    def prepare(self, urgency: Urgency, segment: Segment) -> Future[None]:
        """Has `segment` built piece by piece."""
        return self.submit(urgency, *(partial(self._model.prepare, [piece]) for piece in self._model.pieces(segment)))

    def submit(self, urgency: Urgency, *work: Callable[[], object]) -> Future[None]:
        """Has `work` done when it is its turn, unless it is cancelled before; more urgent work goes between its parts.

        Of the least urgent, the newest few.
        """
        done: Future[None] = Future()
        self._jobs[urgency].append((work, done))
        done.add_done_callback(partial(_make_room, self._jobs[urgency]))
        if self._turn is None or self._turn.running() or self._turn.done():  # else it comes to this, too
            self._turn = self._thread.submit(self._all)
        return done

    def close(self) -> None:
        """Drops what waits; a build under way ends by itself."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        for _, done in (job for jobs in self._jobs for job in tuple(jobs)):
            done.cancel()

    def _begin(self, piece: Segment) -> _Piece:
        if (ahead := len(self._jobs[Urgency.REQUEST])) >= self._model.max_sessions:
            raise QueueFull(f"{ahead} pieces wait to be built", MOST_RETRY_SECONDS)  # so many take longer
        job = self.prepare(Urgency.REQUEST, piece)
        building = self._pieces[piece] = _Piece(job, asyncio.wrap_future(job))
        building.built.add_done_callback(lambda _: self._ended(piece, building))
        return building

    def _ended(self, piece: Segment, building: _Piece) -> None:
        self._forget(piece, building)
        if not building.built.cancelled():
            building.built.exception()  # is told to who still waits; where nobody does, the next request finds out anew

    def _forget(self, piece: Segment, building: _Piece) -> None:
        if self._pieces.get(piece) is building:
            del self._pieces[piece]

    def _all(self) -> None:
        """In the thread: does everything there is."""
        while self._next():
            pass

    def _next(self, before: int = len(Urgency)) -> bool:
        """In the thread: does the most urgent there is of what is more urgent than `before`; whether there was any."""
        urgency, jobs = next(((each, jobs) for each, jobs in enumerate(self._jobs[:before]) if jobs), (0, None))
        if jobs is None:
            return False
        try:
            work, done = jobs.popleft()
        except IndexError:  # whoever asked for it has just dropped it
            return True
        if not done.set_running_or_notify_cancel():
            return True
        try:
            for part in work:
                while self._next(urgency):
                    pass
                part()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)
        return True


def _make_room(jobs: deque[_Job], ended: Future[None]) -> None:
    """What was dropped takes no place from those that are waited for."""
    for job in tuple(jobs) if ended.cancelled() else ():
        if job[1] is ended:
            with suppress(ValueError):  # the thread has just come to it
                jobs.remove(job)
