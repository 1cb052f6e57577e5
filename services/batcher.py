"""Batching across requests: runs of the same piece that wait at the same time run as one, where that pays.

Nothing waits for company by default. Runs in workers are joined when a worker becomes free; runs too short for a worker
are joined when enough of them are asked for in the same turn of the event loop.
Each request keeps its own journey: only the run of a piece is shared, and its output is handed back by rows.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from services.batch_queue import Batching, BatchQueue, Run, Taken
from services.domain import Clock, Deadline, FloatArray, Segment
from services.errors import DeadlineExceeded
from services.model import SegmentOutput
from services.profile import Profiler

INLINE_SECONDS = 0.0002
"""A run measured to be shorter than this is not worth a hand-over to a worker and back, which costs more."""

CROWD = 6
"""So many short runs in one turn of the event loop take less time as a batch, gathering them included; fewer do not.

By `benchmarks/batching.py`, with a network of 35 µs: where four share a batch, gathering costs what it saves.
"""

INLINE_BATCH_SECONDS = 0.001
"""What a batch of short runs may keep the event loop for, about."""

_MOST_TALLIES = 256


class Ran(NamedTuple):
    """When a run started, what came of this request's part of it, when it finished, and how many samples shared it."""

    started: float
    output: SegmentOutput
    finished: float
    samples: int


class Runnable(Protocol):
    """What is needed here of a model."""

    def run(self, piece: Segment, tensor: FloatArray) -> SegmentOutput: ...

    def resident(self, segment: Segment) -> bool: ...


@dataclass(slots=True)
class Tally:
    """Batches of one piece that several requests shared, and how many runs were part of them."""

    batches: int = 0
    runs: int = 0


_Waiting = Run[asyncio.Future[Ran]]
_Outcomes = list[tuple[_Waiting, Ran | Exception]]


@dataclass(slots=True)
class _Turn:
    """How many short runs were asked for in this turn of the event loop, and in the last one that had any.

    gathers: whether what was gathered is about to be run.
    """

    asked: int = 0
    before: int = 0
    gathers: bool = False


@dataclass(slots=True)
class Batcher:
    """Runs pieces of one model, in workers or, where they are short, on the event loop; tells the profiler of each."""

    model: Runnable
    profiler: Profiler
    workers: Executor
    batching: Batching = field(default_factory=Batching)
    clock: Clock = time.monotonic
    tallies: dict[Segment, Tally] = field(default_factory=dict)
    _long: BatchQueue[asyncio.Future[Ran]] = field(init=False)
    _short: BatchQueue[asyncio.Future[Ran]] = field(init=False)
    _turn: _Turn = field(default_factory=_Turn)

    def __post_init__(self) -> None:
        self._long, self._short = BatchQueue(self.batching), BatchQueue(self.batching)

    @property
    def waiting(self) -> int:
        """Runs that wait for a worker now."""
        return len(self._long)

    async def run(self, piece: Segment, tensor: FloatArray, deadline: Deadline, arrived: float | None = None) -> Ran:
        """Runs `piece` on `tensor`, [N, …], maybe in one batch with others, before requests that `arrived` later.

        Raises DeadlineExceeded where the deadline passed before it had run, QueueFull where too much waits or it
        waited longer than settings allow, and whatever the model raises.
        """
        since = self.clock()
        short = self._is_short(piece, len(tensor))
        most = max(self._most_together(piece, short), len(tensor))
        joins = most > len(tensor)
        if short and not joins:
            return self._at_once(piece, tensor, since)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Ran] = loop.create_future()
        delay = self.batching.delay_seconds if joins else 0.0
        run = Run(answer, piece, tensor, deadline, since, since if arrived is None else arrived, most, due=not delay)
        queue = self._short if short else self._long
        queue.put(run)
        ends = loop.call_later(max(deadline.remaining(), 0.0), _end, answer) if delay or not short else None
        try:
            if run.due or queue.fills(run):
                self._start(run, short)
            else:
                loop.call_later(delay, self._start, run, short)
            return await answer
        finally:
            if ends is not None:
                ends.cancel()
            queue.discard(run)

    def pays(self, piece: Segment) -> int:
        """How many samples of `piece` run as one batch, by what was measured; 1 where that would save nothing."""
        return self.profiler.batch(piece, self.batching.max_batch_size) if self.batching.max_batch_size > 1 else 1

    def _most_together(self, piece: Segment, short: bool) -> int:
        """How many samples may share the next run; 1 for a short one that comes alone."""
        if not short:
            return self.pays(piece)
        return self._most_inline(piece) if self._crowded() else 1

    def _most_inline(self, piece: Segment) -> int:
        """The same of short runs, as many as the loop has time for."""
        one = self._seconds(piece, 1)
        return self.pays(piece) if not one else min(self.pays(piece), int(INLINE_BATCH_SECONDS / one))

    def _is_short(self, piece: Segment, samples: int) -> bool:
        seconds = self._seconds(piece, samples)
        return seconds is not None and seconds < INLINE_SECONDS and self.model.resident(piece)

    def _seconds(self, piece: Segment, samples: int) -> float | None:
        """What a run takes where nothing else runs, or took lately; None where neither is known.

        First what was measured: a run in a worker seems to take longer, as it waits for others to let it go on, so that
        who went by what runs took would hand over for ever once a busy moment made runs look long.
        """
        measured = self.profiler.unloaded(piece, samples)
        return self.profiler.seconds(piece, samples) if measured is None else measured

    def _crowded(self) -> bool:
        """Whether short runs should be gathered: lately, turns of the loop bring so many that it takes less time."""
        turn = self._turn
        turn.asked += 1
        if turn.asked == 1:
            asyncio.get_running_loop().call_soon(self._turn_over)
        return turn.before >= CROWD or bool(self.batching.delay_seconds)

    def _turn_over(self) -> None:
        self._turn.before, self._turn.asked = self._turn.asked, 0

    def _at_once(self, piece: Segment, tensor: FloatArray, since: float) -> Ran:
        started = self.clock()
        output = self.model.run(piece, tensor)
        finished = self.clock()
        self._record(piece, len(tensor), finished - started, started - since)
        return Ran(started, output, finished, len(tensor))

    def _start(self, run: _Waiting, short: bool) -> None:
        """Has `run` taken, and who can join it: by the next worker that is free, or on the loop."""
        run.due, loop = True, asyncio.get_running_loop()
        if not short:
            self._to_worker(loop)
        elif not self._turn.gathers:
            self._turn.gathers = True
            loop.call_soon(self._serve_gathered)

    def _serve_gathered(self) -> None:
        """One batch in each turn of the loop, until none is left."""
        self._serve_short()
        self._turn.gathers = len(self._short) > 0
        if self._turn.gathers:
            asyncio.get_running_loop().call_soon(self._serve_gathered)

    def _to_worker(self, loop: asyncio.AbstractEventLoop) -> None:
        """One turn of a worker for each run; whoever finds that another took its run with theirs has nothing to do."""

        def serve() -> None:
            if outcomes := self._served(self._long.take(self.clock())):
                with suppress(RuntimeError):  # the loop has ended, and with it whoever waited
                    loop.call_soon_threadsafe(self._deliver, outcomes)

        self.workers.submit(serve)

    def _serve_short(self) -> None:
        self._deliver(self._served(self._short.take(self.clock())))

    def _served(self, taken: Taken[asyncio.Future[Ran]]) -> _Outcomes:
        refused: _Outcomes = list(taken.dropped)
        return refused + (self._ran(taken.batch) if taken.batch else [])

    def _ran(self, batch: list[_Waiting]) -> _Outcomes:
        """What came of running `batch` as one; one by one where that fails, so that nobody fails with another."""
        tensors = [run.tensor for run in batch]
        try:
            started = self.clock()
            whole, logits = self.model.run(batch[0].piece, np.concatenate(tensors) if len(batch) > 1 else tensors[0])
            finished = self.clock()
        except Exception as error:
            return [(batch[0], error)] if len(batch) == 1 else [each for run in batch for each in self._ran([run])]
        ends = np.cumsum([len(tensor) for tensor in tensors]).tolist()
        outcomes: _Outcomes = []
        for run, end in zip(batch, ends, strict=True):
            rows = slice(end - len(run.tensor), end)
            output = whole[rows], None if logits is None else logits[rows]
            outcomes.append((run, Ran(started, output, finished, ends[-1])))
        return outcomes

    def _deliver(self, outcomes: _Outcomes) -> None:
        self._told([(run, outcome) for run, outcome in outcomes if isinstance(outcome, Ran)])
        for run, outcome in outcomes:
            if run.owner.done():
                continue  # whoever asked has left
            if isinstance(outcome, Ran):
                run.owner.set_result(outcome)
            else:
                run.owner.set_exception(outcome)

    def _told(self, ran: list[tuple[_Waiting, Ran]]) -> None:
        """Records one run, however many requests shared it; none that was repeated one by one."""
        if ran and ran[0][1].started == ran[-1][1].started:
            (head, first), count = ran[0], len(ran)
            waited = sum(each.started - run.since for run, each in ran) / count
            self._record(head.piece, first.samples, first.finished - first.started, waited, count)

    def _record(self, piece: Segment, samples: int, seconds: float, waited: float, sharing: int = 1) -> None:
        self.profiler.record(piece, samples, seconds, waited)
        tally = self.tallies.get(piece)
        if tally is None and len(self.tallies) < _MOST_TALLIES:
            tally = self.tallies[piece] = Tally()
        if tally is not None and sharing > 1:
            tally.batches += 1
            tally.runs += sharing

    def close(self) -> None:
        """Lets go of the workers, and of whatever waits for one."""
        for run in (*self._long.rest(), *self._short.rest()):
            run.owner.cancel()
        self.workers.shutdown(wait=False, cancel_futures=True)


def _end(answer: asyncio.Future[Ran]) -> None:
    if not answer.done():
        answer.set_exception(DeadlineExceeded("no time left to compute"))
