"""What waits to run: which of it runs next, together, and what is too late to run at all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.batch_queue import Batching, BatchQueue, Run
from services.domain import Deadline, Segment
from services.errors import DeadlineExceeded, QueueFull
from tests.fakes import FakeClock

A, B = Segment(0, 2), Segment(2, 4)


def run(
    name: str, piece: Segment = A, samples: int = 1, most: int = 8, at: float = 1e9, since: float = 0, **more: float
) -> Run[str]:
    deadline, tensor = Deadline(at, FakeClock()), np.zeros((samples, 3), np.float32)
    return Run(name, piece, tensor, deadline, since, more.get("arrived", since), most)


def filled(*runs: Run[str], batching: Batching | None = None) -> BatchQueue[str]:
    queue: BatchQueue[str] = BatchQueue(batching or Batching())
    for each in runs:
        queue.put(each)
    return queue


def taken(queue: BatchQueue[str], now: float = 0) -> list[str]:
    return [each.owner for each in queue.take(now).batch]


def test_what_waits_for_the_same_piece_runs_together_oldest_first() -> None:
    queue = filled(run("a"), run("b", B), run("c"), run("d", B), run("e"))
    assert [taken(queue) for _ in range(3)] == [["a", "c", "e"], ["b", "d"], []]


def test_what_has_begun_goes_on_before_others_begin() -> None:
    queue = filled(run("new", since=2), run("newer", since=3), run("begun", B, since=4, arrived=1))
    assert [taken(queue) for _ in range(2)] == [["begun"], ["new", "newer"]]


def test_tensors_of_another_shape_run_apart() -> None:
    other = run("b")
    other.tensor = np.zeros((1, 4), np.float32)
    queue = filled(run("a"), other, run("c"))
    assert [taken(queue) for _ in range(2)] == [["a", "c"], ["b"]]


def test_what_gains_nothing_runs_alone() -> None:
    queue = filled(run("a", most=1), run("b", most=1))
    assert [taken(queue) for _ in range(2)] == [["a"], ["b"]]


def test_a_batch_is_no_larger_than_it_may_be_and_a_request_that_is_runs_alone() -> None:
    queue = filled(run("a", samples=5), run("b", samples=4), run("c", samples=3), run("d", samples=20, most=20))
    assert [taken(queue) for _ in range(3)] == [["a", "c"], ["b"], ["d"]]


def test_who_left_is_not_run() -> None:
    gone = run("b")
    queue = filled(run("a"), gone, run("c"))
    queue.discard(gone)
    queue.discard(gone)
    assert taken(queue) == ["a", "c"]


def test_an_expired_run_is_dropped_whatever_waits_before_it() -> None:
    queue = filled(run("a"), run("b", B, at=0.0), run("c"))
    ((dropped, error),) = (found := queue.take(0)).dropped
    assert (dropped.owner, type(error)) == ("b", DeadlineExceeded)
    assert [each.owner for each in found.batch] == ["a", "c"]
    assert not queue


def test_a_run_that_waited_longer_than_it_may_is_refused() -> None:
    queue = filled(run("a"), run("b", since=1.0), batching=Batching(default_timeout_microseconds=2_000_000))
    found = queue.take(2.5)
    assert [(each.owner, type(error)) for each, error in found.dropped] == [("a", QueueFull)]
    assert [each.owner for each in found.batch] == ["b"]


def test_or_it_runs_after_those_that_did_not() -> None:
    late = Batching(default_timeout_microseconds=2_000_000, timeout_action="delay")
    queue = filled(run("a"), run("b", B, since=1.0), run("c", since=1.0), batching=late)
    assert [taken(queue, 2.5) for _ in range(3)] == [["b"], ["c", "a"], []]


def test_a_full_batch_is_told_from_one_that_could_still_grow() -> None:
    newest = run("c", samples=3, most=8)
    queue = filled(run("a", samples=4), run("b", B, samples=8), newest)
    assert not queue.fills(newest)
    queue.put(last := run("d"))
    assert queue.fills(last)


def test_a_full_queue_refuses() -> None:
    queue: BatchQueue[str] = BatchQueue(Batching(), most_waiting=2)
    queue.put(run("a"))
    queue.put(run("b"))
    with pytest.raises(QueueFull):
        queue.put(run("c"))
    assert taken(queue) == ["a", "b"]


RUNS = st.builds(
    run,
    st.uuids().map(str),
    st.sampled_from((A, B)),
    st.integers(1, 6),
    st.sampled_from((1, 4, 8)),
    st.sampled_from((0.0, 1e9)),
    st.floats(0, 3),
)
BATCHINGS = st.builds(
    Batching, default_timeout_microseconds=st.sampled_from((0, 1_000_000)), timeout_action=st.sampled_from(("reject",))
) | st.just(Batching(default_timeout_microseconds=1_000_000, timeout_action="delay"))


@given(st.lists(st.tuples(RUNS, st.booleans())), BATCHINGS)
def test_each_run_is_taken_or_dropped_once_and_every_batch_is_of_one_kind(
    steps: list[tuple[Run[str], bool]], batching: Batching
) -> None:
    queue: BatchQueue[str] = BatchQueue(batching)
    found = []
    for one, takes in steps:
        queue.put(one)
        found += [queue.take(3.0)] if takes else []
    found += [queue.take(3.0) for _ in range(len(steps) + 1)]
    assert not queue
    seen = [each for take in found for each in (*take.batch, *(gone for gone, _ in take.dropped))]
    assert sorted(map(id, seen)) == sorted(id(one) for one, _ in steps)
    for take in found:
        assert len({each.piece for each in take.batch}) <= 1
        assert len(take.batch) <= 1 or sum(len(each.tensor) for each in take.batch) <= take.batch[0].most
        assert all(each.deadline.remaining() > 0 for each in take.batch)
