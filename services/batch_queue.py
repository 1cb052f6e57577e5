"""What waits to run on one tier, and which of it runs next, together. Knows no threads' or loop's work, only order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from services.domain import Deadline, FloatArray, Segment
from services.errors import DeadlineExceeded, OfframpError, QueueFull

T = TypeVar("T")

MOST_WAITING = 4096
_MICRO = 1e-6


@dataclass(frozen=True, slots=True)
class Batching:
    """How runs of several requests become one, by Triton's names (`model_config.proto`, ModelDynamicBatching).

    max_batch_size: samples of one batch; 1 never joins requests. timeout: after so long in the queue, 0 never, a run is
    refused, or with 'delay' runs after those that have not waited so long.
    """

    max_batch_size: int = 32
    max_queue_delay_microseconds: int = 0
    default_timeout_microseconds: int = 0
    timeout_action: Literal["reject", "delay"] = "reject"

    @property
    def delay_seconds(self) -> float:
        return self.max_queue_delay_microseconds * _MICRO

    @property
    def timeout_seconds(self) -> float:
        return self.default_timeout_microseconds * _MICRO


@dataclass(slots=True, eq=False)
class Run(Generic[T]):
    """One request's run of a piece on `tensor` [N, …], for `owner`, waiting since a time of the queue's clock.

    arrived: when its request did, which may have run pieces since. most: samples that may run as one batch with it;
    what has as many by itself runs alone. due: whether it is to run with the next that are taken, or still waits for
    company, which may take it along.
    """

    owner: T
    piece: Segment
    tensor: FloatArray
    deadline: Deadline
    since: float
    arrived: float
    most: int
    due: bool = True

    def joins(self, head: Run[T], samples: int) -> bool:
        """Whether it may run with `head`, whose batch has `samples` already."""
        same = self.piece == head.piece and self.tensor.shape[1:] == head.tensor.shape[1:]
        return same and samples + len(self.tensor) <= head.most


@dataclass(frozen=True, slots=True)
class Taken(Generic[T]):
    """What is to run now as one batch, and what will not, with the reason."""

    batch: list[Run[T]]
    dropped: list[tuple[Run[T], OfframpError]]


@dataclass(slots=True)
class BatchQueue(Generic[T]):
    """Runs in the order their requests came, taken from any thread: what has begun goes on before others begin.

    Of one model: a piece and a shape are the key of a batch.
    """

    batching: Batching = field(default_factory=Batching)
    most_waiting: int = MOST_WAITING
    _waiting: dict[Run[T], None] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, run: Run[T]) -> None:
        """Raises QueueFull where too much waits already."""
        with self._lock:
            if len(self._waiting) >= self.most_waiting:
                raise QueueFull(f"{len(self._waiting)} runs wait here already; try again shortly")
            self._waiting[run] = None

    def fills(self, run: Run[T]) -> bool:
        """Whether as many samples as can run with `run`, itself included, are here."""
        with self._lock:
            return sum(len(each.tensor) for each in self._waiting if each.joins(run, 0)) >= run.most

    def discard(self, run: Run[T]) -> None:
        """Forgets `run`, which nobody waits for any more, if it is still here."""
        with self._lock:
            self._waiting.pop(run, None)

    def take(self, now: float) -> Taken[T]:
        """The due run that goes first with those that may join it, if there is one. What is too late is dropped."""
        with self._lock:
            dropped = list(self._too_late(now))
            for run, _ in dropped:
                del self._waiting[run]
            head = self._head(now)
            if head is None:
                return Taken([], dropped)
            del self._waiting[head]
            batch, samples = [head], len(head.tensor)
            if samples < head.most:
                for run in self._waiting:
                    if run.joins(head, samples):
                        batch.append(run)
                        samples += len(run.tensor)
            for run in batch[1:]:
                del self._waiting[run]
            return Taken(batch, dropped)

    def rest(self) -> list[Run[T]]:
        """Everything that waits, which is forgotten."""
        with self._lock:
            runs, self._waiting = list(self._waiting), {}
            return runs

    def _too_late(self, now: float) -> Iterator[tuple[Run[T], OfframpError]]:
        refuses = self.batching.timeout_action == "reject"
        for run in self._waiting:
            if run.deadline.remaining() <= 0:
                yield run, DeadlineExceeded("no time left to compute")
            elif refuses and self._overdue(run, now):
                yield run, QueueFull(f"it waited {now - run.since:.3f} s to run, longer than this tier lets it")

    def _head(self, now: float) -> Run[T] | None:
        """That of the oldest request, of those that are due, and not overdue where there are such."""
        due = (run for run in self._waiting if run.due)
        return min(due, key=lambda run: (self._overdue(run, now), run.arrived), default=None)

    def _overdue(self, run: Run[T], now: float) -> bool:
        limit = self.batching.timeout_seconds
        return limit > 0 and now - run.since > limit
