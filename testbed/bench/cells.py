"""The policies of a simulated comparison side by side, in a process for each core, since a simulation keeps to one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import connection

from testbed.bench.compare import Bench, Outcome, Trial, run

Build = Callable[[], Bench]
"""Makes in another process what is compared in this one; has to be picklable."""

WORTH_SECONDS = 2_000.0
"""So many simulated seconds, of all policies together, take longer than starting a process does."""


def outcomes(
    build: Build, of: Sequence[Trial], names: Sequence[str], on_step: Callable[[str], None], processes: int
) -> list[Outcome]:
    """What `run` would find of each trial. `on_step` hears of each policy that is through with one."""
    found: list[dict[str, Outcome]] = [{} for _ in of]
    cells = sorted(((at, name) for at in range(len(of)) for name in names), key=lambda cell: -of[cell[0]].seconds)
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, spawned, begin, (build,)) as pool:
        try:
            begun = {pool.submit(_run, of[at], name): (at, name) for at, name in cells}
            for done in as_completed(begun):
                at, name = begun[done]
                found[at][name] = done.result()
                on_step(name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [_joined([each[name] for name in names]) for each in found]


def _joined(parts: Sequence[Outcome]) -> Outcome:
    """One trial's outcome, from that of each policy alone."""
    runs = {name: runs for part in parts for name, runs in part.runs.items()}
    static = next((part.static for part in parts if part.static is not None), None)
    return Outcome(runs, parts[0].crosses, static)


_benches: list[Bench] = []
"""In a process of its own: the one that it works for."""


def begin(build: Build) -> None:
    """In a new process: makes what it works for, and sees to it that it ends when the one that asked does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is interrupted is the one that asked
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
