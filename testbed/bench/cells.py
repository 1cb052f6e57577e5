"""The policies of a simulated comparison side by side, in a process for each core, since a simulation keeps to one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection

from services.errors import OfframpError
from testbed.bench.compare import Bench, Outcome, Trial, run

Build = Callable[[], Bench]
"""Makes in another process what is compared in this one; has to be picklable."""

WORTH_SECONDS = 2_000.0
"""So many simulated seconds, of all policies together, take longer than starting a process does."""


def outcomes(
    build: Build, of: Sequence[Trial], names: Sequence[str], on_step: Callable[[str], None], processes: int
) -> list[Outcome]:
    """What `run` would find of each trial. `on_step` hears of each policy that is through with one.

    Raises OfframpError where one of the processes is gone. To be called in the main thread.
    """
    found: list[dict[str, Outcome]] = [{} for _ in of]
    cells = sorted(((at, name) for at in range(len(of)) for name in names), key=lambda cell: -of[cell[0]].seconds)
    with _pool(build, processes) as pool:
        with _deaf():  # who is interrupted is this process; those that begin here stay deaf
            begun = {pool.submit(_run, of[at], name): (at, name) for at, name in cells}
        for done in as_completed(begun):
            at, name = begun[done]
            found[at][name] = done.result()
            on_step(name)
    return [_joined([each[name] for name in names]) for each in found]


@contextmanager
def _pool(build: Build, processes: int) -> Iterator[ProcessPoolExecutor]:
    """Whatever ends the body early ends the processes, too: a pool would first see through what it has begun."""
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), begin, (build,))
    try:
        yield pool
    except BaseException as error:
        for child in multiprocessing.active_children():
            if child not in others:
                child.kill()
        if isinstance(error, BrokenProcessPool):
            raise OfframpError("a process that simulated was ended; was there enough memory?") from None
        raise
    finally:
        pool.shutdown()


@contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C is not heard, nor by processes that begin meanwhile, for as long as they live."""
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)


def _joined(parts: Sequence[Outcome]) -> Outcome:
    """One trial's outcome, from that of each policy alone."""
    runs = {name: runs for part in parts for name, runs in part.runs.items()}
    static = next((part.static for part in parts if part.static is not None), None)
    return Outcome(runs, parts[0].crosses, static)


_benches: list[Bench] = []
"""In a process of its own: the one that it works for."""


def begin(build: Build) -> None:
    """In a new process: makes what it works for, and sees to it that it ends when the one that asked does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _benches.append(build())


def _end_with_parent() -> None:
    """Whoever asked may be killed: nobody else would end this process."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _run(trial: Trial, name: str) -> Outcome:
    return run(_benches[-1], trial, (name,))
